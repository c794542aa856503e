"""Diagnostics of several runs -> one number a step: by layer, or over all layers."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from finetune.records.diagnostics import Diagnostics, Layer
from finetune.records.run import is_number
from finetune.report import words
from finetune.report.histories import Curve, History, mean_curve

Pick = Callable[[Layer], float | None]
Place = tuple[int, str]  # layer, kind


@dataclass(frozen=True)
class Looked:
    """The runs of one arm that were looked at while they trained, or, where none was, after training."""

    variant: str
    runs: tuple[Diagnostics, ...]
    after: bool

    def layers(self) -> Iterable[Layer]:
        """Every call of every run at every step."""
        return (layer for run in self.runs for sample in run["samples"] for layer in sample["layers"])


def looked_at(histories: Sequence[History], arms: Iterable[str]) -> list[Looked]:
    """Arms with diagnostics, in the order of ``arms``."""
    found = []
    for arm in arms:
        files = [
            history.diagnostics for history in histories if history.variant == arm and history.diagnostics
        ]
        for after in (False, True):
            runs = tuple(run for file in files if (run := _part(file, after))["samples"])
            if runs:
                found.append(Looked(arm, runs, after))
                break
    return found


def _part(file: Diagnostics, after: bool) -> Diagnostics:
    """Only the samples from training, or those from ``after`` it, of other rows and without dropout."""
    samples = [sample for sample in file["samples"] if sample.get("after_training", False) == after]
    return {**file, "samples": samples}


def by_layer(looked: Looked, pick: Pick) -> dict[Place, Curve]:
    """What ``pick`` takes of each layer, by step: the mean over the runs, where it is a number."""
    per_run: dict[Place, list[Curve]] = {}
    for run in looked.runs:
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


def over_layers(looked: Looked, pick: Pick, weigh: Callable[[Layer], float] | None = None) -> Curve:
    """The mean over layers and runs by step, each layer counting as much as ``weigh`` says (or the same)."""
    curves: list[Curve] = []
    for run in looked.runs:
        mine: Curve = {}
        for sample in run["samples"]:
            values = [(weigh(layer) if weigh else 1.0, pick(layer)) for layer in sample["layers"]]
            known = [(w, value) for w, value in values if is_number(w) and is_number(value)]
            total = math.fsum(weight for weight, _ in known)
            if total > 0:
                mine[sample["step"]] = math.fsum(weight * value for weight, value in known) / total
        curves.append(dict(sorted(mine.items())))
    return mean_curve(curves)


def counted(found: Sequence[Looked]) -> str:
    """``n: 2 runs each, 32 rows of a training batch.``"""
    runs = words.counts({one.variant: len(one.runs) for one in found}, "run")
    rows: dict[bool, set[int]] = {}
    for one in found:
        rows.setdefault(one.after, set()).update(
            sample.get("rows", run["rows"]) for run in one.runs for sample in run["samples"]
        )
    what = {False: "of a training batch", True: "of the validation split after training"}
    told = (f"{' or '.join(map(str, sorted(number)))} rows {what[after]}" for after, number in rows.items())
    return f"n: {runs}, {' or '.join(told)}."


def ends(name: str, curve: Curve) -> str:
    """The first and the last value of a curve, in words."""
    first, last = min(curve), max(curve)
    return f"{name} {curve[first]:.3g} at step {first}, {curve[last]:.3g} at step {last}"
