"""What has become of a run, by its record and its log."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config.identity import as_dict
from finetune.records import manifest, store
from finetune.studies import logs
from finetune.studies.state import RunState, Status, look
from finetune.system.lock import locked
from tests.support.studies import TINY, begun, keep, study_of


def test_the_state_of_a_cell_is_told_by_its_record_and_its_log(tmp_path: Path) -> None:
    (cell, _) = study_of(tmp_path).cells
    assert look(cell) == Status(RunState.MISSING)
    keep(cell)
    assert look(cell).state == "done"
    keep(cell, "failed", reason="the loss became nan")
    assert (look(cell).state, look(cell).reason) == ("failed", "the loss became nan")
    keep(cell, "running")
    assert look(cell).state == "unfinished"
    with locked(cell.folder):
        assert look(cell).state == "running"
    claim = logs.claim(cell.log, ["x"])
    assert claim is not None
    assert look(cell).state == "running" and look(cell, claimed=True).state == "unfinished"
    claim.close("killed")
    assert look(cell) == replace(look(cell), state=RunState.FAILED, reason="killed")
    keep(cell, "running", started="2999-01-01T00:00:00+00:00")
    assert look(cell).state == "unfinished", "it was begun anew after that"
    (cell.folder / store.FILE).unlink()
    assert look(cell).reason == "killed"
    (cell.folder / store.FILE).write_text("{", encoding="utf-8")
    assert look(cell).state == "other" and "truncated" in look(cell).reason


@pytest.mark.parametrize(
    ("key", "wish", "had", "other"),
    [
        ("data.source", "auto", "local", False),
        ("data.source", "hub", "sample", True),
        ("data.source", "data/agnews", "local", False),
        ("data.source", "data/agnews", "hub", True),
        ("train.bf16", "auto", True, False),
        ("train.bf16", False, True, True),
        ("data.train_rows", 24, 25, True),
        ("model.lora.target_modules", ["query"], ["key"], True),
    ],
)
def test_a_run_of_another_configuration_is_told_by_its_keys(
    tmp_path: Path, key: str, wish: Any, had: Any, other: bool
) -> None:
    cell = study_of(tmp_path, {"a": {**TINY, key: wish}}).cells[0]
    recorded = as_dict(cell.config)
    recorded["data"]["source"] = "local" if recorded["data"]["source"] not in ("hub", "sample") else "sample"
    *sections, name = key.split(".")
    holder = recorded
    for section in sections:
        holder = holder[section]
    holder[name] = had
    keep(cell, config=recorded)
    assert look(cell).state == ("other" if other else "done")
    assert (key in look(cell).reason) == other


def test_a_run_whose_origin_was_made_again_is_not_done(tmp_path: Path) -> None:
    """Nor is one that goes on from a checkpoint; one whose origin is gone is what its record says."""
    first, second = begun(tmp_path)
    assert [look(cell).state for cell in (first, second)] == ["done", "done"]
    weights = first.folder / "model.safetensors"
    weights.write_bytes(b"others")
    for status in ("finished", "failed", "running"):
        keep(second, status, model=store.read(second.folder)["model"])
        assert look(second).state == "other" and "began from other weights than" in look(second).reason
    with locked(second.folder):
        assert look(second).state == "running"
    keep(second, model=store.read(second.folder)["model"])
    (first.folder / manifest.FILE).write_text("{", encoding="utf-8")
    assert look(second).state == "done"
    shutil.rmtree(first.folder)
    assert [look(cell).state for cell in (first, second)] == ["missing", "done"]
