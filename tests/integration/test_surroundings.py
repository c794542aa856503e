"""Where the command is started and what its output leads to: neither changes what it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.system.processes import HOME, leave_working_folder, python_module

PLANTED = (
    "tasks.py",
    "json.py",
    "torch.py",
    "study.py",
    "yaml.py",
    "configs/__init__.py",
    "datasets/__init__.py",
    *(f"{name}.py" for name in sorted(sys.stdlib_module_names - set(sys.builtin_module_names) - {"site"})),
)


def finetune(
    folder: Path, *words: str, shell: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python -m finetune WORDS`` in ``folder``; ``shell`` goes on after it."""
    variables = os.environ | {"PYTHONPATH": HOME} | environment
    command = ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "-", sys.executable, "-m", "finetune"]
    return subprocess.run(
        [*command, *words],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_nothing_is_imported_from_the_working_folder(tmp_path: Path) -> None:
    for name in PLANTED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('imported from the working folder')\n")
    assert finetune(tmp_path, "tasks").returncode == 0
    printed = finetune(tmp_path, "study", "quick", "--print")
    assert printed.returncode == 0, printed.stderr
    assert all(line.split()[1:4] == ["-P", "-m", "finetune"] for line in printed.stdout.splitlines())


def test_the_working_folder_stays_where_the_program_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HOME)
    assert "-P" not in python_module("finetune")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    leave_working_folder()
    assert sys.path[0] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "status", "telling"),
    [
        ("", 0, ""),
        ("| head -1", 0, ""),
        (">&-", 0, ""),
        ("> /dev/full", 75, "finetune: error: No space left"),
    ],
)
def test_no_encoding_and_no_reader_stops_it(tmp_path: Path, shell: str, status: int, telling: str) -> None:
    done = finetune(tmp_path, "variants", shell=shell, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(telling) and done.stderr.count("\n") == bool(telling)
