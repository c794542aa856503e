"""A table of the user's own, from the command line to its kept runs: nothing but the names of its columns."""

import csv
import json
from pathlib import Path

import pytest

import finetune
from finetune.cli.main import main
from finetune.config.build import build
from finetune.config.identity import as_dict, config_hash
from finetune.config.loading import read_preset
from finetune.records import store
from finetune.studies import file as study
from finetune.tasks import TASK_TYPES
from tests.support.small_runs import COMMON

SMALL = [*COMMON[2:], "--attention", "softmax", "--train.max_steps", "2"]
WORDS = ["bad", "poor", "fair", "good"]


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 reviews in one CSV, in the working folder."""
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "body", "stars"])
        writer.writerows([f"title {i}", f"a {WORDS[i % 4]} thing, number {i}", i % 4 + 1] for i in range(120))
    return tmp_path / "reviews.csv"


@pytest.mark.slow
def test_a_run_on_a_table_is_made_looked_at_loaded_and_made_again(
    reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["classify", "--task", "csv", "--text", "title,body", "--label", "stars", "--data", "reviews.csv"]
    assert main([*words, *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "note: the 4 labels of column 'stars', in this order: 1, 2, 3, 4" in printed
    assert "20% of the 120 rows (--data.test_share), drawn by data.split_seed 0, are held out" in printed
    assert "--output runs-full --text title body --label stars" in printed
    folder = Path("runs/reviews/scratch-tiny/softmax/seed-0")
    record = store.read(folder)
    assert record["task"] == {
        "name": "reviews",
        "kind": "classification",
        "pair": None,
        "labels": ["1", "2", "3", "4"],
    }
    assert record["config"]["data"]["columns"] == {"text": ["title", "body"], "label": "stars"}
    assert record["config"]["data"]["test_share"] == 0.2
    assert record["data"] is not None and record["data"]["splits"]["test"]["rows"] == 21
    assert finetune.load(folder)[0].config.id2label == {0: "1", 1: "2", 2: "3", 3: "4"}

    assert main(["diagnose", str(folder), "--rows", "4"]) == 0
    assert main(["run", str(folder / "finetune.yaml"), "--output", "again"]) == 2
    assert "name its file or folder with --data, e.g. reviews.csv" in capsys.readouterr().err
    assert main(["run", str(folder / "finetune.yaml"), "--output", "again", "--data", str(reviews)]) == 0
    again = store.read(Path("again") / folder.relative_to("runs"))
    for key in ("config", "config_hash", "metrics", "task"):
        assert again[key] == record[key], key  # type: ignore[literal-required]
    assert again["data"] is not None and again["data"]["splits"] == record["data"]["splits"]

    reviews.write_text(reviews.read_text() + "title,one more,4\n")
    assert main([*words, *SMALL]) == 2
    assert "holds a run on other data: the train rows" in capsys.readouterr().err


def test_a_table_is_validated(reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", "--task", "csv", "--text", "body", "--label", "stars", "--data", "reviews.csv"]
    assert main(words) == 0
    assert "task reviews: ok, 120 train rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("classify --task csv", "the task csv is a table of your own: say which it is and name its columns"),
        ("classify --task csv --text body --label stars", "the task csv is a table of your own, not auto"),
        (
            "classify --task csv --text body --data reviews.csv",
            "finetune classify takes text and label of a table",
        ),
        ("classify --task csv --text body --label stars --data other.csv", "'other' is not at 'other.csv'"),
        (
            "classify --task mine --text body --label sters --data reviews.csv",
            "unknown column 'sters': did you mean",
        ),
        ("classify --task mine --text body --label body --data reviews.csv", "'body' is no column of labels"),
        ("classify --task agnews --text body --label stars", "'agnews' declares its own columns"),
        ("classify --name mine", "--name names a table of your own"),
        ("classify --source de --data reviews.csv", "unknown option '--source'"),
        (
            "translate --task csv --source title --target body --data reviews.csv",
            "say which they hold, e.g. --pair",
        ),
        (
            "classify --task csv --data.columns.source de --data.columns.target en --data r.csv",
            "'r' is a translation task: use finetune translate",
        ),
    ],
)
def test_a_slip_is_one_line(
    reviews: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main(words.split()) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not Path("runs").exists()


STUDY = """
name: mine
seeds: [0]
grids:
  reviews:
    task: csv
    text: {text}
    label: stars
    data.source: reviews.csv
    variants: [softmax]
"""


def test_a_study_names_columns_as_keys_of_a_grid(reviews: Path) -> None:
    Path("mine.yaml").write_text(STUDY.format(text="body"))
    (cell,) = study.load("mine.yaml").cells
    assert (cell.config.task, cell.config.kind) == ("reviews", "classification")
    assert cell.folder == Path("runs/mine/reviews/reviews/scratch-tiny/softmax/seed-0")
    assert as_dict(cell.config)["data"]["columns"] == {"text": ["body"], "label": "stars"}
    Path("mine.yaml").write_text(STUDY.format(text="[title, body]"))  # one text of two columns, and no axis
    (cell,) = study.load("mine.yaml").cells
    assert as_dict(cell.config)["data"]["columns"]["text"] == ["title", "body"]


def test_declared_tasks_keep_their_hashes() -> None:
    """Those of before a configuration could name columns."""
    hashes = {}
    for kind in ("classification", "translation"):
        task_type = TASK_TYPES[kind]
        values = {
            key: value
            for key, value in read_preset(kind, "small").items()
            if key not in ("variants", "seeds")
        }
        pair = "de-en" if kind == "translation" else None
        its = {"kind": kind, "task": task_type.example, "pair": pair, "seed": 0}
        config = build({**values, **its, "attention": {**values["attention"], "variant": "softmax"}})
        hashes[kind] = config_hash(config)
        assert not {"columns", "test_share"} & set(as_dict(config)["data"])
    assert hashes == {"classification": "c2eaa8a6d441", "translation": "dd37db4e4c41"}


def test_equal_tables_have_equal_configurations(reviews: Path) -> None:
    values = read_preset("classification", "quick")
    del values["variants"], values["seeds"]
    values |= {"kind": "classification", "task": "reviews", "pair": None, "seed": 0}
    values["attention"] = {**values["attention"], "variant": "softmax"}
    one, other = (
        build({**values, "data": {**values["data"], "columns": {"text": text, "label": "stars"}}})
        for text in ("body", ["body"])
    )
    assert config_hash(one) == config_hash(other)
    written = json.loads(json.dumps(as_dict(one)))
    assert build(written) == one
