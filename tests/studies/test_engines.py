"""The choice of an engine, and what the schedule asks of every one, with an engine that is a stub."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from finetune.cli.main import main
from finetune.errors import UserError
from finetune.records import store
from finetune.studies import engines, logs
from finetune.studies.executors.base import Called, Engine, Executor, Job, Options, status_after
from finetune.studies.executors.local import Local
from finetune.studies.file import load
from finetune.studies.grid import Cell
from finetune.studies.run import run_study
from finetune.studies.schedule import run
from finetune.studies.state import RunState, Status
from finetune.system import durations
from tests.support.studies import TINY, BoardSpy, keep, stub, study_of, written

CHAIN = {
    "first": {**TINY, "variants": ["softmax"]},
    "second": {
        **{key: TINY[key] for key in TINY if key != "model.vocab_size"},
        "variants": ["softmax"],
        "from": "first",
    },
}


class Queue(Executor):
    """Takes cells that wait for others, and ends each job in turn as ``fates`` says: lost, failed or done."""

    capacity, chains, outlives = 100, True, True

    def __init__(self, fates: Mapping[str, list[str]], left: Sequence[Cell] = ()) -> None:
        self.fates = {name: list(each) for name, each in fates.items()}
        self.jobs, self.left, self.seen = list[Job](), left, list[str]()
        self.fresh = False  # jobs came since the last look: none has ended

    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        started: list[Job | Status] = []
        for cell in cells:
            self.seen.append(cell.grid + (" after " + after[cell].cell.grid if cell in after else ""))
            started.append(Job(cell, str(len(self.seen))))
        self.jobs += [job for job in started if isinstance(job, Job)]
        self.fresh = True
        return started

    def attach(self, cells: Sequence[Cell]) -> list[Job]:
        self.jobs, self.fresh = [Job(cell, "left") for cell in cells if cell in self.left], True
        return list(self.jobs)

    def watch(self) -> list[tuple[Job, Status]]:
        fresh, self.fresh = self.fresh, False
        if fresh or not self.jobs:
            return []
        job = self.jobs.pop(0)
        fates = self.fates.get(job.cell.grid, [])
        fate = fates.pop(0) if fates else "done"
        state = RunState.DONE if fate == "done" else RunState.FAILED
        ended = [(job, Status(state, fate, lost=fate == "lost"))]
        for other in [other for other in self.jobs if other.cell.origin is job.cell and fate != "done"]:
            self.jobs.remove(other)
            ended.append((other, Status(RunState.MISSING, "it waits for nothing", lost=True)))
        return ended

    def cancel(self) -> None:
        raise AssertionError("the jobs of this engine outlive the study")

    def call(self, words: Sequence[str]) -> Called:
        return Called(0, "")


@pytest.mark.parametrize(
    ("fates", "seen", "states"),
    [
        ({}, ["first", "second after first"], ["done", "done"]),
        ({"first": ["lost"]}, ["first", "second after first", "first", "second after first"], ["done"] * 2),
        ({"first": ["lost", "lost"]}, ["first", "second after first"] * 2, ["failed", "failed"]),
        ({"first": ["failed"]}, ["first", "second after first"], ["failed", "failed"]),
        ({"second": ["lost"]}, ["first", "second after first", "second"], ["done", "done"]),
        ({"second": ["failed"]}, ["first", "second after first"], ["done", "failed"]),
    ],
)
def test_what_is_lost_is_tried_again_and_what_waits_for_it_waits_again(
    tmp_path: Path, fates: dict[str, list[str]], seen: list[str], states: list[str]
) -> None:
    study, queue = study_of(tmp_path, CHAIN), Queue(fates)
    statuses = run(study.cells, queue, BoardSpy(), retries=1)
    assert queue.seen == seen
    assert [statuses[cell].state for cell in study.cells] == states


def test_jobs_of_an_earlier_process_are_taken_over(tmp_path: Path) -> None:
    study = study_of(tmp_path, CHAIN)
    queue = Queue({}, left=study.cells[:1])
    assert {status.state for status in run(study.cells, queue).values()} == {RunState.DONE}
    assert queue.seen == ["second after first"]


def test_a_study_whose_runs_go_on_looks_at_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs may hold all of them."""
    study = study_of(tmp_path, CHAIN)
    queue = Queue({}, left=study.cells[:1])
    monkeypatch.setattr(queue, "call", None)
    queue_engine = Engine("queue", "", Options, lambda *_: queue)
    monkeypatch.setattr(engines, "ENGINES", {"queue": queue_engine})
    assert run_study(study, None, engines.choose(study, {"engine": "queue"})) == 0
    assert queue.seen == ["second after first"]


def test_a_killed_run_is_tried_again_and_a_failed_one_is_not(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=[0, 1, 2])
    board = BoardSpy()
    special = {
        0: ["kill=9"],
        1: ["say=broken", "exit=1"],
        2: ["record=preempted", "exit=75"],
    }
    statuses = run(study.cells, Local([{}], stub(tmp_path, special=special)), board, retries=2)
    assert [(status.state, status.reason) for status in statuses.values()] == [
        ("failed", "killed by signal 9 (out of memory?)"),
        ("failed", "broken"),
        ("unfinished", "preempted by SIGTERM at step 3"),
    ]
    begun = [event.split()[2] for event in board.events if event.startswith("start")]
    assert begun == ["0", "0", "0", "1", "2", "2", "2"]
    assert len([event for event in board.events if event.startswith("lost")]) == 4


