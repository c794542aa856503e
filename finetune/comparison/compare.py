"""Records -> comparison: one table per task, model and setting, each variant against softmax, in plain words.

comparison = compare("runs")
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from finetune.comparison import claims
from finetune.comparison.aggregate import Overall, overall
from finetune.comparison.pairing import groups
from finetune.comparison.rescoring import Predictions
from finetune.comparison.sentence import sentence
from finetune.comparison.tables import ResultTable, build
from finetune.config.schema import BASELINE
from finetune.records.run import Roots, find_runs
from finetune.statistics.power import ALPHA, POWER


@dataclass(frozen=True)
class Comparison:
    """Every table, real data first, what arms show over tasks, and each record that could not be used."""

    tables: list[ResultTable]
    problems: list[str]
    overall: list[Overall] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same records."""
        head = {"schema": "finetune-comparison", "version": 2, "alpha": ALPHA, "power": POWER}
        return head | asdict(self)


def compare(roots: Roots) -> Comparison:
    """Compare every run below one folder or several; raise ``UserError`` where one of them is no folder."""
    runs, problems = find_runs(roots)
    predictions = Predictions()
    tables = []
    for siblings in groups(runs):
        for group in siblings:
            pairs = {}
            for name in group.variants[1:]:
                # Only seeds that began from the baseline's own weights make a fair pair.
                unlike = group.unlike_starts(name)
                fair = {seed: run for seed, run in group.finished(BASELINE).items() if seed not in unlike}
                paired = claims.pair(fair, group.finished(name), predictions)
                if paired:
                    pairs[name] = paired
            # One table is one family of comparisons, whatever other tasks happen to lie in the folder.
            judged = claims.judge(list(pairs.values()), group.first.metric)
            no_rows = {name: paired.no_rows for name, paired in pairs.items() if paired.no_rows}
            table = build(siblings, group, dict(zip(pairs, judged, strict=True)), no_rows)
            tables.append(replace(table, sentence=sentence(table)))
    return Comparison(tables, problems, overall(tables))
