"""What the page of language models and the README say in numbers, from ``results/language``."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from docs.generate import kept
from docs.generate.markdown import table, text
from finetune.metrics.registry import at_length
from finetune.statistics.over_seeds import holm

HERE = kept.ROOT / "language"
TEXTS = {"books": "English novels", "arxiv": "papers in LaTeX"}
RATE, FAST = 0.002, 0.004  # Adam step sizes, of the study and of its second look
ENCODINGS = {"rope": "RoPE", "kerple": "KERPLE", "dapev2-kerple": "DAPE V2 on KERPLE"}


def complete() -> str:
    """Summarizes every variant of every table of the study."""
    return kept.complete(HERE)


def _decoders(rate: float = RATE) -> list[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]:
    """Table, softmax and sa-softmax of each text and encoding, in the order of the study."""
    groups = [
        each
        for each in kept.report(HERE)["tables"]
        if each["setting"].get("train.learning_rate", RATE) == rate
    ]
    groups.sort(key=lambda each: ([*TEXTS].index(each["task"]), [*ENCODINGS].index(each["position"])))
    return [(group, *(kept.variant(group, name) for name in ("softmax", "sa-softmax"))) for group in groups]


def _title(group: Mapping[str, Any]) -> str:
    return text(f"{TEXTS[group['task']]}, {ENCODINGS[group['position']]}")


def headline() -> str:
    """Compares the perplexity of sa-softmax with softmax's in a sentence."""
    tested = [each for group, _, variant in _decoders()
              for each in (variant["difference"], variant["at_lengths"][group["tested_length"]])]  # fmt: skip
    counted = kept.count([each["verdict"] for each in tested])
    found = _differences()
    return (
        "As causal language models from random weights (2 layers, 800,000 tokens, 3 seeds, three positional "
        f"encodings, two texts), sa-softmax is significantly better than softmax in {counted['better']} of "
        f"{len(tested)} comparisons of perplexity and significantly worse in {counted['worse']}; "
        f"{kept.neither(counted)}. It is ahead in {found['ahead']} of {found['pairs']} pairs of runs at the "
        f"training length, by {found['share_low']} to {found['share_high']} on average.\n"
    )


def lengths() -> str:
    """Tabulates perplexity over the same tokens by length of context, and what sa-softmax adds to it."""
    groups = _decoders()
    trained = groups[0][0]["trained_length"]
    names = [at_length("perplexity", each) for each in (trained, 2 * trained, 4 * trained, 8 * trained)]
    rows = []
    for group, *variants in groups:
        for variant in variants:
            values = [_value(variant["metrics"][name]) for name in names]
            rows.append([_title(group), variant["name"], *values])
        described = [kept.difference(variants[1]["at_lengths"][name]) for name in names]
        rows.append([_title(group), "difference", *described])
    head = ["text, encoding", "attention", *(f"{_tokens(name):,}" for name in names)]
    return table(head, rows, numbers=len(names))


def interactions() -> str:
    """Tabulates whether sa-softmax gains more under an encoding than under RoPE, in nats a token."""
    rows = []
    for each in kept.report(HERE)["interactions"]:
        difference = each["difference"]
        one, other = ENCODINGS[each["position"]], ENCODINGS[each["reference"]]
        rate = f" at {FAST}" if f"= {FAST}" in each["apart"] else ""
        rows.append([
            text(f"{TEXTS[each['title']]}, {one} against {other}{rate}"),
            kept.difference(difference, 4),
            f"{difference['p_adjusted']:.2g}",
            kept.verdict(difference),
        ])  # fmt: skip
    head = ["text, encodings", "difference of the differences (95% interval)", "p (Holm)", "verdict"]
    return table(head, rows, numbers=3)


def _tokens(metric: str) -> int:
    return int(metric.rpartition("@")[2])


def _value(value: Mapping[str, Any]) -> str:
    return f"{value['mean']:.1f} ± {value['sd']:.1f}"


def figures() -> dict[str, str]:
    """Name -> number, as it is written. What stands in no table of the report is counted from the records."""
    return {**kept.surroundings(HERE), **_differences(), **_fast(), **_reached(), **_row_sums()}


