"""A stand-in for ``finetune run``, which trains nothing: ``python dry_run.py SPEC``; for ``tests.faults``.

It locks the folder, goes on from the checkpoint, hears SIGTERM, and leaves the record and the manifest of a
run, by the program's own means where these are quick to import. At each attempt it meets the fault that its
specification names for it, and tells a file what it has come to: a line at its start, and one at its end.
"""

import errno
import hashlib
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from finetune.errors import BusyError
from finetune.system.files import write_text
from finetune.system.lock import locked

STEPS = 5
LATER = os.EX_TEMPFAIL


class DryRun:
    """One attempt at a run.

    ``spec``: its ``folder``, its finished ``record``, the file of the ``events`` that it tells, the
    ``faults`` of its attempts, the ``seconds`` that it takes, a ``disk`` to fill, if there is one, and
    whether ``children`` of a killed one live on.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.folder, self.events = spec, Path(spec["folder"]), Path(spec["events"])
        before = self.events.read_text().count("start\n") if self.events.exists() else 0
        self.fault = spec["faults"][before] if before < len(spec["faults"]) else ""
        self.told = False  # to end
        self.started = _now()

    def tell(self, what: str) -> None:
        with self.events.open("a") as stream:
            stream.write(f"{what}\n")

    def run(self) -> int:
        self.tell("start")
        signal.signal(signal.SIGTERM, self._hear)
        try:
            with locked(self.folder):
                return self._locked()
        except BusyError:
            self.tell("busy")
            return LATER

    def _locked(self) -> int:
        file = self.folder / "record.json"
        if file.exists() and json.loads(file.read_text())["status"] == "finished":
            self.tell("again")
            return 0
        reached = [int(path.name.partition("-")[2]) for path in self.folder.glob("preempted-*")]
        first = max(reached, default=0)
        self.tell(f"from {first}")
        if self.fault == "mistake":
            print("finetune: error: no such model", flush=True)
            return 2
        self._record(status="running")
        for step in range(first, STEPS):
            time.sleep(self.spec["seconds"] / STEPS)
            if self.fault and step == first:
                status = getattr(self, f"_{self.fault}")()
                if status is not None:
                    return int(status)
            if self.told:
                (self.folder / f"preempted-{step + 1}").mkdir(exist_ok=True)
                self._record(status="preempted", reason=f"SIGTERM at step {step + 1}")
                self.tell(f"preempted {step + 1}")
                return LATER
        self._finish()
        return 0

    def _finish(self) -> None:
        text = '{"row": 0, "label": 1, "prediction": 1}\n'
        write_text(self.folder / "predictions.jsonl", [text])
        entry = {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        manifest = {"run": "dry", "files": {"predictions.jsonl": entry}}
        write_text(self.folder / "manifest.json", [json.dumps(manifest)])
        self._record()
        self.tell("finish")

    def _record(self, **over: Any) -> None:
        entry = json.loads(Path(self.spec["record"]).read_text()) | {"started": self.started} | over
        write_text(self.folder / "record.json", [json.dumps(entry)])

    def _hear(self, *_: Any) -> None:
        self.told = True

    # Faults; a status ends the run.

    def _fails(self) -> int:
        self._record(status="failed", reason="the loss became nan")
        return 1

    def _preempted(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _full(self) -> int:
        file = Path(self.spec["disk"], str(os.getpid()))
        try:
            if not self.spec["disk"]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with file.open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(65536))
        except OSError as error:
            file.unlink(missing_ok=True)
            self._record(status="failed", reason=f"the disk is full ({error})")
            return LATER

    def _hung(self) -> None:
        while not self.told:
            time.sleep(0.05)

    def _deaf(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    def _killed(self) -> NoReturn:
        # A child that loads rows, say, has the log and the lock of the folder open.
        if self.spec["children"] and not os.fork():
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def _node(self) -> NoReturn:
        if not os.fork():
            time.sleep(600)
        os.killpg(0, signal.SIGKILL)
        raise AssertionError


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(DryRun(json.loads(Path(sys.argv[1]).read_text())).run())
