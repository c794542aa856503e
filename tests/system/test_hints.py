"""Commands that a reader can type where they are printed."""

import re
import shlex
from pathlib import Path

import pytest

from finetune.cli.main import parser
from finetune.system import hints


@pytest.fixture
def no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither make nor any program has been typed."""
    monkeypatch.delenv("MAKELEVEL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_make_is_named_where_it_was_typed_in_the_folder_of_its_makefile(
    no_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(hints.MAKEFILE.parent)
    assert hints.command("compare", Path("runs")) == "finetune compare runs"
    monkeypatch.setenv("MAKELEVEL", "1")
    assert hints.command("compare", Path("runs")) == "make compare OUTPUT=runs"
    assert hints.command("show", Path("runs")) == "finetune show runs"  # it has no such target
    monkeypatch.chdir(tmp_path)
    assert hints.command("compare", Path("my runs")) == "finetune compare 'my runs'"
    (tmp_path / "Makefile").touch()  # of another project
    assert not hints.by_make("classify")


def test_a_program_that_is_on_no_path_is_named_by_its_place(
    no_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / ".venv" / "bin" / "finetune"
    place.parent.mkdir(parents=True)
    place.write_text("")
    place.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(place)])
    assert hints.program() == ".venv/bin/finetune"
    monkeypatch.chdir(place.parent.parent)
    assert hints.program() == "bin/finetune"
    monkeypatch.chdir("/")
    assert hints.command("view", Path("a")) == shlex.join([str(place)[1:], "view", "a"])
    monkeypatch.setenv("PATH", str(place.parent))
    assert hints.program() == "finetune"
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert hints.program() == "finetune"


def test_every_hint_is_a_command_that_there_is(no_path: None) -> None:
    command, verbs = parser()
    folders = [Path(f"runs/a/m/{variant}/seed-{seed}") for variant in ("x", "y") for seed in (0, 1)]
    shown = hints.after_runs(Path("runs"), folders)
    assert len(shown) == 3 and shown[1].startswith("next: finetune diff runs/a/m  #")
    assert shown[::2] == hints.after_runs(
        Path("runs"), folders[:2]
    )  # of one variant there is nothing to pair
    for hint in shown:
        first, *words = shlex.split(hint.removeprefix("next: "), comments=True)
        assert first == "finetune" and words[0] in verbs
        command.parse_args(words)


def test_the_makefile_has_the_targets() -> None:
    targets = re.findall(r"^([a-z]+):", hints.MAKEFILE.read_text(encoding="utf-8"), re.M)
    assert set(hints.MAKE_TARGETS) <= set(targets)
