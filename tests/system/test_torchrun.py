"""The end of a run of several processes."""

import subprocess

import pytest

from finetune.system.processes import distributed, python_module

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("exit_status", [75, -9])
def test_it_ends_as_the_process_that_failed_first(tmp_path, exit_status: int) -> None:
    (tmp_path / "ends.py").write_text(
        "import os, sys\n"
        f"os.kill(os.getpid(), {-exit_status}) if {exit_status} < 0 else sys.exit({exit_status})\n"
    )
    words = [word for word in distributed([*python_module("ends")], 2) if word != "-P"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
    assert ended.returncode == exit_status, ended.stderr.decode()
