"""Studies on a real Slurm of two nodes, with a stub for the command in most of them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.errors import UserError
from finetune.studies import cell_file
from finetune.studies.executors import slurm_batch
from finetune.studies.executors.base import Job
from finetune.studies.executors.slurm import Slurm, SlurmOptions
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.schedule import run
from finetune.studies.state import look
from tests.support.resumed import same_end
from tests.support.slurm import MOST_IN_ARRAY, Cluster
from tests.support.studies import TINY, BoardSpy, stub, study_of

pytestmark = pytest.mark.slow

ALONE = {"a": {**TINY, "variants": ["softmax"]}}
DOWNSTREAM = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
CHAIN = {
    "first": ALONE["a"],
    "second": {**DOWNSTREAM, "variants": ["softmax", "sa-softmax"], "from": "softmax@first"},
}


def engine(study: Study, execute: Callable[[Cell], list[str]], **options: Any) -> Slurm:
    """The engine, which looks at the queue often."""
    made = Slurm(study, SlurmOptions(**options), execute)
    made.poll_s = 0.2
    return made


class Watched(BoardSpy):
    """A board that counts what runs at the same time, and does something once something runs."""

    def __init__(self, deed: Callable[[Sequence[Job]], None] | None = None) -> None:
        super().__init__()
        self.deed, self.at_once = deed, 0

    def refresh(self, jobs: Sequence[Job]) -> None:
        super().refresh(jobs)
        running = [job for job in jobs if job.entry and job.entry.state == "RUNNING"]  # type: ignore[attr-defined]
        self.at_once = max(self.at_once, len(running))
        if running and self.deed:
            deed, self.deed = self.deed, None
            deed(running)

    def losses(self) -> list[str]:
        return [event for event in self.events if event.startswith("lost")]


def times_run(cell: Cell) -> int:
    assert cell.log is not None
    return cell.log.read_text().count("working on")


def batches(study: Study) -> list[slurm_batch.Batch]:
    return slurm_batch.kept(study.root)


def test_cells_run_as_arrays_so_many_at_a_time_and_end_as_their_commands_did(
    tmp_path: Path, slurm_cluster: Cluster
) -> None:
    study = study_of(tmp_path, ALONE, seeds=list(range(MOST_IN_ARRAY + 2)))
    special = {
        1: ["say=finetune: error: no such model", "exit=2"],
        2: ["record=failed", "exit=1"],
        3: ["kill=9"],
        4: ["say=RuntimeError: broken", "exit=1"],
        5: ["exit=75"],
    }
    board = Watched()
    execute = stub(tmp_path, "sleep=0.3", "record", special=special)
    states = run(study.cells, engine(study, execute, most_at_a_time=3), board, retries=1)
    assert [
        (status.state, status.reason, status.lost) for status in map(states.__getitem__, study.cells)
    ] == [
        ("done", "", False),
        ("failed", "no such model", False),
        ("failed", "the loss became nan", False),
        ("failed", "killed by signal 9 (out of memory?)", True),
        ("failed", "RuntimeError: broken", False),
        ("unfinished", "None 1", True),
        ("done", "", False),
        ("done", "", False),
    ]
    assert sorted(event.split()[2] for event in board.losses()) == ["3", "5"]
    assert [times_run(cell) for cell in study.cells] == [1, 1, 1, 2, 1, 2, 1, 1]
    assert board.at_once <= 3 and board.most == len(study.cells)
    assert sorted(len(batch.cells) for batch in batches(study))[-2:] == [2, MOST_IN_ARRAY]
    assert look(study.cells[3]).reason.startswith("killed by signal 9"), (
        "and the next look knows it from the log"
    )


ENGINE_IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.studies.test_slurm import engine, forked
from tests.support.studies import BoardSpy
from finetune.studies.file import load
from finetune.studies.schedule import run
study = load(sys.argv[1] + "/mine.yaml", Path(sys.argv[1], "runs"))
run(study.cells, engine(study, forked(Path(sys.argv[1])), time="1min", save_before="58s"), BoardSpy())
"""


def forked(folder: Path) -> Callable[[Cell], list[str]]:
    """A run of the grid "first" that waits for a signal, and goes on once it has had one; plain others."""
    saved, plain = stub(folder, "saved", "record"), stub(folder, "record")
    return lambda cell: (saved if cell.grid == "first" else plain)(cell)


def test_a_study_goes_on_without_its_process_past_the_time_of_a_job_and_along_a_chain(
    tmp_path: Path, slurm_cluster: Cluster
) -> None:
    """The first run is told that its time is nearly over, saves and goes on; two others wait for it."""
    study = study_of(tmp_path, CHAIN)
    process = subprocess.Popen([sys.executable, "-c", ENGINE_IN_A_PROCESS, str(tmp_path)])
    slurm_cluster.wait(lambda: process.poll() is not None or len([b for b in batches(study) if b.job]) == 2)
    process.kill()
    process.wait()
    assert [look(cell).state for cell in study.cells] == ["missing"] * 3
    slurm_cluster.wait(lambda: not slurm_cluster.ask("squeue", "--noheader"), "the jobs do not end")
    assert [look(cell).state for cell in study.cells] == ["done"] * 3
    assert [times_run(cell) for cell in study.cells] == [2, 1, 1]
    assert study.cells[0].log is not None and "saved at SIGUSR1" in study.cells[0].log.read_text()
    states = run(study.cells, engine(study, forked(tmp_path)), BoardSpy())
    assert {status.state for status in states.values()} == {"done"} and len(batches(study)) == 2


