"""The page of the explorer, without a browser: what is in it, how large it is, and what cannot run in it."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.cli.main import main
from finetune.errors import UserError
from finetune.explorer import browser, page
from finetune.explorer.columns import packed
from finetune.records import store
from tests.support.explored import EVIL, ROWS, Outline, guesses, save_all
from tests.support.records import save, started

CARRIED = Path(page.__file__).parent / "carried"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_all(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="module")
def outline(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Outline:
    file = tmp_path_factory.mktemp("page") / "explore.html"
    written = page.write(root, file)
    assert (written.runs, written.predictions, written.problems) == (17, 16, [])
    return Outline(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def index(outline: Outline) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(outline.texts["index"])
    return content


def test_predictions_come_back_as_they_were(outline: Outline, index: dict[str, Any]) -> None:
    runs = [run for run in index["runs"] if index["groups"][run["group"]]["task"] == "agnews"]
    assert len({run["set"] for run in runs if run["seed"] < 5}) == 1, "the labels are stored once"
    for run in runs:
        if run["set"] is None or run["seed"] == 5:
            continue
        label = outline.column(f"set-{run['set']}-label")
        code = outline.column(f"run-{run['id']}-prediction")
        rows = guesses(run["variant"], run["seed"])
        assert list((code + label).astype(np.uint8)) == [row["prediction"] for row in rows]
        assert list(outline.column(f"set-{run['set']}-row")) == list(range(3, ROWS + 3))


def test_a_run_says_its_difference_from_softmax_at_its_seed(index: dict[str, Any]) -> None:
    score = {
        (run["variant"], run["seed"]): run
        for run in index["runs"]
        if index["groups"][run["group"]]["task"] == "agnews" and run["score"] is not None
    }
    for seed in range(3):
        mine, other = score["sa-softmax", seed], score["softmax", seed]
        assert mine["difference"] == pytest.approx(mine["score"] - other["score"])
    assert score["softmax", 3]["difference"] is None
    assert score["sa-softmax", 5]["difference"] is None, "the sample is compared with nothing real"


def test_nothing_is_fetched_and_only_the_scripts_of_the_project_run(outline: Outline) -> None:
    (policy,) = (str(attrs["content"]) for _, attrs in outline.elements if "http-equiv" in attrs)
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    found = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in outline.scripts}
    assert found == allowed and len(found) == len(page.SCRIPTS)
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.partition("style-src")[0]
    assert not [
        attrs for _, attrs in outline.elements if "src" in attrs or attrs.get("href", "data:,") != "data:,"
    ]
    assert {tag for tag, _ in outline.elements} <= {
        "html", "head", "meta", "link", "title", "style", "body", "header", "h1", "h2", "h3", "p", "noscript",
        "main", "section", "form", "label", "input", "span", "button", "div", "footer", "details", "summary",
        "pre", "script",
    }  # fmt: skip


def test_a_name_is_text_and_what_cannot_be_seen_is_marked(outline: Outline, index: dict[str, Any]) -> None:
    shown = EVIL.replace("\u202e", "\ufffd")
    assert shown in {group["task"] for group in index["groups"]}
    assert shown in {label for each in index["sets"] for label in each["labels"]}
    assert shown in {run["reason"] for run in index["runs"]}
    assert "\u202e" not in outline.texts["index"] and "<" not in outline.texts["index"]


def test_texts_are_in_the_page_only_where_they_are_asked_for(
    root: Path, outline: Outline, tmp_path: Path
) -> None:
    assert not [key for key in outline.texts if key.endswith(("-text", "-reference", "-source"))]
    page.write(root, tmp_path / "with.html", texts=True)
    found = Outline((tmp_path / "with.html").read_text(encoding="utf-8"))
    kept = {key: found.column(key) for key in found.texts if key.endswith(("-text", "-reference"))}
    assert len(kept) == 5 and all(len(texts) == 31 for texts in kept.values())


def test_the_same_runs_give_the_same_page(root: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        page.write(root, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    "rows",
    [
        '{"row": 0, "label": 1, "prediction": -1}\n',
        '{"row": 0, "label": 1.5, "prediction": 1}\n',
        '{"row": 0, "label": "a", "prediction": 1}\n',
        '{"row": 0, "prediction": 1}\n',
        '{"row": 0, "label": 1, "prediction": 1}\n{"row": 0, "label": 1, "prediction": 1}\n',
        "",
        "no JSON\n",
    ],
)
def test_predictions_that_cannot_be_read_leave_the_run_in_the_table(tmp_path: Path, rows: str) -> None:
    folder = save(tmp_path, started("softmax", 0), guesses("softmax", 0))
    (folder / store.PREDICTIONS).write_text(rows)
    written = page.write(tmp_path, tmp_path / "page.html")
    (problem,) = written.problems
    assert str(folder) in problem and "\n" not in problem
    content = json.loads(Outline((tmp_path / "page.html").read_text()).texts["index"])
    assert [run["set"] for run in content["runs"]] == [None] and content["problems"] == [problem]


def test_a_column_takes_the_smallest_type(tmp_path: Path) -> None:
    for values, kind in (([0, 255], "u1"), ([0, 256], "u2"), ([70_000], "u4")):
        folder = tmp_path / kind
        rows = [{"row": value, "label": 0, "prediction": 0} for value in values]
        save(folder, started("softmax", 0), rows)
        page.write(folder, folder / "page.html")
        outline = Outline((folder / "page.html").read_text())
        assert outline.column("set-0-row").dtype.str.lstrip("<|") == kind
    assert packed("key", ["a"]).kind == "json"


def test_the_command_writes_the_page_into_the_folder_and_opens_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("a browser was opened"))
    save(tmp_path / "my runs", started("softmax", 0), guesses("softmax", 0))
    assert main(["view", str(tmp_path / "my runs")]) == 0
    assert (tmp_path / "my runs" / "explore.html").is_file()
    assert "1 run" in capsys.readouterr().out
    assert main(["view", str(tmp_path / "my runs"), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "explore.html").is_file(), "a folder takes the page under its own name"
    capsys.readouterr()
    assert main(["view", str(tmp_path / "my runs"), "--output", str(tmp_path / "page")]) == 2
    assert "page.html" in capsys.readouterr().err and not (tmp_path / "page").exists()


def test_a_folder_without_runs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        page.write(tmp_path, tmp_path / "page.html")
    with pytest.raises(UserError, match="no folder"):
        page.write(tmp_path / "absent", tmp_path / "page.html")


@pytest.mark.parametrize(
    ("environment", "platform", "wanted"),
    [
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"DISPLAY": ":0", "CI": "true"}, "linux", False),
        ({"SSH_CONNECTION": "a b"}, "linux", False),
        ({"SSH_CONNECTION": "a b", "DISPLAY": "localhost:10"}, "linux", True),
        ({}, "darwin", True),
        ({"SSH_TTY": "/dev/pts/1"}, "darwin", False),
        ({}, "linux", False),
    ],
)
def test_a_browser_is_opened_for_whoever_can_see_it(
    environment: dict[str, str], platform: str, wanted: bool
) -> None:
    assert browser.wanted(environment, terminal=True, platform=platform) is wanted
    assert not browser.wanted(environment, terminal=False, platform=platform)


def test_carried_libraries_are_the_files_that_were_published() -> None:
    listed = (CARRIED / "README.md").read_text()
    files = [file for file in CARRIED.glob("*/*") if file.name != "LICENSE"]
    assert len(files) == 4
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert re.search(rf"`{file.parent.name}/{file.name}`.*`{digest}`", listed), file
        assert "MIT License" in (file.parent / "LICENSE").read_text()
