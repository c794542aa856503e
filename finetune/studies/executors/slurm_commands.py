"""Slurm's own commands, and what they print; ``sacct`` only where there is accounting, which need not be."""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from finetune.errors import UserError
from finetune.system.text import one_line

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip
"""The states of ``squeue`` from which a job does not come back, unless it is put into the queue again."""
FIELDS = {
    "Name": 100, "ArrayTaskID": 24, "ArrayJobID": 24, "State": 24, "Reason": 100, "exit_code": 24,
    "TimeUsed": 24, "NodeList": 100,
}  # fmt: skip
"""Of ``squeue --Format``, with the letters of a column: fixed ones are all that every version writes."""
ANSWER_S = 120  # seconds for an answer; the commands themselves wait for a busy controller
AT_ONCE = 200  # jobs named to one command
# What a login node says of itself, or an allocation or launcher that the study was started in.
OF_HERE = ("CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")

Key = tuple[str, int]
"""The name of an array and the index of its element."""


class CommandError(UserError):
    """A command of Slurm's has failed; the text is what it printed, on one line."""


@dataclass(frozen=True)
class Entry:
    """What Slurm says of one job."""

    job: str  # 12_0
    state: str
    reason: str = ""  # why it waits
    exit_status: int | None = None  # negative for a signal; None until it has ended
    running_s: int = 0
    node: str = ""

    @property
    def goes_on(self) -> bool:
        return self.state not in ENDED


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment that jobs inherit: that of this shell, but for what it says of this machine.

    Defaults for ``sbatch`` (SBATCH_ACCOUNT) stay. Those for ``squeue`` would hide jobs.
    """
    return {
        name: value
        for name, value in variables.items()
        if name in OF_THE_CLUSTER or not (name.startswith(("SLURM_", "SQUEUE_")) or name in OF_HERE)
    }


def ask(words: Sequence[str], held: int | None = None) -> str:
    """The output of a command; raises ``CommandError``. ``held``: a file descriptor that it inherits."""
    try:
        done = subprocess.run(
            words,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_S,
            pass_fds=() if held is None else (held,),
            process_group=0,  # a Ctrl-C in the terminal does not cut it short
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(f"{words[0]} is not found: it comes with Slurm's other commands") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{words[0]} gave no answer in {ANSWER_S} s") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines() or [f"status {done.returncode}"]
        said = dict.fromkeys(line.removeprefix(f"{words[0]}: ").removeprefix("error: ") for line in lines)
        raise CommandError(one_line(f"{words[0]}: {'; '.join(said)}"))
    return done.stdout


def listing(users: Iterable[int] = ()) -> dict[Key, Entry]:
    """All jobs of this user and of ``users`` that wait, run, or have ended in the last minutes.

    Raises ``CommandError``.
    """
    numbers = ",".join(map(str, sorted({os.getuid(), *users})))
    columns = ",".join(f"{name}:{width}" for name, width in FIELDS.items())
    words = ["squeue", "--noheader", "--array", "--states=all", f"--user={numbers}"]
    entries = {}
    for line in ask([*words, f"--Format={columns}"]).splitlines():
        values, start = [], 0
        for width in FIELDS.values():
            values.append(line[start : start + width].strip())
            start += width
        name, index, array, state, reason, code, used, node = values
        if index.isdecimal():
            status = wait_status(code) if state in ENDED else None
            entry = Entry(f"{array}_{index}", state, reason, status, elapsed_s(used), node)
            entries[name, int(index)] = entry
    return entries


def accounted(job: str) -> Entry | None:
    """What the accounting knows of a job that ``squeue`` has forgotten; None where there is none."""
    fields = "--format=State,ExitCode,NodeList"
    try:
        lines = ask(["sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", fields])
        state, code, node = lines.splitlines()[-1].split("|")
    except (CommandError, UserError, IndexError, ValueError):
        return None
    state = state.split()[0] if state else ""  # CANCELLED by 1000
    return Entry(job, state, "", wait_status(code), 0, node) if state in ENDED else None


def wait_status(code: str) -> int | None:
    """The exit status in ``squeue``'s number, as wait() gives it, or ``sacct``'s STATUS:SIGNAL.

    A shell gives 128 + its number for a signal, of which no command of ours has one.

    >>> [wait_status(code) for code in ("19200", "75:0", "35072", "0:9", "9", "")]
    [75, 75, -9, -9, -9, None]
    """
    status, _, number = code.partition(":")
    if not status.isdecimal() or (number and not number.isdecimal()):
        return None
    value, killed = (int(status), int(number)) if number else (int(status) >> 8, int(status) & 127)
    if killed:
        return -killed
    return value if value <= 128 else 128 - value


def elapsed_s(text: str) -> int:
    """Seconds of ``squeue``'s 1-02:03:04, 02:03:04 or 3:04; 0 for what is none.

    >>> [elapsed_s(text) for text in ("1-00:00:02", "3:04", "INVALID")]
    [86402, 184, 0]
    """
    days, _, clock = text.rpartition("-")
    parts = [days or "0", *(["0", "0", *clock.split(":")][-3:])]
    if not all(part.isdecimal() for part in parts):
        return 0
    day, hour, minute, second = map(int, parts)
    return 86400 * day + 3600 * hour + 60 * minute + second


@cache
def largest_array() -> int:
    """The most elements of a job array here. Raises ``CommandError``."""
    for line in ask(["scontrol", "show", "config"]).splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and value.strip().isdecimal():
            return max(1, int(value))
    return 1


def cancel(jobs: Iterable[str]) -> None:
    """Ends jobs, those that wait too. Raises ``CommandError``."""
    named = list(jobs)
    for first in range(0, len(named), AT_ONCE):
        ask(["scancel", *named[first : first + AT_ONCE]])
