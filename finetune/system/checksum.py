"""SHA-256 of files: identifies the files of a cache, a manifest and a base model."""

import hashlib
from pathlib import Path


def sha256(file: Path) -> str:
    """The SHA-256 of ``file`` as 64 hexadecimal digits, read in pieces; raises ``OSError``."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