def test_a_job_that_slurm_puts_back_into_the_queue_is_neither_lost_nor_submitted_again(
    tmp_path: Path, slurm_cluster: Cluster
) -> None:
    """By an administrator, for a job of a partition that goes before, and because its node is lost."""
    study = study_of(tmp_path, ALONE, seeds=list(range(MOST_IN_ARRAY)))

    def take_away(jobs: Sequence[Job]) -> None:
        slurm_cluster.wait(lambda: all("ready" in (cell.log.read_text()) for cell in study.cells if cell.log))
        slurm_cluster.ask("scontrol", "requeue", jobs[0].worker)
        slurm_cluster.ask("scontrol", "update", "NodeName=two", "State=DOWN", "Reason=lost")
        goes_before = ["--partition=high", "--nodelist=one", "--exclusive", "--output=/dev/null"]
        slurm_cluster.ask("sbatch", *goes_before, "--wrap=true")

    board = Watched(take_away)
    states = run(study.cells, engine(study, stub(tmp_path, "saved", "record")), board)
    assert {status.state for status in states.values()} == {"done"}
    assert board.losses() == [] and len(batches(study)) == 1
    assert [times_run(cell) for cell in study.cells] == [2] * len(study.cells)


def test_a_job_that_somebody_ends_or_that_hangs_is_lost_and_tried_again(
    tmp_path: Path, slurm_cluster: Cluster
) -> None:
    study = study_of(tmp_path, ALONE, seeds=[0, 1])
    execute = stub(tmp_path, "sleep=1", "record", special={1: ["sleep=60"]})
    board = Watched(lambda jobs: slurm_cluster.ask("scancel", jobs[0].worker) and None)
    states = run(study.cells, engine(study, execute, timeout="2s"), board, retries=1)
    assert [status.state for status in states.values()] == ["done", "failed"]
    assert [event.split("on one: ")[-1].split(" 1: ")[-1] for event in board.losses()] == [
        "CANCELLED",
        "it was still running after 2 s",
    ]
    assert times_run(study.cells[0]) in (1, 2) and times_run(study.cells[1]) == 2, "one may not have begun"


def test_a_later_process_finds_the_jobs_of_one_that_died_while_it_submitted(
    tmp_path: Path, slurm_cluster: Cluster
) -> None:
    study = study_of(tmp_path, ALONE, seeds=[0, 1])
    execute = stub(tmp_path, "sleep=2", "record")
    engine(study, execute).submit(study.cells, {})
    (submitted,) = batches(study)
    slurm_batch.keep(study.root, replace(submitted, job=None))
    board = Watched()
    states = run(study.cells, engine(study, execute), board)
    assert [status.state for status in states.values()] == ["done", "done"] and board.losses() == []
    assert [times_run(cell) for cell in study.cells] == [1, 1] and batches(study) == [submitted]


