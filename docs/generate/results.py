"""What the page of results and the README say in numbers, from the records kept in ``results/cpu``."""

from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from scipy.stats import binomtest

from docs.generate import kept
from docs.generate.markdown import table, text
from finetune.statistics.over_seeds import holm

HERE = kept.ROOT / "cpu"
MODELS = {"models/all-MiniLM-L6-v2": "MiniLM", "scratch:tiny": "2 layers from scratch"}
TASKS = {"agnews": "AG News", "dbpedia": "DBPedia", "iwslt2017": "IWSLT2017", "multi30k": "Multi30k"}
GRIDS = ("agnews-pretrained", "agnews-scratch", "dbpedia-scratch", "iwslt2017", "multi30k")
CHANCE = {"agnews": 100 / 4, "dbpedia": 100 / 14}  # percent right by guessing
FIRST = 3  # seeds of a first look


def complete() -> str:
    """Summarizes every variant of every table of the study."""
    return kept.complete(HERE)


def headline() -> str:
    """Compares sa-softmax with softmax in a sentence, and in a row for each comparison."""
    rows, verdicts = [], []
    for group in kept.report(HERE)["tables"]:
        baseline = next(each for each in group["arms"] if each["name"] == "softmax")
        for variant in group["arms"]:
            if variant["attention"]["variant"] != "sa-softmax":
                continue
            difference = variant["difference"]
            verdicts.append(difference["verdict"])
            rows.append([
                text(_title(group, variant)),
                str(len(difference["seeds"])),
                _value(baseline, group),
                _value(variant, group),
                kept.difference(difference),
                f"{difference['p_adjusted']:.2g}",
                kept.verdict(difference),
            ])  # fmt: skip
    head = ["task, model", "seeds", "softmax", "sa-softmax", "difference (95% interval)", "p (Holm)",
            "verdict"]  # fmt: skip
    counted = kept.count(verdicts)
    sentence = (
        "On small models, sa-softmax is significantly better than softmax in "
        f"{counted['better']} of {len(verdicts)} comparisons and significantly worse in {counted['worse']}; "
        f"{kept.neither(counted)}:\n\n"
    )
    return sentence + table(head, rows, numbers=6)


def _title(group: Mapping[str, Any], variant: Mapping[str, Any]) -> str:
    pair = f" {group['pair']}" if group["pair"] else ""
    rate = group["setting"].get("train.learning_rate")
    kind = variant["attention"]["start"]["kind"]
    apart = f" at {rate:g}" if rate else "" if kind == "cold" else f", {kind} start"
    return f"{TASKS[group['task']]}{pair}, {MODELS[group['model']]}{apart}"


