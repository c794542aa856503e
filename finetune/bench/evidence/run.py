"""Starts the steps of the evidence one after the other, within the budget, and writes what they measure."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.bench.evidence import page
from finetune.bench.evidence.plan import PARALLEL, SHARES, Plan
from finetune.errors import UserError
from finetune.system.files import write_text
from finetune.system.processes import python_module
from finetune.system.text import clean

FILE, PAGE = "evidence.json", "evidence.md"
SCHEMA, VERSION = "finetune-evidence", 1
GRACE = 10.0  # seconds that a figure may take beyond its step's end, before its process is ended
RESERVE = 4.0  # seconds of the budget for the last writing
OFTEN = 5.0  # seconds between two writings
MODULE = "finetune.bench.evidence.worker"
Write = Callable[[], None]
Say = Callable[[str], None]


@dataclass
class _Watch:
    """The time that is left: of a step, which ends by its share, and of all."""

    started: float
    ends: float
    step_ends: float = 0.0

    def wait(self, workers: "_Workers", device: str) -> None:
        """Wait until everything is imported; what is left then is the steps'."""
        while time.monotonic() < self.ends:
            with suppress(queue.Empty):
                if (event := workers.next(1.0))["id"] == 0:
                    if device == "cuda" and not event["cuda"]:
                        raise UserError(
                            "--evidence is about a GPU, and no CUDA device is visible: run it where one is, "
                            "or add --device cpu --toy to try its whole path"
                        )
                    break
        self.started = time.monotonic()

    def begin(self, share: float) -> None:
        """Give the next step what is left up to ``share`` (0 to 1) of all; what was not used is its own."""
        self.step_ends = self.started + share * (self.ends - self.started)

    @property
    def left(self) -> float:
        return self.step_ends - time.monotonic()

    @property
    def kill(self) -> float:
        """Seconds until the processes of this step are ended."""
        return min(self.step_ends + GRACE, self.ends) - time.monotonic()


@dataclass
class _Share:
    """One process's share of a step: which figure comes next, and what it has said."""

    shard: int
    start: int = 0
    title: str = ""
    begun: int | None = None
    count: int | None = None
    pid: int | None = None


