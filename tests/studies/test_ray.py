"""The engine ray on a real cluster of two nodes on this machine, with a stub for the command."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.cli.main import main
from finetune.errors import UserError
from finetune.studies.executors import ray_cluster
from finetune.studies.executors.ray_core import Actor, RayCore, RayOptions
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.studies.schedule import run
from finetune.studies.state import look
from finetune.system import lock
from finetune.system.processes import distributed, python_module
from tests.support.ray_cluster import NODE, RayCluster, started
from tests.support.records_alike import differing
from tests.support.small_runs import small_grid
from tests.support.studies import TINY, BoardSpy, keep, stub, study_of, written
from tests.support.trained import GRID, Trained

pytestmark = pytest.mark.slow
SOFTMAX = {"a": {**TINY, "variants": ["softmax"]}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with started("head", "second") as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def left() -> Iterator[None]:
    """No test stays connected to a cluster that the next one wants to look for."""
    yield
    if (ray := sys.modules.get("ray")) is not None:
        ray.shutdown()


def engine(cluster: RayCluster, study: Study, execute: Any, **options: Any) -> RayCore:
    return RayCore(study.root, RayOptions(address=cluster.address, gpus=0.0, grace="2s", **options), execute)


def printed(cell: Cell, start: str) -> str:
    """The rest of the line of a cell's log that begins like this, once it is there."""
    assert cell.log is not None
    while True:
        for line in cell.log.read_text().splitlines() if cell.log.is_file() else []:
            if line.startswith(start):
                return line.removeprefix(start)
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def in_a_moment(condition: Any, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def test_runs_go_to_all_nodes_and_end_as_they_do(tmp_path: Path, cluster: RayCluster) -> None:
    study = study_of(tmp_path, SOFTMAX, seeds=list(range(6)))
    begin = [f"show={NODE}", "sleep=0.5"]
    special = {
        1: [*begin, "say=finetune: error: no such model", "exit=2"],
        2: [*begin, "record=failed", "exit=1"],
        3: [*begin, "say=preempted", "exit=75"],
    }
    board = BoardSpy()
    execute = stub(tmp_path, *begin, "record", special=special)
    states = run(study.cells, engine(cluster, study, execute), board, retries=1)
    assert [(states[cell].state, states[cell].reason) for cell in study.cells] == [
        ("done", ""),
        ("failed", "no such model"),
        ("failed", "the loss became nan"),
        ("unfinished", "preempted"),
        ("done", ""),
        ("done", ""),
    ]
    texts = [cell.log.read_text() for cell in study.cells if cell.log]
    assert any("\nhead\n" in text for text in texts) and any("\nsecond\n" in text for text in texts)
    begun = [event.split()[2] for event in board.events if event.startswith("start")]
    assert sorted(begun) == list("0123345"), "what was stopped is tried again, what has failed is not"
    kinds = ["done", "failed", "failed", "missing", "done", "done"]
    assert [look(cell).state for cell in study.cells] == kinds


def test_a_killed_worker_takes_its_run_along_which_is_tried_again(
    tmp_path: Path, cluster: RayCluster
) -> None:
    study = study_of(tmp_path, SOFTMAX)
    (cell,) = study.cells
    keep(cell, "failed", reason="of an earlier attempt", started="2026-01-01T00:00:00+00:00")
    assert cell.log is not None
    board, pids = BoardSpy(), list[int]()

    def kill() -> None:
        pids.append(int(printed(cell, "hangs as ")))
        (worker,) = [each for each in psutil.Process(pids[0]).parents() if each.name().startswith("ray::")]
        worker.kill()

    (killer := threading.Thread(target=kill)).start()
    states = run([cell], engine(cluster, study, stub(tmp_path, "first=60", "record")), board, retries=1)
    killer.join()
    assert states[cell].state == "done" and gone(pids[0])
    (lost,) = [event for event in board.events if event.startswith("lost")]
    why = "lost by Ray: The actor is dead because its worker process has died"
    assert why in lost and why in cell.log.read_text()


def test_a_run_that_hangs_is_ended_and_tried_again(tmp_path: Path, cluster: RayCluster) -> None:
    study = study_of(tmp_path, SOFTMAX)
    board = BoardSpy()
    execute = stub(tmp_path, "first=60", "record")
    states = run(study.cells, engine(cluster, study, execute, timeout="1s"), board, retries=1)
    assert states[study.cells[0]].state == "done"
    assert [event for event in board.events if event.startswith("lost")] == [
        "lost softmax 0 1: it did not end within the 1 s that it may take"
    ]


DRIVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from finetune.studies.executors.ray_core import RayCore, RayOptions
from finetune.studies.file import load
from finetune.studies.schedule import run
from tests.support.studies import stub
file, root, address, *deeds = sys.argv[1:]
study = load(file, Path(root))
board = SimpleNamespace(started=lambda job: print("started", flush=True), refresh=lambda jobs: None)
options = RayOptions(address=address, gpus=0.0, grace="2s")
run(study.cells, RayCore(study.root, options, stub(Path(file).parent, *deeds)), board)
"""


def test_runs_go_on_without_the_study_which_finds_them_again(tmp_path: Path, cluster: RayCluster) -> None:
    """More of them than there is room for."""
    study = study_of(tmp_path, SOFTMAX, seeds=list(range(5)))
    words = [
        sys.executable,
        "-c",
        DRIVER,
        study.file,
        str(study.root),
        cluster.address,
        "sleep=2.5",
        "record",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for _ in study.cells:
            assert driver.stdout.readline() == "started\n"
        printed(study.cells[0], "working on")
        driver.kill()
    board = BoardSpy()
    again = engine(cluster, study, lambda cell: ["no-such-program"])
    states = run(study.cells, again, board)
    assert {status.state for status in states.values()} == {"done"}
    assert all(cell.log.read_text().count("working on") == 1 for cell in study.cells if cell.log)


def test_after_a_ctrl_c_the_runs_go_on_until_they_are_cancelled(
    tmp_path: Path, cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that wait for room, and one that does not listen to SIGTERM."""
    study = study_of(tmp_path, SOFTMAX, seeds=list(range(5)))
    execute = stub(tmp_path, "first=60", special={0: ["ignore", "first=60"]})
    pids: list[int] = []

    def interrupt() -> None:
        pids.extend(int(printed(cell, "hangs as ")) for cell in study.cells[:4])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(study.cells, engine(cluster, study, execute), BoardSpy())
    assert all(psutil.pid_exists(pid) for pid in pids)
    assert [look(cell).state for cell in study.cells] == ["running"] * 4 + ["missing"]
    words = ["study", study.file, "--output", str(study.root), "--on", "ray", "--cancel"]
    assert main([*words, "--ray.address", cluster.address, "--ray.grace", "1s"]) == 0
    assert "5 jobs cancelled" in capsys.readouterr().out
    assert all(gone(pid) for pid in pids)
    assert not any(lock.held(cell.log) for cell in study.cells if cell.log)
    with engine(cluster, study, execute) as later:
        assert in_a_moment(lambda: not later.attach(study.cells))


def test_two_studies_submit_a_run_once_and_an_end_is_that_of_all_its_actors(
    tmp_path: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are planned before one has submitted anything, and the run waits for room."""
    asked: list[object] = []
    monkeypatch.setattr(ray_cluster.Cluster, "check_room", lambda self, wants: asked.append(wants))
    study = study_of(tmp_path, SOFTMAX)
    one, other = (engine(cluster, study, stub(tmp_path), resources={"A100": 1.0}) for _ in range(2))
    assert one.attach(study.cells) == other.attach(study.cells) == []
    (job,) = one.submit(study.cells, {})
    (same,) = other.submit(study.cells, {})
    assert isinstance(job, Actor) and isinstance(same, Actor)
    assert (job.name, job.attempt.began) == (same.name, same.attempt.began)
    one.cluster.kill(job.handle)
    ended: list[Any] = []
    assert in_a_moment(lambda: ended.extend(one.watch()) or ended) and ended[0][1].lost
    (again,) = one.submit(study.cells, {})
    assert isinstance(again, Actor) and again.name != job.name, "Ray may still list the old one"
    assert len(asked) == 2, "each study asks once"
    duplicate = again.name.rpartition(" ")[0] + " 0"  # of a study that sees no locks of this one
    one.cluster.keep(duplicate, one.options.wants(), [], {})
    with engine(cluster, study, stub(tmp_path)) as later:
        assert len(later.attach(study.cells)) == 1
        later.cancel()
        assert in_a_moment(lambda: not later.attach(study.cells))


@pytest.mark.parametrize("place", ["address", "client"])
def test_a_command_is_called_on_a_worker(
    tmp_path: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """In this folder, with the variables that a run gets; also from a machine outside the cluster."""
    monkeypatch.setenv("FINETUNE_CACHE", "/c")
    monkeypatch.chdir(tmp_path)
    study = study_of(tmp_path)
    address = getattr(cluster, place)
    caller = RayCore(study.root, RayOptions(address=address, gpus=0.0, env={"MINE": 3}), lambda cell: [])
    called = caller.call(["sh", "-c", f"echo $FINETUNE_CACHE $MINE ${NODE}; pwd; echo no >&2; exit 3"])
    assert called.exit_status == 3
    assert called.output in [f"/c 3 {node}\n{tmp_path}\nno\n" for node in ("head", "second")]
    with pytest.raises(UserError, match="a command cannot start: no-such-program: No such file"):
        caller.call(["no-such-program"])
    caller.cluster.leave()


def test_a_folder_that_a_worker_does_not_see_is_named(
    tmp_path: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, SOFTMAX)
    monkeypatch.setattr(os, "getcwd", lambda: "/not/shared")
    board = BoardSpy()
    states = run(study.cells, engine(cluster, study, stub(tmp_path)), board, retries=1)
    assert [event for event in board.events if event.startswith("lost")], "another node may see it"
    (reason,) = [status.reason for status in states.values()]
    assert reason.startswith("it cannot start on ") and reason.endswith(
        "/not/shared: No such file or directory"
    )


def test_what_no_node_has_is_said_instead_of_waited_for(tmp_path: Path, cluster: RayCluster) -> None:
    study = study_of(tmp_path, SOFTMAX)
    greedy = engine(cluster, study, stub(tmp_path), cpus=3.0, resources={"A100": 1.0})
    with pytest.raises(UserError) as refusal, greedy:
        greedy.submit(study.cells, {})
    assert (
        "no node of the Ray cluster has A100 1, CPU 3 for a run, it has 2 with A100 0, CPU 2, GPU 0: "
        in str(refusal.value)
    )
    asked = RayOptions(address=cluster.address, gpus=1.0, memory="64G", autoscaling=True)
    with RayCore(study.root, asked, stub(tmp_path)) as patient:
        (job,) = patient.submit(study.cells, {})
        assert "waits for room" in job.last_line()  # type: ignore[union-attr]
        assert not patient.watch()
        patient.cancel()


def test_a_lost_node_takes_its_runs_along_which_end_on_another(tmp_path: Path, cluster: RayCluster) -> None:
    """The last test on the two nodes."""
    study = study_of(tmp_path, SOFTMAX, seeds=list(range(4)))
    board = BoardSpy()

    def lose() -> None:
        for cell in study.cells:
            printed(cell, "hangs as ")
        cluster.lose("second")

    threading.Thread(target=lose, daemon=True).start()
    execute = stub(tmp_path, f"show={NODE}", "first=8", f"show={NODE}", "record")
    states = run(study.cells, engine(cluster, study, execute), board, retries=1)
    assert {status.state for status in states.values()} == {"done"}
    lost = [event for event in board.events if event.startswith("lost")]
    assert len(lost) == 2 and all("its node has died" in event for event in lost), lost
    moved = [cell for cell in study.cells if cell.log and "\nsecond\n" in cell.log.read_text()]
    assert len(moved) == 2 and all("\nhead\nhead\n" in cell.log.read_text() for cell in moved if cell.log)


def test_the_cluster_trains_as_a_process_here_does(
    tmp_path: Path, cluster: RayCluster, trained: Trained, capfd: pytest.CaptureFixture[str]
) -> None:
    """``finetune study`` whole, with a real run; what was said of the engine is remembered."""
    here = trained("classify", *GRID) / "agnews"
    file = written(tmp_path, {"a": small_grid("softmax")}, on={"engine": "ray", "gpus": 0})
    words = ["study", str(file), "--output", str(tmp_path / "runs")]
    capfd.readouterr()
    assert main([*words, "--ray.address", cluster.address]) == 0
    out, err = capfd.readouterr()
    assert "[1/1] a/agnews/scratch-tiny/softmax/seed-0: accuracy " in out and "(raylet)" not in out + err
    own = "scratch-tiny/softmax"
    assert differing(here / own, tmp_path / "runs" / "a" / "agnews" / own) == {}
    assert (tmp_path / "runs" / "on.yaml").read_text() == f"engine: ray\naddress: {cluster.address}\n"
    assert main(words) == 0 and "nothing is left to run" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("address", "telling"),
    [
        (
            "127.0.0.1:1",
            "nothing answers at 127.0.0.1:1, where the Ray cluster should be: Connection refused",
        ),
        ("ray://127.0.0.1:1", "nothing answers at ray://127.0.0.1:1"),
        ("127.0.0.1:99999", "nothing answers at 127.0.0.1:99999"),
        ("gpu-box", "ray.address is auto, host:port or ray://host:port, not 'gpu-box'"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address: str, telling: str) -> None:
    with pytest.raises(UserError) as refusal:
        ray_cluster.Cluster(address).check_room({})
    assert telling in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_cluster_that_is_not_waited_for_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[RayCluster] = []

    def add(self: RayCluster, name: str, until: float) -> None:
        made.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(RayCluster, "add", add)
    with pytest.raises(KeyboardInterrupt):
        started("head")
    assert [each.folder.exists() for each in made] == [False]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'softmax-finetune\[ray\]'"):
        ray_cluster.Cluster("auto").check_room({})


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["--ray.gpus", "1.5"], "ray.gpus must be a whole number, or a part of one GPU, not 1.5"),
        (["--ray.gpus", "-1"], "ray.gpus: "),
        (["--ray.memory", "lots"], "ray.memory: "),
        (["--ray.grace", "soon"], "ray.grace: "),
        (["--ray.adress", "auto"], "did you mean 'ray.address'?"),
        (["--ray.env", "PATH"], "ray.env: "),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], telling: str
) -> None:
    file = written(tmp_path)
    assert main(["study", str(file), "--output", str(tmp_path / "runs"), "--on", "ray", *words]) == 2
    error = capsys.readouterr().err
    assert telling in error and error.count("\n") == 1, error


def test_a_run_has_a_process_for_each_gpu_and_its_share_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    several = RayOptions(gpus=4.0, cpus=10.0, memory="2T", env={"NCCL_DEBUG": "INFO"})
    assert several.wants() == {"CPU": 10.0, "GPU": 4.0, "memory": 2 * 1024**4} and several.processes() == 4
    environment = several.environment()
    assert environment["OMP_NUM_THREADS"] == "2" and environment["NCCL_DEBUG"] == "INFO"
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert RayOptions(gpus=0.0).environment()["CUDA_VISIBLE_DEVICES"] == "", (
        "all of the node are seen otherwise"
    )
    assert RayOptions(gpus=0.5).processes() == 1
    words = [*python_module("finetune"), "run", "a.yaml"]
    place = words.index("-m")
    launcher = ["-m", "finetune.system.torchrun", "--standalone", "--nproc-per-node=4"]
    assert distributed(words, 4) == [*words[:place], *launcher, "-m", "finetune", "run", "a.yaml"]
    assert distributed(words, 1) == words
