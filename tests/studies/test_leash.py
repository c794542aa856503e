"""A command that ends with whoever holds its leash."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from finetune.studies import logs
from finetune.studies.executors.leash import Leash, Outcome
from finetune.system import lock

HELPED = "import subprocess, time; it = subprocess.Popen(['sleep', '60']); print(it.pid); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + HELPED
# Short sleeps: a signal that comes just before one begins is heard when it ends.
PREEMPTED = (
    "import signal, sys, time; signal.signal(signal.{0}, lambda *_: sys.exit(75)); print(1)\n"
    "for _ in range(600): time.sleep(0.1)"
)


def start(
    folder: Path, code: str, timeout_s: float | None = None, grace_s: float = 5.0, launches: bool = False
) -> "subprocess.Popen[str]":
    spec = Leash([sys.executable, "-c", code], str(folder / "logs" / "a.log"), timeout_s, grace_s, launches)
    words = [sys.executable, "-m", "finetune.studies.executors.leash", json.dumps(asdict(spec))]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def outcome(holder: "subprocess.Popen[str]") -> Outcome:
    """Waits for it, with the leash held."""
    assert holder.stdout is not None and holder.stdin is not None
    with holder, holder.stdin:
        return Outcome(**json.loads(holder.stdout.read()))


def number_in(log: Path) -> int:
    """What the command has printed, once it has."""
    while True:
        last = log.read_text().splitlines()[-1:] if log.is_file() else []
        if last and last[0].isdecimal():
            return int(last[0])
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(1)", Outcome(0)),
        ("import sys; sys.exit(75)", Outcome(75)),
        ("import sys; sys.exit('finetune: error: no such model')", Outcome(1, reason="no such model")),
        ("import os; os.kill(os.getpid(), 9)", Outcome(-9, reason="killed by signal 9 (out of memory?)")),
    ],
)
def test_the_outcome_is_how_the_command_ended(tmp_path: Path, code: str, expected: Outcome) -> None:
    got = outcome(start(tmp_path, code))
    assert got == Outcome(expected.exit_status, False, expected.reason, got.began) and got.began
    assert logs.verdict(tmp_path / "logs" / "a.log") == expected.reason


def test_a_command_that_cannot_start_says_why(tmp_path: Path) -> None:
    spec = Leash([str(tmp_path / "no-such-program")], str(tmp_path / "a.log"), None, 1.0)
    words = [sys.executable, "-m", "finetune.studies.executors.leash", json.dumps(asdict(spec))]
    done = subprocess.run(words, stdin=subprocess.PIPE, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["reason"] == "cannot start a process: No such file or directory"


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_holder_that_is_killed_with_its_children_has_not_killed_the_leash(tmp_path: Path) -> None:
    """As Ray does: without the children of these."""
    holder = start(tmp_path, HELPED, grace_s=0.3)
    helper = psutil.Process(number_in(tmp_path / "logs" / "a.log"))
    holder.kill()
    assert not gone(helper)
    holder.communicate("")
    assert gone(helper)


@pytest.mark.parametrize("code", [HELPED, STUBBORN])
def test_the_command_and_its_helpers_end_with_the_holder(tmp_path: Path, code: str) -> None:
    holder = start(tmp_path, code, grace_s=0.3)
    log = tmp_path / "logs" / "a.log"
    helper = psutil.Process(number_in(log))
    assert lock.held(log), "so that what still goes on is not run twice"
    holder.communicate("")
    assert gone(helper)
    assert not lock.held(log) and not logs.verdict(log), "the run itself has not failed"


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    got = outcome(start(tmp_path, STUBBORN, timeout_s=0.5, grace_s=0.1))
    assert got.timed_out and got.exit_status == -9
    assert got.reason == "it did not end within the 0.5 s that it may take"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_passed_on(tmp_path: Path, name: str) -> None:
    holder = start(tmp_path, PREEMPTED.format(name))
    number_in(tmp_path / "logs" / "a.log")
    (child,) = psutil.Process(holder.pid).children()
    child.send_signal(getattr(signal, name))
    assert outcome(holder).exit_status == 75


def test_of_a_launcher_the_processes_of_the_run_are_told(tmp_path: Path) -> None:
    """It waits for them, and says how they ended."""
    code = PREEMPTED.format("SIGTERM")
    launcher = (
        f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    )
    holder = start(tmp_path, launcher, grace_s=20.0, launches=True)
    number_in(tmp_path / "logs" / "a.log")
    (child,) = psutil.Process(holder.pid).children()
    child.send_signal(signal.SIGTERM)
    assert outcome(holder).exit_status == 75


def test_a_log_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    claim = logs.claim(tmp_path / "logs" / "a.log", ["another study"])
    assert claim is not None
    assert outcome(start(tmp_path, "print(1)")) == Outcome(75)
    claim.close()