def _differences() -> dict[str, str]:
    near, far = {}, {}
    for group, softmax, variant in _decoders():
        key = group["task"], group["position"]
        near[key] = variant["difference"], softmax["metrics"][group["metric"]]
        far[key] = variant["at_lengths"][group["tested_length"]]
    pairs = [value for difference, _ in near.values() for value in difference["per_seed"]]
    shares = [-difference["mean"] / softmax["mean"] for difference, softmax in near.values()]
    distant = [difference for key, difference in far.items() if key != ("arxiv", "rope")]
    turned = far["arxiv", "rope"]
    tested = [*far.values(), *(difference for difference, _ in near.values())]
    return {
        "comparisons": str(len(tested)),
        "ahead": str(sum(value < 0 for value in pairs)),
        "pairs": str(len(pairs)),
        "share_low": f"{min(shares):.1%}",
        "share_high": f"{max(shares):.1%}",
        "p_low": f"{min(difference['p_adjusted'] for difference in tested):.2f}",
        "p_high": f"{max(difference['p_adjusted'] for difference in tested):.2f}",
        "distant_low": f"{min(-each['mean'] for each in distant):.1f}",
        "distant_high": f"{max(-each['mean'] for each in distant):.1f}",
        "turned": f"{turned['mean']:.1f}",
        "turned_behind": str(sum(value > 0 for value in turned["per_seed"])),
        "turned_p": f"{turned['p_adjusted']:.2f}",
        "sd_softmax": f"{max(softmax['sd'] for _, softmax in near.values()):.1f}",
    }


def _fast() -> dict[str, str]:
    """The study's second look, at another learning rate."""
    again = {group["position"]: each for group, *each in _decoders(FAST)}
    fast = {position: variant["difference"] for position, (_, variant) in again.items()}
    usual = {group["position"]: each for group, *each in _decoders() if group["task"] == "books"}
    means = {
        f"{when}{name}_{position}": f"{variant['metrics']['perplexity']['mean']:.0f}"
        for when, looked in (("", usual), ("fast_", again))
        for position in again
        for name, variant in zip(("softmax", "sa"), looked[position], strict=True)
    }
    everywhere = [each for rate in (RATE, FAST) for _, _, variant in _decoders(rate)
                  for each in (variant["difference"], variant["at_lengths"]["perplexity@1024"])]  # fmt: skip
    among_all = holm([each["p"] for each in everywhere])
    kerple = next(p for each, p in zip(everywhere, among_all, strict=True) if each is fast["kerple"])
    return {
        "fast_rope": f"{fast['rope']['mean']:+.1f}",
        "fast_kerple": f"{fast['kerple']['mean']:+.1f}",
        "fast_kerple_p": f"{fast['kerple']['p_adjusted']:.3f}",
        "fast_kerple_all": f"{kerple:.2f}",
        "fast_ahead": str(sum(value < 0 for each in fast.values() for value in each["per_seed"])),
        "fast_pairs": str(sum(len(each["per_seed"]) for each in fast.values())),
        "all": str(len(everywhere)),
        **means,
    }


def _layers(variant: str) -> list[tuple[bool, Mapping[str, Any]]]:
    """The layers of every diagnosed run of ``variant``, by look after its first step; whether its last."""
    layers = []
    for path in sorted(HERE.glob(f"decoders/*/*/*/{variant}/seed-0/diagnostics.json")):
        chosen = kept.looks(path)
        layers += [(each is chosen[-1], layer) for each in chosen for layer in each["layers"]]
    return layers


def _reached() -> dict[str, str]:
    """What softmax's runs leave the paper's argument to work on, and what sa-softmax would do there."""
    layers = _layers("softmax")
    ratios = kept.ratios((layer for _, layer in layers), "suppressed")
    below = [layer["weights"]["below"] for last, layer in layers if last]
    return {
        "near_one": f"{max(layer['weights']['above'] for _, layer in layers):.2%}",
        "near_zero_low": f"{min(below) * 100:.0f}",
        "near_zero_high": f"{max(below):.0%}",
        "near_zero_less": f"{sum(each < 1 for each in ratios)} of {len(ratios)}",
        "near_zero_ratio": f"{median(ratios):.2f}",
    }


def _row_sums() -> dict[str, str]:
    sums = [layer["row_sum"]["mean"] for last, layer in _layers("sa-softmax") if last]
    return {"sum_low": f"{min(sums):.2f}", "sum_high": f"{max(sums):.2f}"}
