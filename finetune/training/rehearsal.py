"""One step of every kind of run that a grid holds, on two rows, before its first run: what fails, fails here.

Only the model, its tokenizer and what Trainer makes of ``train.*`` are tried; nothing is written but the
traceback of a failure, and each run draws from its own seed afterwards, so no number depends on a rehearsal.
"""

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import SaveStrategy

from finetune import objectives
from finetune.config.identity import but_for_seed
from finetune.config.loading import read_yaml
from finetune.config.schema import BASELINE, RunConfig
from finetune.data import dataset, token_cache
from finetune.data.collate import evenly
from finetune.data.dataset import Data
from finetune.data.encoding import tokenize
from finetune.errors import UserError
from finetune.metrics.compute import extra_metric
from finetune.models import admission, warm_start
from finetune.models.builder import Built, build_model
from finetune.models.checkpoint import CONFIG_FILE
from finetune.models.pretrained import SCRATCH
from finetune.objectives.base import Objective
from finetune.system.cache import cache_folder
from finetune.system.memory import release_memory
from finetune.system.redaction import redact
from finetune.system.text import reason
from finetune.training import loop

ROWS = 2
"""Rows of each split that a rehearsal trains on, evaluates and predicts."""
ERROR_FILE = "error.txt"
"""In the cache's folder: the traceback of the last rehearsal that failed."""
TEXTS = 200
"""Rows of the train split that the tokenizer of a rehearsed scratch model is trained on."""
SCORED = 200
"""Rows of the test split, evenly spaced and so of all classes, that a further metric is tried on."""


def rehearse(configs: Iterable[RunConfig], loaded: Data) -> list[str]:
    """Build and try each different configuration once, whatever its seed; lines that are worth a word.

    Raises ``UserError`` for the first that does not fit its model, its rows or this machine.
    """
    different = {but_for_seed(config): config for config in reversed(list(configs))}
    notes: dict[str, None] = {}
    for kind, name in {(config.kind, name) for config in different.values() for name in config.metrics}:
        answers = objectives.get(kind).references(loaded.splits["test"])
        # Raises where it cannot score the test rows even predicted as they are.
        right = [answers[row] for row in evenly(len(answers), SCORED)]
        extra_metric(name, right, right)
    for config in reversed(different.values()):
        notes |= dict.fromkeys(_rehearse(config, loaded))
    return list(notes)


def _rehearse(config: RunConfig, loaded: Data) -> list[str]:
    try:
        return _tried(config, loaded)
    except UserError:
        raise
    except Exception as error:  # whatever transformers, peft, accelerate or an optimizer's package objects to
        if _is_ours(error):
            raise
        adapters = " (with --model.lora.*, set --model.lora.target_modules)" if config.model.lora.rank else ""
        raise UserError(
            f"a first step of {config.attention.variant} on '{config.model.name}' fails, so no run is begun: "
            f"{reason(error, typed=True)}{adapters} ({_place(error)}{_kept()})"
        ) from error
    finally:
        release_memory()  # or the first run would count this model to its own peak


def _place(error: Exception) -> str:
    """Where it was raised: ``in transformers/optimization.py, line 103``."""
    *_, innermost = traceback.extract_tb(error.__traceback__)
    parts = Path(innermost.filename).parts
    inside = parts.index("site-packages") + 1 if "site-packages" in parts else -2
    return f"in {'/'.join(parts[inside:])}, line {innermost.lineno}"


def _kept() -> str:
    """Write the whole traceback down, where this program keeps what it needs no more; where that is."""
    file = cache_folder() / ERROR_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(redact(traceback.format_exc()), encoding="utf-8", errors="backslashreplace")
    except OSError:
        return ""
    return f"; traceback in {file}"


def _is_ours(error: Exception) -> bool:
    """Whether code of this project failed, and not what it calls: then its traceback is what helps."""
    *_, innermost = traceback.extract_tb(error.__traceback__)
    ours = Path(innermost.filename).is_relative_to(Path(__file__).parents[1])
    return ours and not isinstance(error, torch.OutOfMemoryError | OSError | ImportError)


def _tried(config: RunConfig, loaded: Data) -> list[str]:
    """Build a configuration, hold it to the rows and take a step; lines that are worth a word."""
    objective = objectives.of(config)
    scratch = config.model.name.startswith(SCRATCH)
    rows = _few(loaded, TEXTS) if scratch else loaded
    texts = dataset.training_texts(rows.splits, objective.text_columns)
    built = build_model(config, objective, texts, loaded.info["label_names"])
    if scratch:  # its tokenizer is not the run's, so the rows of the run are not to be had
        splits = tokenize(_few(loaded, ROWS).splits, built.tokenizer, objective, config.data)
        notes = []
    else:
        splits = token_cache.prepare(loaded, built.tokenizer, objective, config)
        notes = admission.check(config, objective, built, splits)
        notes += objective.notes(config, built, loaded.splits["train"])
    with TemporaryDirectory() as folder:
        few = {name: _head(split, ROWS) for name, split in splits.items()}
        if config.attention.start != "cold":  # which cannot fail: it only measures
            warm_start.prepare(config, objective, built, splits["train"], Path(folder))
        _one_step(config, objective, built, few, Path(folder), rows=len(loaded.splits["train"]))
    return [*notes, *_head_note(config, built), *_attention_note(config)]


