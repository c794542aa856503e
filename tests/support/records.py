"""Run folders as a finished run leaves them, with chosen predictions: what the comparison is tested on."""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from finetune.comparison.caveats import HALF
from finetune.config import build, folders, loading
from finetune.config.schema import RunConfig
from finetune.metrics.scorers import bleu_scorer
from finetune.records import store
from finetune.system import environment
from finetune.tasks import TASK_TYPES

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "red", "small", ",", "."]


_environment = cache(environment.environment)  # asks git and a dozen packages, each time


@cache
def _preset(kind: str) -> dict[str, Any]:
    return loading.read_preset(kind, "quick")


def run_config(variant: str = "softmax", seed: int = 0, **over: Any) -> RunConfig:
    """A whole configuration from the shipped preset; ``over`` lays nested values on it."""
    kind = over.get("kind", "classification")
    values = {
        key: value
        for key, value in _preset(kind if kind in TASK_TYPES else "classification").items()
        if key not in ("variants", "seeds")
    }
    task = {"task": "agnews", "pair": None} if kind == "classification" else {"task": "toy", "pair": "de-en"}
    chosen = {"kind": kind, "seed": seed, "attention": {"variant": variant}} | task
    return build.build(loading.merge(loading.merge(values, chosen), over))


def correctness(rows: int, accuracy: float, seed: int) -> list[bool]:
    """Which of ``rows`` are right, the given share of them."""
    right = [i < round(accuracy * rows) for i in range(rows)]
    random.Random(seed).shuffle(right)
    return right


def translations(rows: int, noise: float, seed: int) -> list[dict[str, Any]]:
    """Rows whose predictions have a share of ``noise`` wrong words; references are always the same."""
    truth, wrong = random.Random(0), random.Random(f"{noise} {seed}")
    lines = []
    for row in range(rows):
        reference = [truth.choice(WORDS) for _ in range(truth.randint(5, 12))]
        prediction = [wrong.choice(WORDS) if wrong.random() < noise else word for word in reference]
        lines.append({"row": row, "reference": " ".join(reference), "prediction": " ".join(prediction)})
    return lines


def classified(right: Sequence[bool]) -> list[dict[str, Any]]:
    """Makes prediction rows that are right where ``right`` says so."""
    return [{"row": i, "label": i % 4, "prediction": (i + (not ok)) % 4} for i, ok in enumerate(right)]


def started(
    variant: str, seed: int, *, sample: bool = False, fingerprint: str = "f" * 16, **over: Any
) -> store.Record:
    """The record of a run that has its data and its model, and no result yet."""
    source = {"data": {"source": "sample" if sample else "local"}}
    config = run_config(variant, seed, **loading.merge(source, over))
    task = {"labels": LABELS} if config.kind == "classification" else {}
    command = f"finetune classify --attention {variant} --seeds {seed}"
    with patch.object(store, "environment", _environment):
        entry = store.new(config, command=command, task=task)
    entry["git"] = None  # of these tests, which may or may not run in a checkout
    splits = {"train": {"rows": 100, "fingerprint": "a" * 16, "from": "train"}}
    splits["test"] = {"rows": 100, "fingerprint": fingerprint, "from": "test"}
    place = "built-in" if sample else "data/agnews"
    entry["data"] = {
        "kind": "sample" if sample else "local",
        "location": place,
        "revision": None,
        "sample": sample,
        "splits": splits,
    }
    entry["model"] = {
        "name": config.model.name,
        "revision": None,
        "architecture": "Bert",
        "initial_weights": f"{seed:016x}",
    }
    entry["computed"] = computed(config)
    entry["attention"] = {
        "variant": variant,
        "parameters": {} if variant == "softmax" else {"eps": 1e-6},
        "scope": config.attention.scope,
        "kernel": "sdpa" if variant == "softmax" else "reference",
        "layers": {"encoder": 2},
        "total": 2,
        "dropout": 0.1,
    }
    return entry


def computed(config: RunConfig) -> dict[str, Any]:
    """What a run on a CPU computes with, as it is read back."""
    kind = next((name for key, name in HALF.items() if config.train.get(key) is True), "float32")
    settings = {"lr": config.train.get("learning_rate"), "weight_decay": 0.01, "betas": [0.9, 0.999]}
    return {
        "device": "cpu",
        "precision": {"mixed": "no", "products": kind, "weights": ["float32"]},
        "optimizer": {"class": "torch.optim.adamw.AdamW", "groups": [settings]},
        "scheduler": {"class": "torch.optim.lr_scheduler.LambdaLR", "rule": "linear", "steps": 100},
        "batch": {"rows": 32, "accumulated": 1, "total": 32, "sampler": "EpochSampler"},
        "parallelism": {"distributed": "NO", "processes": 1, "devices": 1},
        "attention": {"kernels": {}, "sdpa": ["math"]},
    }


def finish(entry: store.Record, rows: list[dict[str, Any]]) -> store.Record:
    """Gives ``entry`` the metrics of its predictions."""
    if entry["task"]["kind"] == "classification":
        value = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
        entry["metrics"] = {
            "accuracy": {"value": value, "signature": "accuracy|scikit-learn:1.9.1"},
            "macro_f1": {"value": value - 0.01, "signature": "macro_f1"},
            "per_class": {},
        }
    else:
        scorer = bleu_scorer("13a")
        texts = [[row[key] for row in rows] for key in ("prediction", "reference")]
        value = scorer.corpus_score(texts[0], [texts[1]]).score
        entry["metrics"] = {"bleu": {"value": value, "signature": f"bleu|{scorer.get_signature()}"}}
    entry["status"], entry["finished"] = "finished", store.now()
    entry["times"] = {"train_s": 60.0 + entry["config"]["seed"], "predict_s": 5.0, "total_s": 70.0}
    entry["peak_memory_mib"] = 900.0
    entry["predictions"] = store.PREDICTIONS
    return entry


def folder_of(root: Path, entry: store.Record) -> Path:
    return folders.run_folder(root, build.build(entry["config"]))


def save(root: Path, entry: store.Record, rows: list[dict[str, Any]] | None = None) -> Path:
    """Writes ``entry``, finished with ``rows`` where they are given; returns its folder."""
    folder = folder_of(root, entry)
    if rows is not None:
        store.write_predictions(folder, rows)
        finish(entry, rows)
    store.write(folder, entry)
    return folder


def save_accuracies(
    root: Path, variant: str, accuracies: Sequence[float], rows: int = 400, **over: Any
) -> list[Path]:
    """Finished classification runs of seeds 0, 1, ... with these accuracies."""
    return [
        save(root, started(variant, seed, **over), classified(correctness(rows, accuracy, seed)))
        for seed, accuracy in enumerate(accuracies)
    ]
