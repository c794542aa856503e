"""``finetune bench``: measure, keep the result as JSON, and make tables and figures of it."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from finetune.bench import attention, plot, tables
from finetune.bench.cases import PASSES
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


def measure(chosen: Settings, command: str, keep: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Measure all parts that are asked for. Every figure is in the result, ready for JSON.

    ``command`` is what was typed. Progress goes to the error output, a line a shape. ``keep`` is given the
    result so far after each shape and round; it is ``finished`` when all is measured.
    """
    started, clock = store.now(), time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - clock:4.0f} s] {what}", file=sys.stderr, flush=True)

    result: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "command": command,
        "started": started,
        "finished": False,
        "seconds": 0.0,
        "settings": asdict(chosen),
        "threads": torch.get_num_threads(),
        **environment(chosen.device),
        **dict.fromkeys(PARTS),
    }

    def so_far(name: str, part: dict[str, Any]) -> None:
        result.update({name: part, "seconds": time.monotonic() - clock})
        keep(result)

    # Those that train first, for what is wrong with a model or its data shows at once; transformers takes
    # seconds to import.
    if "steps" in chosen.parts:
        from finetune.bench import steps

        result["steps"] = steps.measure(chosen, say, partial(so_far, "steps"))
    if "pretraining" in chosen.parts:
        from finetune.bench import pretraining

        result["pretraining"] = pretraining.measure(chosen, say, partial(so_far, "pretraining"))
    if "attention" in chosen.parts:
        result["attention"] = attention.measure(chosen, say, partial(so_far, "attention"))
    return result | {"finished": True, "seconds": time.monotonic() - clock}


def keep(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the result and its page, without figures, which take their time; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    file = write_text(folder / FILE, [text, "\n"])
    return [file, write_text(folder / PAGE, [tables.markdown(result)])]


def write(result: Mapping[str, Any], folder: Path, json_too: bool = True) -> list[Path]:
    """Write the result, the page and the figures; the files. ``UserError`` where ``folder`` takes none."""
    files = keep(result, folder)[:1] if json_too else []
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
    result.setdefault("finished", True)  # none was kept before it was
    part = result.get("attention")
    if isinstance(part, dict):
        part.setdefault("peak", None)
    rows = part.get("rows") if isinstance(part, dict) else None
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            for key, why in (("failed", "reason"), ("memory_failed", "memory_reason")):
                row.setdefault(key, any(words in str(row.get(why)) for words in EARLIER_FAULTS))
            for which in PASSES:
                if isinstance(row.get(which), dict):
                    row[which].setdefault("of_peak", None)
            row.setdefault("least_mib", None)
    return result
