"""Rows per second of whole fine-tuning: this toolkit and the stock Trainer recipe, on the same rows."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from finetune import objectives
from finetune.attention import PAPER
from finetune.bench import recipes, rows
from finetune.bench.recipes import BASELINE, STOCK, Prepared, Say, Setup
from finetune.bench.settings import Settings
from finetune.bench.timing import spread, synchronize
from finetune.config.schema import RunConfig
from finetune.data import dataset

WARM_UP = 2  # optimizer steps


def setups() -> list[Setup]:
    """Every variant of the paper as a run has it, the others step by step too, and the stock recipe.

    One of them also with layers that skip padding, and with oneDNN's layers; and with both.
    """
    others = [name for name in PAPER if name != BASELINE.variant]
    toolkit = [Setup("toolkit", name, "auto") for name in PAPER]
    other_ways = [
        Setup("toolkit", others[0], "auto", padding="skipped"),
        Setup("toolkit", others[0], "auto", layers="onednn"),
        Setup("toolkit", others[0], "auto", padding="skipped", layers="onednn"),
    ]
    plain = [Setup("toolkit", name, "reference") for name in others]
    return [*toolkit, *other_ways, *plain, Setup("stock", "softmax", "eager"), STOCK]


def measure(chosen: Settings, say: Say, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The part ``steps`` of a result. ``say`` gets a line before each step, ``keep`` the part so far."""
    transformers_logging.disable_progress_bar()
    loaded = rows.load(chosen.data, configuration(chosen, BASELINE))

    def token_rows(setup: Setup, tokenizer: Any, config: RunConfig) -> recipes.Splits:
        """Rows as a run has them; for the stock recipe all of one length."""
        splits = rows.tokenize(loaded, tokenizer, config)
        if not setup.is_stock:
            return splits
        return {name: rows.padded(split, tokenizer.pad_token_id) for name, split in splits.items()}

    prepared = [
        recipes.prepare(setup, configuration(chosen, setup), loaded, token_rows) for setup in setups()
    ]
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:

        def speeds_of(each: Prepared) -> dict[str, float]:
            trainer, seconds = recipes.train(each, Path(folder), chosen.device)
            predicting = _evaluate(each, trainer, chosen.device)
            return {
                "train": len(each.splits["train"]) / seconds,
                "evaluate": len(each.splits["test"]) / predicting,
            }

        say(f"fine-tuning: {chosen.model} on {chosen.data} rows, {len(prepared)} setups, warm-up")
        for each in prepared:
            recipes.train(each, Path(folder), chosen.device, WARM_UP)
        speeds = recipes.rounds(
            prepared,
            speeds_of,
            most=chosen.rounds,
            seconds=chosen.steps_seconds,
            title="fine-tuning",
            say=say,
            keep=lambda speeds: keep(_part(chosen, loaded, prepared, speeds)),
        )
    return _part(chosen, loaded, prepared, speeds)


def _part(
    chosen: Settings,
    loaded: dataset.Data,
    prepared: Sequence[Prepared],
    speeds: Mapping[Setup, recipes.Speeds],
) -> dict[str, Any]:
    first = prepared[0]
    return {
        "model": chosen.model,
        "parameters": first.built.info["parameters"],
        "data": {
            "source": loaded.info["kind"],
            **{name: rows.facts(first.splits[name]) for name in ("train", "test")},
        },
        "batch": first.config.train["per_device_train_batch_size"],
        "evaluation_batch": first.config.train["per_device_eval_batch_size"],
        "padded_to": rows.MAX_LENGTH,
        "bf16": first.config.train["bf16"],
        "arms": [  # the setups, by their name in kept results
            recipes.about(each)
            | {
                which: {"rows_per_s": spread(mine), **recipes.ratios(speeds, each.setup, which)}
                for which, mine in speeds[each.setup].items()
            }
            for each in prepared
        ],
    }


def configuration(chosen: Settings, setup: Setup) -> RunConfig:
    """The recipe of the benchmark's rows and model."""
    data = {
        "train_rows": chosen.train_rows,
        "validation_rows": 16,
        "test_rows": chosen.test_rows,
        "max_length": rows.MAX_LENGTH,
    }
    changes = {"data": data, "model": {"name": chosen.model}, "train": {"learning_rate": 1e-5}}
    return recipes.configuration(chosen, setup, rows.TASK, changes)


def _evaluate(prepared: Prepared, trainer: Any, device: str) -> float:
    """Seconds to predict every test row."""
    test = prepared.splits["test"]
    synchronize(device)
    started = time.perf_counter()
    if prepared.setup.is_stock:
        trainer.predict(test)
    else:
        objective = objectives.get(prepared.config.kind)
        objective.predict(prepared.config, trainer, prepared.built.tokenizer, test, "test")
    synchronize(device)
    return time.perf_counter() - started
