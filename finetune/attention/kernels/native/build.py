"""``native.c`` -> a shared library, compiled once for this machine and kept in the user's cache folder."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from finetune.attention.kernels.native import kept, levels
from finetune.attention.kernels.native.levels import FLAGS, SOURCE

FUNCTIONS = ("attention_forward", "attention_backward")
COST = "without the compiled loop attention takes about 3 times as long"
_log = logging.getLogger(__name__)


class CompilerError(Exception):
    """There is no native kernel on this machine; the message says why, in a few words."""


def library() -> ctypes.CDLL:
    """The compiled kernel; ``CompilerError`` where it cannot be had. Tried once a process."""
    library_or_reason = _library()
    if isinstance(library_or_reason, str):
        raise CompilerError(library_or_reason)
    return library_or_reason


def why_not() -> str | None:
    """Why there is no native kernel on this machine, and what that costs; None where there is one."""
    library_or_reason = _library()
    return library_or_reason if isinstance(library_or_reason, str) else None


@cache
def _library() -> ctypes.CDLL | str:
    try:
        return _installed() or _load(_Recipe.here())
    except (CompilerError, OSError, subprocess.SubprocessError) as error:
        return f"{error}; {COST}"


@dataclass(frozen=True)
class _Recipe:
    """What a library is made from, and how."""

    compiler: list[str]
    flags: list[str]
    sources: dict[str, str]  # content by file name

    @classmethod
    def here(cls) -> "_Recipe":
        """The recipe of this machine; ``CompilerError`` where it has no compiler."""
        return cls(_compiler(), [*FLAGS, *_machine_flags()], _sources())

    @property
    def name(self) -> str:
        """One for each source, compiler, processor and system, which may share a home folder."""
        system = [platform.machine(), sysconfig.get_platform(), *_libc(), _processor()]
        parts = [*self.sources.items(), self.compiler, _identity(self.compiler), self.flags, system]
        return f"native-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"

    def compile(self, folder: Path) -> Path:
        """Makes the library in ``folder``; ``CompilerError`` with the compiler's first line."""
        for name, text in self.sources.items():
            (folder / name).write_text(text, encoding="utf-8")
        made = folder / "native.so"
        result = subprocess.run(
            [*self.compiler, *self.flags, str(folder / SOURCE), "-o", str(made)],
            env={**os.environ, "TMPDIR": str(folder)},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if result.returncode:
            first = (result.stderr.strip().splitlines() or ["no message"])[0]
            raise CompilerError(f"{shlex.join(self.compiler)} does not compile it ({first})")
        return made


def _sources() -> dict[str, str]:
    """The text of the sources, by file name."""
    files = resources.files(__package__).iterdir()
    sources = {file.name: file.read_text("utf-8") for file in files if file.name.endswith((".c", ".h"))}
    return dict(sorted(sources.items()))


def _installed() -> ctypes.CDLL | None:
    """The library for this processor that came in a wheel, from these very sources: as fast as one that is
    compiled here, on the processor that both were tried on."""
    folder, machine = Path(__file__).parent, platform.machine()
    for level in levels.fitting(machine, _processor().split()):
        name = levels.name(machine, level, _sources())
        for file in folder.glob(f"{name}-*.so"):
            try:
                if kept.is_whole(file, name):
                    return _opened(file)
                error = OSError("it is damaged")
            except OSError as refusal:
                error = refusal
            _log.warning("the attention kernel %s is not loaded (%s): install the wheel anew", file, error)
    return None


def _load(recipe: _Recipe) -> ctypes.CDLL:
    """The kept library, or a new one, which is kept where that can be.

    One that is kept and cannot be opened, as of a system that has changed, is made anew.
    """
    folder: Path | None = None
    try:
        folder = kept.folder()
        for file in kept.find(folder, recipe.name):
            try:
                return _opened(file)
            except OSError as error:
                _log.warning("the kept attention kernel does not open, and is made anew (%s)", error)
                file.unlink(missing_ok=True)
    except OSError as error:
        _say_not_kept(error)
    # A file system may be full, or one from which nothing can be run; then the other one.
    failures = []
    for place in [None] if folder is None else [folder, None]:
        try:
            with tempfile.TemporaryDirectory(prefix=".compiling-", dir=place) as scratch:
                made = recipe.compile(Path(scratch))
                found = _opened(made)
                if folder is not None:
                    _keep(folder, recipe.name, made.read_bytes())
                return found  # in memory: its file may go
        except (CompilerError, OSError) as error:
            failures.append(error)
    raise failures[-1]


def _keep(folder: Path, name: str, library: bytes) -> None:
    try:
        kept.keep(folder, name, library)
    except OSError as error:
        _say_not_kept(error)


def _say_not_kept(error: OSError) -> None:
    _log.warning(
        "the compiled attention kernel cannot be kept, so every process compiles it, for some seconds (%s): "
        "let FINETUNE_CACHE name a folder of yours alone",
        error,
    )


def _opened(file: Path) -> ctypes.CDLL:
    """The library with its functions; ``OSError`` where it is none of this system's, or lacks one."""
    opened = ctypes.CDLL(str(file))
    for name in FUNCTIONS:
        if not hasattr(opened, name):
            raise OSError(f"{file} has no function {name}")
    return opened


def _compiler() -> list[str]:
    """$CC, or the first C compiler there is."""
    if chosen := os.environ.get("CC"):
        try:
            words = shlex.split(chosen)
        except ValueError as error:
            raise CompilerError(f"CC={chosen} cannot be read ({error})") from error
        if not words or shutil.which(words[0]) is None:
            raise CompilerError(f"CC={chosen} names no program: unset CC, or let it name a C compiler")
        return words
    for name in ("gcc", "cc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise CompilerError("there is no C compiler: install gcc or clang, or let CC name another")


def _identity(compiler: list[str]) -> list[tuple[str, int, int]]:
    """The programs among a compiler's words: one that is mended or replaced compiles anew."""
    programs = [Path(path) for word in compiler if (path := shutil.which(word))]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in programs]


def _machine_flags() -> list[str]:
    """Flags for this processor. A compiler older than it takes it for a lesser one, so AVX-512 is named."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["-mcpu=native"] if platform.machine() in ("arm64", "aarch64") else []
    wide = [f"-mavx512{part}" for part in ("f", "dq", "bw", "vl")]
    has_wide = all(flag.removeprefix("-m") in _processor().split() for flag in wide)
    return ["-march=native", *([*wide, "-mprefer-vector-width=512"] if has_wide else [])]


@cache
def _processor() -> str:
    """What tells one processor from another: its flags on Linux, else its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _libc() -> list[str]:
    """Name and version of the C library, where it tells them."""
    try:
        return [os.confstr("CS_GNU_LIBC_VERSION") or ""]
    except (AttributeError, ValueError, OSError):  # of musl, or of no Linux
        return []
