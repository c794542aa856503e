"""Runs that are told to make room, at any moment and again and again, and end as if they never had been."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import finetune
import finetune.cli.train
import finetune.studies.preflight
import finetune.training.run
from finetune.cli.main import main
from finetune.comparison.compare import compare
from finetune.errors import PreemptedError
from finetune.records import manifest, store
from finetune.training import preemption, resume
from tests.kills import differences
from tests.support.disks import resize, small_disk
from tests.support.processes import FINETUNE, ends, launch, start
from tests.support.small_runs import COMMON, OWN

STEPS = ["--train.save_strategy", "steps", "--train.save_steps", "4", "--attention", "sa-softmax"]
EVALUATED = [*STEPS, "--train.eval_strategy", "steps", "--train.eval_steps", "4"]
LANGUAGE = [
    "--data.max_length", "32", "--train.max_steps", "11", "--train.per_device_train_batch_size", "4",
    "--language.tokens_per_step", "256", "--language.test_windows", "5", "--language.scored_tokens", "8",
]  # fmt: skip
CASES: dict[str, list[str]] = {
    "accumulation": ["classify", *STEPS, "--train.gradient_accumulation_steps", "3"],
    "ends of epochs": [
        "classify", "--attention", "sa-softmax", "--train.save_strategy", "epoch",
        "--train.eval_strategy", "epoch", "--train.logging_strategy", "epoch",
    ],
    "best model": [
        "classify", *EVALUATED, "--train.load_best_model_at_end", "true", "--train.learning_rate", "5e-3",
        "--train.save_total_limit", "1", "--early_stopping_patience", "2", "--train.num_train_epochs", "4",
    ],
    "best of more steps than are saved": [
        "classify", *STEPS, "--train.eval_strategy", "steps", "--train.eval_steps", "1",
        "--train.load_best_model_at_end", "true", "--train.learning_rate", "5e-3", "--train.max_steps", "11",
    ],
    "only the best": [
        "classify", "--attention", "sa-softmax", "--train.save_strategy", "best", "--train.eval_strategy",
        "steps", "--train.eval_steps", "3", "--train.metric_for_best_model", "loss",
    ],
    "none": ["classify", "--attention", "sa-softmax", "--train.save_strategy", "no"],
    "annealed": ["classify", "--attention.start", "annealed", "--attention.annealing_share", "0.6", *STEPS],
    "diagnosis": ["classify", "--diagnose", *STEPS, "--train.logging_steps", "3"],
    "translation": ["translate", *EVALUATED, "--train.max_steps", "11"],
    "language model": ["pretrain", *LANGUAGE, *STEPS],
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs that nobody reads."""
    monkeypatch.setattr(finetune.cli.train, "compare_grid", lambda cells: None)


class Calls:
    """Counts the calls of models in a run, and sends this process signals at one of them."""

    def __init__(self) -> None:
        self.in_run = self.only_steps = False
        self.number = self.steps = self.last = 0
        self.signals: list[int] = []

    def count(self, module: torch.nn.Module, *_: Any) -> None:
        whole = isinstance(module, PreTrainedModel) and module.base_model is not module
        if whole and self.in_run:
            self.number += 1
            self.steps += module.training
            counted = self.steps if self.only_steps else self.number
            if counted == self.last and (module.training or not self.only_steps):
                for number in self.signals:
                    os.kill(os.getpid(), number)

    def send(self, last: int, *signals: int, only_steps: bool = False) -> None:
        """At the call of that number from here on; ``only_steps``: of those that train."""
        self.number = self.steps = 0
        self.last, self.signals, self.only_steps = last, list(signals), only_steps


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    found, run_one = Calls(), finetune.training.run._run_one

    def counted(*args: Any) -> None:  # and no rehearsal
        found.in_run = True
        try:
            run_one(*args)
        finally:
            found.in_run = False

    monkeypatch.setattr(finetune.training.run, "_run_one", counted)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(found.count)
    yield found
    hook.remove()


