"""Whether a study that was made twice, by two engines, left the same runs."""

import json
from pathlib import Path
from typing import Any

from finetune.config.identity import flatten
from finetune.records import store

OWN = ("started", "finished", "times", "peak_memory_mib", "command", "hardware")
"""What each attempt at a run has of its own: when and where it was made."""
SPEEDS = ("_runtime", "_per_second")
"""How names end of what Trainer measures of its own speed, along the curve."""
FILES = ("predictions.jsonl", "probabilities.parquet", "diagnostics.json", "model.safetensors")


def differing(one: Path, other: Path) -> dict[str, list[str]]:
    """Run -> the keys of its record and the names of its files that are not the same below both roots.

    Runs that are the same are left out; of one that is there once, the difference is its record.
    """
    folders = {file.parent.relative_to(root) for root in (one, other) for file in root.rglob(store.FILE)}
    found = {folder.as_posix(): _unlike(one / folder, other / folder) for folder in sorted(folders)}
    return {name: keys for name, keys in found.items() if keys}


def _unlike(one: Path, other: Path) -> list[str]:
    if not ((one / store.FILE).is_file() and (other / store.FILE).is_file()):
        return [store.FILE]
    mine, theirs = _comparable(one), _comparable(other)
    keys = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    return keys + [name for name in FILES if _content(one / name) != _content(other / name)]


def _comparable(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / store.FILE).read_text(encoding="utf-8"))
    points = record.get("curve") or []
    record["curve"] = [{key: point[key] for key in point if not key.endswith(SPEEDS)} for point in points]
    return flatten({key: value for key, value in record.items() if key not in OWN})


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
