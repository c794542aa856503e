"""How the native kernel's library is compiled, kept and found again; what is damaged is never loaded."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.attention.kernels.native import build, kept

needs_compiler = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
pytestmark = needs_compiler

COUNTING = """#!/bin/sh
echo "$@" >> {log}
for last; do :; done
{then}
"""


class Compiler:
    """A stand-in that takes no time: it hands out the library of these tests, or does what a test says."""

    def __init__(self, folder: Path) -> None:
        self.program, self.log, self.library = folder / "cc", folder / "log", folder / "library.so"
        recipe = build._Recipe.here()
        if not kept.find(kept.folder(), recipe.name):
            build._load(recipe)
        shutil.copy(kept.find(kept.folder(), recipe.name)[0], self.library)
        self.does(f'cp {self.library} "$last"')

    def does(self, then: str) -> None:
        self.program.write_text(COUNTING.format(log=self.log, then=then))
        self.program.chmod(0o755)

    @property
    def runs(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """It is $CC, and the cache is an empty one of the test's own."""
    made = Compiler(tmp_path)
    monkeypatch.setenv("CC", str(made.program))
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    return made


def load() -> None:
    """As in a new process."""
    found = build._load(build._Recipe.here())
    assert all(hasattr(found, name) for name in build.FUNCTIONS)


def libraries() -> list[Path]:
    """All that lies in the folder, which is libraries alone."""
    return sorted(kept.folder().iterdir())


def as_kept(path: Path, content: bytes) -> None:
    """Puts ``content`` in the place of a kept library, under a name that fits it."""
    stem = path.name.rpartition("-")[0]
    path.with_name(f"{stem}-{hashlib.sha256(content).hexdigest()[:32]}.so").write_bytes(content)
    path.unlink()


def test_a_library_is_compiled_once_and_is_this_users_alone(compiler: Compiler) -> None:
    load()
    load()
    (library,) = libraries()
    assert compiler.runs == 1
    assert library.stat().st_mode & 0o777 == 0o600 and library.parent.stat().st_mode & 0o777 == 0o700


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 30_000),
    "cut below a page": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:50_000] + b"~" + path.read_bytes()[50_001:]),
    "another file": lambda path: path.write_text("a letter"),
    "writable by all": lambda path: path.chmod(0o666),
    "no library, by its right name": lambda path: as_kept(path, b"a letter"),
    "of another processor, by its right name": lambda path: as_kept(
        path, path.read_bytes()[:18] + b"\x28" + path.read_bytes()[19:]
    ),
    "another library, by its right name": lambda path: as_kept(
        path, Path(sys.modules["_struct"].__file__ or "").read_bytes()
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_not_loaded_but_made_anew(
    compiler: Compiler, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    (library,) = libraries()
    DAMAGES[damage](library)
    load()
    assert compiler.runs == 2
    assert libraries() == [library] and library.read_bytes() == compiler.library.read_bytes()
    assert len(caplog.messages) == 1 and "anew" in caplog.messages[0]
    load()
    assert compiler.runs == 2 and len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("_processor", "flags: sse2"), ("_libc", ["glibc 2.28"]), ("_identity", [("/usr/bin/gcc", 1, 2)]),
        ("FLAGS", ["-O1"]), ("platform.machine", "riscv64"), ("sysconfig.get_platform", "linux-armv7l"),
    ],
)  # fmt: skip
def test_each_machine_of_a_shared_home_has_its_own(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    here = build._Recipe.here().name
    place = f"finetune.attention.kernels.native.build.{name}"
    monkeypatch.setattr(place, other if name == "FLAGS" else lambda *_: other)
    assert build._Recipe.here().name != here
    load()
    assert compiler.runs == 1


def test_another_source_compiler_or_flag_has_its_own(compiler: Compiler) -> None:
    load()
    compiler.does(f'cp {compiler.library} "$last"; exit 0')  # a compiler that was replaced
    load()
    recipe = build._Recipe.here()
    other = build._Recipe(recipe.compiler, recipe.flags, {**recipe.sources, "threads.h": "// another"})
    build._load(other)
    assert compiler.runs == 3 and len(libraries()) == 3


@pytest.mark.parametrize("cache", ["/proc/nowhere", "/dev/null/cache", "open to all"])
def test_without_a_folder_to_keep_it_in_a_library_serves_its_process(
    compiler: Compiler, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A home that cannot be written to, or that others write to."""
    if cache == "open to all":
        cache = str(tmp_path / "open")
        Path(cache).mkdir()
        Path(cache).chmod(0o777)
    monkeypatch.setenv("FINETUNE_CACHE", cache)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    load()
    assert compiler.runs == 1 and not list(temporary.iterdir())
    (said,) = caplog.messages
    assert "every process compiles it" in said and "FINETUNE_CACHE" in said


def test_a_user_without_a_home_has_a_folder_among_the_temporary_ones(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("FINETUNE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    load()
    assert libraries()[0].parent == tmp_path / "finetune" / f"native-{os.getuid()}" and not caplog.messages


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_when_it_is_kept(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    load()
    assert compiler.runs == 1 and not libraries()
    assert "No space left" in caplog.text
    monkeypatch.undo()


def test_a_disk_that_is_full_for_the_compiler(compiler: Compiler, tmp_path: Path) -> None:
    compiler.does(f'case "$last" in {tmp_path}/cache/*) exit 1;; esac; cp {compiler.library} "$last"')
    load()
    assert compiler.runs == 2 and len(libraries()) == 1


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("exit 0", "native.so"), ('echo x > "$last"', "file too short"),
        ("echo 'cc: error: unknown option' >&2; exit 1", "does not compile it (cc: error: unknown option)"),
    ],
)  # fmt: skip
def test_a_compiler_that_makes_no_library(compiler: Compiler, does: str, reason: str) -> None:
    compiler.does(does)
    build._library.cache_clear()
    said = build.why_not()
    assert said is not None and reason in said and said.endswith(build.COST)
    with pytest.raises(build.CompilerError):
        build.library()
    assert not libraries()
    build._library.cache_clear()


def test_processes_that_compile_at_once_keep_one_whole_library(compiler: Compiler) -> None:
    compiler.does(f'sleep 0.2; cp {compiler.library} "$last"')
    code = "from finetune.attention.kernels.native import build; build.library()"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in running:
        assert process.communicate()[1] == "" and process.returncode == 0
    (library,) = libraries()
    assert library.read_bytes() == compiler.library.read_bytes()
    before = compiler.runs
    load()
    assert compiler.runs == before


def test_a_process_that_is_killed_while_it_keeps_a_library_leaves_none(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert not libraries()
    monkeypatch.undo()
