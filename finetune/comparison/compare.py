"""Records -> comparison: one table per task, model and setting, each arm against softmax, in plain words.

comparison = compare([Path("runs")])
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.comparison import claims
from finetune.comparison.aggregate import Overall, overall
from finetune.comparison.claims import Paired
from finetune.comparison.pairing import Setting, collect, groups
from finetune.comparison.rescoring import Predictions
from finetune.comparison.sentence import sentence
from finetune.comparison.tables import Table, build
from finetune.config.schema import BASELINE
from finetune.statistics.power import ALPHA, POWER


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
        differences = dict(zip(arms, claims.judge(list(arms.values())), strict=True))
        no_rows = {name: pair.no_rows for name, pair in arms.items() if pair.no_rows}
        table = build(group, setting, differences, no_rows)
        tables.append(replace(table, sentence=sentence(table)))
    return Comparison(tables, problems, overall(tables))


def _pair_up(setting: Setting, predictions: Predictions) -> dict[str, Paired]:
    """Each arm that shares a finished seed, and its initial weights, with the baseline."""
    arms = {}
    for name in setting.arms[1:]:
        unlike = setting.unlike_starts(name)
        fair = {seed: run for seed, run in setting.finished(BASELINE).items() if seed not in unlike}
        arms[name] = claims.pair(fair, setting.finished(name), predictions)
    return {name: pair for name, pair in arms.items() if pair}
