"""What is looked for on the workers of an engine before a study is given to it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.errors import UserError
from finetune.studies import check
from finetune.studies.check import Fault, Kind, ask, faults, look_around
from finetune.studies.executors.base import Options
from finetune.studies.executors.slurm import SlurmOptions
from finetune.studies.file import Study, load
from tests.support.pretrained_models import save
from tests.support.studies import TINY, begun, study_of, written
from tests.support.workers import Worker


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "WAIT_S", 0.3)


def found(study: Study, worker: Worker) -> list[Fault]:
    return faults(look_around(study), ask(study, worker))


def kinds(study: Study, worker: Worker) -> list[Kind]:
    return [fault.kind for fault in found(study, worker)]


def test_a_worker_with_everything_is_fine_and_nothing_is_left(tmp_path: Path) -> None:
    study, worker = study_of(tmp_path), Worker()
    report = ask(study, worker)
    assert faults(look_around(study), report) == [] and check.notes(look_around(study), report) == []
    assert report["folder"] == {
        "path": str(study.root), "fault": None, "same": True, "answered": True
    }  # fmt: skip
    assert report["data"] == [{
        "task": "agnews", "pair": None, "wanted": "sample", "kind": "sample", "location": "built-in",
        "fault": None,
    }]  # fmt: skip
    assert report["models"] == [] and report["cores"] >= 1 and report["memory_gib"] > 0
    assert not study.root.exists() and [word for word in worker.called[0] if word == "--check"]
    assert check.summary(report).startswith(f"{report['host']}: {report['cores']} cores, ")


def test_a_folder_that_the_worker_does_not_see_or_that_is_another_one(tmp_path: Path) -> None:
    study, other = study_of(tmp_path), tmp_path / "other"

    def elsewhere(words: list[str]) -> list[str]:
        return [str(other) if word == str(study.root) else word for word in words]

    (fault,) = found(study, Worker(words=elsewhere))
    assert fault.kind is Kind.FOLDER and "(not there): give one that this machine" in fault.text
    other.mkdir()
    (fault,) = found(study, Worker(words=elsewhere))
    assert "(another folder of the same name)" in fault.text
    assert not list(other.iterdir()) and not study.root.exists()


def test_a_folder_that_cannot_be_written_or_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path)

    def read_only(folder: Path, **options: Any) -> dict[str, Any]:
        return {"path": str(folder), "fault": "Read-only file system" if folder == study.root else None}

    with monkeypatch.context() as patched:
        patched.setattr(check, "_writable", read_only)
        (fault,) = found(study, Worker())
    assert fault.kind is Kind.FOLDER and "(Read-only file system)" in fault.text
    with monkeypatch.context() as patched:  # what is written there comes here no more
        patched.setattr(check, "_answer_file", lambda root, token: tmp_path / f"{os.urandom(4).hex()}")
        (fault,) = found(study, Worker())
    assert fault.kind is Kind.FOLDER and "(what is written there is not seen here)" in fault.text


def test_a_folder_below_a_file_is_told_before_a_worker_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    study = replace(study_of(tmp_path), root=tmp_path / "file" / "runs")
    with pytest.raises(UserError, match="cannot write runs to"):
        ask(study, Worker())
    assert check._writable(study.root)["fault"] == "Not a directory"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"finetune_worker": "0.0.9"}, "0.0.9"),
        ({"git": {"commit": "f" * 40, "dirty": False}}, "ffffffffffff"),
    ],
)
def test_another_version_of_the_program(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    study = study_of(tmp_path)
    mine = {**look_around(study), "git": {"commit": "a" * 40, "dirty": False}}
    report = ask(study, Worker(answer=lambda answer: {**answer, "git": mine["git"], **change}))
    (one,) = faults(mine, report)
    assert one.kind is Kind.CODE and fault in one.text and "install the same one there" in one.text
    # An installed one knows no commit, and other packages stop nothing: both are noted.
    report = ask(study, Worker(answer=lambda answer: {**answer, "git": None}))
    report["versions"]["torch"] = "2.0"
    assert faults(mine, report) == []
    first, second = check.notes(mine, report)
    assert "has torch 2.0 (2." in first and "cannot be told" in second


def test_runs_that_would_compute_on_a_cpu_unasked_are_noted(tmp_path: Path) -> None:
    gpu = {"name": "NVIDIA H100 80GB HBM3", "memory_gib": 80.0}
    unsaid = study_of(tmp_path, {"a": {**TINY, "train.use_cpu": False}}).cells
    said = study_of(tmp_path, {"a": {**TINY, "train.use_cpu": True}}).cells
    hint = SlurmOptions().how_to_ask_for_a_gpu()
    assert check.devices_note(unsaid, {"host": "node1", "gpus": []}, hint) == [
        "note: node1 shows no GPU, and a run without one computes on the CPU: --slurm.gpus 1 asks for one"
    ]
    assert SlurmOptions(gpus=2).how_to_ask_for_a_gpu() == Options().how_to_ask_for_a_gpu() == ""
    for cells, gpus, how in [(said, [], hint), (unsaid, [gpu], hint), (unsaid, [], "")]:
        assert check.devices_note(cells, {"host": "node1", "gpus": gpus}, how) == []


def test_rows_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder here alone; and ``auto``, which is never to become the sample in silence."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "data" / "agnews", there):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    strict = study_of(tmp_path, {"a": {**TINY, "data.source": "data/agnews"}})
    (fault,) = found(strict, Worker(at=there))
    assert fault.kind is Kind.DATA and "there is no data folder 'data/agnews'" in fault.text
    automatic = study_of(tmp_path, {"a": {**TINY, "data.source": "auto"}})
    (fault,) = found(automatic, Worker(at=there))
    assert fault.kind is Kind.DATA and "would be the built-in SAMPLE" in fault.text
    assert kinds(automatic, Worker()) == []
    away = study_of(tmp_path, {"a": {**TINY, "data.source": "hub"}})
    (fault,) = found(away, Worker())
    assert fault.kind is Kind.DATA and "agnews" in fault.text


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    save("bert", here / "model")
    monkeypatch.chdir(here)
    grid = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    study = study_of(tmp_path, {"a": {**grid, "model.name": ["./model", "org/away"]}})
    assert [part["name"] for part in look_around(study)["models"]] == ["./model", "org/away"]
    at_home, away = found(study, Worker())[0], found(study, Worker(at=there))
    assert at_home.kind is Kind.MODEL and "org/away" in at_home.text and "HF_HUB_OFFLINE" in at_home.text
    assert [fault.kind for fault in away] == [Kind.MODEL, Kind.MODEL]
    assert "no model in the folder ./model" in away[0].text


def test_what_begins_from_the_study_is_not_looked_for(tmp_path: Path) -> None:
    first, second = begun(tmp_path)
    study = load(str(tmp_path / "mine.yaml"), tmp_path / "runs")
    assert look_around(study)["models"] == [] and second.root == first.root
    grid = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    nowhere = {"a": {**grid, "model.name": f"pretrained:{tmp_path / 'nowhere'}"}}
    (fault,) = {each.text for each in found(study_of(tmp_path, nowhere), Worker())}
    assert "there is no folder" in fault


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file" / "cache"))
    (fault,) = found(study_of(tmp_path), Worker())
    assert fault.kind is Kind.CACHE and "(Not a directory): set FINETUNE_CACHE" in fault.text


def test_a_worker_that_cannot_look_says_why(tmp_path: Path) -> None:
    worker = Worker(words=lambda words: ["study", "nothing.yaml", *words[2:]])
    with pytest.raises(UserError, match=r"for the study \(status 2\): cannot read .*nothing.yaml"):
        ask(study_of(tmp_path), worker)
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_json_and_its_status_says_whether_all_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = str(written(tmp_path)), str(tmp_path / "runs")
    assert main(["study", path, "--output", output, "--check"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == {"path": output, "fault": None, "same": None} and not Path(output).exists()
    away = str(written(tmp_path, {"a": {**TINY, "data.source": "hub"}}))
    assert main(["study", away, "--output", output, "--check"]) == check.FOUND
    assert json.loads(capsys.readouterr().out)["data"][0]["fault"]
    assert main(["study", path, "--token", "x"]) == 2
    assert "give --check too" in capsys.readouterr().err
    assert main(["study", path, "--plan", "--on", "local", "--local.retries", "many"]) == 2
    said = capsys.readouterr()
    assert "local.retries" in said.err and not said.out


@pytest.mark.slow
def test_a_plan_on_an_engine_looks_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = str(written(tmp_path)), str(tmp_path / "runs")
    assert main(["study", path, "--output", output, "--plan", "--on", "local"]) == 0
    *_, worker, fine = capsys.readouterr().out.splitlines()
    assert worker.startswith("a worker of local, ") and fine == "all that the runs need is there"
    away = str(written(tmp_path, {"a": {**TINY, "data.source": "hub"}}))
    assert main(["study", away, "--output", output, "--plan", "--on", "local"]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("data: the rows of agnews cannot be had on ")
    assert "the rows of agnews cannot be had on" in said.err and not Path(output).exists()
