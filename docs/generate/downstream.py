"""What the page of classifiers after pretraining and the README say, from ``results/downstream``."""

import json
from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from docs.generate import kept
from docs.generate.markdown import table, text
from finetune.statistics.over_seeds import holm

HERE = kept.ROOT / "downstream"
TASKS = {"agnews": "AG News", "dbpedia": "DBPedia"}
ENCODERS = {"news": "news", "novels": "novels", None: "nothing (random weights)"}
"""Grid of the encoders that classifiers began from -> what these had read."""
CORPORA = {"news": "agnews-text", "novels": "books"}
PAIR = ("softmax", "sa-softmax")
ALPHA = 0.05
Group = Mapping[str, Any]


def complete() -> str:
    """Summarizes every variant of every table of the study."""
    return kept.complete(HERE)


def _groups() -> dict[tuple[str, str | None, bool], Group]:
    """Task, grid of the encoders and whether all began from softmax's -> table of the classifiers."""
    found = {}
    for group in kept.report(HERE)["tables"]:
        if group["task"] in TASKS:
            grid = group["model"].rpartition("/")[2] if group["model"].startswith("pretrained:") else None
            found[group["task"], grid, "softmax@" in group["model"]] = group
    return found


def _difference(group: Group) -> Mapping[str, Any]:
    found: Mapping[str, Any] = kept.variant(group, "sa-softmax")["difference"]
    return found


def _value(group: Group, name: str, digits: int = 2, unit: str = "%") -> str:
    value = kept.variant(group, name)["metrics"][group["metric"]]
    return f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}{unit}"


def _judged(group: Group, digits: int = 2) -> list[str]:
    difference = _difference(group)
    return [kept.difference(difference, digits), kept.verdict(difference)]


def _sentence() -> str:
    differences = [_difference(group) for group in _groups().values()]
    counted = kept.count([each["verdict"] for each in differences])
    survive = sum(p <= ALPHA for p in holm([each["p"] for each in differences]))
    tokens = " or ".join(f"{each / 1e6:.1f}" for each in sorted(_read().values()))
    return (
        "As classifiers that begin from an encoder of each variant's own pretraining (ModernBERT, 2 layers, "
        f"{tokens} million tokens, {len(_seeds())} seeds), from softmax's and swapped then, or from random "
        f"weights, sa-softmax is significantly better than softmax in {counted['better']} of "
        f"{len(differences)} comparisons of accuracy and significantly worse in {counted['worse']} "
        f"({survive} after Holm over all); {kept.neither(counted)}:\n\n"
    )


def _seeds() -> list[int]:
    """The seeds of every table, the same in all, or the study is not whole."""
    tables = [_difference(group)["seeds"] for group in kept.report(HERE)["tables"]]
    if any(seeds != tables[0] for seeds in tables):
        raise SystemExit(f"the tables of {HERE} are of different seeds: keep the records of the whole study")
    found: list[int] = tables[0]
    return found


def _read() -> dict[str, int]:
    """Grid of encoders -> tokens that each of them was trained on, all epochs together."""
    found = {}
    for grid, task in CORPORA.items():
        (read,) = {
            record["data"]["tokens"]["train"]["trained_tokens"]
            * record["config"]["train"]["num_train_epochs"]
            for path in HERE.glob(f"{grid}/{task}/*/*/*/record.json")
            for record in [json.loads(path.read_text(encoding="utf-8"))]
        }
        found[grid] = read
    return found


def headline() -> str:
    """Compares sa-softmax with softmax by what the encoders had read, in a sentence and a table."""
    groups, rows = _groups(), []
    for task, title in TASKS.items():
        for grid, read in ENCODERS.items():
            table_of_own = groups[task, grid, False]
            swapped = _judged(groups[task, grid, True]) if grid else ["", ""]
            baseline = _value(table_of_own, "softmax")
            rows.append([text(f"{title}, {read}"), baseline, *_judged(table_of_own), *swapped])
    own = "sa-softmax from its own pretraining: difference (95% interval)"
    head = ["task, what the encoder had read", "softmax", own, "verdict", "from softmax's, swapped",
            "verdict"]  # fmt: skip
    return _sentence() + table(head, rows, numbers=5)


def encoders() -> str:
    """Tabulates the masked-token loss of the encoders themselves."""
    rows = []
    for grid, group in _encoders().items():
        values = (_value(group, name, 3, "") for name in PAIR)
        rows.append(
            [text(ENCODERS[grid]), *values, *_judged(group, 3), f"{_difference(group)['p_adjusted']:.2g}"]
        )
    head = ["read", *PAIR, "difference (95% interval)", "verdict", "p (Holm)"]
    return table(head, rows, numbers=5)


