"""Test rows are joined to predictions again from the user's own data: the same rows, or none and a reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.data import dataset, sources
from finetune.errors import UserError
from finetune.explorer import page
from finetune.explorer.texts import inputs
from finetune.records.run import Run, read_runs
from finetune.tasks import get_task
from tests.support.explored import Outline
from tests.support.records import run_config, save, started

WORDS = ["a short one", "and one of six words here", "<b>bold</b> \u202eturned", "the last"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on a table of four test rows below ``data/agnews``, of which it is wrong on the last two."""
    folder = tmp_path / "data" / "agnews"
    folder.mkdir(parents=True)
    lines = {"train": [f"train text {i}" for i in range(9)], "test": WORDS}
    for split, texts in lines.items():
        rows = "".join(f"{text},{i % 4}\n" for i, text in enumerate(texts))
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    data = {"validation_rows": 2}
    entry = started("softmax", 0, data=data)
    config = run_config(data=data)
    loaded = dataset.load(
        get_task("agnews"), None, sources.resolve(get_task("agnews"), None, str(folder)), config.data
    )
    entry["data"] = {**loaded.info, "location": "data/agnews"}
    guesses: list[dict[str, Any]] = [{"row": i, "label": i, "prediction": min(i, 1)} for i in range(4)]
    save(tmp_path / "runs", entry, guesses)
    (made,) = read_runs(tmp_path / "runs")
    return made


def test_rows_are_found_above_the_runs_and_only_those_that_a_run_is_wrong_on_are_kept(
    run: Run, tmp_path: Path
) -> None:
    assert inputs(run, tmp_path / "runs") == dict(enumerate(WORDS))
    written = page.write(tmp_path / "runs", tmp_path / "page.html", texts=True)
    outline = Outline(written.file.read_text(encoding="utf-8"))
    assert not written.problems
    assert outline.column("set-0-text") == ["", "", WORDS[2].replace("\u202e", "\ufffd"), WORDS[3]]
    page.write(tmp_path / "runs", tmp_path / "page.html")
    outline = Outline(written.file.read_text(encoding="utf-8"))
    assert list(outline.column("set-0-length")) == [3, 6, 2, 2] and "set-0-text" not in outline.texts


def test_other_rows_and_absent_ones_are_a_reason_in_one_line(run: Run, tmp_path: Path) -> None:
    data = run.record["data"]
    assert data is not None
    splits = {**data["splits"], "test": {**data["splits"]["test"], "fingerprint": "0" * 16}}
    other = replace(run, record={**run.record, "data": {**data, "splits": splits}})
    with pytest.raises(UserError, match="are not those that"):
        inputs(other, tmp_path / "runs")
    for changed, why in (
        ({"location": "data/elsewhere"}, "which is not here"),
        ({"kind": "hub", "location": "fancyzhx/ag_news", "revision": "0" * 40}, "its cache here"),
    ):
        with pytest.raises(UserError, match=why):
            inputs(replace(run, record={**run.record, "data": {**data, **changed}}), tmp_path / "runs")


def test_a_record_makes_no_file_run(run: Run, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = {**run.config, "task": str(tmp_path / "mine.py")}
    with pytest.raises(UserError, match="a file of your own"):
        inputs(replace(run, record={**run.record, "config": config}), tmp_path)
    assert not mark.exists()
