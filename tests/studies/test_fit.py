"""Runs that a worker has no room for are refused, on paper and before anything is submitted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.studies import check, engines, fit, timing
from finetune.studies.check import Kind
from finetune.studies.executors.base import Called, Engine, Options
from finetune.studies.executors.slurm import SlurmOptions
from finetune.studies.rehearsal import on_worker, rehearse
from finetune.studies.run import run_study
from tests.support.studies import TINY, study_of
from tests.support.workers import Worker

LARGE = {"task": "books", "preset": "full", "variants": ["softmax"], "model.name": "scratch:125m"}


def on(*gpus: float, memory_gib: float = 500.0) -> dict[str, Any]:
    cards = [{"name": "NVIDIA H100 80GB HBM3", "memory_gib": size} for size in gpus]
    return {"host": "node1", "gpus": cards, "memory_gib": memory_gib, "cpu_alone": not gpus, "cores": 2}


def said(folder: Path, report: dict[str, Any], processes: int = 1, **train: Any) -> list[str]:
    cells = [
        replace(cell, config=replace(cell.config, train={**cell.config.train, **train}))
        for cell in study_of(folder, {"a": LARGE}).cells
    ]
    return [fault.text for fault in fit.faults(cells, report, processes)]


def test_a_run_that_fits_is_none(tmp_path: Path) -> None:
    assert said(tmp_path, on(79.6)) == [] == said(tmp_path, on(79.6, 79.6), 2)
    assert said(tmp_path, on(memory_gib=500)) == []


def test_a_run_that_does_not_fit_is_refused_with_what_helps(tmp_path: Path) -> None:
    (text,) = said(tmp_path, on(79.6, 15.8))
    assert text == (
        "scratch-125m (softmax) needs at least 18.7 GiB (one device), and the NVIDIA H100 80GB HBM3 of node1 "
        "has 15.8 GiB: set train.per_device_train_batch_size 16 (with steps of 256 rows as before) or "
        "train.activation_checkpointing true, or take larger devices"
    )
    (text,) = said(tmp_path, on(18.6))
    assert "or train.fsdp true on 2 GPUs a run, or take" in text
    (text,) = said(tmp_path, on(18.6), 2)
    assert "needs at least 18.7 GiB (DDP on 2)" in text
    assert said(tmp_path, on(18.6), 2, fsdp=True) == []
    (text,) = said(tmp_path, on(0.5))
    assert "no setting makes it fit: choose a smaller model, or take larger devices" in text


def test_a_processor_has_the_memory_of_its_machine(tmp_path: Path) -> None:
    (text,) = said(tmp_path, on(memory_gib=8.0))
    assert "and the memory of node1 has 8.0 GiB" in text
    (text,) = said(tmp_path, on(79.6, memory_gib=8.0), use_cpu=True, bf16=False)
    assert "and the memory of node1 has 8.0 GiB" in text


def test_where_no_size_is_known_nothing_is_refused(tmp_path: Path) -> None:
    """Of unified memory or a part of a GPU, and where another maker's device may be."""
    unified = {**on(79.6, memory_gib=8.0), "gpus": [{"name": "NVIDIA GB10", "memory_gib": None}]}
    assert said(tmp_path, unified) == []
    assert check.summary(unified) == "node1: 2 cores, 8 GiB of memory, 1 x NVIDIA GB10 of unknown memory"
    other = {**on(memory_gib=8.0), "cpu_alone": False}
    assert said(tmp_path, other) == [] and check.summary(other).endswith("memory, GPUs unknown")
    assert len(said(tmp_path, unified, use_cpu=True, bf16=False)) == 1


def test_rows_that_are_padded_may_all_be_short(tmp_path: Path) -> None:
    """Their activations refuse nothing: weights, gradients and moments do."""
    grid = {**TINY, "model.name": "scratch:base", "train.per_device_train_batch_size": 4096}
    cells = study_of(tmp_path, {"a": grid}).cells
    assert fit.faults(cells, on(2.0)) == []
    (fault,) = fit.faults(cells, on(1.0))
    assert fault.kind is Kind.MEMORY and "scratch-base (softmax, sa-softmax) needs at least" in fault.text


def test_a_step_that_cannot_be_shared(tmp_path: Path) -> None:
    cells = study_of(tmp_path, {"a": TINY}).cells
    (fault,) = fit.faults(cells, on(79.6), 3)
    assert fault.kind is Kind.BATCH
    assert "steps of 8 rows, which 3 processes cannot share: take 2 or 4 or 8 of them" in fault.text


def test_nothing_is_submitted_where_a_worker_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """First the worker is looked at, then it rehearses; ``Worker.submit`` would raise."""
    study = study_of(tmp_path)
    worker = Worker(answer=lambda answer: {**answer, "memory_gib": 0.001, "cpu_alone": True})
    engine = Engine("stand-in", "one worker", Options, lambda study, options, workers: worker)
    monkeypatch.setattr(engines, "ENGINES", {"stand-in": engine, "local": engines.LOCAL})
    with pytest.raises(UserError, match=r"needs at least .* [GM]iB"):
        run_study(study, None, engines.choose(study, {"engine": "stand-in"}))
    assert [words[-4:-2] for words in worker.called] == [["--check", "--token"]]
    worker.answer, worker.called = lambda answer: answer, []

    def no_rehearsal(words: list[str]) -> list[str]:
        return [*words[:1], "nothing.yaml", *words[2:]] if "--rehearse" in words else words

    worker.words = no_rehearsal
    assert run_study(study, None, engines.choose(study, {"engine": "stand-in"})) == 2
    assert len(worker.called) == 2 and "nothing.yaml" in capsys.readouterr().out
    assert not list(study.root.glob("*/*")) and not list(study.root.glob(".check*"))


def test_a_run_of_several_processes_is_rehearsed_in_those_of_a_node(tmp_path: Path) -> None:
    commands: list[list[str]] = []

    class Listening(Worker):
        def call(self, words: Sequence[str]) -> Called:
            commands.append(list(words))
            return Called(0, "")

    options = SlurmOptions(gpus=8, nodes=2)
    assert (options.processes(), options.processes_of_a_node()) == (8, 4)
    on_worker(study_of(tmp_path), Listening(), options.processes_of_a_node())
    timing.ask(study_of(tmp_path), Listening(), 1)
    assert "--nproc-per-node=4" in commands[0] and commands[0][-2:] == ["--rehearse", "--fits"]
    assert not any(word.startswith("--nproc") for word in commands[1])


def test_this_machine_refuses_what_it_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it rehearses, before it loads anything."""
    monkeypatch.setattr(check, "machine", lambda: on(memory_gib=0.001))
    with pytest.raises(UserError, match="the memory of node1 has 1 MiB"):
        rehearse(study_of(tmp_path))
    monkeypatch.setattr("finetune.studies.preflight.prepare", lambda *_, **__: None)
    assert "took a first step" in rehearse(study_of(tmp_path), fits=True), "as an engine has judged before"