def _encoders() -> dict[str, Group]:
    by_task = {group["task"]: group for group in kept.report(HERE)["tables"]}
    return {grid: by_task[task] for grid, task in CORPORA.items()}


def figures() -> dict[str, str]:
    """Name -> number, as it is written."""
    return {**kept.surroundings(HERE), **_differences(), **_gains(), **_looks()}


def _differences() -> dict[str, str]:
    groups = _groups()
    differences = {key: _difference(group) for key, group in groups.items()}
    pairs = {key: each["per_seed"] for key, each in differences.items()}
    own = [value for (_, grid, swapped), values in pairs.items() if grid and not swapped for value in values]
    all_pairs = [value for values in pairs.values() for value in values]
    losses = [_difference(group) for group in _encoders().values()]
    of_task = {task: groups[task, None, False]["data"]["splits"] for task in TASKS}
    return {
        **{f"{grid}_tokens": f"{tokens / 1e6:.1f} million" for grid, tokens in _read().items()},
        **{f"{task}_rows": f"{splits['test']['rows']:,}" for task, splits in of_task.items()},
        **{f"{task}_train": f"{splits['train']['of']:,}" for task, splits in of_task.items()},
        "seeds": str(len(_seeds())),
        "low": f"{min(each['mean'] for each in differences.values()):+.2f}",
        "high": f"{max(each['mean'] for each in differences.values()):+.2f}",
        "detectable_low": f"{min(each['detectable'] for each in differences.values()):.1f}",
        "detectable_high": f"{max(each['detectable'] for each in differences.values()):.1f}",
        "own_ahead": f"{sum(value > 0 for value in own)} of {len(own)}",
        "ahead": f"{sum(value > 0 for value in all_pairs)} of {len(all_pairs)}",
        "title": _title(kept.count([each["verdict"] for each in differences.values()])),
        **{f"scratch_{task}": f"{_mean(groups[task, None, False], 'softmax'):.1f}%" for task in TASKS},
        "loss_significant": str(sum(each["verdict"] in ("better", "worse") for each in losses)),
        "loss_behind": f"{sum(value > 0 for each in losses for value in each['per_seed'])} of "
        f"{sum(len(each['per_seed']) for each in losses)}",
    }


def _title(counted: Mapping[str, int]) -> str:
    if counted["better"] == counted["worse"] == 0:
        return "No significant difference in accuracy."
    return f"Better in {counted['better']} comparisons, worse in {counted['worse']}."


def _gains() -> dict[str, str]:
    """What pretraining adds to accuracy over random weights, by variant, in points."""
    groups, found = _groups(), {}
    for task in TASKS:
        for name in PAIR:
            scratch = _mean(groups[task, None, False], name)
            for grid in CORPORA:
                gain = _mean(groups[task, grid, False], name) - scratch
                found[f"{grid}_{task}_{name.replace('-', '_')}"] = f"{gain:+.1f}"
    return found


def _mean(group: Group, name: str) -> float:
    value: float = kept.variant(group, name)["metrics"][group["metric"]]["mean"]
    return value


def _looks() -> dict[str, str]:
    """What the runs of seed 0 saw in their attention after the first step."""
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(HERE.glob("**/seed-0/diagnostics.json")):
        grid, model, variant = path.relative_to(HERE).parts[0], path.parts[-4], path.parts[-3]
        if model.startswith("pretrained-softmax-"):
            continue  # under softmax the same run as from its own pretraining
        chosen = kept.looks(path)
        kind = "encoders" if grid in CORPORA else "classifiers"
        layers.setdefault(f"{kind}_{variant}", []).extend(
            layer for each in chosen for layer in each["layers"]
        )
        layers.setdefault(f"{kind}_{variant}_end", []).extend(chosen[-1]["layers"])
    found = {}
    for kind in ("encoders", "classifiers"):
        softmax = layers[f"{kind}_softmax"]
        ratios = kept.ratios(softmax, "suppressed")
        below = mean(each["weights"]["below"] for each in layers[f"{kind}_softmax_end"])
        sums = [each["row_sum"]["mean"] for each in layers[f"{kind}_sa-softmax_end"]]
        found |= {
            f"{kind}_near_one": f"{max(each['weights']['above'] for each in softmax):.2%}",
            f"{kind}_near_zero": f"{below:.0%}",
            f"{kind}_less": f"{sum(each < 1 for each in ratios)} of {len(ratios)}",
            f"{kind}_ratio": f"{median(ratios):.2f}",
            f"{kind}_sum_low": f"{min(sums):.2f}",
            f"{kind}_sum_high": f"{max(sums):.2f}",
        }
    return found
