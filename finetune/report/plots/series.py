"""Diagnostics of several runs -> one number a step: by layer, or over all layers."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.records.diagnostics import Diagnostics, LayerSnapshot, Snapshot
from finetune.records.run import is_number
from finetune.report import words
from finetune.report.histories import Curve, History, mean_curve

Pick = Callable[[LayerSnapshot], float | None]
Place = tuple[int, str]  # layer, kind
LARGEST = 2**40  # slots: what is drawn


@dataclass(frozen=True)
class Sampled:
    """The diagnostics of one variant's runs, all from training or all from ``after`` it."""

    variant: str
    runs: tuple[Diagnostics, ...]
    after: bool

    def layers(self) -> Iterable[LayerSnapshot]:
        """Every call of every run at every step."""
        return (layer for run in self.runs for sample in run["samples"] for layer in sample["layers"])

    def looks(self) -> list[Snapshot]:
        """The first, the middle and the last look of the first run."""
        samples = self.runs[0]["samples"]
        return [samples[place] for place in sorted({0, len(samples) // 2, len(samples) - 1})]


def of_variants(
    histories: Sequence[History], variants: Iterable[str], order: Sequence[bool] = (False, True)
) -> list[Sampled]:
    """Collects the diagnostics of each of ``variants`` that has any: those from training, or else from after
    it (``True``), in the ``order`` of preference."""
    sampled = []
    for variant in variants:
        files = [each.diagnostics for each in histories if each.variant == variant and each.diagnostics]
        # Samples from after training are of other rows and without dropout: no line joins them to the others.
        for after in order:
            runs: list[Diagnostics] = []
            for file in files:
                samples = [
                    sample for sample in file["samples"] if sample.get("after_training", False) == after
                ]
                if samples:
                    runs.append({**file, "samples": samples})
            if runs:
                sampled.append(Sampled(variant, tuple(runs), after))
                break
    return sampled


def at(*path: str) -> Pick:
    """Picks what lies at ``path`` in a layer's diagnostics; ``None`` where nothing does."""

    return lambda layer: _at(layer, path)


def known(look: Snapshot, *path: str) -> list[float]:
    """What lies at ``path`` in each layer of a look that has it."""
    return [value for value in map(at(*path), look["layers"]) if value is not None]


def _at(value: Any, path: Sequence[str]) -> float | None:
    for key in path:
        value = value.get(key, {})
    return value if is_number(value) else None


def by_layer(sampled: Sampled, pick: Pick) -> dict[Place, Curve]:
    """Averages what ``pick`` takes of each layer over the runs, by step, where it is a number."""
    per_run: dict[Place, list[Curve]] = {}
    for run in sampled.runs:
        mine: dict[Place, Curve] = {}
        for sample in run["samples"]:
            for layer in sample["layers"]:
                value = pick(layer)
                if is_number(value):
                    mine.setdefault((layer["layer"], layer["kind"]), {})[sample["step"]] = value
        for place, curve in mine.items():
            per_run.setdefault(place, []).append(curve)
    means = {place: mean_curve(curves) for place, curves in sorted(per_run.items())}
    return {place: curve for place, curve in means.items() if curve}


def over_layers(sampled: Sampled, pick: Pick, weigh: Pick | None = None) -> Curve:
    """Averages over layers and runs, by step; each layer has the weight that ``weigh`` gives, or the same."""
    curves: list[Curve] = []
    for run in sampled.runs:
        mine: Curve = {}
        for sample in run["samples"]:
            values = [(weigh(layer) if weigh else 1.0, pick(layer)) for layer in sample["layers"]]
            known = [(w, value) for w, value in values if is_number(w) and is_number(value)]
            total = math.fsum(weight for weight, _ in known)
            if total > 0:
                mine[sample["step"]] = math.fsum(weight * value for weight, value in known) / total
        curves.append(dict(sorted(mine.items())))
    return mean_curve(curves)


def over_buckets(sampled: Sampled, part: str, *path: str) -> Curve:
    """Averages what lies at ``path`` in the buckets of ``part``, over layers of the last look and runs."""
    curves: list[Curve] = []
    for run in sampled.runs:
        values: dict[int, list[float]] = {}
        for layer in run["samples"][-1]["layers"]:
            for bucket in layer.get(part, []):  # type: ignore[attr-defined]
                value, start = _at(bucket, path), bucket["start"]
                if value is not None and start < LARGEST:
                    values.setdefault(start, []).append(value)
        curves.append({start: math.fsum(found) / len(found) for start, found in sorted(values.items())})
    return mean_curve(curves)


def counted(sampled: Sequence[Sampled]) -> str:
    """``n: 2 runs each, 32 rows of a training batch.``"""
    runs = words.counts({each.variant: len(each.runs) for each in sampled}, "run")
    rows: dict[bool, set[int]] = {}
    for each in sampled:
        rows.setdefault(each.after, set()).update(
            sample.get("rows", run["rows"]) for run in each.runs for sample in run["samples"]
        )
    origin = {False: "of a training batch", True: "of the validation split after training"}
    parts = [
        f"{' or '.join(map(str, sorted(counts)))} rows {origin[after]}" for after, counts in rows.items()
    ]
    return f"n: {runs}, {' or '.join(parts)}."


def ends(name: str, curve: Curve) -> str:
    """``softmax 0.5 at step 0, 0.2 at step 120``: the first and the last value of a curve."""
    first, last = min(curve), max(curve)
    return f"{name} {curve[first]:.3g} at step {first}, {curve[last]:.3g} at step {last}"
