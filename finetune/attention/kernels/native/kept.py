"""Compiled kernels kept in the user's cache folder, of which whole files of this user's are loaded.

A file is called ``NAME-SHA256.so``: name and content come into being at once, so that a process that reads
while another writes sees the whole file or none, and a cut or damaged one does not fit its name.
"""

import logging
import os
import tempfile
from pathlib import Path

from finetune.attention.kernels.native.levels import file_name
from finetune.system.cache import cache_folder
from finetune.system.ownership import is_own, is_safe

_log = logging.getLogger(__name__)


def folder() -> Path:
    """The folder, made for this user alone; ``OSError`` where there is none that others do not write to."""
    path = (cache_folder() / f"native-{os.getuid()}").absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (is_own(path, sticky=False) and is_safe(path)):
        raise PermissionError(f"others can write to {path}, or put another folder in its place")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written to")
    return path


def find(path: Path, name: str) -> list[Path]:
    """The whole files of this user's under ``name``. One that is not is removed, and that is said."""
    found = []
    for file in sorted(path.glob(f"{name}-*.so")):
        if is_own(file) and is_whole(file, name):
            found.append(file)
        else:
            _log.warning("the compiled attention kernel %s is damaged or not yours, and is made anew", file)
            file.unlink(missing_ok=True)
    return found


def is_whole(file: Path, name: str) -> bool:
    """Whether a file is the one that was written under ``name``."""
    return file.is_file() and file.name == file_name(name, file.read_bytes())


def keep(path: Path, name: str, library: bytes) -> None:
    """Writes a compiled kernel, at once: another process may be doing the same."""
    handle, unfinished = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=path)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(library)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path / file_name(name, library))
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
