"""Rows per second of whole fine-tuning: this toolkit and the stock Trainer recipe, on the same rows."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.utils import logging as transformers_logging

from finetune import objectives
from finetune.attention import PAPER
from finetune.bench import rows
from finetune.bench.settings import Settings
from finetune.bench.timing import spread, synchronize
from finetune.config.build import build
from finetune.config.identity import as_dict
from finetune.config.loading import merge, read_preset
from finetune.config.schema import RunConfig
from finetune.data import dataset
from finetune.models import builder
from finetune.tasks import get_task
from finetune.training import loop
from finetune.training.arguments import resolve_bf16, training_arguments

Say = Callable[[str], None]
FEWEST_ROUNDS = 2
WARM_UP = 2  # optimizer steps


@dataclass(frozen=True)
class Setup:
    """One way to fine-tune. ``recipe``: "toolkit", or "stock": transformers' Trainer and fixed padding."""

    recipe: str
    variant: str
    kernel: str  # of attention.kernel; for the stock recipe transformers' attn_implementation

    @property
    def name(self) -> str:
        """``sa-softmax auto``, ``stock eager``."""
        return f"{self.variant if self.recipe == 'toolkit' else 'stock'} {self.kernel}"


BASELINE = Setup("toolkit", "softmax", "auto")
STOCK = Setup("stock", "softmax", "sdpa")


@dataclass(frozen=True)
class Prepared:
    """A setup ready to train, again and again. ``kernel``: what the swap says it computes with."""

    setup: Setup
    config: RunConfig
    built: builder.Built
    splits: dict[str, Dataset]
    kernel: str


def setups() -> list[Setup]:
    """Every variant of the paper as a run has it, the others step by step too, and the stock recipe."""
    others = [name for name in PAPER if name != BASELINE.variant]
    toolkit = [Setup("toolkit", name, "auto") for name in PAPER]
    plain = [Setup("toolkit", name, "reference") for name in others]
    return [*toolkit, *plain, Setup("stock", "softmax", "eager"), STOCK]


def measure(chosen: Settings, say: Say) -> dict[str, Any]:
    """The part ``steps`` of a result. ``say`` gets a line before each step."""
    transformers_logging.disable_progress_bar()
    loaded = rows.load(chosen.data, configuration(chosen, BASELINE))
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        prepared = [_prepare(setup, chosen, loaded) for setup in setups()]
        say(f"fine-tuning: {chosen.model} on {chosen.data} rows, {len(prepared)} setups, warm-up")
        for each in prepared:
            _train(each, Path(folder), chosen.device, WARM_UP)
        speeds = _rounds(prepared, Path(folder), chosen, say)
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
        "arms": [_row(each, speeds) for each in prepared],  # the setups, by their name in kept results
    }


def configuration(chosen: Settings, setup: Setup) -> RunConfig:
    """The quick preset's recipe with the benchmark's rows and model; the model's own dropout."""
    kernel = setup.kernel if setup.recipe == "toolkit" else "auto"
    objective = objectives.get(get_task(rows.TASK).kind)
    values = merge(read_preset(objective.kind, "quick"), {
        "kind": objective.kind, "task": rows.TASK, "pair": None, "seed": chosen.seed,
        "data": {"source": chosen.data, "train_rows": chosen.train_rows, "validation_rows": 16,
                 "test_rows": chosen.test_rows, "max_length": rows.MAX_LENGTH},
        "batches": {"cache_tokens": False},
        "model": {"name": chosen.model, "dropout": None, "attention_dropout": None},
        "attention": {"variant": setup.variant, "kernel": kernel},
        "train": {"bf16": "auto" if chosen.device == "cuda" else False, "use_cpu": chosen.device == "cpu",
                  "learning_rate": 1e-5, "num_train_epochs": 1, "eval_strategy": "no", "save_strategy": "no",
                  "logging_strategy": "no", "disable_tqdm": True},
    })  # fmt: skip
    del values["variants"], values["seeds"]
    return build({**values, "train": resolve_bf16(values["train"])})


