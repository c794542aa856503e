"""What a folder says of its own files and labels: its card, dataset_info.json, what save_to_disk leaves."""

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from finetune.errors import UserError
from finetune.studies.validation import validate
from tests.support.row_files import CARD, FEATURES, delimited, notes_of, put, read, rows_of

SPLITS = "\n  data_files:\n  - split: train\n    path: {}\n  - split: test\n    path: c.csv"
ORDER = ["spam", "other", "ham"]
NAMES = json.dumps({"features": {"kind": {"names": ORDER, "_type": "ClassLabel"}}})


def rows(word: str, count: int = 3) -> bytes:
    return delimited(rows_of([0, 1, 2], [f"{word}{i}" for i in range(count)]))


def folder_of(tmp_path: Path, head: str, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(rows(Path(name).stem))
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# Mail\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("head", "names", "expected"),
    [
        (SPLITS.format("a.csv"), ["a.csv", "c.csv"], ["a0"]),
        (SPLITS.format("'*/x/*.csv'"), ["r/x/a.csv", "r/x/b.csv", "c.csv"], ["a0", "b0"]),
        (SPLITS.format("[b.csv, a.csv]"), ["a.csv", "b.csv", "c.csv"], ["b0", "a0"]),
        ("\n  data_dir: sub", ["sub/train.csv", "sub/test.csv"], ["train0"]),
        ("\n  data_files: '*.csv'", ["train.csv", "test.csv"], ["train0"]),
    ],
)
def test_a_card_names_files(tmp_path: Path, head: str, names: list[str], expected: list[str]) -> None:
    folder = folder_of(tmp_path, "configs:\n- config_name: default" + head, *names)
    texts = read(folder).tables["train"]["text"].to_pylist()
    assert [text.split()[0] for text in texts if "0 body" in text] == expected


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (SPLITS.format("gone.csv"), "names 'gone.csv' for 'train', and no such file"),
        (SPLITS.format("[a.csv, gone.csv]"), "names 'gone.csv' for 'train'"),
        (SPLITS.format("'{a,b}.csv'"), "names '{a,b}.csv' for 'train'"),
        (SPLITS.format("a.csv") + "\n  - split: train\n    path: b.csv", "the split 'train' twice"),
        (
            SPLITS.format("a.csv") + "\n  - split: val\n    path: b.csv\n  - split: dev\n    path: b.csv",
            "the split 'validation' twice",
        ),
        (SPLITS.format("'*.csv'"), "c.csv .* is both train and test"),
        (SPLITS.format("/etc/*.csv"), "outside its folder"),
        ("\n  names: [body, subject, kind]" + SPLITS.format("a.csv"), "read with 'names'"),
        ("\n  header: null" + SPLITS.format("a.csv"), "read with 'header'"),
        (SPLITS.format("a.csv") + "\nconfigs: []", "the key 'configs' is there twice"),
    ],
)
def test_a_card_that_names_other_files_is_refused(tmp_path: Path, head: str, message: str) -> None:
    """Though files by the names of the splits lie beside it."""
    names = ["a.csv", "b.csv", "c.csv", "train.csv", "test.csv"]
    folder = folder_of(tmp_path, "configs:\n- config_name: default" + head, *names)
    with pytest.raises(UserError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


LETTERS = "abcdefgh"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]" for before, this in pairwise(LETTERS)
)
MERGES = "a: &a {x: 1}\n" + "\n".join(
    f"{this}: &{this} {{<<: [{', '.join([f'*{before}'] * 9)}]}}" for before, this in pairwise(LETTERS)
)


