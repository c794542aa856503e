"""A comparison of made-up runs, and what is asked of it again and again."""

from pathlib import Path
from typing import Any

from finetune.comparison.claims import Difference
from finetune.comparison.compare import compare
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.records import store


def only_table(root: Path) -> ResultTable:
    (table,) = compare([root]).tables
    return table


def notes_of(root: Path) -> list[str]:
    return [note.text for note in only_table(root).notes]


def variant_of(table: ResultTable, name: str = "sa-softmax") -> VariantResult:
    return next(each for each in table.variants if each.name == name)


def difference_of(table: ResultTable, name: str = "sa-softmax") -> Difference:
    difference = variant_of(table, name).difference
    assert difference is not None
    return difference


def changed(entry: store.Record, key: str, **values: Any) -> store.Record:
    entry[key] = {**entry[key], **values}  # type: ignore[literal-required]
    return entry
