"""Labels as data sets write them -> numbers in the order of the task's own names.

Names come before numbers: a data set that states its label names is read by them, in whatever order it has
them. What a label is does not depend on the format of the file: 3, "3" and 3.0 are one.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.readers import decoded
from finetune.errors import UserError, shown, unknown
from finetune.system.text import one_line

MOST_LABELS = 1000
"""Most labels of a table without a declaration: a column with more values is one of texts or of measures."""
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,8})(\.0+)?")


def written(
    column: pa.ChunkedArray, names: Sequence[str] | None, labels: Sequence[str], where: str
) -> pa.Array:
    """A column of labels as texts, one a row: the names where numbers stand for ``names``, else as it is.

    ``names`` are those that the data set states. Where they are mere numbers they say nothing beyond their
    order. Raises ``UserError`` for a row without a label, and for a type that no label has.
    """
    if names is not None:
        _check_distinct(names, labels, where)
    # Whole numbers, text, true and false or floats, out of whatever Arrow type holds them.
    column = decoded(column)
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    kind = column.type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_decimal)
    if pa.types.is_float16(kind):
        column = column.cast(pa.float64())
    elif not any(is_kind(kind) for is_kind in (*kinds, pa.types.is_integer, pa.types.is_floating)):
        raise UserError(f"{where} holds {kind}; labels are numbers from 0 or label names")
    encoded = pa.concat_arrays([pa.array([], column.type), *column.chunks]).dictionary_encode()
    texts = [_text(value) for value in encoded.dictionary.to_pylist()]
    missing = pc.is_null(encoded).to_numpy(zero_copy_only=False) | np.isin(
        encoded.indices.fill_null(-1).to_numpy(), [place for place, text in enumerate(texts) if text is None]
    )
    if missing.any():
        raise UserError(
            f"{where} has {int(missing.sum())} rows without a label; it has no label in row "
            f"{int(np.flatnonzero(missing)[0])} (counted from 0)"
        )
    if names is not None and _are_numbers_of(names, texts, column.type, labels):
        texts = [
            _name(text, pc.index(encoded.indices, place).as_py(), names, labels, where)
            for place, text in enumerate(texts)
        ]
    return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(texts, pa.string())).cast(pa.string())


def are_names(columns: Iterable[pa.Array], labels: Sequence[str]) -> bool:
    """Whether the texts of all splits are names of the task's labels, rather than numbers of them."""
    number_of = finder(labels)
    return all(number_of(text) is not None for column in columns for text in pc.unique(column).to_pylist())


def numbers(column: pa.Array, labels: Sequence[str], named: bool, where: str, task: str) -> pa.Array:
    """Texts of ``written`` -> numbers from 0; ``named`` is what ``are_names`` returns for all splits.

    Raises ``UserError`` for the first label that is none, and where names and numbers stand side by side.
    """
    encoded = column.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    name_of = finder(labels)
    by_name = [name_of(text) for text in texts]
    by_number = [int(float(text)) if NUMBER.fullmatch(text) else None for text in texts]
    chosen = by_name if named or None in by_number else by_number

    def row(place: int) -> str:
        return f"row {pc.index(encoded.indices, place).as_py()}"

    def beyond(place: int, hint: str = "") -> UserError:
        return UserError(
            f"{where} has the label {texts[place][:40]} in {row(place)} (counted from 0); "
            f"task '{task}' has labels 0 to {len(labels) - 1} ({', '.join(labels)}){hint}"
        )

    # What is neither a name nor a number comes first: it is wrong whatever the others are.
    for place, text in enumerate(texts):
        if by_name[place] is None and by_number[place] is None:
            if _is_float(text):
                raise beyond(place)
            kind = f"label ({row(place)} of {where}, counted from 0)"
            raise unknown(kind, one_line(text)[:60], labels)
    for place, number in enumerate(chosen):
        if number is None:
            name = next(i for i, known in enumerate(by_name) if known is not None)
            raise UserError(
                f"{where} holds names and numbers: '{texts[name]}' in {row(name)} and {texts[place]} in "
                f"{row(place)} (counted from 0); write names alone, or numbers alone"
            )
        if not 0 <= number < len(labels):
            from_one = set(chosen) <= set(range(1, len(labels) + 1)) and {1, len(labels)} <= set(chosen)
            raise beyond(place, "; they seem to be counted from 1: subtract 1" if from_one else "")
    return pa.array(np.array(chosen, dtype=np.int64)[encoded.indices.to_numpy()], pa.int64())


