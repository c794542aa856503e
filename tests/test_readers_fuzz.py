"""Random rows come back as they were; random damage gives rows that were there, or one sentence."""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.errors import UserError
from test_readers import WRITERS, columnar, read, rows_of

FORMS = ["csv", "tsv", "jsonl", "json", "parquet", "arrow"]
QUICK, LONG = (
    settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    for count in (30, 2_000)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ROWS = st.lists(
    st.builds(
        lambda subject, body, kind: {"subject": subject, "body": body, "kind": kind},
        TEXT,
        TEXT,
        st.integers(0, 2),
    ),
    min_size=1,
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "cut", "drop", "double"]),
        st.floats(0, 1),
        st.one_of(
            st.sampled_from([b'"', b",", b"\t", b"\n", b"\r", b"{", b"[", b"\0", b"\xff", b"\\"]),
            st.binary(max_size=4),
        ),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for how, where, what in edits:
        place = int(where * len(data))
        before, after = data[:place], data[place:]
        data = {
            "replace": before + what + after[len(what) :],
            "insert": before + what + after,
            "cut": before,
            "drop": before + after[10:],
            "double": before + after[:30] + after,
        }[how]
    return data


def written(form: str, rows: list[dict[str, Any]]) -> bytes:
    """Parquet with checksums of its pages: without them no reader can tell a damaged text from another."""
    if form == "parquet":
        return columnar(rows, lambda table, out: pq.write_table(table, out, write_page_checksum=True))
    return WRITERS[form](rows)


def table_of(form: str, data: bytes) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            (Path(folder) / f"{split}.{form}").write_bytes(data)
        rows: list[dict[str, Any]] = read(Path(folder)).tables["train"].to_pylist()
        return rows


def check_sound(form: str, rows: list[dict[str, Any]]) -> None:
    expected = [
        {
            "row": i,
            "text": " ".join(filter(None, (row["subject"].strip(), row["body"].strip()))),
            "label": row["kind"],
        }
        for i, row in enumerate(rows)
    ]
    try:
        assert [
            {**row, "text": row["text"].strip()} for row in table_of(form, written(form, rows))
        ] == expected
    except UserError as error:
        assert "quote is missing" in str(error)  # random lines inside a text can be rows themselves


def check_damaged(form: str, edits: list[tuple[str, float, bytes]]) -> None:
    rows = rows_of([2, 0, 1])
    try:
        found = table_of(form, damaged(written(form, rows), edits))
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1_000
        return
    assert [row["row"] for row in found] == list(range(len(found)))
    assert all(isinstance(row["text"], str) and row["label"] in (0, 1, 2) for row in found)
    if form == "parquet":
        sound = {(row["text"], row["label"]) for row in table_of(form, written(form, rows))}
        assert {(row["text"], row["label"]) for row in found} <= sound


@pytest.mark.parametrize("form", FORMS)
@given(rows=ROWS)
@QUICK
def test_random_rows_come_back(form: str, rows: list[dict[str, Any]]) -> None:
    check_sound(form, rows)


@pytest.mark.parametrize("form", FORMS)
@given(edits=EDITS)
@QUICK
def test_random_damage_is_one_sentence(form: str, edits: list[tuple[str, float, bytes]]) -> None:
    check_damaged(form, edits)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(rows=ROWS)
@LONG
def test_many_random_rows_come_back(form: str, rows: list[dict[str, Any]]) -> None:
    check_sound(form, rows)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(edits=EDITS)
@LONG
def test_much_random_damage_is_one_sentence(form: str, edits: list[tuple[str, float, bytes]]) -> None:
    check_damaged(form, edits)
