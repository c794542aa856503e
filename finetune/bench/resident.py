"""Extra memory of attention on a CPU, seen from outside: the peak of a process's resident set (Linux).

torch's profiler does not see what a compiled kernel takes by itself; the resident set holds everything. It
is counted in pages of 4 KiB (2 MiB where the system gives huge ones), and a busy kernel of Linux adds up the
counts of its cores now and then, so a figure is exact to a MiB or so.

``python -m finetune.bench.resident`` reads jobs from its input and writes one line of JSON for each. It
forks for each job, so none sees what another left behind, and a job that runs out of memory ends alone.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from finetune.bench.cases import Case, Implementation, forward_and_backward, make
from finetune.system.memory import peak_memory_mib, reset_peak_memory, return_freed_memory
from finetune.system.processes import python_module
from finetune.system.text import reason

Job = tuple[Case, Implementation]


def measure(jobs: Sequence[Job], seed: int) -> Iterator[dict[str, Any]]:
    """``{"mib": float}`` or ``{"reason": str}`` for each job, as they are done.

    ``"died": True`` goes with the reason if the process of the job did, ``"failed": True`` with an error: all
    but a process that the system killed, as it does for want of memory.
    """
    # No GPU, whose memory would be read in place of the process's, and no threads before a fork.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"}
    command = python_module("finetune.bench.resident")
    request = {
        "jobs": [[asdict(case), asdict(implementation)] for case, implementation in jobs],
        "seed": seed,
        "threads": torch.get_num_threads(),
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for _ in jobs:
            line = process.stdout.readline()
            yield json.loads(line) if line else {"reason": "the measuring process ended", "failed": True}


def main() -> None:
    """Answers the jobs of the standard input, each in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the other process's to speak of
    request = json.load(sys.stdin)
    for case, implementation in request["jobs"]:
        process = os.fork()
        if process == 0:
            torch.set_num_threads(request["threads"])
            try:
                _say({"mib": _extra(Case(**case), Implementation(**implementation), request["seed"])})
            except Exception as error:  # a line for each job, whatever happens
                _say({"reason": f"failed: {reason(error)}", "failed": True})
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if status != 0:
            code = os.waitstatus_to_exitcode(status)
            killed = code == -signal.SIGKILL
            why = f"its process ended with status {code}{', out of memory?' if killed else ''}"
            _say({"reason": why, "died": True, "failed": not killed})


def _extra(case: Case, implementation: Implementation, seed: int) -> float:
    """MiB that forward and backward take at their peak beyond inputs and the output's gradient."""
    # Threads, libraries and compiled code first.
    small = replace(case, batch=min(2, case.batch), length=min(128, case.length))
    forward_and_backward(implementation, *make(small, "cpu", seed))
    inputs, upstream = make(case, "cpu", seed)
    # What was freed goes back to the system: the C library would use it again, and no growth be seen.
    return_freed_memory()
    if not reset_peak_memory():
        raise OSError("the peak of the resident set cannot be reset on this system")
    before = peak_memory_mib()
    results = forward_and_backward(implementation, inputs, upstream)
    after = peak_memory_mib()
    del results
    return after - before


def _say(answer: dict[str, Any]) -> None:
    os.write(1, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main()
