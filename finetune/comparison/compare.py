"""Compares the runs of folders: a table per task, model and setting, each variant against softmax.

comparison = compare("runs")
comparison.to_frame()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

from finetune.comparison import claims, lengths, tuning
from finetune.comparison.aggregate import Overall, overall
from finetune.comparison.caveats import reservations
from finetune.comparison.churn import Churn, churn
from finetune.comparison.claims import Difference, Paired
from finetune.comparison.effects import with_effects
from finetune.comparison.interactions import Interaction, interactions
from finetune.comparison.margins import Margins, with_margins
from finetune.comparison.pairing import RunGroup, groups
from finetune.comparison.rescoring import Predictions
from finetune.comparison.sentence import p_text, sentence
from finetune.comparison.tables import ResultTable, build
from finetune.comparison.verdicts import TITLES, verdicts
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.records.run import Roots, Run, find_all
from finetune.statistics.power import ALPHA, POWER
from finetune.system.text import clean, plain

if TYPE_CHECKING:
    import pandas

# Keys of ``report.json`` that are not the field's name: kept reports, and scripts that read them, have these.
KEPT_AS = {"variants": "arms", "variant": "arm"}


@dataclass(frozen=True)
class Comparison:
    """Tables, real data first; means over tasks; and a line about each record that could not be used."""

    tables: list[ResultTable]
    problems: list[str]
    overall: list[Overall] = field(default_factory=list)
    interactions: list[Interaction] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Converts to the plain values of ``report.json``, the same for the same records."""
        head = {"schema": "finetune-comparison", "version": 2, "alpha": ALPHA, "power": POWER}
        content = asdict(self)
        for table in content["tables"]:
            table["note_kinds"] = [str(note["kind"]) for note in table["notes"]]
            table["notes"] = [note["text"] for note in table["notes"]]
            table["sentence"] = plain(table["sentence"])
        for name in ("tables", "overall", "interactions"):
            content[name] = [
                {KEPT_AS.get(key, key): value for key, value in line.items()} for line in content[name]
            ]
        content["verdicts"] = [
            {**asdict(each), "outcome": each.outcome.name.lower()} for each in verdicts(self.tables)
        ]
        return head | content

    def to_frame(self) -> pandas.DataFrame:
        """Makes a data frame: a row for each table and variant; the baseline has no difference."""
        import pandas

        rows = []
        for table in self.tables:
            for result in table.variants:
                summary, difference = result.metrics.get(table.metric), result.difference
                low, high = (difference and difference.interval) or (None, None)
                rows.append(
                    {
                        "task": table.title,
                        "model": table.model,
                        "setting": table.apart,
                        "sample": table.sample,
                        "variant": result.name,
                        "control": result.control,
                        "metric": table.metric,
                        "mean": summary.mean if summary else None,
                        "sd": summary.sd if summary else None,
                        "n": result.finished,
                        "difference": difference.mean if difference else None,
                        "interval_low": low,
                        "interval_high": high,
                        "p": difference.p if difference else None,
                        "p_adjusted": difference.p_adjusted if difference else None,
                        "margin": difference.margin if difference else None,
                        "improvement": difference.improvement if difference else None,
                        "error_reduction": difference.error_reduction if difference else None,
                        "verdict": difference.verdict if difference else None,
                        "why": difference.why if difference else None,
                    }
                )
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Renders HTML for a notebook: a small table of every variant, and each table's sentence."""
        head = ("task", "model", "attention", "n", "score", "difference", "95%", "p (Holm)", "verdict")
        rows = []
        for table in self.tables:
            task = f"{table.title} (SAMPLE)" if table.sample else table.title
            for result in table.variants:
                summary, difference = result.metrics.get(table.metric), result.difference
                cells = [task, table.subject, result.name, str(result.finished), "", "", "", "", ""]
                if summary:
                    cells[4] = table.primary.text(summary.mean)
                if difference:
                    cells[5] = table.primary.signed(difference.mean)
                    cells[6] = table.primary.interval(difference.interval) if difference.interval else ""
                    cells[7] = p_text(difference.p_adjusted) if difference.p_adjusted is not None else ""
                    # No method is better or worse on made-up rows.
                    cells[8] = "no verdict: sample" if table.sample else TITLES[difference.verdict]
                rows.append(cells)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(clean(cell))}</td>" for cell in cells) + "</tr>" for cells in rows
        )
        names = "".join(f"<th>{escape(name)}</th>" for name in head)
        lines = [f"{table.title}, {table.model}: {table.sentence}" for table in self.tables] + self.problems
        items = "".join(f"<li>{escape(clean(line))}</li>" for line in lines)
        return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table><ul>{items}</ul>"


