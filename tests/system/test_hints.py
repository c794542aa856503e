"""Commands that a reader can type where they are printed."""

import re
from pathlib import Path

import pytest

from finetune.system import hints


def test_make_is_named_in_the_folder_of_its_makefile_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(hints.MAKEFILE.parent)
    assert hints.comparing(Path("runs")) == "make compare OUTPUT=runs"
    assert not hints.by_make("diagnose")
    monkeypatch.chdir(tmp_path)
    assert hints.comparing(Path("my runs")) == "finetune compare 'my runs'"
    (tmp_path / "Makefile").touch()  # of another project
    assert not hints.by_make("classify")


def test_the_makefile_has_the_targets() -> None:
    targets = re.findall(r"^([a-z]+):", hints.MAKEFILE.read_text(encoding="utf-8"), re.M)
    assert set(hints.MAKE_TARGETS) <= set(targets)
