"""Diagnostics and learning curves as a run leaves them, made up: what the reports are tested on."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import loading
from finetune.metrics.perplexity import perplexity_metrics
from finetune.records import store
from finetune.report.plots.drawing import Drawing
from finetune.report.plots.figures import Plot
from tests.support.records import folder_of, started

FILE = "diagnostics.json"


def layer(number: int, step: int, variant: str, kind: str = "encoder") -> dict[str, Any]:
    """One attention call of a model whose scores grow as it learns."""
    grown = 1 - math.exp(-step / 60)
    kept = 1.0 if variant == "softmax" else 0.6 + 0.3 * grown
    size = {"softmax": 1.0, "sa-softmax": 1.5, "sa-softmax-raw": 2.5}[variant]
    norms = {"query": 0.01, "key": 0.012, "value": 0.2, "output": 0.15}
    spread = [0.0, -0.1, -0.05, 0.0, 0.03, 0.06, 0.1] if variant != "softmax" else [0.0] * 7
    reach = {"softmax": 1.0, "sa-softmax": 3.0, "sa-softmax-raw": 9.0}
    return {
        "layer": number,
        "module": f"bert.encoder.layer.{number}.attention.self",
        "kind": kind,
        "gradient": {name: size * norm * 1.4**number * (1.2 - grown) for name, norm in norms.items()},
        "weights": {
            "above": (0.01 + 0.04 * grown * (number + 1)) / size,
            "below": 0.3 + 0.1 * grown,
            "entropy": 2.5 - grown / size - 0.1 * number,
            "negative": 0.2 if variant == "sa-softmax-raw" else 0.0,
        },
        "row_sum": {"mean": kept, "sd": 0.02, "quantiles": [kept + s for s in spread]},
        "score": {"min": -3.0, "max": 4.0, "range": 5.0 + 3 * grown * size},
        "reach": {
            name: {"saturated": 1e-7 * size * (1.1 - grown), "suppressed": 3e-6 * size, "all": 1e-5 * size}
            for name, size in reach.items()
        },
        "counts": {"saturated": 40 + number, "suppressed": 900, "faint": 80, "all": 4000},
        "norm": {
            name: {"saturated": 1e-6 * size, "suppressed": 2e-5 * size, "faint": None, "all": 1e-4 * size}
            for name, size in reach.items()
        },
        "extent": {"rows": 400, "single": 2, "narrow": 4, "narrow_single": 1, "least": 2.5e-4 * (1 + number)},
        "largest": {name: 1e-3 * size for name, size in reach.items()},
        "by_keys": [
            {"start": start, "rows": 10, "row_sum": kept, "entropy": 2.0, "to_softmax": (1 - kept) / 2}
            for start in (2, 4, 8, 16)
        ],
        "by_distance": [
            {
                "start": start,
                "keys": 100,
                "rows": 50,
                "weight": kept / 5,
                "softmax": 0.2,
                "entropy": 0.5,
                "reach": {name: 1e-6 * size / (1 + start) for name, size in reach.items()},
                "bias": -0.1 * start,
            }
            for start in (0, 1, 2, 4, 8)
        ],
        "learned": {"p": [1.0 + grown, 0.5], "c": [0.1]},
    }


def diagnostics(variant: str, steps: Sequence[int] = (0, 20, 60, 120), layers: int = 3) -> dict[str, Any]:
    """The whole file of a run."""
    return {
        "schema": "finetune-diagnostics",
        "version": 1,
        "variant": variant,
        "rows": 16,
        "saturated": 0.99,
        "suppressed": 0.01,
        "faint": 0.01,
        "narrow": 1e-3,
        "total_steps": max(steps),
        "samples": [
            {"step": step, "layers": [layer(n, step, variant) for n in range(layers)]} for step in steps
        ],
    }


def curve(seed: int, rate: float = 40.0, steps: int = 120, metric: str = "accuracy") -> list[dict[str, Any]]:
    """Trainer's log: the loss every 10 steps, an evaluation every 40."""
    log: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        loss = 0.3 + math.exp(-step / rate) + 0.02 * math.sin(step + seed)
        log.append({"loss": loss, "grad_norm": 1.0, "step": step, "epoch": step / 40})
        if step % 40 == 0:
            log.append({"eval_loss": loss + 0.05, f"eval_{metric}": 0.9 - loss / 8, "step": step})
    return log


