"""Tables of the user's own, known by the names of their columns: their labels, their test, their faults."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset

from finetune.config.schema import ColumnsConfig
from finetune.data import dataset, labels, sources
from finetune.errors import UserError
from finetune.tasks import Task, get_task
from tests.support.configurations import data_config

CONFIG = data_config(columns=ColumnsConfig(text=["review"], label="stars"), test_share=0.25)
STARS = [{"review": f"this is review {i}", "stars": str(i % 5 + 1), "id": str(i)} for i in range(40)]
PAIRS = [{"de": f"Satz {i}", "en": f"sentence {i}"} for i in range(40)]


def text_of(rows: Sequence[dict[str, Any]], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(text_of(rows, "\t" if path.suffix == ".tsv" else ","), encoding="utf-8")
    return path


def task_of(place: Path, name: str = "csv", pair: str | None = None, **columns: Any) -> Task:
    columns = columns or {"text": ["review"], "label": "stars"}
    return get_task(name, {"columns": columns, "source": str(place)}, pair)


def loaded(place: Path, task: Task | None = None, pair: str | None = None, **changes: Any) -> dataset.Data:
    task = task or task_of(place)
    source = sources.resolve(task, pair, str(place))
    return dataset.load(task, pair, source, dataclasses.replace(CONFIG, **changes))


def refused(place: Path, task: Task | None = None, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        loaded(place, task, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


# Names


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("reviews.csv", "reviews"),
        ("data/My Reviews 2024.csv.gz", "my-reviews-2024"),
        ("data/reviews", "reviews"),
        ("data/reviews/train.jsonl", "reviews"),
        ("data/reviews/data/train.parquet", "reviews"),
    ],
)
def test_a_table_is_named_after_its_file(place: str, name: str) -> None:
    assert task_of(Path(place)).name == name
    assert task_of(Path(place), name="mine").name == "mine"


@pytest.mark.parametrize(
    ("name", "place", "columns", "message"),
    [
        ("csv", "отзывы.csv", {}, "add one, e.g. --task reviews"),
        ("csv", "agnews.csv", {}, "'agnews' declares its own columns"),
        ("agnews", "reviews.csv", {}, "leave out text and label, or give your table a name"),
        ("mine.py", "reviews.csv", {}, "declares its own columns"),
        ("My Reviews", "reviews.csv", {}, "lower-case letters"),
        ("csv", "auto", {}, "not auto: name the file with --data"),
        ("csv", "r.csv", {"label": "stars"}, "or source and target, or text, not label"),
        ("csv", "r.csv", {"text": "a", "target": "b"}, "not text and target"),
        ("csv", "r.csv", {"text": "a", "label": 3}, "data.columns.label must be the name of a column, not 3"),
        (
            "csv",
            "r.csv",
            {"source": "a", "target": "b"},
            "name no languages: say which they hold",
        ),
    ],
)
def test_what_is_no_task(name: str, place: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_of(Path(place) if place != "auto" else Path("auto"), name, **columns)


def test_a_task_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the task csv is a table of your own: say which it is"):
        get_task("csv")
    task = task_of(tmp_path / "reviews.csv")
    for wanted in ("auto", "hub", "sample", "local"):
        with pytest.raises(UserError, match="'reviews' is a table of your own: name its file or folder"):
            sources.resolve(task, None, wanted)
    with pytest.raises(UserError, match=r"is not at 'nowhere\.csv'"):
        sources.resolve(task, None, "nowhere.csv")


# Rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_one_file_is_all_that_is_needed(tmp_path: Path, ending: str) -> None:
    place = write(tmp_path / f"reviews.{ending}", STARS)
    data = loaded(place)
    assert data.task.labels == ("1", "2", "3", "4", "5")
    assert data.info["label_names"] == ["1", "2", "3", "4", "5"]
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 27,
        "validation": 3,
        "test": 10,
    }
    assert sorted(row for split in data.splits.values() for row in split["row"]) == list(range(40))
    assert {facts["from"] for facts in data.info["splits"].values()} == {"train"}
    for split in data.splits.values():
        assert [f"this is review {row}" for row in split["row"]] == split["text"][:]
        assert [row % 5 for row in split["row"]] == split["label"][:]
    assert [note for note in data.info["notes"] if "held out" in note] == [
        "there is no test split: 25% of the 40 rows (--data.test_share), drawn by data.split_seed 5, are "
        "held out for it, and 10 of them used"
    ]
    assert "the 5 labels of column 'stars', in this order: 1, 2, 3, 4, 5" in data.info["notes"]
    (file,) = data.info["files"]
    assert file["name"] == f"reviews.{ending}" and file["sha256"]


def test_a_cap_on_the_test_changes_no_other_split(tmp_path: Path) -> None:
    place = write(tmp_path / "reviews.csv", STARS)
    whole, capped = loaded(place), loaded(place, test_rows=4)
    assert len(capped.splits["test"]) == 4
    assert set(capped.splits["test"]["row"]) < set(whole.splits["test"]["row"])
    for name in ("train", "validation"):
        assert capped.info["splits"][name] == whole.info["splits"][name]


def test_a_folder_may_hold_one_file_or_splits(tmp_path: Path) -> None:
    alone = write(tmp_path / "one" / "reviews.csv", STARS)
    assert loaded(alone.parent).info["splits"] == loaded(alone).info["splits"]
    write(tmp_path / "two" / "train.csv", STARS[:30])
    assert loaded(tmp_path / "two").info["splits"]["test"]["from"] == "train"
    write(tmp_path / "two" / "test.csv", STARS[30:])
    data = loaded(tmp_path / "two")
    assert data.info["splits"]["test"] | {"fingerprint": ""} == {
        "rows": 10,
        "of": 10,
        "from": "test",
        "fingerprint": "",
    }
    assert not [note for note in data.info["notes"] if "held out" in note]


def test_texts_of_several_columns(tmp_path: Path) -> None:
    rows = [{"title": f"t{i}", "body": f"b{i}", "stars": "no" if i % 3 else "yes"} for i in range(20)]
    place = write(tmp_path / "reviews.csv", rows)
    data = loaded(place, task_of(place, text=["title", "body"], label="stars"))
    assert data.task.labels == ("no", "yes")
    assert data.splits["test"]["text"][0] == "t{0} b{0}".format(data.splits["test"]["row"][0])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["10", "9", "-1", "2"], ("-1", "2", "9", "10")),
        (["b", "B", "a", "10"], ("10", "B", "a", "b")),
        ([3.0, 1.0, 2.0], ("1", "2", "3")),
        ([True, False], ("False", "True")),
    ],
)
def test_labels_are_in_one_order_whatever_that_of_the_rows(
    tmp_path: Path, values: list[Any], expected: tuple[str, ...]
) -> None:
    rows = [{"review": f"text {i}", "stars": values[i % len(values)]} for i in range(20)]
    assert loaded(write(tmp_path / "reviews.parquet", rows)).task.labels == expected
    assert loaded(write(tmp_path / "reviews.parquet", rows[::-1])).task.labels == expected


def test_names_that_the_file_states_keep_their_order(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"review": f"text {i}", "stars": i % 2} for i in range(20)])
    rows.cast_column("stars", ClassLabel(names=["poor", "good"])).to_parquet(tmp_path / "reviews.parquet")
    data = loaded(tmp_path / "reviews.parquet")
    assert data.task.labels == ("poor", "good")
    train = data.splits["train"]
    assert train["label"][:] == [row % 2 for row in train["row"]]


def test_semicolons_are_read_and_said(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(text_of(STARS, ";"))
    assert (
        loaded(tmp_path / "reviews.csv").info["splits"]
        == loaded(write(tmp_path / "commas" / "reviews.csv", STARS)).info["splits"]
    )
    told = refused(tmp_path / "reviews.csv", task_of(tmp_path / "reviews.csv", text="reviw", label="stars"))
    assert "unknown column 'reviw': did you mean 'review'? Allowed: id, review, stars" in told


# Faults


def column(values: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"review": f"text {i}", "stars": value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (column([i / 7 for i in range(1, 20)]), "holds measures and not labels: 0.14"),
        (
            column([f"a whole text {i}" for i in range(20)]),
            "no column of labels: 20 rows have 20 different",
        ),
        (column(["5"] * 20), "has the label '5' in every row"),
        (column(["a", "b"] * 9 + ["", "a"]), "has 1 rows without a label"),
        (column([]) or [{"review": "", "stars": "a"}, *column(["a", "b"] * 9)], "1 rows with an empty text"),
        (column(["a", "b"] * 3), "6 rows and data.validation_rows takes 5 beside 2 test rows"),
    ],
)
def test_rows_that_make_no_task(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    place = write(tmp_path / "reviews.csv", rows)
    assert message in refused(place, validation_rows=5)


def test_too_many_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MOST_LABELS", 4)
    assert "is no column of labels: 40 rows have 5 different values" in refused(
        write(tmp_path / "reviews.csv", STARS)
    )


def test_a_label_of_one_row_is_said(tmp_path: Path) -> None:
    notes = loaded(write(tmp_path / "reviews.csv", column([*"ab" * 10, "rare", "odd"]))).info["notes"]
    assert "the labels odd, rare have one row each: too few to learn from and to test on" in notes


def test_a_text_on_both_sides_of_the_draw_is_said(tmp_path: Path) -> None:
    rows = [{"review": f"text {i // 4}", "stars": "ab"[i % 2]} for i in range(40)]
    place = write(tmp_path / "reviews.csv", rows)
    data = loaded(place)
    train = set(data.splits["train"]["text"])
    seen = sum(text in train for text in data.splits["test"]["text"])
    assert seen and f"{seen} of the 10 test rows have the text of a training row" in data.info["notes"]
    assert not [note for note in loaded(write(place, STARS)).info["notes"] if "of a training row" in note]


def test_a_test_file_beside_the_one_that_is_given_is_named(tmp_path: Path) -> None:
    place = write(tmp_path / "reviews" / "train.csv", STARS)
    write(tmp_path / "reviews" / "test.csv", STARS)
    write(tmp_path / "reviews" / "other.csv", STARS)
    assert "not read, as one file was asked for: test.csv" in loaded(place).info["notes"]


def test_files_side_by_side(tmp_path: Path) -> None:
    write(tmp_path / "both" / "reviews.csv", STARS)
    write(tmp_path / "both" / "reviews.jsonl", STARS)
    told = refused(tmp_path / "both", task_of(tmp_path / "both"))
    assert "holds several files of rows: reviews.csv, reviews.jsonl; give one of them with --data" in told
    assert len(loaded(tmp_path / "both" / "reviews.csv").splits) == 3  # the file that is given
    write(tmp_path / "forms" / "train.csv", STARS)
    write(tmp_path / "forms" / "train.jsonl", STARS)
    assert "in several formats: train.csv, train.jsonl" in refused(tmp_path / "forms")


@pytest.mark.parametrize(("name", "advice"), [("reviews.xlsx", "as CSV"), ("reviews.docx", "no format")])
def test_a_file_of_another_format(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    assert advice in refused(tmp_path / name)


def test_a_folder_without_rows(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    assert "has no train split" in refused(tmp_path / "reviews")


# Translation


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_pairs_of_one_file(tmp_path: Path, ending: str) -> None:
    place = write(tmp_path / f"talks.{ending}", PAIRS)
    task = task_of(place, source="de", target="en")
    assert (task.name, task.pairs, task.default_pair) == ("talks", ("de-en",), "de-en")
    data = loaded(place, task, "de-en")
    assert len(data.splits["test"]) == 10
    assert data.splits["test"]["source"][0] == f"Satz {data.splits['test']['row'][0]}"
    assert data.info["label_names"] is None


def test_columns_that_are_no_languages_go_with_a_pair(tmp_path: Path) -> None:
    rows = [{"src": row["de"], "tgt": row["en"]} for row in PAIRS]
    place = write(tmp_path / "talks.csv", rows)
    task = task_of(place, pair="de-en", source="src", target="tgt")
    assert loaded(place, task, "de-en").splits["train"]["target"][0].startswith("sentence")
    with pytest.raises(UserError, match="the other way round than the columns de and en"):
        task_of(place, pair="en-de", source="de", target="en")