def test_two_processes_of_a_study_run_nothing_twice(tmp_path: Path, slurm_cluster: Cluster) -> None:
    study = study_of(tmp_path, ALONE, seeds=[0, 1, 2])
    execute = stub(tmp_path, "sleep=1", "record", special={2: ["kill=9"]})
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(run(study.cells, engine(study, execute), retries=1)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for states in results:
        assert [status.state for status in states.values()] == ["done", "done", "failed"]
    assert [times_run(cell) for cell in study.cells][:2] == [1, 1] and times_run(study.cells[2]) in (2, 3)


def test_a_controller_that_is_restarted_loses_nothing(tmp_path: Path, slurm_cluster: Cluster) -> None:
    """The jobs end once it is back: an end that it has missed, Slurm tells it of a minute later."""
    study = study_of(tmp_path, ALONE, seeds=[0, 1])

    def stop(jobs: Sequence[Job]) -> None:
        slurm_cluster.wait(lambda: all(map(times_run, study.cells)))
        slurm_cluster.stop_controller()
        board.deed = start

    def start(jobs: Sequence[Job]) -> None:
        board.deed = start
        if asked.silent_since and time.monotonic() - asked.silent_since > 2:
            board.deed = slurm_cluster.start_controller()
            (tmp_path / "back").touch()

    board = Watched(stop)
    asked = engine(study, stub(tmp_path, f"until={tmp_path / 'back'}", "record"))
    states = run(study.cells, asked, board)
    assert [status.state for status in states.values()] == ["done", "done"]
    assert board.losses() == [] and [times_run(cell) for cell in study.cells] == [1, 1]


def test_cancelling_ends_the_jobs_of_the_study_alone_and_they_are_not_tried_again(
    tmp_path: Path, slurm_cluster: Cluster
) -> None:
    study = study_of(tmp_path, ALONE, seeds=[0, 1])
    other = slurm_cluster.ask("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 60")
    execute = stub(tmp_path, "sleep=60")

    def cancel(jobs: Sequence[Job]) -> None:
        elsewhere = engine(study, execute)
        assert len(elsewhere.attach(study.cells)) == 2
        elsewhere.cancel()

    states = run(study.cells, engine(study, execute), Watched(cancel), retries=1)
    assert [(status.state, status.reason) for status in states.values()] == [
        ("unfinished", "it was cancelled")
    ] * 2
    assert slurm_cluster.ask("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%A") == other


def test_a_job_that_cannot_be_submitted_is_one_line(tmp_path: Path, slurm_cluster: Cluster) -> None:
    study = study_of(tmp_path, ALONE)
    with pytest.raises(UserError) as raised:
        run(study.cells, engine(study, stub(tmp_path), partition="nosuch"), BoardSpy())
    assert "nosuch" in str(raised.value) and "\n" not in str(raised.value)
    (refused,) = batches(study)
    assert refused.job is None, "a request that Slurm takes late is known by it"
    assert engine(study, stub(tmp_path)).attach(study.cells) == []


def test_a_run_of_several_gpus_has_a_process_for_each_on_all_of_its_nodes(
    tmp_path: Path, slurm_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("SQUEUE_PARTITION", "high")
    monkeypatch.setenv("SLURM_NTASKS", "7")
    monkeypatch.setenv("MINE", "handed on")
    study = study_of(tmp_path, ALONE)
    asked = {
        "gpus": 4,
        "nodes": 2,
        "cpus": 2,
        "setup": "echo $MINE $GREETING",
        "sbatch": ["export=ALL,GREETING=hello"],
    }
    states = run(study.cells, engine(study, stub(tmp_path, "record"), **asked), BoardSpy())
    assert [status.state for status in states.values()] == ["done"]
    assert study.cells[0].log is not None
    log = study.cells[0].log.read_text()
    assert log.count("working on") == 4 and log.count("0,1 2\n") == 4 and log.count("handed on hello\n") == 1


def test_a_command_is_called_on_a_worker(tmp_path: Path, slurm_cluster: Cluster) -> None:
    slurm = engine(study_of(tmp_path, ALONE), stub(tmp_path), setup="export GREETING=hello", gpus=2)
    code = "import os, sys; print(os.environ['GREETING'], os.environ['SLURMD_NODENAME']); sys.exit('no rows')"
    called = slurm.call([sys.executable, "-c", code])
    assert called.exit_status == 1 and called.output.splitlines()[-2:] == ["hello one", "no rows"]
    assert list((slurm.study.root / "jobs").glob("finetune-*")) == []


def test_a_line_of_setup_that_fails_ends_the_run_with_a_word(tmp_path: Path, slurm_cluster: Cluster) -> None:
    study = study_of(tmp_path, ALONE)
    lines = ["true", "module() { false; return 3; }", "module load cuda"]
    made = engine(study, stub(tmp_path, "record"), setup=lines)
    (status,) = run(study.cells, made, BoardSpy()).values()
    said = "a line of setup failed (status 3): module load cuda"
    assert (status.state, status.reason, status.lost) == ("failed", said, False)
    assert times_run(study.cells[0]) == 0
    called = made.call([sys.executable, "-c", ""])
    assert called.exit_status == 2 and called.output.splitlines()[-1].endswith(said)


def test_the_cluster_trains_and_a_run_that_is_stopped_half_way_ends_as_if_it_had_not_been(
    tmp_path: Path, slurm_cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """By ``finetune study``, from the look at a worker to the comparison; the run is told as near a limit."""
    long = {**TINY, "train.num_train_epochs": 60, "train.logging_steps": 3, "data.train_rows": 24}
    study = study_of(tmp_path, {"a": {**long, "variants": ["softmax"]}})
    (cell,) = study.cells
    log = study.root / "logs" / f"{cell.name}.log"

    def stop() -> None:
        while not (log.is_file() and "step 1 of" in log.read_text()):
            time.sleep(0.1)
        slurm_cluster.ask("scancel", "--signal=USR1", "--batch", f"{batches(study)[-1].job}_0")

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    words = ["--output", str(study.root), "--on", "slurm", "--slurm.poll", "1s"]
    assert main(["study", study.file, *words]) == 0
    thread.join()
    assert "lost" not in capsys.readouterr().out and len(batches(study)) == 1
    assert log.read_text().count("resumes from its checkpoint") == 1
    assert main(["run", str(cell_file.place(cell)), "--output", str(tmp_path / "whole")]) == 0
    (whole,) = [path.parent for path in (tmp_path / "whole").rglob("record.json")]
    same_end(whole, cell.folder)
