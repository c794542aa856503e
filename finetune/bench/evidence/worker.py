"""The processes that measure: ``python -m finetune.bench.evidence.worker``.

One process imports torch and the rest, and forks for each request, a line of JSON of its standard input:
``{"id", "step", "plan", "shard", "shards", "start", "seconds"}``. It writes a line of JSON for each event,
all with the ``id``:

- ``{"ready": true, "cuda": bool}``, of id 0: everything is imported, and whether there is a CUDA device;
- ``{"pid": number}``: the process that works at it;
- ``{"items": n}``: how many figures this share of the step has;
- ``{"begin": i, "title": text}``: number i is begun;
- ``{"item": i, "title": text, "row": {...}}``, or with ``"reason": text, "failed": bool`` in place of a row;
- ``{"exit": status, "said": text}``: the process has ended, and the last line of its error output.

A process begins nothing after ``seconds``. A device that answers no more ends it with ``SPOILED``: the next
process goes on from there. The standard input's end is the end of them all.
"""

import gc
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.bench.cases import NotMeasuredError
from finetune.bench.evidence import ceilings, correctness, growth, search, times, training
from finetune.bench.evidence.plan import Plan
from finetune.system.allocation import out_of_memory
from finetune.system.processes import python_module
from finetune.system.text import reason

SPOILED = 3  # exit status
NAME = "finetune.bench.evidence.worker"
LONGEST = 3000  # bytes of a line, under those that a pipe takes at once
STEPS = {
    "environment": ceilings.items,
    "correctness": correctness.items,
    "times": times.items,
    "tiles": search.items,
    "fine-tuning": training.items,
    "pretraining": training.items,
    "memory": growth.items,
}
Item = tuple[str, Callable[[], dict[str, Any]]]  # a title, and what measures it
Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Forks for each request until there are no more."""
    events = _private_output()
    working: dict[int, tuple[int, Path]] = {}
    buffer = b""
    _say(events, 0, {"ready": True, "cuda": torch.cuda.is_available()})
    while True:
        ready, _, _ = select.select([0], [], [], 0.05)
        if ready:
            read = os.read(0, 65536)
            if not read:
                break
            *lines, buffer = (buffer + read).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid, errors = _begin(request, events)
                working[pid] = request["id"], errors
                _say(events, request["id"], {"pid": pid})
        for pid in list(working):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                number, errors = working.pop(pid)
                said = errors.read_text(encoding="utf-8", errors="replace").split("\n")
                errors.unlink()
                last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
                _say(events, number, {"exit": os.waitstatus_to_exitcode(status), "said": last[:300]})
    for pid in working:
        os.kill(pid, signal.SIGKILL)


def _private_output() -> int:
    """The standard output for events alone: what libraries print goes to the error output."""
    events = os.dup(1)
    os.set_inheritable(events, True)
    os.dup2(2, 1)
    return events


def _say(events: int, number: int, event: dict[str, Any]) -> None:
    os.write(events, (json.dumps({"id": number, **event}, allow_nan=False) + "\n").encode())


def _begin(request: dict[str, Any], events: int) -> tuple[int, Path]:
    """Forks; the process and the file of its error output. A device that does not stand a fork is met with a
    Python that starts anew."""
    handle, name = tempfile.mkstemp(prefix="finetune-evidence-")
    process = os.fork()
    if process:
        os.close(handle)
        return process, Path(name)
    os.dup2(handle, 2)
    os.dup2(handle, 1)
    status = 1
    try:
        if request["plan"]["device"] == "cuda":
            try:
                torch.cuda.init()
            except RuntimeError:
                words = python_module(NAME)
                os.execv(words[0], [*words, str(events), json.dumps(request)])
        status = _work(request, events)
    except BaseException as error:
        print(reason(error, typed=True), file=sys.stderr, flush=True)
    os._exit(status)


def _work(request: dict[str, Any], events: int) -> int:
    """Measures the items of a step. Returns the exit status."""
    ends = time.monotonic() + request["seconds"]
    chosen = Plan.read(request["plan"])
    number = request["id"]
    torch.manual_seed(chosen.seed + request["shard"] + 1000 * request["start"])
    items: Sequence[Item] = STEPS[request["step"]](chosen, request["step"])
    items = items[request["shard"] :: request["shards"]]
    _say(events, number, {"items": len(items)})
    for place in range(request["start"], len(items)):
        if time.monotonic() >= ends:
            break
        title, measure = items[place]
        _say(events, number, {"begin": place, "title": title})
        _say(events, number, {"item": place, "title": title, **_outcome(measure)})
        gc.collect()
        if chosen.device == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError:
                return SPOILED
    return 0


def _outcome(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        row = measure()
        size = len(json.dumps(row, allow_nan=False))
        assert size < LONGEST, f"a row of {size} bytes"
        return {"row": row}
    except NotMeasuredError as error:
        return {"reason": str(error), "failed": False}
    except Exception as error:  # whatever a compiler, a driver or a library does: the next one is measured
        if out_of_memory(error):
            return {"reason": "out of memory", "failed": False}
        return {"reason": reason(error, typed=True), "failed": True}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        raise SystemExit(_work(json.loads(sys.argv[2]), int(sys.argv[1])))
    main()