class _StopAtOnce(TrainerCallback):
    """Ends a training at its first step, with the schedule of all of them."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True


def _one_step(
    config: RunConfig, objective: Objective, built: Built, splits: dict[str, Any], folder: Path, *, rows: int
) -> None:
    """Evaluate, take a step and predict with the run's own Trainer, which keeps nothing and tells nobody.

    ``rows`` are those that the run itself trains on: its schedule goes by their number.
    """
    trainer = loop.build_trainer(
        config, objective, built, splits, folder, callbacks=warm_start.callbacks(config)
    )
    args, steps = trainer.args, loop.total_steps(trainer.args, rows)
    _check_delay(args, steps, steps / loop.epoch_steps(args, rows))
    for unwanted in (PrinterCallback, ProgressCallback, EarlyStoppingCallback):
        trainer.remove_callback(unwanted)
    loop.silence(trainer)
    trainer.add_callback(_StopAtOnce)
    try:
        found = _evaluated(config, trainer, splits["validation"])
        _check_metric(args.metric_for_best_model, found)
        args.max_steps, args.save_strategy, args.load_best_model_at_end = (
            max(1, steps),
            SaveStrategy.NO,
            False,
        )
        trainer.train()
    except loop.NonFiniteLossError:
        return  # the run itself says so, and the other arms go on
    objective.shorten(built.base)
    objective.predict(trainer, built.tokenizer, splits["test"], "test")


def _evaluated(config: RunConfig, trainer: Any, rows: Any) -> dict[str, float]:
    """The first evaluation; ``UserError`` where a pretrained model gives no number under its own softmax.

    Another variant may: that is a result, which its run records.
    """
    try:
        found: dict[str, float] = trainer.evaluate(rows)
    except loop.NonFiniteLossError as error:
        if config.attention.variant != BASELINE or config.model.name.startswith(SCRATCH):
            raise
        raise UserError(
            f"'{config.model.name}' gives NaN before it is trained, under its own softmax: look at its "
            "config.json (rope_theta, factors, epsilons), or set train.bf16 and train.fp16 to false"
        ) from error
    return found


def _check_delay(args: TrainingArguments, steps: int, epochs: float) -> None:
    """Raise ``UserError`` where the training ends before the first evaluation may begin."""
    length, unit = (steps, "steps") if args.eval_strategy == "steps" else (epochs, "epochs")
    if args.eval_strategy != "no" and args.eval_delay > length:
        raise UserError(
            f"train.eval_delay {args.eval_delay:g} is longer than the training, of {length:g} {unit}: "
            "nothing would be evaluated while training; lower it, or set --train.eval_strategy no"
        )


def _check_metric(name: str | None, found: dict[str, float]) -> None:
    names = sorted(key.removeprefix("eval_") for key in found if key in ("eval_loss", "eval_accuracy"))
    if name is not None and name.removeprefix("eval_") not in names:
        raise UserError(
            f"train.metric_for_best_model takes {' or '.join(names)}, not '{name}': "
            "an evaluation while training returns nothing else"
        )


def _head_note(config: RunConfig, built: Built) -> list[str]:
    """Only a head that came with the files is worth a word: that of a language model is always new."""
    said = [f"{name}: {built.info[name]}" for name in ("head", "problem_type") if name in built.info]
    return [f"note: {config.model.name}: {line}" for line in said if line != "head: new"]


def _attention_note(config: RunConfig) -> list[str]:
    """A run of this program as the base model: its weights were trained with its own attention."""
    file = Path(config.model.name, CONFIG_FILE)
    if not file.is_file():
        return []
    attention = read_yaml(file).get("attention")
    variant = attention.get("variant") if isinstance(attention, Mapping) else None
    if variant in (None, config.attention.variant):
        return []
    return [
        f"note: {config.model.name} was trained with {variant}, and {config.attention.variant} makes another "
        "model of it: what training makes good again is in the figures"
    ]


def _few(loaded: Data, rows: int) -> Data:
    return replace(loaded, splits={name: _head(split, rows) for name, split in loaded.splits.items()})


def _head(rows: Any, count: int) -> Any:
    return rows.select(range(min(count, len(rows))))