class _Workers:
    """The process that imports everything once and forks for each share of a step."""

    def __init__(self, device: str) -> None:
        surroundings = os.environ | {
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asks for devices without a context
        }
        if device == "cpu":
            surroundings["TRITON_INTERPRET"] = "1"
        self.process = subprocess.Popen(
            python_module(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=surroundings, start_new_session=True,
        )  # fmt: skip
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.number = 0
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put({"id": None})

    def ask(self, request: Mapping[str, Any]) -> int:
        """Have a process forked for ``request``; the number by which its events go."""
        assert self.process.stdin is not None
        self.number += 1
        self.process.stdin.write(json.dumps({"id": self.number, **request}) + "\n")
        self.process.stdin.flush()
        return self.number

    def next(self, seconds: float) -> dict[str, Any]:
        """The next event; ``queue.Empty`` where none comes within ``seconds``."""
        event = self.events.get(timeout=seconds)
        if event["id"] is None:
            raise UserError("the process that imports torch and Triton ended: what it printed says why")
        return event

    def close(self) -> None:
        """End them all."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.listener.join(5.0)
        assert self.process.stdout is not None
        self.process.stdout.close()


def measure(plan: Plan, folder: Path, command: str, say: Say) -> dict[str, Any]:
    """Take all steps and write the result into ``folder`` as it grows; return it.

    Ctrl-C leaves what was measured on the disk, marked as unfinished, and is raised.
    """
    began = time.monotonic()
    watch = _Watch(began, began + plan.budget - RESERVE)
    result: dict[str, Any] = {
        "schema": SCHEMA, "version": VERSION, "finished": False, "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": 0.0, "plan": asdict(plan),
        "steps": [
            {"name": name, "status": "not begun", "seconds": 0.0, "rows": [], "absent": [], "left_out": None}
            for name in SHARES
        ],
    }  # fmt: skip

    def flush() -> None:
        result["seconds"] = time.monotonic() - began
        write(result, folder)

    workers = _Workers(plan.device)
    try:
        watch.wait(workers, plan.device)
        share = 0.0
        for step in result["steps"]:
            share += SHARES[step["name"]]
            watch.begin(share)
            say(f"{step['name']}: {max(0.0, watch.left):.0f} s at most")
            _take(plan, step, watch, workers, flush, say)
            flush()
        result["finished"] = True
    finally:
        workers.close()
        flush()
    return result


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the result and its page; the files. Each is whole at any time."""
    rows = [row for step in result["steps"] if step["name"] == "tiles" for row in step["rows"]]
    result = {**result, "tiles": page.tiles(rows)}
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    return [
        write_text(folder / FILE, [text, "\n"]),
        write_text(folder / PAGE, [page.markdown(result)]),
    ]


def _take(  # noqa: PLR0917 - a step and its surroundings
    plan: Plan, step: dict[str, Any], watch: _Watch, workers: _Workers, flush: Write, say: Say
) -> None:
    """Take one step: its processes until they have ended or their time is over."""
    began = written = time.monotonic()
    step["status"] = "running"
    count = plan.processes if step["name"] in PARALLEL else 1
    shares = [_Share(shard) for shard in range(count)]
    running: dict[int, _Share] = {}

    def begin(share: _Share) -> None:
        request = {"shard": share.shard, "shards": count, "start": share.start, "seconds": watch.left}
        number = workers.ask({"step": step["name"], "plan": asdict(plan), **request})
        share.begun = share.pid = None
        running[number] = share

    for share in shares:
        begin(share)
    while running and watch.kill > 0:
        try:
            event = workers.next(max(0.01, min(watch.kill, 1.0)))
        except queue.Empty:
            continue
        share = running.get(event["id"], _Share(-1))  # of an earlier step, whose time was over
        if "exit" not in event:
            _note(step, share, event, say)
        elif running.pop(event["id"], None) and _goes_on(step, share, event) and watch.left > 0:
            begin(share)
        if time.monotonic() - written > OFTEN:
            flush()
            written = time.monotonic()
    for share in running.values():
        if share.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(share.pid, signal.SIGKILL)
        title = share.title if share.begun is not None else f"{step['name']}, process {share.shard}"
        step["absent"].append({"title": title, "reason": "time was over before it was done", "failed": False})
        share.start += share.begun is not None
    done = sum(share.start for share in shares)
    counts = [share.count for share in shares]
    step["left_out"] = None if None in counts else sum(filter(None, counts)) - done
    step["seconds"] = time.monotonic() - began
    step["status"] = "done" if step["left_out"] == 0 else "partly" if done else "nothing measured"


def _note(step: dict[str, Any], share: _Share, event: dict[str, Any], say: Say) -> None:
    """Take down what a process has said."""
    if share.shard < 0:
        return
    if "pid" in event:
        share.pid = event["pid"]
    elif "items" in event:
        share.count = event["items"]
    elif "begin" in event:
        share.begun, share.title = event["begin"], event["title"]
    else:
        share.begun, share.start = None, event["item"] + 1
        if "row" in event:
            step["rows"].append(event["row"])
        else:
            step["absent"].append({key: event[key] for key in ("title", "reason", "failed")})
            say(f"  not measured: {event['title']}: {clean(event['reason'])}")


def _goes_on(step: dict[str, Any], share: _Share, event: dict[str, Any]) -> bool:
    """Take down how a process has ended; whether another one is to go on where it has left off."""
    if event["exit"] == 0:
        return False
    reason = f"the process ended with status {event['exit']}: {event['said']}"
    if share.begun is not None:
        step["absent"].append({"title": share.title, "reason": reason, "failed": True})
        share.start = share.begun + 1
    elif share.count is None:  # not a single figure was begun, nor would it be
        step["absent"].append({"title": step["name"], "reason": reason, "failed": True})
    return share.count is not None and share.start < share.count
