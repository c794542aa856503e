"""Texts as users have them, files, rows and parts of documents, up to the documents of each split."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data import dataset, sources, windows
from finetune.errors import UserError
from finetune.tasks import LanguageTask
from tests.support.configurations import data_config
from tests.support.row_files import MAIL, PACKERS, WRITERS

TASK = LanguageTask(name="prose", title="Prose", text=("text",))
CONFIG = data_config(train_rows=None, validation_rows=1, test_rows=None, test_share=0.25)


def load(folder: Path, task: LanguageTask = TASK, **changes: Any) -> dataset.Data:
    source = sources.resolve(task, None, str(folder))
    return dataset.load(task, None, source, data_config(**{**vars(CONFIG), **changes}))


def refused(folder: Path, task: LanguageTask = TASK, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        load(folder, task, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def put(folder: Path, **files: str | bytes) -> Path:
    """Files by their names, in which __ is a slash and _ the dot before the ending."""
    for name, content in files.items():
        path = folder / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def whole(data: dataset.Data) -> dict[str, list[tuple[str, str]]]:
    """Name and text of the documents of each split."""
    return {
        name: [(document, "".join(texts)) for document, _, texts in windows.texts(split)]
        for name, split in data.splits.items()
    }


# Text files


def test_a_text_file_is_a_document_as_it_is(tmp_path: Path) -> None:
    text = "  one\n\ntwo\t\n"
    data = load(put(tmp_path, train_txt=text, valid_txt="v", test_txt="\ufeffGrüße\r\n☃"))
    assert whole(data) == {
        "train": [("train.txt", text)],
        "validation": [("valid.txt", "v")],
        "test": [("test.txt", "Grüße\n☃")],
    }
    assert {entry["name"] for entry in data.info["files"]} == {"train.txt", "valid.txt", "test.txt"}


def test_folders_of_texts_are_splits(tmp_path: Path) -> None:
    put(tmp_path, train__b_txt="b", train__deep__a_txt="a", train__notes_md="-", dev__c_txt="c")
    put(tmp_path, test__d_text="d", test__e_txt="e", README_md="-")
    assert whole(load(tmp_path)) == {
        "train": [("train/b.txt", "b"), ("train/deep/a.txt", "a")],
        "validation": [("dev/c.txt", "c")],
        "test": [("test/d.text", "d"), ("test/e.txt", "e")],
    }


def test_of_texts_without_names_of_splits_some_are_held_out(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path, **{f"author__book{number}_txt": f"book {number}"})
    splits = whole(load(tmp_path))
    assert {name: len(documents) for name, documents in splits.items()} == {
        "train": 8, "validation": 1, "test": 3,
    }  # fmt: skip
    assert sorted(text for documents in splits.values() for _, text in documents) == sorted(
        f"book {number}" for number in range(12)
    )


def test_of_many_texts_the_record_has_a_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_LISTED", 3)
    for number in range(4):
        put(tmp_path, **{f"train__{number}_txt": f"text {number}"})
    put(tmp_path, valid_txt="v", test_txt="t")
    files = load(tmp_path).info["files"]
    assert [(entry["name"], entry["bytes"]) for entry in files] == [
        ("train/0.txt and 3 more files", 24), ("valid.txt", 1), ("test.txt", 1),
    ]  # fmt: skip
    put(tmp_path, train__3_txt="other!")
    assert files[0]["sha256"] != load(tmp_path).info["files"][0]["sha256"]


@pytest.mark.parametrize("packing", [name for name in PACKERS if name])
def test_packed_texts(tmp_path: Path, packing: str) -> None:
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt{packing}").write_bytes(PACKERS[packing](f"the {split}\n".encode()))
    assert whole(load(tmp_path))["test"] == [(f"test.txt{packing}", "the test\n")]


def test_a_split_may_be_text_and_another_rows(tmp_path: Path) -> None:
    put(tmp_path, train_txt="a long one", valid_txt="v", test_jsonl='{"text": "t"}\n')
    assert whole(load(tmp_path))["test"] == [("row 0", "t")]


def test_one_giant_line(tmp_path: Path) -> None:
    text = "word " * 10**6
    data = load(put(tmp_path, train_txt=text, valid_txt="v", test_txt="t"))
    assert data.splits["train"]["text"][0] == text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_txt": ""}, "train.txt is empty"),
        ({"train_txt": " \n\n"}, "split 'train' has 1 rows with an empty text"),
        ({"train_txt": b"\x89PNG\r\n\x1a\n\x00\x00"}, r"cannot read .*train.txt as txt: "),
        ({"train_txt": b"abcdef\x00\x01gh"}, "it holds bytes of zero, which no text has: it is binary"),
        ({"train_txt": "Grüße\nund".encode("latin-1")}, r"line 1 is not UTF-8 \(byte 0xfc\).*iconv"),
        ({"train_txt": b"PAR1 and so on"}, "it is a parquet file"),
        ({"train_txt": "a", "train_jsonl": '{"text": "b"}'}, "split more than once: train.jsonl and train"),
        ({"train_txt": "a", "train__b_txt": "b", "train__c_jsonl": '{"text": "b"}'}, "more than once"),
        ({"a_txt": "a", "b_jsonl": '{"text": "b"}'}, "holds rows, b.jsonl, and text files, a.txt"),
        ({"test_txt": "a", "validation_txt": "b"}, "has no train split.* or train.txt or train/"),
        ({"notes_md": "a"}, "has no train split"),
        ({"train_txt": "one document"}, "nothing is left to train on: no document is split"),
        ({"train_jsonl": '{"body": "b"}'}, "no column 'text'; task 'prose' needs 'text' and the data has 'b"),
        ({"train_jsonl": '{"text": 3}'}, "holds int64, not text"),
        ({"train_jsonl": '{"text": "a", "document": 0.5}'}, "holds double, which names no documents"),
        ({"train_jsonl": '{"text": "a", "document": ["b"]}'}, "names no documents"),
    ],
)  # fmt: skip
def test_what_is_no_text(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    assert re.search(message, refused(put(tmp_path, **files)))


@pytest.mark.parametrize("parts", [1, 3])
def test_the_most_rows_that_can_be_held_out_leave_some_to_train_on(tmp_path: Path, parts: int) -> None:
    """As many as the message says, of files and of documents in several rows alike."""
    rows = [{"text": f"text {i} {j}", "document": f"d{i}"} for i in range(5) for j in range(parts)]
    folder = put(tmp_path, train_jsonl="\n".join(map(json.dumps, rows)), test_jsonl='{"text": "a test"}')
    said = refused(folder, validation_rows=20)
    most = int(re.search(r"nothing is left to train on: set it to (\d+) at most", said)[1])  # type: ignore[index]
    assert most == 4 * parts
    assert len(load(folder, validation_rows=most).splits["train"]) == parts
    assert "set it to" in refused(folder, validation_rows=most + 1)


def test_texts_are_no_rows_of_another_kind_of_task(tmp_path: Path) -> None:
    put(tmp_path, train_txt="a", test_txt="b")
    with pytest.raises(
        UserError, match=r"no train split.*: train.txt has no columns|test.txt has no columns"
    ):
        sources.read(sources.resolve(MAIL, None, str(tmp_path)), MAIL, None)


def test_a_text_file_gives_one_column(tmp_path: Path) -> None:
    task = LanguageTask(name="prose", title="Prose", text=("title", "body"))
    assert "a text file has one text, and the task reads title and body" in refused(
        put(tmp_path, train_txt="a"), task
    )


# Rows


ROWS = [
    {"text": " one\n", "document": "b"},
    {"text": "", "document": "b"},
    {"text": "three ", "document": "b"},
    {"text": "alone", "document": "a"},
]


@pytest.mark.parametrize("form", WRITERS)
def test_rows_of_one_name_are_one_document(tmp_path: Path, form: str) -> None:
    for split in ("train", "validation", "test"):
        rows = [{**row, "document": f"{split} {row['document']}"} for row in ROWS]
        (tmp_path / f"{split}.{form}").write_bytes(WRITERS[form](rows))
    data = load(tmp_path, validation_rows=9)
    assert whole(data)["test"] == [("test b", " one\n\n\n\n\nthree "), ("test a", "alone")]
    assert data.splits["test"]["row"][:] == [0, 1, 2, 3]


def test_parquet_packed_with_zstandard_and_names_that_are_numbers_or_missing(tmp_path: Path) -> None:
    table = pa.table({"text": ["x", "y", "z", "w"], "document": pa.array([7, None, 7, None], pa.int32())})
    for split in ("train", "validation", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet", compression="zstd")
    assert whole(load(tmp_path))["test"] == [("7", "x\n\nz"), ("row 1", "y"), ("row 3", "w")]


def test_several_columns_are_one_text(tmp_path: Path) -> None:
    task = LanguageTask(name="prose", title="Prose", text=("title", "body"), document=None)
    rows = [{"title": "A ", "body": " b"}, {"title": "", "body": "c "}]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(WRITERS["jsonl"](rows))
    assert whole(load(tmp_path, task))["test"] == [("0", "A b"), ("1", "c")]


def test_a_row_that_begins_a_document(tmp_path: Path) -> None:
    task = LanguageTask(name="wiki", title="W", text=("text",), begins=r"^ = [^=]+ = \n$", between="")
    lines = ["", " = A = \n", "", " = = Part = = \n", " a = b \n", " = B = \n", " = A = \n", " end \n"]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(WRITERS["jsonl"]([{"text": line} for line in lines]))
    assert whole(load(tmp_path, task, validation_rows=9))["test"] == [
        ("1 = A =", " = A = \n = = Part = = \n a = b \n"),
        ("5 = B =", " = B = \n"),
        ("6 = A =", " = A = \n end \n"),
    ]
    assert load(tmp_path, task, test_rows=2).splits["test"].num_rows == 2  # an article a row


def test_no_document_is_on_two_sides_of_a_hold_out(tmp_path: Path) -> None:
    rows = [{"text": f"{part}", "document": f"{number}"} for number in range(9) for part in range(4)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(4):
        data = load(tmp_path, validation_rows=6, split_seed=seed)
        names = {name: set(split["document"]) for name, split in data.splits.items()}
        assert not names["train"] & (names["validation"] | names["test"])
        assert not names["validation"] & names["test"]
        assert len(data.splits["validation"]) == 6
        assert len(data.splits["test"]) == 9
        for split in data.splits.values():  # what is there of a document is its beginning, in order
            for _, _, texts in windows.texts(split):
                assert [text.strip() for text in texts] == ["0", "1", "2", "3"][: len(texts)]
        assert [len(texts) for _, _, texts in windows.texts(data.splits["train"])] == [4] * (9 - 2 - 3)
    assert any("held out for it" in note for note in data.info["notes"])


def test_a_cap_takes_documents_from_their_beginning(tmp_path: Path) -> None:
    rows = [{"text": f"{part}", "document": f"{number}"} for part in range(4) for number in range(5)]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(WRITERS["jsonl"](rows))
    data = load(tmp_path, train_rows=10, validation_rows=3, test_rows=7)
    counts = {
        name: sorted(len(texts) for _, _, texts in windows.texts(split))
        for name, split in data.splits.items()
    }
    assert counts == {"train": [2, 4, 4], "validation": [3], "test": [3, 4]}
    smaller = load(tmp_path, train_rows=5)
    assert set(smaller.splits["train"]["row"]) < set(data.splits["train"]["row"])


def test_blank_documents_are_left_out_when_asked(tmp_path: Path) -> None:
    rows = [{"text": " \n", "document": "blank"}, {"text": "", "document": "blank"}, *ROWS]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(WRITERS["jsonl"](rows))
    assert "has 2 rows with an empty text, the first is row 0" in refused(tmp_path)
    data = load(tmp_path, drop_empty=True)
    assert data.info["dropped_empty"]["test"] == 2
    assert [name for name, _ in whole(data)["test"]] == ["b", "a"]
