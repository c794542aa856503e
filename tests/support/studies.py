"""Studies of tiny runs, records of their runs, and a stub in the place of the command that trains one."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config.identity import as_dict
from finetune.records import pretraining, store
from finetune.records.run import Run
from finetune.studies.executors.base import Job
from finetune.studies.file import Study, load
from finetune.studies.grid import Cell
from finetune.studies.state import Status
from tests.support.records import classified, correctness, finish, started

TINY = {
    "task": "agnews", "variants": ["softmax", "sa-softmax"], "data.source": "sample", "data.train_rows": 24,
    "data.validation_rows": 8, "data.test_rows": 12, "data.max_length": 16, "model.vocab_size": 300,
    "train.num_train_epochs": 1, "train.per_device_train_batch_size": 8,
}  # fmt: skip


def study_of(folder: Path, grids: dict[str, Any] | None = None, **keys: Any) -> Study:
    """A study file in ``folder``, loaded; its runs go to ``folder/runs``."""
    return load(str(written(folder, grids, **keys)), folder / "runs")


def written(folder: Path, grids: dict[str, Any] | None = None, **keys: Any) -> Path:
    content = {"name": "mine", "seeds": [0], "grids": {"a": TINY} if grids is None else grids} | keys
    path = folder / "mine.yaml"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def folders(study: Study) -> list[str]:
    return [cell.folder.relative_to(study.root).as_posix() for cell in study.cells]


def keep(cell: Cell, status: str = "finished", seconds: float | None = 100.0, **over: Any) -> Path:
    """Leaves the record of a run in the folder of a cell, or beside it for a stub to put there."""
    entry = started("softmax", 0, sample=True)
    entry["config"] = as_dict(cell.config)
    if entry["config"]["data"]["source"] != "sample":
        entry["config"]["data"]["source"] = "local"
    if status == "finished":
        finish(entry, classified(correctness(20, 0.8, 0)))
        assert entry["times"] is not None
        entry["times"]["total_s"] = seconds
    entry["status"] = status  # type: ignore[typeddict-item]
    for key, value in over.items():
        entry[key] = value  # type: ignore[literal-required]
    return store.write(cell.folder, entry)


def begun(folder: Path) -> tuple[Cell, Cell]:
    """Two finished runs of a study, of which the second began from the weights of the first."""
    grid = {**TINY, "variants": ["softmax"]}
    downstream = {key: value for key, value in grid.items() if key != "model.vocab_size"}
    grids = {"first": grid, "second": {**downstream, "task": "yelp", "from": "first"}}
    first, second = study_of(folder, grids).cells
    keep(first)
    (first.folder / "model.safetensors").write_bytes(b"weights")
    link = pretraining.link(Run(first.folder, store.read(first.folder)), "0" * 16)
    keep(second, model={"revision": None, "pretrained": link})
    return first, second


# Running, with a stub for the command

STUB = """
import json, os, pathlib, signal, sys, time
from datetime import UTC, datetime
folder, prepared, *deeds = sys.argv[1:]
print("working on", folder)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"))
for deed in deeds:
    name, _, value = deed.partition("=")
    if name == "sleep":
        time.sleep(float(value))
    elif name == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path(folder).mkdir(parents=True)
        pathlib.Path(folder, ".ready").touch()
    elif name == "told":  # to end: does what a run does, in so many seconds
        def save(*_, seconds=float(value)):
            time.sleep(seconds)
            pathlib.Path(folder, "preempted-7").mkdir()
            os._exit(75)
        signal.signal(signal.SIGTERM, save)
        pathlib.Path(folder).mkdir(parents=True)
        pathlib.Path(folder, ".ready").touch()
    elif name == "further":  # comes so many checkpoints far, one at each attempt
        step = len(list(pathlib.Path(folder).glob("preempted-*"))) + 1
        if step <= int(value):
            pathlib.Path(folder, f"preempted-{step}").mkdir(parents=True)
            entry = json.loads(pathlib.Path(prepared).read_text())
            entry |= {"status": "preempted", "reason": "SIGTERM at step 3"}
            entry["started"] = datetime.now(UTC).isoformat(timespec="seconds")
            pathlib.Path(folder, "record.json").write_text(json.dumps(entry))
            sys.exit(75)
    elif name == "say":
        print(value)
    elif name == "first":
        tried = pathlib.Path(prepared + ".tried")
        if not tried.exists():
            tried.touch()
            print("hangs as", os.getpid())
            time.sleep(float(value))
    elif name == "show":
        print(os.environ.get(value))
    elif name == "record":
        entry = json.loads(pathlib.Path(prepared).read_text())
        entry["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        pathlib.Path(folder, "record.json").write_text(json.dumps(entry))
    elif name == "saved" and not pathlib.Path(folder, "checkpoint-1").exists():
        def save(number, frame):
            pathlib.Path(folder, "checkpoint-1").mkdir(parents=True)
            entry = json.loads(pathlib.Path(prepared).read_text()) | {"status": "running"}
            pathlib.Path(folder, "record.json").write_text(json.dumps(entry))
            print("saved at", signal.Signals(number).name, flush=True)
            sys.exit(75)
        signal.signal(signal.SIGUSR1, save)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(60)
    elif name == "exit":
        sys.exit(int(value))
    elif name == "kill":
        os.kill(os.getpid(), int(value))
"""


class BoardSpy:
    """A board that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.most = 0

    def started(self, job: Job) -> None:
        self.events.append(f"start {job.cell.folder.parent.name} {job.cell.config.seed} on {job.worker}")

    def ended(self, cell: Cell, status: Status, seconds: float) -> None:
        self.events.append(f"end {cell.folder.parent.name} {cell.config.seed} {status.state}")

    def lost(self, cell: Cell, status: Status, attempt: int) -> None:
        self.events.append(f"lost {cell.folder.parent.name} {cell.config.seed} {attempt}: {status.reason}")

    def refresh(self, jobs: Sequence[Job]) -> None:
        self.most = max(self.most, len(jobs))


def stub(folder: Path, *deeds: str, special: dict[int, Sequence[str]] | None = None) -> Any:
    """What is executed for a cell: ``deeds``, or those that ``special`` names for its seed."""

    (folder / "stub.py").write_text(STUB, encoding="utf-8")

    def execute(cell: Cell) -> list[str]:
        prepared = folder / f"{cell.name}.json"
        chosen = (special or {}).get(cell.config.seed, deeds)
        if any(deed.startswith("record") for deed in chosen):
            status = next(deed for deed in chosen if deed.startswith("record")).partition("=")[2]
            reason = {"failed": "the loss became nan", "preempted": "SIGTERM at step 3"}.get(status)
            file = keep(replace(cell, folder=folder / "made"), status or "finished", reason=reason)
            file.rename(prepared)
        return [sys.executable, str(folder / "stub.py"), str(cell.folder), str(prepared), *chosen]

    return execute
