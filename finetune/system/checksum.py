"""The SHA-256 of a file, by which a cache, a manifest and a base model are known again."""

import hashlib
from pathlib import Path


def sha256(file: Path) -> str:
    """64 hexadecimal digits over the bytes of ``file``, which is read in pieces; raises ``OSError``."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
