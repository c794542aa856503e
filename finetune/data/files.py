"""One local file's bytes: read once, hashed as read, unpacked if it is packed."""

import bz2
import hashlib
import io
import lzma
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from finetune.errors import UserError
from finetune.system.files import refuse_pointer
from finetune.system.text import reason

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
PLAIN = {".txt": "plain", ".text": "plain"}
"""Formats of files that are one text each, and hold no rows."""
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")

MOST = psutil.virtual_memory().total // 2
"""Bytes that a packed file may hold: twice as much, text and table, fits into this machine's memory."""
PIECE = 2**24
"""Bytes that are unpacked at a time."""

# First bytes -> the endings that such a file may have, and the name of its format for messages.
SIGNATURES = {
    b"PAR1": ((".parquet",), "a parquet file"),
    b"ARROW1": ((".arrow", ".feather"), "an Arrow file"),
    b"\x1f\x8b": ((".gz",), "packed with gzip"),
    b"BZh9": ((".bz2",), "packed with bzip2"),
    b"\xfd7zXZ\x00": ((".xz",), "packed with xz"),
    b"\x28\xb5\x2f\xfd": ((".zst",), "packed with zstandard"),
    b"\x04\x22\x4d\x18": ((), "packed with LZ4: unpack it"),
    b"PK\x03\x04": ((".zip",), "a zip archive, or a sheet of Excel: unpack it, or save it as CSV"),
    b"\xd0\xcf\x11\xe0": ((), "a sheet of an old Excel: save it as CSV"),
    b"SQLite format 3\x00": ((), "a database of SQLite: save its rows as CSV"),
    b"\x89HDF": ((), "an HDF5 file: save its rows as parquet"),
    b"%PDF-": ((), "a PDF"),
}
# The same of text, in small letters, after blanks.
MARKUP = {
    b"<!doctype html": "a web page: the download failed",
    b"<html": "a web page: the download failed",
    b"<?xml": "XML: save its rows as CSV or JSON lines",
}
DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


@dataclass(frozen=True)
class Content:
    """The bytes of a file, unpacked. ``facts``: ``name``, ``bytes`` and ``sha256`` of the file itself."""

    data: bytes
    format: str  # one of the values of FORMATS and PLAIN
    facts: dict[str, Any]


def ending(name: str, formats: Mapping[str, str] = FORMATS) -> tuple[str, str] | None:
    """``"train.csv.gz"`` -> ``(".csv", ".gz")``; ``None`` where the name is of none of ``formats``."""
    path = Path(name.lower())
    packing = path.suffix if path.suffix in PACKINGS else ""
    form = Path(path.stem).suffix if packing else path.suffix
    return (form, packing) if form in formats else None


def stem(name: str, formats: Mapping[str, str] = FORMATS) -> str:
    """``"train.csv.gz"`` -> ``"train"``: a name of a known format without its endings."""
    known = ending(name, formats)
    return name if known is None else name[: -len("".join(known))]


def read(path: Path, name: str) -> Content:
    """The content of ``path``, which messages and the record call ``name``; all of it is held in memory.

    The bytes that are hashed are those that are parsed.
    Raises ``UserError`` for a file that is empty, cannot be unpacked, or is not what its name says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    facts = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    known = FORMATS | PLAIN
    form, packing = ending(path.name, known) or (".csv", "")
    if packing:
        _check_signature(path, data, packing)
        data = _unpacked(path, data, packing)
    if not data:
        raise UserError(f"the file {path} is empty")
    _check_signature(path, data, form)
    return Content(data, known[form], facts)


def _check_signature(path: Path, data: bytes, form: str) -> None:
    """Refuses a file whose first bytes belong to another format than its name."""
    refuse_pointer(path, data.removeprefix(BOM_UTF8))
    actual = next((
        f"{what}; rename it to end in {endings[0]}" if endings and ":" not in what else what
        for signature, (endings, what) in SIGNATURES.items()
        if data.startswith(signature) and form not in endings
    ), None)  # fmt: skip
    beginning = data[:64].removeprefix(BOM_UTF8).lstrip().lower()
    actual = actual or next((what for mark, what in MARKUP.items() if beginning.startswith(mark)), None)
    if actual:
        raise UserError(f"the file {path} is not {form[1:]}: by its first bytes it is {actual}")


def _unpacked(path: Path, data: bytes, packing: str) -> bytes:
    """The content of a packed file. Raises ``UserError`` where it is damaged or too large."""
    if not data:
        raise UserError(f"the file {path} is empty")
    try:
        if packing == ".zip":
            content = _only_member(path, data)
        elif packing == ".zst":
            content = _at_most(pa.CompressedInputStream(pa.BufferReader(data), "zstd"))
        else:
            content = _all_streams(DECOMPRESSORS[packing], data)
    except (
        OSError, EOFError, ValueError, MemoryError, RuntimeError, NotImplementedError,
        zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise UserError(f"cannot unpack {path}: {reason(error)}") from error
    if len(content) > MOST:
        raise UserError(
            f"{path} holds more than {MOST / 2**30:,.1f} GiB unpacked, too much for this machine's memory: "
            "save its rows as parquet, in shards"
        )
    return content


def _at_most(stream: Any) -> bytes:
    """At most ``MOST`` bytes of a stream and one more, which shows that there are too many."""
    content = bytearray()
    # Piece by piece: Arrow asks the system for all the memory that one call may fill.
    while len(content) <= MOST and (piece := stream.read(PIECE)):
        content += piece
    return bytes(content)


def _all_streams(opened: Callable[[], Any], data: bytes) -> bytes:
    """The content of all streams that lie one behind the other, at most ``MOST`` bytes and one more.

    Raises ``EOFError`` for a stream that is cut off.
    """
    content = bytearray()
    # By hand, as the one-shot functions of bz2 and lzma drop what they cannot read behind the first stream.
    while data and len(content) <= MOST:
        stream = opened()
        content += stream.decompress(data, MOST + 1 - len(content))
        if len(content) <= MOST and not stream.eof:
            raise EOFError("it is cut off: its end is missing")
        data = stream.unused_data.lstrip(b"\0")  # tapes are padded with zeros
    return bytes(content)


def _only_member(path: Path, data: bytes) -> bytes:
    """The one file of an archive, but for what desktops add to it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [
            entry for entry in archive.infolist()
            if not entry.is_dir() and not Path(entry.filename).name.startswith(".")
            and not entry.filename.startswith("__MACOSX")
        ]  # fmt: skip
        if len(members) != 1:
            raise UserError(f"{path} holds {len(members)} files and not one: unpack it in its folder")
        inner, outer = ending(members[0].filename), ending(path.name)
        if inner and outer and inner[0] != outer[0]:
            raise UserError(f"{path} holds {members[0].filename}, which is no {outer[0][1:]}: unpack it")
        with archive.open(members[0].filename) as stream:
            return _at_most(stream)
