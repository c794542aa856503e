"""A task's own columns -> the canonical ones, with every check that a row can fail.

Works on whole Arrow columns, so that millions of rows cost seconds; only a faulty row is looked at by itself.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.errors import UserError, unknown
from tasks.base import ClassificationTask, Task, TranslationTask, languages


def canonical(raw: Any, task: Task, pair: str | None, split: str) -> pa.Table:
    """Columns ``row, text, label`` or ``row, source, target`` of one raw split (a ``datasets.Dataset``).

    Texts are stripped of white space at their ends; a missing text becomes an empty one, for ``empty_rows``.
    Raises ``UserError`` naming the split, and the row (counted from 0) where there is one.
    """
    table = raw.with_format("arrow")[:]
    columns: dict[str, Any] = {"row": pa.array(np.arange(table.num_rows))}
    if isinstance(task, ClassificationTask):
        parts = [_text(_column(table, name, task, split), name, split) for name in task.text]
        columns["text"] = _joined(parts)
        columns["label"] = _labels(_column(table, task.label, task, split), task, split)
    else:
        sides = languages(pair or task.default_pair)
        for name, language in zip(("source", "target"), sides, strict=True):
            columns[name] = _text(_side(table, language, task, split), language, split)
    return pa.table(columns)


def empty_rows(table: pa.Table) -> np.ndarray:
    """Which canonical rows hold an empty text: (rows,) of bool. For a translation either side counts."""
    names = [name for name in table.column_names if name not in ("row", "label")]
    empty = np.zeros(table.num_rows, dtype=bool)
    for name in names:
        empty |= pc.equal(table[name], "").to_numpy(zero_copy_only=False).astype(bool)
    return empty


def _column(table: pa.Table, name: str, task: Task, split: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        needed = (*task.text, task.label) if isinstance(task, ClassificationTask) else (task.column,)
        raise UserError(
            f"split '{split}' has no column '{name}'; task '{task.name}' needs {', '.join(needed)} "
            f"and the data has {', '.join(table.column_names)}"
        )
    return table[name]


def _side(table: pa.Table, language: str, task: TranslationTask, split: str) -> pa.ChunkedArray:
    """One language of a translation: out of the task's column of {language: text}, or a column of its own."""
    if task.column not in table.column_names and language in table.column_names:
        return table[language]
    if task.column not in table.column_names:
        raise UserError(
            f"split '{split}' has neither a column '{task.column}' nor one called '{language}'; "
            f"the data has {', '.join(table.column_names)}"
        )
    column = table[task.column]
    if not pa.types.is_struct(column.type):
        raise UserError(
            f"column '{task.column}' of split '{split}' holds {column.type}, not {{language: text}}"
        )
    present = [column.type.field(i).name for i in range(column.type.num_fields)]
    if language not in present:
        raise UserError(
            f"column '{task.column}' of split '{split}' has no language '{language}'; "
            f"it has {', '.join(present)}"
        )
    return pc.struct_field(column, language)


def _text(column: pa.ChunkedArray, name: str, split: str) -> pa.ChunkedArray:
    """Strings, stripped, with "" for what is missing."""
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"column '{name}' of split '{split}' holds {_not_text(column)}")
    # large_string: offsets of 64 bits, as all texts of a large set together pass 2 GiB
    return pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.large_string()), ""))


def _not_text(column: pa.ChunkedArray) -> str:
    """What a column holds instead of text, with the first row at fault (counted from 0)."""
    values = column.to_pylist()
    kind = str(column.type)
    if isinstance(column.type, pa.BaseExtensionType):  # rows of several types arrive as JSON texts
        values = [None if value is None else json.loads(value) for value in values]
        kind = "values of several types"
    wrong = ((i, v) for i, v in enumerate(values) if v is not None and not isinstance(v, str))
    row, value = next(wrong, (0, None))
    return f"{kind}, not text: row {row} (counted from 0) is {str(value)[:40]!r}"


def _joined(parts: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """The texts of a row with one space between them; trimming after each leaves no gap for an empty one."""
    joined = parts[0]
    for part in parts[1:]:
        joined = pc.utf8_trim_whitespace(
            pc.binary_join_element_wise(joined, part, pa.scalar(" ", pa.large_string()))
        )
    return joined


def _labels(column: pa.ChunkedArray, task: ClassificationTask, split: str) -> pa.Array:
    """Numbers from 0 to one less than the number of labels: given as such, or as label names."""
    where = f"column '{task.label}' of split '{split}'"
    if column.null_count:
        first = pc.is_null(column).index(True).as_py()
        raise UserError(
            f"{where} has {column.null_count} rows without a label, the first is row {first} (counted from 0)"
        )
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _numbers(column.to_pylist(), task, where)
    if not pa.types.is_integer(column.type):
        raise UserError(
            f"{where} holds {column.type}; labels are numbers 0 to {len(task.labels) - 1} or label names"
        )
    labels = column.to_numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= len(task.labels)))
    if wrong.size:
        counted = labels.min() == 1 and labels.max() == len(task.labels)
        hint = "; they seem to be counted from 1: subtract 1" if counted else ""
        raise UserError(
            f"{where} has the label {labels[wrong[0]]} in row {wrong[0]} (counted from 0); "
            f"task '{task.name}' has labels 0 to {len(task.labels) - 1}{hint}"
        )
    return pa.array(labels.astype(np.int64))


def _numbers(names: list[str], task: ClassificationTask, where: str) -> pa.Array:
    """Label names -> numbers."""
    known = {name: number for number, name in enumerate(task.labels)}
    if "" in names:
        raise UserError(f"{where} has no label in row {names.index('')} (counted from 0)")
    wrong = next((row for row, name in enumerate(names) if name not in known), None)
    if wrong is not None:
        raise unknown(f"label (row {wrong} of {where}, counted from 0)", names[wrong], task.labels)
    return pa.array([known[name] for name in names], pa.int64())
