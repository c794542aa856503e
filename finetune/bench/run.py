"""``finetune bench``: measure, keep the result as JSON, and make tables and figures of it."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from finetune.bench import attention, plot, tables
from finetune.bench.settings import PARTS, Settings
from finetune.bench.shape import SHAPE
from finetune.errors import UserError
from finetune.records import store
from finetune.system.environment import environment
from finetune.system.files import write_text
from finetune.system.parsing import UnreadableError, fitted, read_json

FILE, PAGE = "bench.json", "bench.md"
SCHEMA, VERSION = "finetune-bench", 1
EARLIER_FAULTS = ("failed: ", "it fails on ", " is wrong on ")


def measure(chosen: Settings, command: str) -> dict[str, Any]:
    """Measure all parts that are asked for. Every figure is in the result, ready for JSON.

    ``command`` is what was typed. Progress goes to the error output, a line a shape.
    """
    started, clock = store.now(), time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - clock:4.0f} s] {what}", file=sys.stderr, flush=True)

    parts: dict[str, Any] = dict.fromkeys(PARTS)
    # Those that train first, for what is wrong with a model or its data shows at once; transformers takes
    # seconds to import.
    if "steps" in chosen.parts:
        from finetune.bench import steps

        parts["steps"] = steps.measure(chosen, say)
    if "pretraining" in chosen.parts:
        from finetune.bench import pretraining

        parts["pretraining"] = pretraining.measure(chosen, say)
    if "attention" in chosen.parts:
        parts["attention"] = attention.measure(chosen, say)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "command": command,
        "started": started,
        "seconds": time.monotonic() - clock,
        "settings": asdict(chosen),
        "threads": torch.get_num_threads(),
        **environment(chosen.device),
        **parts,
    }


def write(result: Mapping[str, Any], folder: Path, json_too: bool = True) -> list[Path]:
    """Write the result, the page and the figures; the files. ``UserError`` where ``folder`` takes none."""
    files = []
    if json_too:
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        files.append(write_text(folder / FILE, [text, "\n"]))
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plot.draw(result, folder)
    shown = [path.name for path in drawn if path.suffix == ".svg"]
    page = write_text(folder / PAGE, [tables.markdown(result, shown)])
    return [*files, page, *drawn]


def check(folder: Path) -> Path:
    """``folder`` if it can be written to; ``UserError`` if not, before anything is measured."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(
            f"cannot write to {folder}: {place} is no folder that takes files; choose another --output"
        )
    return folder


def read(path: Path) -> dict[str, Any]:
    """A result that ``write`` has written; ``UserError`` for anything else."""
    file = path / FILE if path.is_dir() else path
    result = read_json(file, "", f"--from takes the {FILE} of an earlier measurement")
    if not isinstance(result, dict) or (result.get("schema"), result.get("version")) != (SCHEMA, VERSION):
        raise UserError(f"{file} is no result of this version of finetune bench: measure anew")
    try:
        fitted(SHAPE, _upgraded(result))
    except UnreadableError as error:
        raise UserError(f"{file} is {error}: measure anew") from error
    return result


def _upgraded(result: dict[str, Any]) -> dict[str, Any]:
    """Adds in place what a result of before lacks: a part, and which figures failed, by their reasons."""
    result.setdefault("pretraining", None)
    part = result.get("attention")
    rows = part.get("rows") if isinstance(part, dict) else None
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            for key, why in (("failed", "reason"), ("memory_failed", "memory_reason")):
                row.setdefault(key, any(words in str(row.get(why)) for words in EARLIER_FAULTS))
    return result
