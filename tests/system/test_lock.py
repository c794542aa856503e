"""A lock is held by one process and its children, asked about without a trace, and gone with a killed one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import BusyError, UserError
from finetune.system import lock

HOLD = """
import sys, time
from pathlib import Path
from finetune.system.lock import claim
stream = claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def holder(file: Path) -> "subprocess.Popen[str]":
    """A process that holds a lock on ``file``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    with holder(tmp_path / lock.FILE) as process:
        assert lock.held(tmp_path / lock.FILE) and lock.claim(tmp_path / lock.FILE) is None
        with pytest.raises(BusyError, match="another process is training in") as busy, lock.locked(tmp_path):
            pass
        assert busy.value.exit_status == os.EX_TEMPFAIL
        process.kill()
    with lock.locked(tmp_path):
        assert lock.held(tmp_path / lock.FILE)
    assert not lock.held(tmp_path / lock.FILE)


def test_a_child_that_writes_into_a_file_holds_it_after_its_parent(tmp_path: Path) -> None:
    stream = lock.claim(tmp_path / "log")
    assert stream is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=stream)
    stream.close()
    assert lock.held(tmp_path / "log")
    child.communicate(b"\n")
    assert not lock.held(tmp_path / "log")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("words")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.FILE).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="cannot write in the run folder"), lock.locked(tmp_path / "run"):
        pass
    assert (tmp_path / "mine").read_text() == "words"


def test_to_ask_leaves_no_trace(tmp_path: Path) -> None:
    assert not lock.held(tmp_path / lock.FILE) and not list(tmp_path.iterdir())
