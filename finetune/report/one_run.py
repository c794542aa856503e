"""One run for a reader at a terminal: what it was, what it scored, what it cost, and what to type next."""

import json
import math
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune.config.identity import flatten
from finetune.config.loading import preset_names, read_preset
from finetune.data.synthetic import STAMP
from finetune.metrics import registry
from finetune.records import store
from finetune.records.run import Run
from finetune.report import run_list, words
from finetune.system import hints
from finetune.system.sheet import Sheet
from finetune.system.text import clean

POINTS = 5
"""Evaluations of a curve that are shown, of as many as there are."""
NAMES = ("kind", "task", "pair", "seed", "attention.variant", "attention.file")
"""How keys begin that no preset has: the heading names them."""


def text(run: Run, now: datetime, width: float = math.inf) -> str:
    """What the record of a run says, block by block."""
    sheet = Sheet(width)
    since = run_list.age((now - run_list.last_change(run)).total_seconds())
    heading = f"{run.variant} on {run.title}, {run.model}, seed {run.seed}: {run_list.status(run)}, {since}"
    blocks: dict[str, list[str]] = {
        "": [heading, *([STAMP] if run.sample else []), str(run.folder)],
        "why": [run.reason] if run.reason else [],
        "configuration": configuration(run),
        "scores": scores(run),
        "data": _facts({
            "rows from": ", ".join(str(run.data[key]) for key in ("kind", "location") if run.data.get(key)),
            "revision": run.data.get("revision"),
            **{name: f"{split['rows']:,} rows, {split['fingerprint']}" for name, split in run.splits.items()},
        }),
        "model": model(run),
        "attention": attention(run),
        "cost": _facts({
            "training": words.duration(run.train_s),
            "in all": words.duration(run.total_s),
            "peak memory": words.memory(run.peak_memory_mib),
            "tokens trained on": words.speed(run.tokens_per_s),
            "share of the device's peak": words.share(run.mfu),
            "on": run.hardware,
            "commit": run.commit,
        }),
        "files": files(run),
        "next": next_steps(run),
    }  # fmt: skip
    parts = []
    for name, lines in blocks.items():
        if lines:
            mark = "  " if name else ""
            # A command is copied, and stays on one line.
            shown = [mark + line if name == "next" else sheet.prose(clean(line), mark) for line in lines]
            parts.append("\n".join([name, *shown] if name else shown))
        if name == "scores" and (curve := curve_rows(run)):
            parts.append(f"curve\n{sheet.table(curve, 'r', keys=1)}")
    return "\n\n".join(parts)


def _facts(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {value}" for name, value in values.items() if value not in (None, "")]


def configuration(run: Run) -> list[str]:
    """The keys in which a run differs from the preset that is nearest to it."""
    mine = {key: value for key, value in flatten(run.config).items() if not key.startswith(NAMES)}
    found: dict[str, dict[str, Any]] = {}
    for name in preset_names(run.kind):
        preset = flatten(read_preset(run.kind, name))
        found[name] = {key: preset.get(key) for key in mine if preset.get(key) != mine[key]}
    if not found:
        return [f"{key}: {_value(value)}" for key, value in mine.items()]
    nearest = min(found, key=lambda name: len(found[name]))
    lines = [f"{key}: {_value(mine[key])} (preset: {_value(usual)})" for key, usual in found[nearest].items()]
    return [f"as the preset {nearest}{', but for' if lines else ''}", *lines]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def scores(run: Run) -> list[str]:
    """Every metric on the test split with its signature, and the primary one before training.

    Of a trial of a tuning, which is given no test row, they are of validation rows.
    """
    lines = ["on validation rows: a trial of a tuning has no test rows"] if run.trial and run.metrics else []
    for name, value in run.metrics.items():
        signature = run.scores[name].get("signature")
        lines.append(
            f"{registry.get(name).title} {registry.get(name).text(value)}"
            + f" ({signature})" * bool(signature)
        )
    if lines and run.untrained is not None:
        untrained = run.record["untrained"] or {}
        where = f"on {untrained['rows']:,} {untrained['split']} rows"
        lines.append(f"before training {run.metric.title} {run.metric.text(run.untrained)} {where}")
    return lines


def curve_rows(run: Run) -> list[list[str]]:
    """A table of the curve: the loss and what was evaluated, at a few steps from the first to the last."""
    loss, score = run.curve("eval_loss"), run.curve(f"eval_{run.metric.name}")
    trained = run.curve("loss")
    steps = sorted(loss.keys() | score.keys()) or sorted(trained)
    if not steps:
        return []
    chosen = sorted({steps[round(i * (len(steps) - 1) / max(1, POINTS - 1))] for i in range(POINTS)})
    before = {step: max((each for each in trained if each <= step), default=None) for step in chosen}
    rows = [["step", "train loss", "validation loss", f"validation {run.metric.title}"]]
    for step in chosen:
        at = before[step]
        rows.append([
            str(step),
            "" if at is None else f"{trained[at]:.4g}",
            f"{loss[step]:.4g}" if step in loss else "",
            run.metric.text(score[step]) if step in score else "",
        ])  # fmt: skip
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*kept, strict=True)]


def model(run: Run) -> list[str]:
    """The model that was trained, and what it began from."""
    built = run.record["model"] or {}
    trained, every = built.get("trainable"), built.get("parameters")
    link = run.pretrained
    return _facts({
        "name": run.model,
        "revision": built.get("revision"),
        "architecture": built.get("architecture"),
        "parameters": every and f"{every:,}, of which {trained or 0:,} trained",
        "began from": link and f"{link['variant']} on {link['task']}, seed {link['seed']} ({link['folder']})",
    })  # fmt: skip


def attention(run: Run) -> list[str]:
    """The attention as it was proven to be in the model."""
    swapped, start = run.attention, run.start or {}
    layers = ", ".join(f"{count} {kind}" for kind, count in swapped.get("layers", {}).items())
    parameters = ", ".join(f"{key} {value:g}" for key, value in swapped.get("parameters", {}).items())
    cosine = start.get("cosine")
    return _facts({
        "variant": run.variant,
        "parameters": parameters,
        "layers": layers and f"{layers} of {swapped['total']} attention calls",
        "kernel": run.kernel,
        "dropout": swapped.get("dropout"),
        "start": start.get("kind", "") + (f", cosine with softmax {cosine:.3f}" if cosine else ""),
    })  # fmt: skip


def files(run: Run) -> list[str]:
    """The names of a run's files and folders, and how much the files take."""
    found = [path for path in sorted(run.folder.iterdir()) if not path.name.startswith(".")]
    size = sum(path.stat().st_size for path in found if path.is_file()) / 2**20
    names = ", ".join(f"{path.name}/" if path.is_dir() else path.name for path in found)
    return [f"{names}: {size:.1f} MiB without folders"]


def next_steps(run: Run) -> list[str]:
    """Commands to type next: those that read a finished run, or what goes on with any other."""
    folder, program = shlex.quote(str(run.folder)), hints.program()
    if not run.finished:
        return [run.record["command"] or f"{program} run {folder}/finetune.yaml"]
    if run.trial:  # which is no result, and keeps no model
        return []
    steps = [hints.command("compare", run.folder.parent.parent), f"{program} diagnose {folder}"]
    if not run.sample:
        steps.append(f"{program} push {folder} --to org/name")
    return steps


def read(folder: Path) -> Run:
    """Reads the run in a folder; raises ``UserError``."""
    return Run.checked(folder if folder.suffix != ".json" else folder.parent, store.read(folder))