def typed(root: Path, verb: str, *options: str) -> int:
    return main([verb, "--output", str(root), *COMMON, *OWN.get(verb, []), *options])


def the_record(root: Path) -> store.Record:
    (file,) = root.rglob("record.json")
    return store.read(file.parent)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_preempted_at_random_ends_the_same(case: str, tmp_path: Path, calls: Calls) -> None:
    """Every file of it, but for times: three times at a random call, of those that train or of all."""
    root, told = tmp_path / "runs", list[str]()
    assert typed(root, *CASES[case]) == 0
    root.rename(tmp_path / "whole")
    draw, every, trained = random.Random(case), calls.number, calls.steps
    for steps in (True, False, True):
        number = draw.choice(preemption.SIGNALS)
        calls.send(draw.randint(1, trained if steps else every), number, only_steps=steps)
        if typed(root, *CASES[case]) == 75:
            kept = the_record(root)
            assert kept["status"] == "preempted" and str(kept["reason"]).startswith(number.name)
            told.append(f"{kept['reason']}, call {calls.last}")
    calls.send(0)
    assert typed(root, *CASES[case]) == 0
    assert differences(tmp_path / "whole", root) == [], told


FEW = ["classify", *STEPS, "--train.max_steps", "9"]


def test_what_comes_before_a_run_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing behind but the handlers that there were."""
    before = [signal.getsignal(number) for number in preemption.SIGNALS]
    rehearse = finetune.studies.preflight.rehearsal.rehearse

    def rehearse_and_tell(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return rehearse(*args)

    monkeypatch.setattr(finetune.studies.preflight.rehearsal, "rehearse", rehearse_and_tell)
    assert typed(tmp_path / "runs", *FEW) == 75
    assert not (tmp_path / "runs").exists()
    assert [signal.getsignal(number) for number in preemption.SIGNALS] == before


@pytest.mark.slow
def test_the_second_time_a_run_ends_at_once(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the first is told twice, as by Slurm and torchrun, nor where another kind of signal comes."""
    root = tmp_path / "runs"
    calls.send(5, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, only_steps=True)
    assert typed(root, *FEW) == 75
    assert the_record(root)["reason"] == "SIGTERM and SIGUSR1 at step 5"
    (checkpoint,) = root.rglob("preempted-*")
    assert checkpoint.name == "preempted-5" and manifest.fault(checkpoint) is None
    monkeypatch.setattr(preemption, "AGAIN_S", -1.0)
    calls.send(2, signal.SIGTERM, signal.SIGTERM, only_steps=True)
    assert typed(root, *FEW) == 75
    assert the_record(root)["reason"] == "SIGTERM"
    assert [path.name for path in root.rglob("preempted-*")] == ["preempted-5"]


@pytest.mark.slow
def test_what_fails_after_a_signal_fails_for_it(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, save = tmp_path / "runs", resume.Resumable._save_checkpoint

    def full(*_: Any, **options: Any) -> None:
        if options.get("between"):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*_, **options)

    monkeypatch.setattr(resume.Resumable, "_save_checkpoint", full)
    calls.send(6, signal.SIGTERM, only_steps=True)
    assert typed(root, *FEW) == 75
    kept = the_record(root)
    assert kept["status"] == "preempted"
    assert kept["reason"] == "SIGTERM and then OSError: [Errno 28] No space left on device"


