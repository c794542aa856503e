"""One local file's bytes: read once, hashed as read, unpacked where its name says so."""

import bz2
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from finetune.errors import UserError

FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")

# First bytes -> the endings that such a file may have, and what it is.
SIGNATURES = {
    b"PAR1": ((".parquet",), "a parquet file"),
    b"ARROW1": ((".arrow", ".feather"), "an Arrow file"),
    b"\x1f\x8b": ((".gz",), "packed with gzip"),
    b"BZh9": ((".bz2",), "packed with bzip2"),
    b"\xfd7zXZ\x00": ((".xz",), "packed with xz"),
    b"\x28\xb5\x2f\xfd": ((".zst",), "packed with zstandard"),
    b"PK\x03\x04": ((".zip",), "a zip archive"),
    b"<!DOCTYPE html": ((), "a web page: the download failed"),
    b"<html": ((), "a web page: the download failed"),
    b"%PDF-": ((), "a PDF"),
}
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Content:
    """The bytes of a file, unpacked. ``facts``: ``name``, ``bytes`` and ``sha256`` of the file itself."""

    data: bytes
    format: str  # one of the values of FORMATS
    facts: dict[str, Any]


def ending(name: str) -> tuple[str, str] | None:
    """``"train.csv.gz"`` -> ``(".csv", ".gz")``; ``None`` where the name is of no format that is read."""
    path = Path(name.lower())
    packing = path.suffix if path.suffix in PACKINGS else ""
    form = Path(path.stem).suffix if packing else path.suffix
    return (form, packing) if form in FORMATS else None


def stem(name: str) -> str:
    """``"train.csv.gz"`` -> ``"train"``: a name of a known format without its endings."""
    known = ending(name)
    return name if known is None else name[: -len("".join(known))]


def read(path: Path, name: str) -> Content:
    """The content of ``path``, which messages and the record call ``name``.

    The bytes that are hashed are those that are parsed. All of a file is held in memory while it is read.
    Raises ``UserError`` for a file that is empty, cannot be unpacked, or is not what its name says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    facts = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    form, packing = ending(path.name) or (".csv", "")
    if data.startswith(LFS_POINTER):
        raise UserError(
            f"the file {path} is a Git LFS pointer and not the data: type git lfs pull in its folder"
        )
    if packing:
        _check_signature(path, data, packing)
        data = _unpacked(path, data, packing)
    if not data:
        raise UserError(f"the file {path} is empty")
    _check_signature(path, data, form)
    return Content(data, FORMATS[form], facts)


def _check_signature(path: Path, data: bytes, form: str) -> None:
    for first, (endings, what) in SIGNATURES.items():
        if data.startswith(first) and form not in endings:
            advice = f"; rename it to end in {endings[0]}" if endings else ""
            raise UserError(f"the file {path} is not {form[1:]}: by its first bytes it is {what}{advice}")


def _unpacked(path: Path, data: bytes, packing: str) -> bytes:
    if not data:
        raise UserError(f"the file {path} is empty")
    try:
        if packing == ".zip":
            return _only_member(path, data)
        if packing == ".zst":
            return bytes(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())
        return {".gz": gzip, ".bz2": bz2, ".xz": lzma}[packing].decompress(data)
    except (
        OSError, EOFError, ValueError, MemoryError, RuntimeError, NotImplementedError,
        zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise UserError(f"cannot unpack {path}: {' '.join(str(error).split()) or 'it is damaged'}") from error


def _only_member(path: Path, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [
            name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")
        ]
        if len(names) != 1:
            raise UserError(f"{path} holds {len(names)} files and not one: unpack it in its folder")
        return archive.read(names[0])
