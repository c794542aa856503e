"""Random rows come back as they were; random damage gives rows that were there, or one sentence."""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.errors import UserError
from finetune.system.text import clean
from tests.support.row_files import PACKERS, WRITERS, columnar, delimited, read, rows_of

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
        st.one_of(
            st.floats(0, 1), st.floats(0, 0.1), st.floats(0.9, 1)
        ),  # the header and the end twice as often
        st.one_of(
            st.sampled_from(
                [b'"', b",", b"\t", b"\n", b"\r", b"{", b"[", b"\0", b"\xff", b"\\", b"\xef\xbb\xbf"]
            ),
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


TEXTUAL = ["csv", "tsv", "jsonl", "json"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "latin-1"]
# Of what names are made; the pieces of one fit to those of another in every way.
PIECES = st.lists(
    st.sampled_from([
        "train", "test", "valid", "dev", "-", "_", ".", " ", "0", "1", "2", "00000-of-00002",
        "00001-of-00002", "00000-of-00001", "part-0", "copy", " (1)", "old", "Copy of ", "a", "\n", "é",
        "data/", "train/", "test/",
    ]),
    min_size=1,
    max_size=4,
).map("".join).filter(lambda name: ".." not in name)  # fmt: skip
ENDINGS_OF_NAMES = st.sampled_from([".csv", ".csv", ".csv", ".tsv", ".CSV", ".txt", ".csv~", "", ".csv.bak"])
NAMES = st.lists(st.tuples(PIECES, ENDINGS_OF_NAMES).map("".join), max_size=4, unique_by=str.lower)


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
        assert any(len(text.splitlines()) > 1 for row in rows for text in (row["subject"], row["body"]))


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
        assert found == table_of(form, written(form, rows))


def one_sentence(error: UserError) -> None:
    """As the program shows it: names of files are cleaned of line breaks there."""
    assert "\n" not in clean(error)
    assert len(str(error)) < 2_000


def check_encoding(form: str, encoding: str, end: str, edits: list[tuple[str, float, bytes]]) -> None:
    """The very rows, or one sentence; with damage, sound rows or one sentence."""
    rows = rows_of([2, 0, 1])
    text = WRITERS[form](rows).decode().replace("\r\n", "\n").replace("\n", end)
    data = text.encode(encoding, "replace")
    expected = [" ".join((row["subject"].replace("\n", end), row["body"])) for row in rows]
    try:
        found = [row["text"] for row in table_of(form, data)]
        lossy = encoding == "latin-1" or form in ("json", "jsonl")  # whose texts keep their own line ends
        assert lossy or found == expected
        assert len(found) == len(rows)
    except UserError as error:
        one_sentence(error)
    try:
        assert all(row["label"] in (0, 1, 2) for row in table_of(form, damaged(data, edits)))
    except UserError as error:
        one_sentence(error)


def check_packing(packing: str, form: str, edits: list[tuple[str, float, bytes]]) -> None:
    """These packings carry a checksum: what can be unpacked is what was packed."""
    rows = rows_of([2, 0, 1])
    sound = written(form, rows)
    data = damaged(PACKERS[packing](sound), edits)
    try:
        assert table_of(form + packing, data) == table_of(form, sound)
    except UserError as error:
        one_sentence(error)


def check_names(names: list[str]) -> None:
    """Each file of rows is read once or named as not read, or the folder is refused."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, name in enumerate(["train.csv", "test.csv"][: 2 - (len(names) > 3)] + names):
            path = folder / name
            if any(parent.is_file() for parent in path.parents) or path.exists():
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(delimited(rows_of([0, 1, 2], [f"file{number}"]), "\t" if "tsv" in name else ","))
        there = [
            path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in (".csv", ".tsv")
        ]
        names = [path.relative_to(folder).as_posix() for path in there if path.name[0] not in "._"]
        try:
            raw = read(folder)
        except UserError as error:
            one_sentence(error)
            return
        used = [entry["name"] for entry in raw.files]
        assert len(used) == len(set(used))
        assert sum(len(table) for table in raw.tables.values()) == len(used)
        told = " ".join(note for note in raw.notes if note.startswith("not read"))
        # what lies in a folder of another name is none of this data set's
        places = (".", "data", "train", "test", "data/train", "data/test")
        near = [name for name in names if Path(name).parent.as_posix() in places]
        assert [name for name in near if name not in used and clean(name) not in told] == []


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


@pytest.mark.exhaustive
@pytest.mark.parametrize("form", FORMS)
@given(rows=ROWS)
@LONG
def test_many_random_rows_come_back(form: str, rows: list[dict[str, Any]]) -> None:
    check_sound(form, rows)


@pytest.mark.exhaustive
@pytest.mark.parametrize("form", FORMS)
@given(edits=EDITS)
@LONG
def test_much_random_damage_is_one_sentence(form: str, edits: list[tuple[str, float, bytes]]) -> None:
    check_damaged(form, edits)


ENCODED = {
    "encoding": st.sampled_from(ENCODINGS),
    "end": st.sampled_from(["\n", "\r\n", "\r"]),
    "edits": EDITS,
}
CHECKED_PACKINGS = [".gz", ".bz2", ".xz", ".zip"]


@pytest.mark.parametrize("form", TEXTUAL)
@given(**ENCODED)
@QUICK
def test_random_encodings(form: str, encoding: str, end: str, edits: list[tuple[str, float, bytes]]) -> None:
    check_encoding(form, encoding, end, edits)


@pytest.mark.parametrize("packing", CHECKED_PACKINGS)
@given(form=st.sampled_from(FORMS), edits=EDITS)
@QUICK
def test_randomly_damaged_packings(packing: str, form: str, edits: list[tuple[str, float, bytes]]) -> None:
    check_packing(packing, form, edits)


@given(names=NAMES)
@QUICK
def test_random_names(names: list[str]) -> None:
    check_names(names)


@pytest.mark.exhaustive
@pytest.mark.parametrize("form", TEXTUAL)
@given(**ENCODED)
@LONG
def test_many_encodings(form: str, encoding: str, end: str, edits: list[tuple[str, float, bytes]]) -> None:
    check_encoding(form, encoding, end, edits)


@pytest.mark.exhaustive
@pytest.mark.parametrize("packing", CHECKED_PACKINGS)
@given(form=st.sampled_from(FORMS), edits=EDITS)
@LONG
def test_many_damaged_packings(packing: str, form: str, edits: list[tuple[str, float, bytes]]) -> None:
    check_packing(packing, form, edits)


@pytest.mark.exhaustive
@given(names=NAMES)
@LONG
def test_many_names(names: list[str]) -> None:
    check_names(names)
