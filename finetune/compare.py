"""Records -> comparison: one table per task, model and setting, each arm against softmax, in plain words.

comparison = compare([Path("runs")])
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune import evidence
from finetune.config import BASELINE
from finetune.evidence import Difference, Paired
from finetune.overall import Overall, overall
from finetune.pairing import Setting, collect, groups
from finetune.power import ALPHA, POWER
from finetune.predictions import Predictions
from finetune.tables import Arm, Table, build

UNITS = {"accuracy": "points of accuracy", "bleu": "BLEU"}


@dataclass(frozen=True)
class Comparison:
    """Every table, real data first, what arms show over tasks, and each record that could not be used."""

    tables: list[Table]
    problems: list[str]
    overall: list[Overall] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same records."""
        head = {"schema": "finetune-comparison", "version": 2, "alpha": ALPHA, "power": POWER}
        return head | asdict(self)


def compare(roots: Sequence[Path]) -> Comparison:
    """Compare every run below ``roots``; raise ``UserError`` where one of them is no folder."""
    runs, problems = collect(roots)
    settings = [(group, setting) for group in groups(runs) for setting in group]
    predictions = Predictions()
    paired = [_pair_up(setting, predictions) for _, setting in settings]
    tables = []
    for (group, setting), arms in zip(settings, paired, strict=True):
        # One table is one family of comparisons, whatever other tasks happen to lie in the folder.
        differences = dict(zip(arms, evidence.judge(list(arms.values())), strict=True))
        no_rows = {name: pair.no_rows for name, pair in arms.items() if pair.no_rows}
        table = build(group, setting, differences, no_rows)
        tables.append(replace(table, sentence=sentence(table)))
    return Comparison(tables, problems, overall(tables))


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
        text = "; ".join(_clause(arm, table.arms[0], UNITS[table.metric]) for arm in others)
    if table.sample:
        return f"SAMPLE data, which says nothing about any method: {text}."
    return f"{text[0].upper() if text.startswith('no') else text[0]}{text[1:]}."


def p_text(p: float) -> str:
    """``p = 0.012``, or ``p < 0.0001``."""
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _pair_up(setting: Setting, predictions: Predictions) -> dict[str, Paired]:
    """Each arm that shares a finished seed, and its initial weights, with the baseline."""
    arms = {}
    for name in setting.arms[1:]:
        unlike = setting.unlike_starts(name)
        fair = {seed: run for seed, run in setting.finished(BASELINE).items() if seed not in unlike}
        arms[name] = evidence.pair(fair, setting.finished(name), predictions)
    return {name: pair for name, pair in arms.items() if pair}


def _clause(arm: Arm, baseline: Arm, unit: str) -> str:
    found = arm.difference
    if found is None and arm.seeds & baseline.seeds:
        return f"{arm.name} cannot be paired with {BASELINE}: their initial weights differ"
    if found is None:
        return f"{arm.name} has no finished seed in common with {BASELINE}"
    count = len(found.seeds)
    over = f"over {count} seeds" if count > 1 else "with one seed"
    facts = f"({_intervals(found)})"
    if found.verdict != "none":
        return f"{arm.name} is {found.verdict} than {BASELINE} by {abs(found.mean):.2f} {unit} {over} {facts}"
    claim = f"no difference between {arm.name} and {BASELINE} can be claimed"
    return f"{claim}: {found.mean:+.2f} {unit} {over} {facts}, {found.why}{_could(found)}"


def _could(found: Difference) -> str:
    """What this design would have shown, and what the next smaller difference would take."""
    if not found.detectable:
        return ""
    if found.detectable > evidence.LARGEST:
        return "; no true difference would be claimed 4 times in 5"
    text = f"; a true difference of about {found.detectable:.2f} would be claimed 4 times in 5"
    needed = found.seeds_needed or {}
    smaller = [wanted for wanted in needed if float(wanted) < found.detectable]
    if not smaller:
        return text
    wanted = max(smaller, key=float)
    how = f"with about {needed[wanted]} seeds" if needed[wanted] else "only with more test rows"
    return f"{text}, one of {wanted} {how}"


def _intervals(found: Difference) -> str:
    """The interval over both kinds of noise; over one of them where the other is not known."""
    known = [
        (found.interval, "over seeds and test rows"),
        (found.interval_rows, "over test rows"),
        (found.interval_seeds, "over seeds"),
    ]
    text = "no interval"
    for interval, noise in known:
        if interval:
            text = "95% interval {:+.2f} to {:+.2f} ".format(*interval) + noise
            break
    if found.p_adjusted is None:
        return text
    many = f" after Holm for {found.comparisons} comparisons" if found.comparisons > 1 else ""
    return f"{text}; {p_text(found.p_adjusted)}{many}"