def of_rows(columns: Mapping[str, pa.Array], where: str) -> tuple[str, ...]:
    """The labels that a table without a declaration has, in numeric order if all are whole numbers, else as
    texts are sorted. ``columns``: texts of ``written``, by the file that they are of.

    Raises ``UserError`` for what is no column of labels: measures, texts, or the same value everywhere.
    """
    counts: Counter[str] = Counter()
    for file, column in columns.items():
        for entry in pc.value_counts(column).to_pylist():
            text = entry["values"]
            if _is_float(text) and not float(text).is_integer():
                raise UserError(
                    f"{where} holds measures and not labels: {text} in row {pc.index(column, text).as_py()} "
                    f"(counted from 0) of {file}; round them in the file, or name another column"
                )
            counts[text] += entry["counts"]
    texts = sorted(counts)
    # Values of which most stand in a single row are texts or identifiers.
    if len(texts) > MOST_LABELS or 2 * len(texts) > counts.total():
        raise UserError(
            f"{where} is no column of labels: {counts.total():,} rows have {len(texts):,} different values, "
            f"such as {' and '.join(shown(text) for text in texts[:2])}; name another one"
        )
    if len(texts) < 2:
        raise UserError(
            f"{where} has the label {shown(texts[0])} in every row: there is nothing to tell apart"
        )
    return tuple(sorted(texts, key=int) if all(map(NUMBER.fullmatch, texts)) else texts)


def absent(column: pa.Array, labels: Sequence[str]) -> list[str]:
    """The labels that no row of a column of ``numbers`` has."""
    present = set(pc.unique(column).to_pylist())
    return [label for number, label in enumerate(labels) if number not in present]


def in_another_order(names: Sequence[str] | None, labels: Sequence[str]) -> bool:
    """Whether the data set numbers its labels otherwise than the task does, by the names that it states."""
    number_of = finder(labels)
    stated = () if names is None or _only_numbers(names) else names
    return any(number_of(name) != place for place, name in enumerate(stated))


def _text(value: Any) -> str | None:
    """3, 3.0 and "3" -> "3"; an empty text and NaN -> ``None``."""
    if isinstance(value, Decimal):  # of Arrow, so finite; its own arithmetic has 28 digits
        return str(int(value)) if value.as_integer_ratio()[1] == 1 else str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    text = "" if value is None else str(value).strip()
    return (text.split(".")[0] if NUMBER.fullmatch(text) else text) or None


def _are_numbers_of(
    names: Sequence[str], texts: Sequence[str | None], kind: pa.DataType, labels: Sequence[str]
) -> bool:
    """Whether labels are numbers that stand for ``names``, and not names themselves."""
    if _only_numbers(names) and not _known(names, labels):
        return False
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        are_names = _known(names, labels) and set(texts) <= set(names)
        return not are_names and all(NUMBER.fullmatch(text or "") for text in texts)
    return True


def _name(text: str | None, row: int, names: Sequence[str], labels: Sequence[str], where: str) -> str:
    """The name behind a number in the data set. Raises ``UserError`` where it is none of the task's."""
    if text is None or not NUMBER.fullmatch(text) or not 0 <= int(text) < len(names):
        raise UserError(
            f"{where} has the label {text} in row {row} (counted from 0); the data set states the "
            f"{len(names)} labels {', '.join(names)}"
        )
    name = names[int(text)]
    if finder(labels)(name) is None:
        raise UserError(
            f"{where} has the label '{name}' in row {row} (counted from 0): the data set states the labels "
            f"{', '.join(names)}, the task has "
            f"{', '.join(labels)}; declare a task of your own with its labels"
        )
    return name


def finder(labels: Sequence[str]) -> Callable[[str], int | None]:
    """Name -> number: the exact name first, then the folded one where that is one label's alone.

    The one rule of which names are the same, for data sets and for the heads of models.
    """
    exact = {label: number for number, label in enumerate(labels)}
    folded = {_fold(label): number for label, number in exact.items()}
    if len(folded) < len(exact):
        return exact.get
    return lambda name: exact.get(name, folded.get(_fold(name)))


def _fold(name: str) -> str:
    """A name without what distinguishes no labels: case, the signs that join words, the plural of "star".

    A sign at the beginning or end stays: -1 is not 1, and C++ is not C.
    """
    # The Hub's Yelp says "2 star" where the paper says "2 stars".
    words = re.sub(r"(?<=[^\W_])[\s_/&-]+(?=[^\W_])", " ", name.strip())
    return re.sub(r"(?i)\bstars\b", "star", words).casefold()


def _check_distinct(names: Sequence[str], labels: Sequence[str], where: str) -> None:
    """Raises ``UserError`` where two ``names`` are one label: nobody could say which number it has."""
    number_of = finder(labels)
    for number, label in enumerate(labels):
        same = [name for name in names if number_of(name) == number]
        if len(same) > 1:
            raise UserError(
                f"{where}: the data set states {len(same)} names for the label {label}: "
                f"{', '.join(map(repr, same))}; mend the names that it states"
            )


def _known(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether every name is one of the task's."""
    number_of = finder(labels)
    return all(number_of(name) is not None for name in names)


def _only_numbers(names: Sequence[str]) -> bool:
    """Whether names are 0, 1, 2 or 1, 2, 3 and so on, in this order."""
    return list(names) in ([str(i) for i in range(len(names))], [str(i + 1) for i in range(len(names))])


def _is_float(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]*\.?[0-9]+(e[-+]?[0-9]+)?", text) is not None
