"""Which names are one label, in data and in heads; what is a number, and what is neither."""

import decimal
from typing import Any

import pyarrow as pa
import pytest

from finetune.data import labels
from finetune.data.readers import feature_names
from finetune.errors import UserError

STARS = ("1 star", "2 stars", "Sci/Tech", "Society & Culture")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1 star", 0),
        ("1 Stars", 0),
        ("1_star", 0),
        ("1-star", 0),
        (" 2  STAR ", 1),
        ("sci-tech", 2),
        ("SCI_TECH", 2),
        ("Society_&_Culture", 3),
        ("society culture", 3),
        ("-1 star", None),
        ("+1 star", None),
        ("1.0 star", None),
        ("1 star!", None),
        ("SciTech", None),
        ("", None),
    ],
)
def test_what_joins_words_does_not_tell_names_apart_and_signs_do(name: str, number: int | None) -> None:
    assert labels.finder(STARS)(name) == number


@pytest.mark.parametrize("names", [("C", "C++"), ("no", "No"), ("1", "-1"), ("a b", "a_b")])
def test_names_that_are_alike_are_told_apart(names: tuple[str, str]) -> None:
    assert [labels.finder(names)(name) for name in names] == [0, 1]


def numbers_of(values: Any, names: tuple[str, ...], stated: list[str] | None = None) -> list[int]:
    column = pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
    texts = labels.written(column, stated, names, "the column")
    named = labels.are_names([texts], names)
    return list(labels.numbers(texts, names, named, "the column", "mine").to_pylist())


DECIMALS = [decimal.Decimal(value) for value in ("2.00", "0.00", "1.00")]
TYPES = {
    "dictionary of views": pa.DictionaryArray.from_arrays(
        pa.array([1, 0, 0]), pa.array(["x", "y"], pa.string_view())
    ),
    "dictionary of numbers": pa.array([2, 0, 1]).dictionary_encode(),
    "decimal": pa.array(DECIMALS, pa.decimal128(5, 2)),
    "wide decimal": pa.array(DECIMALS, pa.decimal256(60, 30)),
    "half": pa.array([2, 0, 1], pa.float16()),
    **{str(kind): pa.array([2, 0, 1], kind) for kind in (pa.int8(), pa.uint64(), pa.float32())},
}


@pytest.mark.parametrize("column", TYPES.values(), ids=TYPES)
def test_a_label_is_the_same_in_every_arrow_type(column: pa.Array) -> None:
    expected = [1, 0, 0] if "view" in str(column.type) else [2, 0, 1]
    assert numbers_of(column, ("x", "y", "z")) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["World", "1"],
            "names and numbers: 'World' in row 0 and 1 in row 1 .*names alone, or numbers alone",
        ),
        (["1", "World", "label"], r"unknown label \(row 2 of the column"),
        (["1", "0", "label"], r"unknown label \(row 2 of"),
        (["1", "0.5"], "has the label 0.5 in row 1"),
        ([1.0, 1e300], r"has the label 10{15}\d{24} in row 1"),
        ([decimal.Decimal("1.00000000000000000001")], "has the label 1.00000000000000000001 in row 0"),
        ([decimal.Decimal(10**37), decimal.Decimal(0)], r"has the label 10{37} in row 0"),
        ([float("inf"), 0.0], r"unknown label \(row 0 .*'inf'"),
        (["-1", "1"], "has the label -1 in row 0"),
        ([1, 2], "has the label 2 in row 1.*subtract 1"),
        ([2, 3], "has the label 2 in row 0.*'?World, Sports.?$"),
    ],
)
def test_the_label_at_fault_is_named_and_no_sound_one(values: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        numbers_of(values, ("World", "Sports"))
    assert len(str(caught.value)) < 250


def test_minus_one_is_not_the_name_one() -> None:
    with pytest.raises(UserError, match="has the label -1 in row 1"):
        numbers_of([1, -1, 2], ("1", "2"))


def test_two_stated_names_for_one_label_are_refused() -> None:
    with pytest.raises(UserError, match="2 names for the label World: 'World', 'world '"):
        numbers_of([0, 1, 2], ("World", "Sports"), ["World", "world ", "Sports"])


@pytest.mark.parametrize("keys", [(0, 2), ("0", "2"), (1, 2), ("1", "2"), ("0", "00")])
def test_stated_names_are_numbered_without_a_gap(keys: tuple[Any, Any]) -> None:
    features = {"label": {"names": dict(zip(keys, ("World", "Sports"), strict=True))}}
    with pytest.raises(UserError, match=f"numbered {keys[0]}, {keys[1]}, not 0 to 1"):
        feature_names(features, "label")


def test_labels_without_a_row() -> None:
    assert labels.absent(pa.array([0, 2, 2]), ("a", "b", "c")) == ["b"]
