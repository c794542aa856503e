"""``native.c`` -> a shared library, compiled once for this machine and kept in the user's cache folder."""

import ctypes
import grp
import hashlib
import os
import platform
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path

from finetune.system.cache import cache_folder

FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-fopenmp", "-c"]


class CompilerError(Exception):
    """There is no native kernel on this machine; the message says why, in a few words."""


def library() -> ctypes.CDLL:
    """The compiled kernel; ``CompilerError`` where it cannot be had. Tried once a process."""
    library_or_reason = _library()
    if isinstance(library_or_reason, str):
        raise CompilerError(library_or_reason)
    return library_or_reason


def why_not() -> str | None:
    """Why there is no native kernel on this machine; None where there is one."""
    library_or_reason = _library()
    return library_or_reason if isinstance(library_or_reason, str) else None


@cache
def _library() -> ctypes.CDLL | str:
    try:
        with _folder() as folder:
            return ctypes.CDLL(str(_compiled(folder)))
    except (CompilerError, OSError, subprocess.SubprocessError) as error:
        return str(error)


def _compiled(folder: Path) -> Path:
    compiler = _compiler()
    source = (resources.files("finetune.attention.kernels.native") / "native.c").read_text(encoding="utf-8")
    flags = [*FLAGS, *_machine_flags()]
    digest = hashlib.sha256("\0".join([source, *compiler, *flags, _processor()]).encode()).hexdigest()[:16]
    target = folder / f"native-{digest}.so"
    if not (target.is_file() and is_own(target)):
        _compile(compiler, flags, source, target)
    return target


def _compiler() -> list[str]:
    """$CC, or the first C compiler there is."""
    if chosen := os.environ.get("CC"):
        try:
            return shlex.split(chosen)
        except ValueError as error:
            raise CompilerError(f"CC={chosen} cannot be read ({error})") from error
    for name in ("gcc", "cc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise CompilerError("there is no C compiler (gcc, cc or clang; CC names another)")


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


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of this user's alone, for what lies there is loaded; a temporary one where there is none.

    What has been loaded stays in memory, so a temporary folder goes at once.
    """
    folder = cache_folder() / f"native-{os.getuid() if hasattr(os, 'getuid') else 0}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = is_own(folder, sticky=False) and is_safe(folder.absolute()) and os.access(folder, os.W_OK)
    except OSError:  # a home that cannot be written to
        usable = False
    if usable:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="finetune-native-") as temporary:
            yield Path(temporary)


def is_safe(path: Path) -> bool:
    """Whether nobody but this user and the system can put something else in the place of ``path``.

    That goes for each folder on the way to it, and on the way to where a link among them leads.
    """
    for part in [*reversed(path.parents), path]:
        if part.is_symlink():
            owner = part.lstat().st_uid
            if owner not in (0, os.getuid()) or not is_safe(part.parent / part.readlink()):
                return False
        elif not is_own(part):
            return False
    return True


def is_own(path: Path, sticky: bool = True) -> bool:
    """Whether ``path`` is this user's or the system's own, no link, and not writable by others.

    ``sticky`` lets folders pass in which everybody may remove what is theirs alone, as in /tmp. A group that
    is called as its user is that user's alone, as on most systems.
    """
    about = path.lstat()
    others = stat.S_IWOTH if _is_private(about.st_gid) else stat.S_IWOTH | stat.S_IWGRP
    shared = bool(about.st_mode & others) and not (sticky and about.st_mode & stat.S_ISVTX)
    return about.st_uid in (0, os.getuid()) and not shared and not path.is_symlink()


def _is_private(group: int) -> bool:
    """Whether a group is its one user's own; root's counts as such."""
    try:
        entry = grp.getgrgid(group)
        return entry.gr_name == pwd.getpwuid(os.getuid()).pw_name and not entry.gr_mem
    except KeyError:  # of a container that knows no names
        return False


def _compile(compiler: list[str], flags: list[str], source: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        file, compiled, linked = (str(Path(scratch, f"native.{end}")) for end in ("c", "o", "so"))
        Path(file).write_text(source, encoding="utf-8")
        # Linked without an OpenMP of its own: it takes torch's, and so torch's threads.
        for command in ([*flags, file, "-o", compiled], ["-shared", compiled, "-o", linked]):
            result = subprocess.run(
                [*compiler, *command], capture_output=True, text=True, check=False, timeout=120
            )
            if result.returncode:
                first = (result.stderr.strip().splitlines() or ["no message"])[0]
                raise CompilerError(f"{compiler[0]} does not compile it ({first})")
        os.replace(linked, target)  # at once: another process may be doing the same