@pytest.mark.slow
def test_a_grid_goes_on_where_it_was_preempted(
    tmp_path: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other run of it begins, and the report says what became of that one."""
    root = tmp_path / "runs"
    words = [*FEW, "--attention", "softmax,sa-softmax"]
    calls.send(11, signal.SIGUSR1, only_steps=True)  # of the second run
    assert typed(root, *words) == 75
    told = capsys.readouterr()
    assert "preempted (SIGUSR1 at step 2); the same command goes on" in told.err
    assert sorted(store.read(file.parent)["status"] for file in root.rglob("record.json")) == [
        "finished",
        "preempted",
    ]
    (table,) = compare([root]).tables
    assert [line.partition(" (")[0] for line in table.missing] == [
        "sa-softmax, seed 0: preempted, goes on with the same command"
    ]
    calls.send(0)
    assert typed(root, *words) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_program_of_one_s_own_ends_with_the_same_status(tmp_path: Path, calls: Calls) -> None:
    values = finetune.preset("classify", "quick")
    values["data"] |= {"source": "sample", "train_rows": 24, "validation_rows": 8, "test_rows": 12}
    calls.send(2, signal.SIGTERM, only_steps=True)
    with pytest.raises(SystemExit) as ended:
        finetune.run(values, task="agnews", variant="softmax", seed=0, output=tmp_path)
    assert isinstance(ended.value, PreemptedError) and ended.value.code == 75


def test_a_thread_hears_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sets no handler, which Python lets the main thread alone do."""
    set_here: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda number, _: set_here.append(number))

    def listen() -> None:
        with preemption.heard(), preemption.put_off():
            pass

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert not set_here


@pytest.mark.slow
def test_a_whole_group_of_processes_is_told(tmp_path: Path) -> None:
    """As Slurm does: also those that load rows, whose end would be a failure of the run."""
    words = [sys.executable, "-m", "finetune", "classify", "--output", str(tmp_path), *COMMON, *STEPS]
    words += ["--train.dataloader_num_workers", "2", "--train.num_train_epochs", "500"]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, process_group=0)
        while "step 1 of" not in (tmp_path / "log").read_text() and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait() == 75, (tmp_path / "log").read_text()
    kept = the_record(tmp_path)
    assert kept["status"] == "preempted" and str(kept["reason"]).startswith("SIGTERM at step ")


@pytest.mark.slow
def test_a_run_that_finds_the_disk_full_goes_on_once_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the checkpoint that had room; half of one would leave none for the record."""
    root, words = tmp_path / "runs", CASES["annealed"]
    assert typed(root, *words) == 0
    root.rename(tmp_path / "whole")
    one = sum(file.stat().st_size for file in next((tmp_path / "whole").rglob("checkpoint-20")).iterdir())
    with small_disk(root, 3 * one // 2 // 1024):
        for _ in range(2):
            assert typed(root, *words) == 75
            kept = the_record(root)
            assert kept["status"] == "failed" and str(kept["reason"]).startswith("the disk is full (")
            assert [path.name for path in root.rglob("checkpoint-*")] == ["checkpoint-4"]
        resize(root, 100 * 1024)
        assert typed(root, *words) == 0
        assert "resumes from its checkpoint" in capsys.readouterr().out
        assert differences(tmp_path / "whole", root) == []


@pytest.mark.slow
def test_all_processes_of_a_run_end_at_the_same_step_whichever_is_told(tmp_path: Path) -> None:
    """And go on to the end that they would have come to."""
    root = tmp_path / "runs"
    words = [*FINETUNE, "classify", "--output", str(root), *COMMON, "--attention", "softmax"]
    words += ["--train.save_strategy", "steps", "--train.save_steps", "5", "--train.max_steps", "60"]
    words += ["--train.per_device_train_batch_size", "4", "--train.save_total_limit", "2"]
    assert [each.status for each in launch(words, 2, timeout=300)] == [0, 0]
    root.rename(tmp_path / "whole")
    processes = start(words, 2)
    while not list(root.rglob("checkpoint-5")) and all(each.poll() is None for each in processes):
        time.sleep(0.002)
    processes[1].send_signal(signal.SIGUSR1)
    ended = ends(processes, timeout=300)
    assert [each.status for each in ended] == [75, 75], [each.output[-2000:] for each in ended]
    kept = the_record(root)
    assert kept["status"] == "preempted"
    assert str(kept["reason"]).startswith("a signal to another process of the run at step ")
    assert [each.status for each in launch(words, 2, timeout=300)] == [0, 0]
    assert differences(tmp_path / "whole", root) == []