def compare(roots: Roots, margins: Margins | None = None) -> Comparison:
    """Compares every run below one folder or several, at these margins of equivalence or the metrics' own.

    Raises ``UserError`` where one of them is no folder, and for a margin of a metric that is not tested.
    """
    return of_runs(*find_all(roots), margins)


def of_runs(runs: Iterable[Run], problems: Sequence[str] = (), margins: Margins | None = None) -> Comparison:
    """Compares ``runs`` as ``compare`` does; ``problems``: a line about each record that cannot be read.

    Trials of tunings among them are no results, and say how values were chosen.
    """
    predictions, every = Predictions(), list(runs)
    trials = [run for run in every if run.trial]
    grouped = groups(run for run in every if not run.trial)
    tables = [
        with_choices(_table(siblings, group, predictions), group, trials)
        for siblings in grouped
        for group in siblings
    ]
    found = Comparison(tables, list(problems), overall(tables), interactions(grouped, predictions))
    return judged(found, margins)


def with_choices(table: ResultTable, group: RunGroup, trials: Sequence[Run]) -> ResultTable:
    """``table`` with what the trials of a tuning have decided; as it is for common values."""
    found = tuning.of(group, trials)
    return replace(table, tuning=found, notes=[*tuning.notes(found), *table.notes]) if found else table


def judged(comparison: Comparison, margins: Margins | None = None) -> Comparison:
    """The comparison with effect sizes, verdicts at these margins (else as recorded) and its sentences."""
    if margins:
        margins.check(comparison.tables)
    tables = [with_margins(with_effects(table), margins) for table in comparison.tables]
    return replace(comparison, tables=[replace(table, sentence=sentence(table)) for table in tables])


def _table(siblings: list[RunGroup], group: RunGroup, predictions: Predictions) -> ResultTable:
    """Compares each variant of a group with softmax, in the primary metric and at every context length."""
    metric, longest = group.first.metric, lengths.tested(group)
    pairs: dict[str, Paired] = {}
    at: dict[tuple[str, str], Paired] = {}
    churns: dict[str, Churn | None] = {}
    for name in group.variants[1:]:
        # Only seeds that began from the baseline's own weights make a fair pair.
        unlike = group.unlike_starts(name)
        fair = {seed: run for seed, run in group.finished(BASELINE).items() if seed not in unlike}
        churns[name] = churn(fair, group.finished(name), predictions, metric)
        for each in (metric.name, *lengths.names(group)):
            paired = claims.pair(fair, group.finished(name), predictions, registry.get(each))
            if paired is None:
                continue
            paired = replace(paired, level=group.level(name))
            if each == metric.name:
                pairs[name] = paired
            else:
                at[name, each] = paired
    # One table is one family of comparisons, whatever other tasks happen to lie in the folder.
    tested = [key for key in at if key[1] == longest]
    judged = claims.judge([*pairs.values(), *(at[key] for key in tested)], metric)
    by_length = {key: claims.describe(paired, metric) for key, paired in at.items() if key not in tested}
    by_length |= dict(zip(tested, judged[len(pairs) :], strict=True))
    at_lengths: dict[str, dict[str, Difference]] = {}
    for name, each in at:  # by length
        at_lengths.setdefault(name, {})[each] = by_length[name, each]
    differences = dict(zip(pairs, judged, strict=False))
    at_tested = {name: at[name, each] for name, each in tested}
    table = build(siblings, group, differences, at_lengths, reservations(pairs, metric, at_tested, longest))
    variants = [replace(result, churn=churns.get(result.name)) for result in table.variants]
    return replace(table, variants=variants)
