"""manifest.json, written last: lists the files of a run or a checkpoint, to detect missing and cut ones."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12

from finetune.system.checksum import sha256
from finetune.system.files import write_text

FILE = "manifest.json"
WEIGHTS = ".safetensors"
QUICK = 16 * 2**20
"""Bytes of the largest file that a quick look reads: predictions and tokenizers, not the weights."""


class Entry(TypedDict):
    """One file: its size in bytes and its SHA-256."""

    size: int
    sha256: str


class Manifest(TypedDict):
    """The whole file. ``run`` names the run that the files belong to; ``files`` are by relative path."""

    run: str
    files: dict[str, Entry]


_SHAPE = TypeAdapter(Manifest)


def write(folder: Path, run: str, files: Iterable[Path]) -> Path:
    """Writes ``folder/manifest.json`` of ``files`` in it, wholly or not at all; raises ``UserError``."""
    entries = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(files)
    }
    return write_text(folder / FILE, [json.dumps({"run": run, "files": entries}, indent=1), "\n"])


def fault(folder: Path, run: str | None = None, largest: float = math.inf) -> str | None:
    """Says why ``folder`` is not whole; ``None`` where it is.

    It must belong to ``run`` if one is given; of files above ``largest`` bytes only the size is held.
    """
    try:
        kept = _SHAPE.validate_json((folder / FILE).read_bytes(), strict=True)
    except FileNotFoundError:
        return f"it has no {FILE}: it was not written to its end, or by an earlier version"
    except (OSError, ValidationError):
        return f"its {FILE} is damaged"
    if run is not None and kept["run"] != run:
        return "it is of another run or base model"
    faults = (_fault_of_file(folder / name, name, entry, largest) for name, entry in kept["files"].items())
    return next((fault for fault in faults if fault), None)


def checksums(folder: Path) -> dict[str, str]:
    """Reads the SHA-256 of each file of a whole ``folder``; empty for one without a manifest."""
    if not (folder / FILE).is_file():
        return {}
    files = _SHAPE.validate_json((folder / FILE).read_bytes())["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


def strangers(folder: Path) -> list[Path]:
    """Lists the files in a whole ``folder`` that its manifest does not name, but for hidden ones.

    Of hidden ones it lists weights, which torch's reader of shared out checkpoints takes as any other.
    """
    known = {*_SHAPE.validate_json((folder / FILE).read_bytes())["files"], FILE}
    read = (path for path in sorted(folder.rglob("*")) if path.name[0] != "." or path.suffix == WEIGHTS)
    files = (path for path in read if path.is_file())
    return [file for file in files if file.relative_to(folder).as_posix() not in known]


def finished_fault(folder: Path, largest: float = QUICK) -> str | None:
    """Says which file a finished run lacks; not of a run without a manifest, of an earlier version."""
    return fault(folder, largest=largest) if (folder / FILE).exists() else None


def _fault_of_file(file: Path, name: str, entry: Entry, largest: float) -> str | None:
    try:
        if not file.is_file():
            return f"its {name} is missing"
        if (size := file.stat().st_size) != entry["size"]:
            return f"its {name} has {size} bytes instead of {entry['size']}"
        # Weights are too large for a quick look at every run of a study to read.
        if size <= largest and sha256(file) != entry["sha256"]:
            return f"its {name} is not what was written"
    except OSError as error:
        return f"its {name} cannot be read ({error.strerror})"
    return None
