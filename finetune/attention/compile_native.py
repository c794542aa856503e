"""``native.c`` -> a shared library, compiled once for this machine and kept in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

from finetune.folders import cache_folder

FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-fopenmp", "-c"]


class CompilerError(Exception):
    """There is no native kernel on this machine; the message says why, in a few words."""


def library() -> ctypes.CDLL:
    """The compiled kernel; ``CompilerError`` where it cannot be had. Tried once a process."""
    found = _library()
    if isinstance(found, str):
        raise CompilerError(found)
    return found


def why_not() -> str | None:
    """Why there is no native kernel on this machine; None where there is one."""
    found = _library()
    return found if isinstance(found, str) else None


@cache
def _library() -> ctypes.CDLL | str:
    try:
        return ctypes.CDLL(str(_compiled()))
    except (CompilerError, OSError, subprocess.SubprocessError) as error:
        return str(error)


def _compiled() -> Path:
    compiler = _compiler()
    source = (resources.files("finetune.attention") / "native.c").read_text(encoding="utf-8")
    flags = [*FLAGS, *_machine_flags()]
    digest = hashlib.sha256("\0".join([source, *compiler, *flags, _processor()]).encode()).hexdigest()[:16]
    target = _folder() / f"native-{digest}.so"
    if not target.exists():
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


def _folder() -> Path:
    """A folder of this user's alone, for what lies there is loaded; a temporary one where there is none."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = cache_folder() / f"native-{user}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid == user and not about.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except OSError:  # a home that cannot be written to
        pass
    return Path(tempfile.mkdtemp(prefix="finetune-native-"))


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
