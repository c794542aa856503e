"""A comparison as ``report.csv``: one row an arm, numbers in full, for a spreadsheet or a data frame.

Text never becomes a formula: a cell of text that a spreadsheet would calculate starts with an apostrophe
(OWASP, CSV Injection).
"""

import csv
import io
from typing import Any

from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable, Summary, VariantResult
from finetune.report import words
from finetune.system.text import clean

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")  # an apostrophe too, so that it can be told apart

P_VALUES = ("p", "p_adjusted", "p_seeds", "p_rows", "p_bootstrap")


def spreadsheet(comparison: Comparison) -> str:
    """The whole file, comma-separated with a head; an empty cell where nothing is known."""
    rows = [_row(table, arm) for table in comparison.tables for arm in table.variants]
    head = list(dict.fromkeys(key for row in rows for key in row)) or ["task"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _row(table: ResultTable, arm: VariantResult) -> dict[str, Any]:
    attention, start = arm.attention or {}, arm.start or {}
    row: dict[str, Any] = {
        "task": table.task,
        "pair": table.pair,
        "model": table.model,
        "setting": words.listed(table.setting),
        "sample": table.sample,
        "attention": arm.name,
        "control": arm.control,
        "start": start.get("kind"),
        "kernel": attention.get("kernel"),
        "runs": arm.finished,
        "seeds": " ".join(str(seed) for seed in sorted(arm.seeds)),
        "metric": table.metric,
        "mean": None,
        "sd": None,
    }
    row |= _difference(arm)
    row |= _numbers("untrained", arm.untrained)
    row |= {"cosine_cold": start.get("cosine_cold"), "cosine": start.get("cosine")}
    row |= {"train_s": arm.train_s, "peak_memory_mib": arm.peak_memory_mib, "signature": table.signature}
    for name, summary in arm.metrics.items():
        row |= _numbers("" if name == table.metric else name, summary)
    return row


def _numbers(name: str, summary: Summary | None) -> dict[str, float | None]:
    before = f"{name}_" if name else ""
    mean, sd = (summary.mean, summary.sd) if summary else (None, None)
    return {f"{before}mean": mean, f"{before}sd": sd}


def _difference(arm: VariantResult) -> dict[str, Any]:
    found = arm.difference
    row: dict[str, Any] = {"difference": found and found.mean}
    for field in ("interval", "interval_rows", "interval_seeds"):
        bounds = getattr(found, field) if found else None
        row |= {f"{field}_low": bounds and bounds[0], f"{field}_high": bounds and bounds[1]}
    for field in (*P_VALUES, "comparisons", "detectable", "verdict", "test"):
        row[field] = getattr(found, field) if found else None
    return row


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(FORMULA) else text
