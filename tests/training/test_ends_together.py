"""What ends one process of a run ends all of them, with a record that says which one it was and why."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerState

from finetune.records import store
from finetune.system import world
from finetune.system.lock import locked
from finetune.system.peers import End, Failure
from finetune.training import run as training
from finetune.training.shared import StepSeeds
from tests.support.processes import Ended, launch
from tests.support.records import run_config
from tests.support.resumed import same_end
from tests.support.small_runs import COMMON, folder

AT = 6  # steps, after which something happens to the process of rank 1
# The command with a fault in it, which only one process has and only in the run, not in its rehearsal.
FAULTY = """
import os, signal, sys
import torch
from finetune.cli.main import main
from finetune.system import world
from finetune.training.trainer import _Comparable

fault, at = sys.argv.pop(1), int(sys.argv.pop(1))
compute = _Comparable.compute_loss


def faulty(trainer, model, inputs, **options):
    loss = compute(trainer, model, inputs, **options)
    due = world.rank() == 1 and model.training and trainer.state.global_step == at
    if not due or "/seed-" not in trainer.args.output_dir:
        return loss
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "told":
        os.kill(os.getpid(), signal.SIGTERM)
    if fault == "failed":
        raise ValueError("its disk is gone")
    if fault == "interrupted":
        raise KeyboardInterrupt
    return loss * torch.nan if fault == "diverged" else loss


_Comparable.compute_loss = faulty
sys.exit(main())
"""
LOGGED = ("--train.logging_steps", "3")  # a run that is told leaves its checkpoint one step after a log
OPTIONS = [*COMMON, "--attention", "softmax", "--train.per_device_train_batch_size", "6"]


def run(root: Path, fault: str = "", *options: str, processes: int = 2) -> list[Ended]:
    """Classifies, with a fault in the process of rank 1."""
    words = [sys.executable, "-c", FAULTY, fault, str(AT), "classify", "--output", str(root)]
    return launch([*words, *OPTIONS, *options], processes, timeout=240)


FAULTS = {
    "failed": (1, "rank 1: ValueError: its disk is gone"),
    "killed": (1, "rank 1: has vanished: it was killed"),
    "diverged": (1, f"the loss is no number on another process at step {AT + 1}"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["failed", "killed", pytest.param("diverged", marks=pytest.mark.exhaustive)]
)
def test_a_failure_of_one_process_is_recorded_and_ends_all(fault: str, tmp_path: Path) -> None:
    first, second = run(tmp_path, fault)
    status, reason = FAULTS[fault]
    record = store.read(folder("classify", tmp_path))
    assert record["status"] == "failed" and str(record["reason"]).startswith(reason)
    assert first.status == status and second.status == (-9 if fault == "killed" else status)
    assert first.output.count("recorded in") == 1 and reason in first.output
    assert "Traceback" not in second.output


@pytest.mark.slow
def test_a_mistake_of_the_user_is_said_once(tmp_path: Path) -> None:
    ended = run(tmp_path, "", "--train.per_device_train_batch_size", "5")
    assert [each.status for each in ended] == [2, 2]
    assert "a step takes 5 rows" in ended[0].output and "which 2 processes cannot share" in ended[0].output
    assert "error" not in ended[1].output


@pytest.mark.exhaustive
def test_a_folder_that_another_process_holds_is_said_once(tmp_path: Path) -> None:
    with locked(folder("classify", tmp_path)):
        ended = run(tmp_path)
    assert [each.status for each in ended] == [os.EX_TEMPFAIL] * 2
    assert "another process is training in" in ended[0].output and "another" not in ended[1].output


@pytest.mark.slow
def test_a_run_goes_on_on_as_many_processes_to_the_same_bits(tmp_path: Path) -> None:
    """Also from between two logs, each process with the losses of its own rows."""
    whole, told = (folder("classify", tmp_path / name) for name in ("whole", "told"))
    assert [each.status for each in run(tmp_path / "whole", "", *LOGGED)] == [0, 0]
    assert [each.status for each in run(tmp_path / "told", "told", *LOGGED)] == [os.EX_TEMPFAIL] * 2
    assert store.read(told)["status"] == "preempted"
    assert [each.status for each in run(tmp_path / "told", "", *LOGGED)] == [0, 0]
    same_end(whole, told)


@pytest.mark.exhaustive
@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_goes_on_on_another_number_of_processes(processes: int, tmp_path: Path) -> None:
    """As nearly as it is the same on them from its beginning: without dropout, whose masks are others."""
    still = ("--model.dropout", "0", "--model.attention_dropout", "0", *LOGGED)
    whole, told = (folder("classify", tmp_path / name) for name in ("whole", "told"))
    assert [each.status for each in run(tmp_path / "whole", "", *still, processes=1)] == [0]
    assert [each.status for each in run(tmp_path / "told", "told", *still)] == [os.EX_TEMPFAIL] * 2
    assert {each.status for each in run(tmp_path / "told", "", *still, processes=processes)} == {0}
    records = [store.read(where) for where in (whole, told)]
    losses = [[point[key] for point in record["curve"] for key in ("loss", "eval_loss") if key in point]
              for record in records]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert records[1]["metrics"] == records[0]["metrics"]
    assert (records[1]["computed"] or {})["parallelism"]["processes"] == processes


@pytest.mark.parametrize(
    ("end", "recorded", "line"),
    [
        (End.PREEMPTED, ("preempted", "SIGTERM"), "finetune: preempted (SIGTERM); the same command"),
        (End.INTERRUPTED, ("running", None), "finetune: interrupted; the same command"),
        (
            End.FAILED,
            ("failed", "rank 1: the disk is full"),
            "failed: rank 1: the disk is full | recorded in",
        ),
    ],
)
def test_how_another_process_has_ended_is_recorded_and_said(
    end: End, recorded: tuple[str, str | None], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its end, since a full disk has the status of a preemption."""
    spec = training.RunSpec(run_config(), tmp_path, tmp_path)
    entry = store.new(spec.config, command="finetune classify")
    store.write(tmp_path, entry)
    said = {End.FAILED: "the disk is full", End.PREEMPTED: "SIGTERM", End.INTERRUPTED: ""}[end]
    training._record(spec, entry, Failure(1, said, os.EX_TEMPFAIL, end))
    record = store.read(tmp_path)
    assert (record["status"], record["reason"]) == recorded and line in capsys.readouterr().err


def test_processes_with_other_rows_are_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"splits": {name: {"fingerprint": "a"} for name in ("train", "test")}, "label_names": None}
    monkeypatch.setattr(training.token_cache, "tokenizer_fingerprint", lambda tokenizer: "c")
    monkeypatch.setattr(world, "gathered", lambda facts: [facts, {**facts, "test rows": "b"}])
    built: Any = SimpleNamespace(info={"initial_weights": "w"}, tokenizer=None)
    with pytest.raises(RuntimeError, match="rank 1 has other test rows than rank 0"):
        training._check_alike(built, SimpleNamespace(info=info))  # type: ignore[arg-type]


def test_a_step_draws_by_its_seed_its_number_and_its_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(seed: int, step: int, rank: int, before: int) -> list[float]:
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("RANK", str(rank))
        torch.rand(before)  # as one variant draws more than another
        StepSeeds().on_step_begin(SimpleNamespace(seed=seed), TrainerState(global_step=step), None)
        return torch.rand(3).tolist()

    places = [(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 3)]
    assert len({tuple(drawn(*place, before=1)) for place in places}) == len(places)
    assert all(drawn(*place, before=1) == drawn(*place, before=7) for place in places)
