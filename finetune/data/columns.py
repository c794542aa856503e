"""A task's own columns -> the canonical ones, with every check that a row can fail.

Works on whole Arrow columns, so that millions of rows cost seconds; only a faulty row is looked at by itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data import labels
from finetune.data.readers import Part, Wanted, decoded
from finetune.errors import UserError, unknown
from finetune.tasks.base import Task


def wanted(task: Task, pair: str | None) -> Wanted:
    """The columns of a file that a task needs; ``choose`` raises ``UserError`` where they are not there."""
    needed = [name for names in task.texts(pair).values() for name in names]
    if task.label is not None:
        needed.append(task.label)
    needed = list(dict.fromkeys(needed))
    optional = [] if task.document is None else [task.document]

    def choose(present: list[str]) -> list[str]:
        # Texts by name may stand in one column of {name: text}, or each in a column of its own.
        if task.column is not None and task.column in present:
            return _chosen(present, [task.column], task)
        if task.column is not None and not task.undeclared and not set(needed) & set(present):
            raise UserError(
                f"neither a column '{task.column}' nor one called '{needed[0]}'; the data has "
                f"{_listing(present)}"
            )
        return _chosen(present, [*needed, *(name for name in optional if name in present)], task)

    inside = () if task.column is None else tuple(needed)
    return Wanted(choose, task.label, inside, plain=tuple(needed), document=task.document or "")


def canonical(part: Part, task: Task, pair: str | None, where: str) -> pa.Table:
    """Columns: ``task.texts``, ``label`` and ``document`` of one part of a split; a label is still a text.

    Texts are stripped of white space at their ends, but not those of documents, which are read as they are; a
    missing text becomes an empty one, for ``empty_rows``. A document may have no name yet.
    Raises ``UserError`` naming ``where``, and the row (counted from 0) where there is one.
    """
    table, columns = part.table, dict[str, Any]()
    for name, raw in task.texts(pair).items():
        first, *others = [_text(_column(table, one, task, where), one, where) for one in raw]
        if task.document is None or others:
            first = pc.utf8_trim_whitespace(first)
        for other in map(pc.utf8_trim_whitespace, others):
            # Trimming after each join leaves no gap where one of the texts is empty.
            joined = pc.binary_join_element_wise(first, other, pa.scalar(" ", pa.large_string()))
            first = pc.utf8_trim_whitespace(joined)
        columns[name] = first
    if task.label is not None:
        place = f"column '{task.label}' of {where}"
        columns["label"] = labels.written(
            table[task.label], part.names, task.labels or part.names or (), place
        )
    if task.document is not None:
        columns["document"] = _names(table, task.document, where)
    return pa.table(columns)


def numbered(tables: Mapping[str, pa.Table], task: Task) -> dict[str, pa.Table]:
    """The splits with a column ``row`` in front, and numbers for labels.

    Whether labels are names or numbers is decided over all splits together, so that they are read alike.
    """
    whole = {}
    flat = {name: table["label"].combine_chunks() for name, table in tables.items() if task.labels}
    named = labels.are_names(flat.values(), task.labels)
    for split, table in tables.items():
        columns: dict[str, Any] = {"row": pa.array(np.arange(table.num_rows))}
        columns |= {name: table[name] for name in table.column_names}
        if task.labels:
            where = f"column '{task.label}' of split '{split}'"
            columns["label"] = labels.numbers(flat[split], task.labels, named, where, task.name)
        whole[split] = pa.table(columns)
        if task.document is not None:
            whole[split] = _by_document(whole[split], task)
    return whole


def _by_document(table: pa.Table, task: Task) -> pa.Table:
    """Canonical rows whose documents all have names, with ``task.between`` after each row but their last."""
    if task.begins is not None and table["document"].null_count == table.num_rows:
        table = _joined(table, task.begins, task.between)
    texts, names, rows = table["text"], table["document"], table["row"]
    own = pc.binary_join_element_wise("row", rows.cast(pa.string()), " ").cast(pa.large_string())
    names = pc.coalesce(names, own)
    of = documents(names)
    last = np.zeros(len(of), dtype=bool)
    last[np.unique(of[::-1], return_index=True)[1]] = True
    last = last[::-1]
    empty, between = (pa.scalar(text, pa.large_string()) for text in ("", task.between))
    texts = pc.binary_join_element_wise(texts, pc.if_else(pa.array(last), empty, between), empty)
    return table.set_column(1, "text", texts).set_column(2, "document", names)


def _joined(table: pa.Table, begins: str, between: str) -> pa.Table:
    """A row for each document of rows of which those that match ``begins`` are first; as it is without any.

    A document is named after its first row, ``row`` is that row's; what stands before belongs to the first.
    """
    texts = table["text"].combine_chunks()
    starts = np.flatnonzero(pc.match_substring_regex(texts, begins))
    if not len(starts):
        return table
    titles = [
        f"{row} {title.strip()}" for row, title in zip(starts, texts.take(starts).to_pylist(), strict=True)
    ]
    lists = pa.LargeListArray.from_arrays(np.array([0, *starts[1:], len(texts)], dtype=np.int64), texts)
    return pa.table({
        "row": pa.array(starts),
        "text": pc.binary_join(lists, pa.scalar(between, pa.large_string())),
        "document": pa.array(titles, pa.large_string()),
    })  # fmt: skip


def documents(names: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The number of each row's document by its name, from 0 in the order of their first rows: (rows,)."""
    encoded = pa.chunked_array([names] if isinstance(names, pa.Array) else names.chunks, names.type)
    encoded = encoded.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices, dtype=np.int64)


