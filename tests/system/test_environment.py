"""The environment in a record: versions, the commit of the code and the hardware."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from finetune.system import environment


def test_the_environment_is_known_and_json_ready() -> None:
    found = environment.environment("cpu")
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"].startswith("2.")
    assert (found["hardware"]["device"], found["hardware"]["devices"]) == ("cpu", 1)
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gib"] > 0


def test_a_run_has_as_many_devices_as_its_launcher_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert environment.hardware("cpu")["devices"] == 4
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert environment.hardware("cuda")["devices"] == 1
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [environment.hardware(name)["devices"] for name in (None, "cuda", "cuda:0", "cpu")] == [2, 2, 1, 1]


def _git(folder: Path, *arguments: str) -> str:
    names = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | names, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_package_and_of_no_outer_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "finetune"
    for name in ("finetune", "tasks", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    assert environment.git(package) is None  # no repository
    _git(tmp_path, "init", "-q")
    assert environment.git(package) is None  # a repository that does not track it
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "--no-verify", "-m", "x")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert environment.git(package) == {"commit": commit, "dirty": False}
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as inside a hook of another repository
    assert environment.git(package) == {"commit": commit, "dirty": False}
    (package / "__init__.py").write_text("changed = True")
    assert environment.git(package) == {"commit": commit, "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert environment.git(package) is None  # no git at all
