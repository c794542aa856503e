"""The figures in the README's Results that stand in no table of the report, from the records beside it.

python results/cpu/counts.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from scipy.stats import binomtest

HERE = Path(__file__).parent
GRIDS = ("agnews-pretrained", "agnews-scratch", "dbpedia-scratch", "iwslt2017", "multi30k")
FIRST = 3  # seeds


def figures() -> Iterator[tuple[str, str]]:
    """What is counted, and how the README writes it."""
    yield from _pairs()
    yield from _row_sums()
    yield from _near_one()
    yield from _near_zero()


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _pairs() -> Iterator[tuple[str, str]]:
    tables = _read(HERE / "report.json")["tables"]
    found = {
        (table["task"], table["model"], str(table["setting"].get("train.learning_rate")), arm["name"]): arm[
            "difference"
        ]["per_seed"]
        for table in tables
        for arm in table["arms"]
        if arm["difference"] and "raw" not in arm["name"]
    }
    scratch = [value for key, values in found.items() if key[1] == "scratch:tiny" for value in values]
    behind = sum(value < 0 for value in scratch)
    p = binomtest(behind, len(scratch)).pvalue
    told = f"in {behind} of {len(scratch)} pairs of runs, p = {f'{p:.2f}'[1:]} by a sign test"
    yield "sa-softmax behind softmax, from random weights", told
    early = {key: mean(values[:FIRST]) for key, values in found.items()}
    warm = [value for key, value in early.items() if key[1] != "scratch:tiny"]
    yield "MiniLM, first three seeds", f"at {min(warm):+.2f} to {max(warm):+.2f} points"
    fast = ("agnews", "scratch:tiny", "0.001", "sa-softmax")
    yield "AG News at 1e-3", f"AG News at 1e-3 at {early[fast]:+.2f} (now {mean(found[fast]):+.2f})"
    yield "DBPedia", f"DBPedia at {early['dbpedia', 'scratch:tiny', 'None', 'sa-softmax']:+.2f}"


def _row_sums() -> Iterator[tuple[str, str]]:
    (path,) = (HERE / "agnews-pretrained").glob("*/*/sa-softmax-raw/seed-0/record.json")
    layers = _read(path)["attention"]["start"]["row_sums"]
    *others, largest = sorted(value for heads in _lists(layers) for value in heads)
    low = f"{others[0]:.2f}"[1:]
    yield (
        "mean row sums of raw",
        f"{low} to {others[-1]:.1f} on average, by head, and to {largest:.0f} in one",
    )


def _lists(found: Any) -> list[list[float]]:
    return list(found.values()) if isinstance(found, dict) else found


def _layers(grid: str, *, after: bool) -> list[dict[str, Any]]:
    """The layers of the softmax run of seed 0, at its look after training or those after its first step."""
    (path,) = (HERE / grid).glob("*/*/softmax/seed-0/diagnostics.json")
    samples = _read(path)["samples"]
    chosen = [each for each in samples if bool(each.get("after_training")) is after and each["step"]]
    return [layer for each in chosen for layer in each["layers"]]


def _ratios(layers: list[dict[str, Any]], scores: str) -> list[float]:
    """The gradient that sa-softmax passes to these scores over that of softmax, where there are any."""
    reached = [(layer["reach"]["sa-softmax"][scores], layer["reach"]["softmax"][scores]) for layer in layers]
    return [variant / baseline for variant, baseline in reached if baseline]


def _near_one() -> Iterator[tuple[str, str]]:
    training = [layer for grid in GRIDS for layer in _layers(grid, after=False)]
    most = {
        kind: max(layer["weights"]["above"] for layer in training if layer["kind"] == kind)
        for kind in ("encoder", "cross", "decoder")
    }
    told = "at most {encoder:.1%} in a layer of an encoder, {cross:.1%} in cross-attention and {decoder:.1%}"
    yield "weights > .99, training", told.format(**most)
    above = [layer["weights"]["above"] for grid in GRIDS for layer in _layers(grid, after=True)]
    few = sum(share < 0.0001 for share in above)
    yield "weights > .99, after training", f"at most {max(above):.1%}, and below 0.01% in {few} layers"
    less = median(_ratios(_layers(GRIDS[0], after=False), "saturated"))
    yield "gradient to them, MiniLM, training", f"{less:.1f} times, the median"


def _near_zero() -> Iterator[tuple[str, str]]:
    after = [layer for grid in GRIDS for layer in _layers(grid, after=True)]
    below = [layer["weights"]["below"] for layer in after]
    yield "weights < .01, after training", f"{min(below):.0%} to {max(below):.0%}".replace("%", "", 1)
    ratios = _ratios(after, "suppressed")
    yield "less gradient to them", f"{sum(each < 1 for each in ratios)} of {len(ratios)} layers"
    one, scratch, two, *translation = (_ratios(_layers(grid, after=False), "suppressed") for grid in GRIDS)
    both, texts = one + two, [each for ratios in translation for each in ratios]
    yield "less, MiniLM and DBPedia", f"{sum(each < 1 for each in both)} of {len(both)} looks at a layer"
    yield "less, AG News", f"less in {sum(each < 1 for each in scratch)} of {len(scratch)}"
    yield "more, translation", f"more in translation ({sum(each > 1 for each in texts)} of {len(texts)})"


if __name__ == "__main__":
    for what, told in figures():
        print(f"{what}: {told}")
