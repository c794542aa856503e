"""Ways to train a model, the toolkit's and the stock Trainer's, and the rounds that compare their speed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from finetune import objectives
from finetune.attention.swap import calls_by_kernel, forget_calls
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
Splits = dict[str, Dataset]
Speeds = dict[str, list[float]]  # by what is measured, an element a round
FEWEST_ROUNDS = 2


@dataclass(frozen=True)
class Setup:
    """One way to train. ``recipe``: "toolkit", or "stock": transformers' Trainer, and its attention."""

    recipe: str
    variant: str
    kernel: str  # of attention.kernel; for the stock recipe transformers' attn_implementation
    padding: str = "longest"  # of batches.padding
    layers: str = "torch"  # of model.layers

    @property
    def name(self) -> str:
        """``sa-softmax auto``, ``stock eager``, ``sa-softmax auto, padding skipped``."""
        name = f"{self.variant if self.recipe == 'toolkit' else 'stock'} {self.kernel}"
        name += f", padding {self.padding}" if self.padding != "longest" else ""
        return name + (f", layers {self.layers}" if self.layers != "torch" else "")

    @property
    def is_stock(self) -> bool:
        """Whether nothing of the toolkit takes part."""
        return self.recipe == "stock"


BASELINE = Setup("toolkit", "softmax", "auto")
STOCK = Setup("stock", "softmax", "sdpa")


@dataclass(frozen=True)
class Prepared:
    """A setup ready to train, again and again."""

    setup: Setup
    config: RunConfig
    built: builder.Built
    splits: Splits  # token rows

    @property
    def computes(self) -> str:
        """What has computed the attention so far; several kernels are joined by +."""
        if self.setup.is_stock:
            return str(self.built.model.config._attn_implementation)
        return "+".join(sorted(calls_by_kernel(self.built.model, self.setup.variant)))


def configuration(chosen: Settings, setup: Setup, task: str, changes: Mapping[str, Any]) -> RunConfig:
    """The quick preset's recipe for a task with ``changes``: one pass without evaluations and checkpoints.

    The model keeps its own dropout.
    """
    kind = get_task(task).kind
    kernel = "auto" if setup.is_stock else setup.kernel
    values = merge(read_preset(kind, "quick"), {
        "kind": kind, "task": task, "pair": None, "seed": chosen.seed,
        "data": {"source": chosen.data},
        "batches": {"cache_tokens": False, "padding": setup.padding},
        "model": {"dropout": None, "attention_dropout": None, "layers": setup.layers},
        "attention": {"variant": setup.variant, "kernel": kernel},
        "train": {"bf16": "auto" if chosen.device == "cuda" else False, "use_cpu": chosen.device == "cpu",
                  "num_train_epochs": 1, "eval_strategy": "no", "save_strategy": "no",
                  "logging_strategy": "no", "disable_tqdm": True},
    })  # fmt: skip
    del values["variants"], values["seeds"]
    values = merge(values, changes)
    return build({**values, "train": resolve_bf16(values["train"])})


def prepare(
    setup: Setup,
    config: RunConfig,
    loaded: dataset.Data,
    token_rows: Callable[[Setup, Any, RunConfig], Splits],
) -> Prepared:
    """Builds the model of one setup as a run does. ``token_rows`` makes its rows with its tokenizer."""
    objective = objectives.get(config.kind)
    texts = dataset.training_texts(loaded.splits["train"], objective.text_columns)
    built = builder.build_model(config, objective, texts, loaded.info["label_names"])
    if setup.is_stock:
        built.model.set_attn_implementation(setup.kernel)  # the swap undone: transformers' own function again
    forget_calls(built.model)  # those of the swap's proof
    return Prepared(setup, config, built, token_rows(setup, built.tokenizer, config))


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


def train(prepared: Prepared, folder: Path, device: str, steps: int = -1) -> tuple[Any, float]:
    """One pass over the train rows, or ``steps`` of it; the trainer and the seconds of its loop."""
    changes: dict[str, Any] = {"max_steps": steps}
    if prepared.setup.is_stock:  # where a run may group rows by their length
        changes["train_sampling_strategy"] = "random"
    config = build(merge(as_dict(prepared.config), {"train": changes}))
    trainer: Any
    if prepared.setup.is_stock:
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


def rounds(
    prepared: Sequence[Prepared],
    measure: Callable[[Prepared], Mapping[str, float]],
    *,
    most: int,
    seconds: float,
    title: str,
    say: Say,
    keep: Callable[[Mapping[Setup, Speeds]], object] = lambda speeds: None,
) -> dict[Setup, Speeds]:
    """What ``measure`` gives of every setup, round by round; all take part in every round.

    ``keep`` is given the speeds so far after each round.

    There are ``most`` rounds, or fewer: after ``seconds`` none is begun beyond ``FEWEST_ROUNDS``.
    """
    speeds: dict[Setup, Speeds] = {each.setup: {} for each in prepared}
    started = time.monotonic()
    for number in range(1, most + 1):
        if number > FEWEST_ROUNDS and time.monotonic() - started > seconds:
            break
        say(f"{title}: round {number} of at most {most}")
        for each in prepared if number % 2 else prepared[::-1]:  # neighbours should not matter
            for what, speed in measure(each).items():
                speeds[each.setup].setdefault(what, []).append(speed)
        keep(speeds)
    return speeds


def about(prepared: Prepared) -> dict[str, Any]:
    """The setup of a row of a result, and what has computed it."""
    return {**asdict(prepared.setup), "name": prepared.setup.name, "computes": prepared.computes}


def ratios(speeds: Mapping[Setup, Speeds], setup: Setup, what: str) -> dict[str, Any]:
    """The time of a setup over the baseline's, and its speed over the stock recipe's, within a round."""
    mine, softmax, stock = (speeds[each][what] for each in (setup, BASELINE, STOCK))
    return {
        "time_ratio": spread([b / a for a, b in zip(mine, softmax, strict=True)]),
        "speed_ratio": spread([a / b for a, b in zip(mine, stock, strict=True)]),
    }