def enrich(folder: Path, *, looked_at: bool = True) -> None:
    """Gives the run in ``folder`` a curve and diagnostics."""
    entry = store.read(folder)
    variant = entry["config"]["attention"]["variant"]
    metric = "accuracy" if entry["task"]["kind"] == "classification" else "bleu"
    entry["curve"] = curve(entry["config"]["seed"], 40.0 if variant == "softmax" else 34.0, metric=metric)
    if looked_at:
        entry["diagnostics"] = FILE
        (folder / FILE).write_text(json.dumps(diagnostics(variant)))
    store.write(folder, entry)


LENGTHS = (64, 128, 256, 512)  # those of the preset, which trains at 128
GAIN = {"softmax": 0.0, "sa-softmax": -0.03, "sa-softmax-raw": 0.05}  # nats a token, at the training length
SLOPE = {"own": 0.05, "kerple": -0.02, "alibi": -0.01}  # nats a token more with every doubling of the length


def documents(
    variant: str, seed: int, position: str = "own", count: int = 12, lengths: Sequence[int] = LENGTHS
) -> list[dict[str, Any]]:
    """Rows of a language model's predictions: documents of unequal size, the last too short for a length."""
    shared, mine = random.Random("documents"), random.Random(f"{variant} {seed} {position}")
    gain = GAIN[variant] * (2.0 if position == "kerple" else 1.0) + mine.gauss(0, 0.003)
    rows = []
    for row in range(count):
        tokens = round(3000 * math.exp(shared.gauss(0, 0.6)))
        mean = 4.9 + shared.gauss(0, 0.2) + gain + mine.gauss(0, 0.005)
        by_length = {
            str(length): [256 * (mean + SLOPE[position] * (1.0 + gain) * math.log2(length / 128)), 256]
            for length in lengths
        }
        rows.append(
            {
                "row": row,
                "document": f"book {row}",
                "nats": mean * tokens,
                "tokens": tokens,
                "bytes": 4 * tokens,
                "words": round(0.7 * tokens),
                "by_length": by_length if row < count - 1 else {},
            }
        )
    return rows


def save_language_model(
    root: Path,
    variant: str,
    seed: int,
    position: str = "own",
    *,
    rows: list[dict[str, Any]] | None = None,
    **over: Any,
) -> Path:
    """A finished run of a causal language model, with predictions by document."""
    model = {"position": position} if position != "own" else {}
    entry = started(
        variant,
        seed,
        **loading.merge({"kind": "causal", "task": "books", "pair": None, "model": model}, over),
    )
    rows = documents(variant, seed, position) if rows is None else rows
    folder = folder_of(root, entry)
    store.write_predictions(folder, rows)
    how: dict[str, Any] = {"tokenizer": "0123abcd", "length": 128, "stride": None, "scored_tokens": 32}
    entry["metrics"] = perplexity_metrics(rows, **how, eval_lengths=LENGTHS, test_windows=None)
    entry["status"], entry["finished"], entry["predictions"] = "finished", store.now(), store.PREDICTIONS
    entry["times"] = {"train_s": 60.0 + seed, "predict_s": 5.0, "total_s": 70.0}
    entry["peak_memory_mib"] = 900.0
    entry["curve"] = curve(seed, metric="perplexity")
    store.write(folder, entry)
    return folder


def undrawn(key: str, heading: str, label: str, caption: str, *_: object, **__: object) -> Plot:
    """A plot without anything in it, in place of ``figures.draw``."""
    return Plot(Drawing(key, heading, label, 1, 1, (), ()), caption)