def _value(variant: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    value = variant["metrics"][group["metric"]]
    unit = " BLEU" if group["metric"] == "bleu" else "%"
    return f"{value['mean']:.2f} ± {value['sd']:.2f}{unit}"


def figures() -> dict[str, str]:
    """Name -> number, as it is written. What stands in no table of the report is counted from the records."""
    return {
        **kept.surroundings(HERE),
        **_differences(),
        **_failures(),
        **_row_sums(),
        **_near_one(),
        **_near_zero(),
    }


def _key(group: Mapping[str, Any], variant: Mapping[str, Any]) -> tuple[str, str, float | None, str]:
    """A variant of a table: task, model, learning rate where tables differ in it, and name."""
    return group["task"], group["model"], group["setting"].get("train.learning_rate"), variant["name"]


def _differences() -> dict[str, str]:
    compared = [
        (group, each) for group in kept.report(HERE)["tables"] for each in group["arms"] if each["difference"]
    ]
    differences = {
        _key(group, variant): variant["difference"]
        for group, variant in compared
        if variant["attention"]["variant"] == "sa-softmax"
    }
    per_seed = {key: difference["per_seed"] for key, difference in differences.items()}
    detectable = {key: difference["detectable"] for key, difference in differences.items()}
    scratch = {key: values for key, values in per_seed.items() if key[1] == "scratch:tiny"}
    warm = {key: values for key, values in per_seed.items() if key[1] != "scratch:tiny"}
    pairs = [value for values in scratch.values() for value in values]
    behind = sum(value < 0 for value in pairs)
    points = [-mean(values) for key, values in scratch.items() if key[0] not in ("iwslt2017", "multi30k")]
    fast, dbpedia = (
        ("agnews", "scratch:tiny", 0.001, "sa-softmax"),
        ("dbpedia", "scratch:tiny", None, "sa-softmax"),
    )
    slow = ("agnews", "scratch:tiny", 0.0003, "sa-softmax")
    iwslt, multi30k = (next(key for key in scratch if key[0] == task) for task in ("iwslt2017", "multi30k"))
    early = {key: mean(values[:FIRST]) for key, values in per_seed.items()}
    among_all = holm([variant["difference"]["p"] for _, variant in compared])
    overall = dict(zip([_key(*each) for each in compared], among_all, strict=True))
    return {
        "comparisons": str(len(compared)),
        "sa_comparisons": str(len(per_seed)),
        "warm_low": f"{min(map(mean, warm.values())):+.2f}",
        "warm_high": f"{max(map(mean, warm.values())):+.2f}",
        "warm_detectable_low": f"{min(detectable[key] for key in warm):.1f}",
        "warm_detectable_high": f"{max(detectable[key] for key in warm):.1f}",
        "scratch_low": f"{min(points):.2f}",
        "scratch_high": f"{max(points):.2f}",
        "iwslt": f"{-mean(per_seed[iwslt]):.2f}",
        "multi30k": f"{-mean(per_seed[multi30k]):.2f}",
        "behind": str(behind),
        "pairs": str(len(pairs)),
        "behind_p": f"{binomtest(behind, len(pairs)).pvalue:.2f}",
        "dbpedia": f"{-mean(per_seed[dbpedia]):.2f}",
        "dbpedia_p": f"{differences[dbpedia]['p_adjusted']:.3f}",
        "dbpedia_overall": f"{overall[dbpedia]:.2f}",
        "fast_detectable": f"{detectable[fast]:.1f}",
        "slow_detectable": f"{detectable[slow]:.1f}",
        "iwslt_detectable": f"{detectable[iwslt]:.1f}",
        "multi30k_detectable": f"{detectable[multi30k]:.0f}",
        "early_warm_low": f"{min(early[key] for key in warm):+.2f}",
        "early_warm_high": f"{max(early[key] for key in warm):+.2f}",
        "early_fast": f"{early[fast]:+.2f}",
        "fast": f"{mean(per_seed[fast]):+.2f}",
        "early_dbpedia": f"{early[dbpedia]:+.2f}",
    }


def _failures() -> dict[str, str]:
    """What became of the runs of sa-softmax-raw from random weights at 1e-3."""
    chance: list[str] = []
    behind, others, hardly = [], [], {}
    for group in kept.report(HERE)["tables"]:
        if group["model"] != "scratch:tiny" or group["setting"].get("train.learning_rate") == 0.0003:
            continue
        of = {each["name"]: each["metrics"][group["metric"]]["per_seed"] for each in group["arms"]}
        for seed, value in of["sa-softmax-raw"].items():
            baseline = of["softmax"][seed]
            if value < 1.2 * CHANCE.get(group["task"], 0):
                chance.append(group["task"])
            elif group["metric"] == "bleu" and value < 0.1 * baseline:
                hardly[group["task"]] = value
            elif value < 0.9 * baseline:
                behind.append(baseline - value)
            else:
                others.append(abs(baseline - value))
    (furthest,) = behind
    return {
        "raw_runs": str(len(chance) + len(hardly) + len(behind) + len(others)),
        "raw_chance": str(len(chance)),
        "raw_chance_agnews": str(chance.count("agnews")),
        "raw_chance_dbpedia": str(chance.count("dbpedia")),
        "raw_iwslt": f"{hardly['iwslt2017']:.2f}",
        "raw_multi30k": f"{hardly['multi30k']:.2f}",
        "raw_behind": f"{furthest:.0f}",
        "raw_others": str(len(others)),
        "raw_others_within": f"{max(others):.1f}",
    }


def _row_sums() -> dict[str, str]:
    sums, cosines, losses = {}, {}, {}
    (group,) = (each for each in kept.report(HERE)["tables"] if each["model"] != "scratch:tiny")
    for variant in group["arms"]:
        start = variant["attention"]["start"]
        if start is None:
            continue
        layers = start["row_sums"]
        heads = [
            value for layer in (layers.values() if isinstance(layers, dict) else layers) for value in layer
        ]
        sums[variant["name"]] = sorted(heads)
        cosines[variant["name"]] = f"{start['cosine']:.3f}"
        losses[variant["name"]] = f"{-variant['difference']['mean']:.1f}"
    raw, normalized = sums["sa-softmax-raw"], sums["sa-softmax"]
    return {
        "raw_sum_low": f"{raw[0]:.2f}",
        "raw_sum_high": f"{raw[-2]:.1f}",
        "raw_sum_highest": f"{raw[-1]:.0f}",
        "sum_low": f"{normalized[0]:.2f}",
        "sum_high": f"{normalized[-1]:.2f}",
        "cosine_cold": cosines["sa-softmax"],
        "cosine_calibrated": cosines["sa-softmax-calibrated"],
        "raw_cosine_cold": cosines["sa-softmax-raw"],
        "raw_cosine_calibrated": cosines["sa-softmax-raw-calibrated"],
        "raw_cold": losses["sa-softmax-raw"],
        "raw_annealed": losses["sa-softmax-raw-annealed0.3"],
        "raw_calibrated": losses["sa-softmax-raw-calibrated"],
    }


def _layers(grid: str, *, after: bool) -> list[Mapping[str, Any]]:
    """The layers of the softmax run of seed 0, at its look after training or those after its first step."""
    (path,) = (HERE / grid).glob("*/*/softmax/seed-0/diagnostics.json")
    chosen = [each for each in kept.looks(path) if bool(each.get("after_training")) is after]
    return [layer for each in chosen for layer in each["layers"]]


def _above(layer: Mapping[str, Any]) -> float:
    """The share of the weights of a layer that are above .99."""
    return float(layer["weights"]["above"])


def _near_one() -> dict[str, str]:
    training = [layer for grid in GRIDS for layer in _layers(grid, after=False)]
    most = {
        f"near_one_{kind}": f"{max(_above(layer) for layer in training if layer['kind'] == kind):.1%}"
        for kind in ("encoder", "cross", "decoder")
    }
    after = [_above(layer) for grid in GRIDS for layer in _layers(grid, after=True)]
    return {
        **most,
        "layers": str(len(after)),
        "near_one_after": f"{max(after):.1%}",
        "near_one_few": str(sum(share < 0.0001 for share in after)),
        "near_one_ratio": f"{median(kept.ratios(_layers(GRIDS[0], after=False), 'saturated')):.1f}",
    }


def _near_zero() -> dict[str, str]:
    after = [layer for grid in GRIDS for layer in _layers(grid, after=True)]
    below = [layer["weights"]["below"] for layer in after]
    ratios = kept.ratios(after, "suppressed")
    one, scratch, two, *translation = (
        kept.ratios(_layers(grid, after=False), "suppressed") for grid in GRIDS
    )
    both, texts = one + two, [each for ratios in translation for each in ratios]
    return {
        "near_zero_low": f"{min(below) * 100:.0f}",
        "near_zero_high": f"{max(below):.0%}",
        "near_zero_less": f"{sum(each < 1 for each in ratios)} of {len(ratios)}",
        "near_zero_training": f"{sum(each < 1 for each in both)} of {len(both)}",
        "near_zero_agnews": f"{sum(each < 1 for each in scratch)} of {len(scratch)}",
        "near_zero_translation": f"{sum(each > 1 for each in texts)} of {len(texts)}",
    }
