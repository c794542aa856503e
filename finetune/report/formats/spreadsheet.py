"""A comparison as ``report.csv``: one row a variant, numbers in full, for a spreadsheet or a data frame.

Text never becomes a formula: a cell of text that a spreadsheet would calculate starts with an apostrophe
(OWASP, CSV Injection).
"""

import csv
import io
from typing import Any

from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable, Summary, VariantResult
from finetune.report import cells, words
from finetune.system.text import clean

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")  # an apostrophe too, so that it can be undone
P_VALUES = ("p", "p_adjusted", "p_seeds", "p_rows", "p_bootstrap")
EFFECTS = ("margin", "improvement", "error_reduction", "wins", "ties", "losses")


def spreadsheet(comparison: Comparison) -> str:
    """Writes the whole file, comma-separated with a head; an empty cell where nothing is known."""
    began = {id(table): origin.text for origin, table in cells.beside(comparison)}
    rows = [
        _row(table, result, began.get(id(table))) for table in comparison.tables for result in table.variants
    ]
    head = list(dict.fromkeys(key for row in rows for key in row)) or ["task"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _row(table: ResultTable, result: VariantResult, began: str | None) -> dict[str, Any]:
    """Flattens one variant of one table, whose models ``began`` so: a column for every number, in full."""
    attention, start, difference = result.attention or {}, result.start or {}, result.difference
    row: dict[str, Any] = {
        "task": table.task,
        "pair": table.pair,
        "model": table.model,
        "setting": words.listed(table.setting),
        "sample": table.sample,
        "attention": result.name,
        "control": result.control,
        "start": start.get("kind"),
        "kernel": attention.get("kernel"),
        "runs": result.finished,
        "seeds": " ".join(str(seed) for seed in sorted(result.seeds)),
        "metric": table.metric,
        "mean": None,
        "sd": None,
        "difference": difference and difference.mean,
    }
    for field in ("interval", "interval_rows", "interval_seeds"):
        bounds = getattr(difference, field) if difference else None
        row |= {f"{field}_low": bounds and bounds[0], f"{field}_high": bounds and bounds[1]}
    for field in (*P_VALUES, "comparisons", "detectable", "verdict", "test", *EFFECTS):
        row[field] = getattr(difference, field) if difference else None
    row |= _mean_sd("untrained_", result.untrained)
    row |= {"cosine_cold": start.get("cosine_cold"), "cosine": start.get("cosine")}
    row |= {"train_s": result.train_s, "peak_memory_mib": result.peak_memory_mib}
    row["signature"] = table.signature
    if began:
        row["began_from"] = began
    if table.position:
        row["position"] = table.position
    if table.trained_length:
        row |= {"trained_length": table.trained_length, "tested_length": table.tested_length}
    for name, found in result.at_lengths.items():
        low, high = found.interval or (None, None)
        row |= {f"{name}_difference": found.mean, f"{name}_interval_low": low, f"{name}_interval_high": high}
        if name == table.tested_length:
            row |= {f"{name}_p_adjusted": found.p_adjusted, f"{name}_verdict": found.verdict}
    for name, summary in result.metrics.items():
        row |= _mean_sd("" if name == table.metric else f"{name}_", summary)
    return row


def _mean_sd(prefix: str, summary: Summary | None) -> dict[str, float | None]:
    mean, sd = (summary.mean, summary.sd) if summary else (None, None)
    return {f"{prefix}mean": mean, f"{prefix}sd": sd}


def _cell(value: Any) -> Any:
    """Marks a text that a spreadsheet would calculate with an apostrophe; a number stays as it is."""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(FORMULA) else text