def test_a_run_that_comes_further_each_time_is_tried_as_long_as_it_does(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=[0, 1])
    board = BoardSpy()
    special = {0: ["further=4", "record"], 1: ["record=preempted", "further=3", "exit=75"]}
    statuses = run(study.cells, Local([{}], stub(tmp_path, special=special)), board, retries=1)
    assert [(status.state, status.reason) for status in statuses.values()] == [
        ("done", ""),
        ("unfinished", "preempted by SIGTERM at step 3"),
    ]
    begun = [event.split()[2] for event in board.events if event.startswith("start")]
    assert begun == ["0"] * 5 + ["1"] * 4, "three times further, and once more"


def test_a_disk_that_is_full_is_no_fault_of_the_run(tmp_path: Path) -> None:
    """Though its record says that it has failed, and why."""
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}})
    board = BoardSpy()
    engine = Local([{}], stub(tmp_path, "record=failed", "exit=75"))
    (status,) = run(study.cells, engine, board, retries=1).values()
    assert (status.state, status.reason) == ("failed", "the loss became nan")
    assert len([event for event in board.events if event.startswith("lost")]) == 1


def test_a_run_that_was_killed_is_lost_though_its_log_says_so_already(tmp_path: Path) -> None:
    """Of an engine whose workers close the log."""
    (cell,) = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}).cells
    assert cell.log is not None
    log = logs.claim(cell.log, ["finetune"])
    assert log is not None
    keep(cell, "running")
    store.write(cell.folder, {**store.read(cell.folder), "started": log.began})
    log.close("killed by signal 9")
    status = status_after(cell, -9, began=log.began, complaint=str)
    assert status.lost and status.state is RunState.FAILED
    store.write(cell.folder, {**store.read(cell.folder), "status": "failed", "reason": "the loss became nan"})
    status = status_after(cell, -9, began=log.began, complaint=str)
    assert not status.lost and status.reason == "the loss became nan"


@pytest.mark.slow
def test_one_that_hears_nothing_is_killed_and_holds_up_no_other(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=[0, 1, 2])
    board = BoardSpy()
    special = {0: ["ignore", "sleep=60"]}
    engine = Local([{}, {}], stub(tmp_path, "record", special=special), timeout_s=5, grace_s=2)
    statuses = run(study.cells, engine, board)
    assert [status.state for status in map(statuses.get, study.cells) if status] == ["failed", "done", "done"]
    assert statuses[study.cells[0]].reason == "it was still running after 5 s"
    assert board.events[-1] == "end softmax 0 failed"


def test_a_run_that_hangs_is_ended_and_lost(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}})
    engine = Local([{}], stub(tmp_path, "sleep=60"), timeout_s=0.3)
    (status,) = run(study.cells, engine).values()
    assert status.lost and status.state is RunState.FAILED
    assert status.reason == "it was still running after 0 s"


def test_a_call_gives_the_end_of_a_command_and_what_it_printed() -> None:
    assert Local([{"WHO": "me"}]).call(["sh", "-c", "echo $WHO; echo too >&2; exit 3"]) == Called(
        3, "me\ntoo\n"
    )


def test_the_command_line_lies_over_what_it_said_before_and_that_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, on={"engine": "local", "retries": 5, "timeout": "2h"})
    study = load(str(file), tmp_path / "runs")
    assert engines.choose(study).options == engines.LOCAL.options(5, "2h")
    chosen = engines.choose(study, {"retries": 1})
    assert chosen.options == engines.LOCAL.options(1, "2h")
    engines.keep(study, chosen)
    assert engines.choose(study).options == engines.LOCAL.options(1, "2h")
    assert engines.choose(study, {"retries": 0}).options == engines.LOCAL.options(0, "2h")


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["--on", "slrum"], "unknown engine 'slrum'"),
        (
            ["--on", "local", "--loacl.retries", "1"],
            "unknown option of finetune study '--loacl': did you mean",
        ),
        (["--local.retires", "1"], "unknown key 'local.retires': did you mean 'local.retries'?"),
        (["--local.retries", "-1"], "local.retries: "),
        (["--local.retries", "two"], "local.retries: "),
        (["--local.timeout", "soon"], "written 90s, 90min, 8h, 2d or 1-12:00:00, not 'soon'"),
        (["--local.timeout", "90"], "local.timeout: "),
        (["--cancel"], "no run goes on without the study itself"),
        (["--rehearse", "--on", "local"], "--rehearse is of this machine, whatever the engine"),
        (["--print", "--local.retries", "1"], "--print is of this machine, whatever the engine"),
        (
            ["--on", "ray", "--workers", "2"],
            "--workers is for runs on this machine: ray has options of its own",
        ),
        (["--on", "ray", "--cancel"], "nothing was begun in"),
        (["--local.", "1"], "local"),
    ],
)
def test_a_mistake_in_an_engine_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], telling: str
) -> None:
    file = written(tmp_path)
    assert main(["study", str(file), "--output", str(tmp_path / "runs"), *words]) == 2
    error = capsys.readouterr().err
    assert telling in error and error.count("\n") == 1, error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("on", ["slurm", {"retries": 1}, {"engine": 3}, []])
def test_the_section_of_a_study_file_names_an_engine(tmp_path: Path, on: object) -> None:
    with pytest.raises(UserError, match="on must name an engine and its options"):
        load(str(written(tmp_path, on=on)), tmp_path / "runs")


@pytest.mark.parametrize("text", ["", "0s", "8", "8 h", "-1h", "1:2:3", "400d", "h", "nan"])
def test_nonsense_is_no_duration(text: str) -> None:
    with pytest.raises(UserError, match="a duration is written"):
        durations.seconds(text)


def test_a_finished_study_asks_its_engine_for_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    for cell in study.cells:
        keep(cell)
    assert main(["study", study.file, "--output", str(study.root), "--on", "local"]) == 0
    assert not (study.root / "on.yaml").exists()
