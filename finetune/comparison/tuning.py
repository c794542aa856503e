"""How the values of a table's runs were chosen: each variant's trials by their records, and the choice."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from finetune.comparison.caveats import Note, NoteKind
from finetune.comparison.pairing import RunGroup
from finetune.config import tuned
from finetune.config.identity import flatten
from finetune.metrics import registry
from finetune.records.run import Run

SHOWN = 12  # trials of a variant that a note lists


def of(group: RunGroup, trials: Iterable[Run]) -> dict[str, Any] | None:
    """What was tuned in the runs of ``group``, ready for JSON; ``None`` for common values.

    The ``tuning`` of their configurations, and under ``chosen`` for each variant its ``values``, which of
    these lie at an ``edge`` of what was tried, and its ``tried`` trials: [values, score], in reported units
    and ``None`` for a failed one. No trials where their records are not among ``trials``.
    """
    tuning = group.first.tuning
    if tuning is None:
        return None
    mine = [trial for trial in trials if _is_of(trial, group.first, tuning)]
    chosen = {}
    for name in group.variants:
        run = next((run for run in group.runs if run.variant == name), None)
        if run is not None:
            values = _values(run, tuning)
            chosen[name] = {
                "values": values,
                "edge": [key for key, value in values.items() if tuned.at_edge(tuning["keys"][key], value)],
                "tried": _tried([each for each in mine if _arm(each, tuning) == _arm(run, tuning)], tuning),
            }
    return {**tuning, "chosen": chosen}


def _is_of(trial: Run, run: Run, tuning: Mapping[str, Any]) -> bool:
    """Whether a trial may have decided values of ``run``: its settings are equal but for these."""
    sides = []
    for each in (trial, run):
        settings = tuned.without(each.configured(), [*tuning["keys"], tuned.SETTING, "until"])
        sides.append((each.task, each.pair, each.model, each.sample, settings, each.splits.get("train")))
    return sides[0] == sides[1] and trial.seed in tuning["seeds"]


def _arm(run: Run, tuning: Mapping[str, Any]) -> dict[str, Any]:
    """The attention of a run without what was tuned of it."""
    attention = flatten({"attention": run.config["attention"]})
    attention.pop("attention.parameters", None)  # an empty mapping, as of one whose parameters are all tuned
    return tuned.without(attention, [*tuning["keys"], "attention.file.path"])


def _values(run: Run, tuning: Mapping[str, Any]) -> dict[str, Any]:
    """The tuned values of a run, by key, of those that its variant has."""
    flat = flatten(run.config)
    return {key: flat[key] for key in tuning["keys"] if key in flat}


def _tried(trials: Sequence[Run], tuning: Mapping[str, Any]) -> list[list[Any]]:
    """Values and mean score of each trial that was spent, the values in the order of their lists."""
    by_values: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run in trials:
        values = _values(run, tuning)
        among = tuning["keys"]
        if all(isinstance(among[key], Mapping) or value in among[key] for key, value in values.items()):
            by_values.setdefault(repr(values), (values, []))[1].append(run)
    found: list[list[Any]] = []
    for values, runs in by_values.values():
        scores = [run.metrics.get(tuning["metric"]) for run in runs if run.finished]
        known = [score for score in scores if score is not None]
        if all(run.status in ("finished", "failed") for run in runs):
            found.append([values, fmean(known) if len(known) == len(tuning["seeds"]) else None])
    return sorted(
        found, key=lambda each: [_place(tuning["keys"][key], value) for key, value in each[0].items()]
    )


def _place(among: Any, value: Any) -> float:
    return float(value) if isinstance(among, Mapping) else among.index(value)


def notes(tuning: Mapping[str, Any] | None) -> list[Note]:
    """A line for each variant: what was chosen, of what, and whether that is at an edge."""
    if tuning is None:
        return []
    metric = registry.get(tuning["metric"])
    lines = []
    for name, choice in tuning["chosen"].items():
        values, tried = choice["values"], choice["tried"]
        text = f"{name}: {_words(values)} was chosen by {tuning['trials']} trials on validation rows"
        failed = sum(score is None for _, score in tried)
        if not tried:
            text += ", whose records are not among these"
        elif len(tried) <= SHOWN:
            listed = (
                f"{_words(each, tuning)} {'failed' if score is None else metric.text(score)}"
                for each, score in tried
            )
            text += f" ({metric.title}: {', '.join(listed)})"
        elif failed:
            text += f", of which {failed} failed"
        lines.append(text + _other(values, tried, metric) + _edge(choice["edge"]))
    return [Note(NoteKind.TUNED, line) for line in lines]


def _words(values: Mapping[str, Any], tuning: Mapping[str, Any] | None = None) -> str:
    """``train.learning_rate 0.001``; the value alone where only one key was tuned."""
    if tuning is not None and len(values) == 1:
        return f"{next(iter(values.values()))}:"
    text = " and ".join(f"{key} {value}" for key, value in values.items())
    return f"{text}:" if tuning is not None else text


def _edge(keys: Sequence[str]) -> str:
    if not keys:
        return ""
    what = keys[0] if len(keys) == 1 else " and of ".join(keys)
    return f"; the best value of {what} is at the edge of what was tried, and a better one may lie beyond"


def _other(values: Mapping[str, Any], tried: Sequence[Sequence[Any]], metric: registry.Metric) -> str:
    """What else these records say of a choice: others are as good, or another one is the best."""
    scores = [score for _, score in tried if score is not None]
    if not scores:
        return ""
    best = max(scores) if metric.higher_is_better else min(scores)
    if any(score == best and each == values for each, score in tried):
        return f"; the first of {scores.count(best)} equal ones" if scores.count(best) > 1 else ""
    return "; by these records another value is the best: the trials were made anew, or are not all here"