def _prepare(setup: Setup, chosen: Settings, loaded: dataset.Data) -> Prepared:
    """Builds the model and the token rows of one setup, as a run does."""
    config = configuration(chosen, setup)
    objective = objectives.get(config.kind)
    texts = dataset.training_texts(loaded.splits["train"], objective.text_columns)
    built = builder.build_model(config, objective, texts, loaded.info["label_names"])
    splits = rows.tokenize(loaded, built.tokenizer, config)
    kernel = str(built.swap.to_json()["kernel"])
    if setup.recipe == "stock":
        built.model.set_attn_implementation(setup.kernel)  # the swap undone: transformers' own function again
        pad = built.tokenizer.pad_token_id
        splits = {name: rows.padded(split, pad) for name, split in splits.items()}
        kernel = str(built.model.config._attn_implementation)
    return Prepared(setup, config, built, splits, kernel)


def _rounds(
    prepared: Sequence[Prepared], folder: Path, chosen: Settings, say: Say
) -> dict[Setup, dict[str, list[float]]]:
    """Rows per second of every setup, round by round; all take part in every round."""
    speeds: dict[Setup, dict[str, list[float]]] = {
        each.setup: {"train": [], "evaluate": []} for each in prepared
    }
    started = time.monotonic()
    for number in range(1, chosen.rounds + 1):
        if number > FEWEST_ROUNDS and time.monotonic() - started > chosen.steps_seconds:
            break
        say(f"fine-tuning: round {number} of at most {chosen.rounds}")
        for each in prepared if number % 2 else prepared[::-1]:  # neighbours should not matter
            trainer, seconds = _train(each, folder, chosen.device, -1)
            speeds[each.setup]["train"].append(len(each.splits["train"]) / seconds)
            seconds = _evaluate(each, trainer, chosen.device)
            speeds[each.setup]["evaluate"].append(len(each.splits["test"]) / seconds)
    return speeds


class _Clock(TrainerCallback):
    """Seconds of the training loop alone, without what comes before and after it."""

    def __init__(self, device: str) -> None:
        self.device, self.started, self.seconds = device, 0.0, 0.0

    def on_train_begin(self, *args: Any, **keywords: Any) -> None:
        synchronize(self.device)
        self.started = time.perf_counter()

    def on_train_end(self, *args: Any, **keywords: Any) -> None:
        synchronize(self.device)
        self.seconds = time.perf_counter() - self.started


def _train(prepared: Prepared, folder: Path, device: str, steps: int) -> tuple[Any, float]:
    """One pass over the train rows, or ``steps`` of it; the trainer and the seconds of its loop."""
    stock = prepared.setup.recipe == "stock"
    changes: dict[str, Any] = {"max_steps": steps}
    if stock:  # where a run groups rows by their length
        changes["train_sampling_strategy"] = "random"
    config = build(merge(as_dict(prepared.config), {"train": changes}))
    trainer: Any
    if stock:
        trainer = Trainer(
            model=prepared.built.model,
            args=training_arguments(config, folder),
            train_dataset=prepared.splits["train"],
            eval_dataset=prepared.splits["validation"],
        )
    else:
        objective = objectives.get(config.kind)
        trainer = loop.build_trainer(config, objective, prepared.built, prepared.splits, folder)
    clock = _Clock(device)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    return trainer, clock.seconds


def _evaluate(prepared: Prepared, trainer: Any, device: str) -> float:
    """Seconds to predict every test row."""
    test = prepared.splits["test"]
    synchronize(device)
    started = time.perf_counter()
    if prepared.setup.recipe == "stock":
        trainer.predict(test)
    else:
        objective = objectives.get(prepared.config.kind)
        objective.predict(prepared.config, trainer, prepared.built.tokenizer, test, "test")
    synchronize(device)
    return time.perf_counter() - started


def _row(prepared: Prepared, speeds: dict[Setup, dict[str, list[float]]]) -> dict[str, Any]:
    """Rows per second of one setup, its time over the baseline's, and its speed over the stock recipe's."""
    row: dict[str, Any] = {**asdict(prepared.setup), "name": prepared.setup.name, "computes": prepared.kernel}
    for which, mine in speeds[prepared.setup].items():
        softmax, stock = speeds[BASELINE][which], speeds[STOCK][which]
        row[which] = {
            "rows_per_s": spread(mine),
            "time_ratio": spread([b / a for a, b in zip(mine, softmax, strict=True)]),
            "speed_ratio": spread([a / b for a, b in zip(mine, stock, strict=True)]),
        }
    return row