def empty_rows(table: pa.Table) -> np.ndarray:
    """Canonical rows that hold an empty text, in any of their columns of texts: (rows,) of bool.

    A row of a document may be blank, as a line of a text may, unless all of its rows are.
    """
    names = [name for name in table.column_names if name not in ("row", "label", "document")]
    empty = np.zeros(table.num_rows, dtype=bool)
    for name in names:
        empty |= (
            pc.equal(pc.utf8_trim_whitespace(table[name]), "").to_numpy(zero_copy_only=False).astype(bool)
        )
    if "document" in table.column_names:
        of = documents(table["document"])
        empty &= np.bincount(of, ~empty)[of] == 0
    return empty


def _chosen(present: list[str], needed: list[str], task: Task) -> list[str]:
    """``needed``, of which each must be there once. Raises ``UserError``."""
    for name in needed:
        count = present.count(name)
        if count > 1:
            raise UserError(f"the column '{name}' is there {count} times: {_listing(present)}")
        if count == 1:
            continue
        headless = (
            len(present) == len(needed)
            and not set(present) & set(needed)
            and not all(one.strip().isidentifier() for one in present)
        )
        if task.undeclared and not headless:
            raise unknown("column", name, present)
        hint = (
            # the first row of a CSV stands in the place of its header
            f"; if that is a row of its own, put the header {','.join(needed)} (in their order) before it"
            if headless
            else ": rename it there, or declare a task of your own that reads what is there (docs/tasks.md)"
        )
        raise UserError(
            f"no column '{name}'; task '{task.name}' needs {', '.join(map(repr, needed))} "
            f"and the data has {_listing(present)}{hint}"
        )
    return needed


def _listing(names: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def _column(table: pa.Table, name: str, task: Task, where: str) -> pa.ChunkedArray:
    """One column of texts: of its own, or out of the task's column of {language: text}."""
    if task.column is None or task.column not in table.column_names:
        return table[name]
    column = table[task.column]
    if not pa.types.is_struct(column.type):
        raise UserError(f"column '{task.column}' of {where} holds {column.type}, not {{language: text}}")
    present = [column.type.field(i).name for i in range(column.type.num_fields)]
    if name not in present:
        raise UserError(
            f"column '{task.column}' of {where} has no language '{name}'; it has {', '.join(present)}"
        )
    if present.count(name) > 1:
        raise UserError(f"column '{task.column}' of {where} has the language '{name}' twice")
    return pc.struct_field(column, name)


def _names(table: pa.Table, name: str, where: str) -> pa.ChunkedArray:
    """The names of documents, as the data has them, in texts or whole numbers; missing ones are null."""
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.large_string())])
    column = decoded(table[name])
    kind = column.type
    if not any(is_kind(kind) for is_kind in (
        pa.types.is_null, pa.types.is_string, pa.types.is_large_string, pa.types.is_integer
    )):  # fmt: skip
        raise UserError(f"column '{name}' of {where} holds {kind}, which names no documents")
    return column.cast(pa.large_string())


def _text(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """A column as strings, with "" for a missing text."""
    column = decoded(column)
    kind = column.type
    kinds = (pa.types.is_null, pa.types.is_string, pa.types.is_large_string)
    if not any(is_kind(kind) for is_kind in (*kinds, pa.types.is_binary, pa.types.is_large_binary)):
        row = max(pc.index(pc.is_valid(column), True).as_py(), 0)  # -1 where no row holds anything
        value = column[row] if len(column) else None
        raise UserError(
            f"column '{name}' of {where} holds {kind}, not text: row {row} (counted from 0) is "
            f"{str(value)[:40]!r}"
        )
    try:
        # large_string: offsets of 64 bits, as all texts of a large set together pass 2 GiB
        return pc.fill_null(column.cast(pa.large_string()), "")
    except pa.ArrowInvalid as error:
        raise UserError(f"column '{name}' of {where} holds {kind} that is no UTF-8 text") from error
