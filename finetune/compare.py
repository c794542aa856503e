"""Records -> comparison: one table per task, model and setting, each arm against softmax, in plain words.

comparison = compare([Path("runs")])
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune import evidence, stats
from finetune.evidence import ALPHA, Difference, Paired, Predictions
from finetune.pairing import BASELINE, Setting, collect, groups
from finetune.tables import Arm, Table, arm_names, build

UNITS = {"accuracy": "points of accuracy", "bleu": "BLEU"}


@dataclass(frozen=True)
class Comparison:
    """Every table, real data first, and one line about each record that could not be used."""

    tables: list[Table]
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same records."""
        head = {"schema": "finetune-comparison", "version": 1, "alpha": ALPHA, "power": stats.POWER}
        return head | asdict(self)


def compare(roots: Sequence[Path]) -> Comparison:
    """Compare every run below ``roots``; raise ``UserError`` where one of them is no folder."""
    runs, problems = collect(roots)
    settings = [(group, setting) for group in groups(runs) for setting in group]
    predictions = Predictions()
    paired = [_pair_up(setting, predictions) for _, setting in settings]
    found = _judge([setting.sample for _, setting in settings], paired)
    tables = []
    for (group, setting), arms, differences in zip(settings, paired, found, strict=True):
        no_rows = {name: pair.no_rows for name, pair in arms.items() if pair.no_rows}
        table = build(group, setting, differences, no_rows)
        tables.append(replace(table, sentence=sentence(table)))
    return Comparison(tables, problems)


def sentence(table: Table) -> str:
    """What the table shows, in one plain sentence."""
    others = [arm for arm in table.arms[1:] if arm.finished]
    if not any(arm.finished for arm in table.arms):
        text = "no run has finished"
    elif not others:
        text = f"nothing can be compared: only {BASELINE} has a finished run"
    elif not table.arms[0].finished:
        text = f"nothing can be compared: {BASELINE} has no finished run in this setting"
    else:
        text = "; ".join(_clause(arm, UNITS[table.metric]) for arm in others)
    if table.sample:
        return f"SAMPLE data, which says nothing about any method: {text}."
    return f"{text[0].upper() if text.startswith('no') else text[0]}{text[1:]}."


def p_text(p: float) -> str:
    """``p = 0.012``, or ``p < 0.0001``."""
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _pair_up(setting: Setting, predictions: Predictions) -> dict[str, Paired]:
    """Each arm that shares a finished seed with the baseline."""
    baseline = setting.finished(BASELINE)
    names = arm_names(setting)[1:]
    arms = {name: evidence.pair(baseline, setting.finished(name), predictions) for name in names}
    return {name: pair for name, pair in arms.items() if pair}


def _judge(samples: list[bool], paired: list[dict[str, Paired]]) -> list[dict[str, Difference]]:
    """Judge all comparisons at once; runs on the sample are a family of their own."""
    found: list[dict[str, Difference]] = [{} for _ in paired]
    for family in (False, True):
        names = [(i, name) for i, arms in enumerate(paired) if samples[i] is family for name in arms]
        judged = evidence.judge([paired[i][name] for i, name in names])
        for (i, name), difference in zip(names, judged, strict=True):
            found[i][name] = difference
    return found


def _clause(arm: Arm, unit: str) -> str:
    found = arm.difference
    if found is None:
        return f"{arm.name} has no finished seed in common with {BASELINE}"
    count = len(found.seeds)
    over = f"over {count} seeds" if count > 1 else "with one seed"
    facts = f"({_intervals(found)})"
    if found.verdict != "none":
        return f"{arm.name} is {found.verdict} than {BASELINE} by {abs(found.mean):.2f} {unit} {over} {facts}"
    could = f"; a true difference of about {found.detectable:.2f} would show" if found.detectable else ""
    claim = f"no difference between {arm.name} and {BASELINE} can be claimed"
    return f"{claim}: {found.mean:+.2f} {unit} {over} {facts}, {found.why}{could}"


def _intervals(found: Difference) -> str:
    parts = []
    if found.interval_rows:
        parts.append("{:+.2f} to {:+.2f} over test rows".format(*found.interval_rows))
    if found.interval_seeds:
        parts.append("{:+.2f} to {:+.2f} over seeds".format(*found.interval_seeds))
    text = f"95% interval {', '.join(parts)}" if parts else "no interval"
    if found.p_adjusted is None:
        return text
    many = f" after Holm for {found.comparisons} comparisons" if found.comparisons > 1 else ""
    return f"{text}; {p_text(found.p_adjusted)}{many}"