@pytest.mark.parametrize("bomb", [BOMB, MERGES], ids=["lists", "merges"])
def test_an_alias_bomb_in_a_card_is_never_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: str
) -> None:
    monkeypatch.setattr(yaml.SafeLoader, "construct_document", lambda *_: pytest.fail("it is written out"))
    assert read(folder_of(tmp_path, bomb, "train.csv", "test.csv")).tables
    with pytest.raises(UserError, match="aliases written out it holds more than"):
        read(folder_of(tmp_path, f"{bomb}\nconfigs: *h", "train.csv", "test.csv"))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("configs: &a [*a]", "an alias in it stands for a part that holds the alias"),
        ("configs: [", "not valid YAML"),
        ("configs: !!python/name:os.system x", "the tag .* is not read"),
        ("x: '" + "y" * 2**20 + "'", "larger than 1 MiB"),
        ("dataset_info: " + "[" * 500 + "]" * 500, "nested too deeply"),
    ],
)
def test_a_card_within_limits(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(folder_of(tmp_path, head, "train.csv", "test.csv"))
    assert len(str(caught.value)) < 400


def test_what_a_card_holds_beside_is_not_looked_at(tmp_path: Path) -> None:
    head = "1: x\nx: !!python/name:os.system y\nz: {2020-01-01: .nan, a: 1, a: 2}"
    assert read(folder_of(tmp_path, head, "train.csv", "test.csv")).tables


@pytest.mark.parametrize("quote", ["", "'"])
def test_label_names_of_a_card_have_numbers_or_texts_for_keys(tmp_path: Path, quote: str) -> None:
    names = "\n".join(f"          {quote}{i}{quote}: {name}" for i, name in enumerate(ORDER))
    entry = f"  - name: kind\n    dtype:\n      class_label:\n        names:\n{names}"
    folder = folder_of(tmp_path, f"dataset_info:\n  features:\n{entry}", "train.csv", "test.csv")
    assert read(folder).tables["train"]["label"].to_pylist() == [1, 2, 0]


def test_label_names_are_those_of_the_configuration_that_is_read(tmp_path: Path) -> None:
    """A clone of several data sets states the names of each."""
    kind = "  - name: kind\n    dtype:\n      class_label:\n        names: {}\n"
    infos = [f"- config_name: {name}\n  features:\n{kind.format(names)}" for name, names in
             (("default", f"[{', '.join(ORDER)}]"), ("other", "[anger, joy, fear]"))]  # fmt: skip
    configs = "configs:\n- config_name: default" + SPLITS.format("a.csv")
    configs += "\n- config_name: other" + SPLITS.format("b.csv")
    folder = folder_of(tmp_path, f"dataset_info:\n{''.join(infos)}{configs}", "a.csv", "b.csv", "c.csv")
    assert read(folder).tables["train"]["label"].to_pylist() == [1, 2, 0]
    both = {"default": json.loads(NAMES), "other": {"features": {"kind": {"names": ["x"] * 3}}}}
    (folder / "dataset_infos.json").write_text(json.dumps(both), encoding="utf-8")
    assert read(folder).tables["train"]["label"].to_pylist() == [1, 2, 0]


@pytest.mark.parametrize("place", ["", "data/", "train/"])
def test_label_names_are_those_of_the_nearest_folder(tmp_path: Path, place: str) -> None:
    name = {"": "{}.csv", "data/": "data/{}.csv", "train/": "{}/0.csv"}[place]
    put(tmp_path, name, rows("a"))
    (tmp_path / place / "dataset_info.json").write_text(NAMES, encoding="utf-8")
    if place == "train/":
        with pytest.raises(UserError, match=r"train/0.csv states its labels.* test/0.csv holds numbers"):
            read(tmp_path)
        (tmp_path / "test" / "dataset_info.json").write_text(NAMES, encoding="utf-8")
    raw = read(tmp_path)
    assert raw.tables["train"]["label"].to_pylist() == raw.tables["test"]["label"].to_pylist() == [1, 2, 0]


def test_numbers_without_names_beside_names_in_another_order_are_refused(tmp_path: Path) -> None:
    """Of two shards or two splits; where the stated order is the task's own, both mean the same."""
    split = datasets.Dataset.from_list(rows_of([0, 1, 2]), features=FEATURES)
    split.to_parquet(tmp_path / "train.parquet")
    (tmp_path / "test.csv").write_bytes(rows("a"))
    with pytest.raises(
        UserError, match=r"train.parquet states its labels in the order spam, other, ham, and"
    ):
        read(tmp_path)
    (tmp_path / "test.csv").write_bytes(delimited(rows_of(["ham", "spam"])))
    assert read(tmp_path).tables["test"]["label"].to_pylist()[:2] == [0, 1]
    own: Any = {**FEATURES, "kind": datasets.ClassLabel(names=["ham", "spam", "other"])}
    split = datasets.Dataset.from_list(rows_of([0, 1, 2]), features=datasets.Features(own))
    split.to_parquet(tmp_path / "train.parquet")
    (tmp_path / "test.csv").write_bytes(rows("a"))
    assert read(tmp_path).tables["test"]["label"].to_pylist() == [0, 1, 2]


def test_a_saved_data_set_is_whole(tmp_path: Path) -> None:
    split = datasets.Dataset.from_list(rows_of([0, 1, 2]))
    saved = datasets.DatasetDict({"train": split, "test": split})
    saved.save_to_disk(str(tmp_path), num_shards={"train": 2, "test": 1})
    assert len(read(tmp_path).tables["train"]) == 10
    state = tmp_path / "train" / "state.json"
    stated = json.loads(state.read_text(encoding="utf-8"))
    for kept in (stated["_data_files"][:1], stated["_data_files"][:1] * 2):
        state.write_text(json.dumps({**stated, "_data_files": kept}), encoding="utf-8")
        with pytest.raises(UserError, match="lacks shard 1 of 2"):
            read(tmp_path)
    state.unlink()  # the shards tell by themselves that they are whole
    assert len(read(tmp_path).tables["train"]) == 10


def test_files_of_rows_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "data/Copy of train.csv", "eval.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rows(name))
    for name in ("notes.md", ".train.csv", "dataset_infos.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert notes_of(read(tmp_path)) == [
        "not read, as by its name it is of no split: data/Copy of train.csv, eval.csv"
    ]


@pytest.mark.parametrize("name", ["train.csv", "train-1.csv", "train/b.csv"])
@pytest.mark.parametrize("what", ["link", "pipe", "device"])
def test_what_is_no_file_is_named_and_not_left_out(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "test.csv").write_bytes(rows("a"))
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (path.parent / {"train/b.csv": "a.csv"}.get(name, "x-0.csv")).write_bytes(rows("b"))
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if what == "device" else "nowhere.csv")
    with pytest.raises(UserError, match=f"{name} is no file: its link leads nowhere"):
        read(tmp_path)


def test_one_file_as_train_and_test_is_told(tmp_path: Path) -> None:
    put(tmp_path, "{}.csv", rows("a"))
    assert "train.csv and test.csv are the same file" in read(tmp_path).notes[0]
    (tmp_path / "test.csv").write_bytes(rows("b"))
    assert read(tmp_path).notes == []


def test_the_card_of_a_clone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf" + CARD.replace(b"\n", b"\r\n"))
    put(tmp_path, "{}.csv", rows("a"))
    assert read(tmp_path).tables["train"]["label"].to_pylist() == [1, 2, 0]


def test_names_of_files_move_no_terminal(tmp_path: Path) -> None:
    odd = b"train-\xff\x1b[31m.csv", b"eval\x1b[2J\n\xe2\x80\xae.csv"
    for name in (b"test.csv", *odd):
        text = delimited([{"text": "a", "label": 0}, {"text": "b", "label": 1}])
        (tmp_path / os.fsdecode(name)).write_bytes(text)
    lines = validate("agnews", None, str(tmp_path))
    assert any("not read" in line for line in lines) and any("read train-" in line for line in lines)
    assert all(line.isprintable() for line in lines)
