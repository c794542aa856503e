"""Tries one step of every kind of run that a grid holds, on two token rows, before its first run.

Only the model, its tokenizer and what Trainer makes of ``train.*`` are tried; nothing is written but the
traceback of a failure, and each run draws from its own seed afterwards, so no number depends on a rehearsal.
"""

import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from finetune import objectives
from finetune.config.identity import but_for_seed
from finetune.config.lineage import SCRATCH
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
from finetune.objectives.base import Objective
from finetune.system import world
from finetune.system.allocation import out_of_memory
from finetune.system.cache import cache_folder
from finetune.system.memory import release_memory
from finetune.system.redaction import redact
from finetune.system.text import reason
from finetune.training import loop

ROWS = 2
"""Token rows of each split that a rehearsal trains on, evaluates and predicts."""
ERROR_FILE = "error.txt"
"""In the cache's folder: the traceback of the last rehearsal that failed."""
TEXTS = 200
"""Rows of the train split that the tokenizer of a rehearsed scratch model is trained on."""
SCORED = 200
"""Rows of the scored split, evenly spaced and so of all classes, that a further metric is tried on."""
NO_METRICS = ("runtime", "per_second", "preparation_time", "epoch")
"""Endings of what transformers adds to the metrics of an evaluation."""


def rehearse(configs: Iterable[RunConfig], loaded: Data) -> list[str]:
    """Builds and tries each different configuration once, whatever its seed; the notes for the user.

    Raises ``UserError`` for the first that does not fit its model, its rows or this machine.
    """
    different = {but_for_seed(config): config for config in reversed(list(configs))}
    notes: dict[str, None] = {}
    asked = {(config.kind, config.scored, name) for config in different.values() for name in config.metrics}
    for kind, split, name in asked:
        answers = objectives.get(kind).references(loaded.splits[split])
        # Raises where it cannot score the rows even if they are predicted as they are.
        right = [answers[row] for row in evenly(len(answers), SCORED)]
        extra_metric(name, right, right)
    for config in reversed(different.values()):
        try:
            notes |= dict.fromkeys(_rehearse(config, loaded))
        except UserError:
            raise
        except Exception as error:  # whatever transformers, peft, accelerate or an optimizer's package raises
            *_, innermost = traceback.extract_tb(error.__traceback__)
            place = Path(innermost.filename)
            ours = place.is_relative_to(Path(__file__).parents[1])
            if ours and not (out_of_memory(error) or isinstance(error, OSError | ImportError)):
                raise  # a fault of this project, which only the traceback explains
            raise _failed_step(config, error, place, innermost.lineno) from error
        finally:
            release_memory()  # or the first run would count this model to its own peak
    return list(notes)


def _failed_step(config: RunConfig, error: Exception, place: Path, line: int | None) -> UserError:
    """The error for a step that failed inside a library; the traceback is kept in the cache's folder."""
    inside = place.parts.index("site-packages") + 1 if "site-packages" in place.parts else -2
    where = f"in {'/'.join(place.parts[inside:])}, line {line}"
    file = cache_folder() / ERROR_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(redact(traceback.format_exc()), encoding="utf-8", errors="backslashreplace")
        where += f"; traceback in {file}"
    except OSError:
        pass  # a full disk is not what went wrong here
    adapters = " (with --model.lora.*, set --model.lora.target_modules)" if config.model.lora.rank else ""
    return UserError(
        f"a first step of {config.attention.variant} on '{config.model.name}' fails, so no run is begun: "
        f"{reason(error, typed=True)}{adapters} ({where})"
    )


def _rehearse(config: RunConfig, loaded: Data) -> list[str]:
    """Builds the model, holds it to the rows and takes a step; the notes for the user."""
    objective, loaded = objectives.of(config), loaded.given(config)
    train = loaded.splits["train"]
    built = world.first(lambda: built_on(_first(train, TEXTS), config, objective, loaded))
    if config.model.name.startswith(SCRATCH):
        # Its tokenizer is not the run's, so that the run's token rows cannot be made.
        few = {name: objective.few(split, name, config, ROWS) for name, split in loaded.splits.items()}
        tokens = tokenize(few, built.tokenizer, objective, config)
        notes = []
    else:
        tokens = world.first(lambda: token_cache.prepare(loaded, built.tokenizer, objective, config))
        notes = admission.check(config, objective, built, tokens)
        notes += objective.notes(config, built, train)
    with TemporaryDirectory() as folder:
        splits = {name: _first(split, ROWS) for name, split in tokens.items()}
        if config.attention.start != "cold":  # a cold start only measures, which cannot fail
            warm_start.prepare(config, objective, built, tokens["train"], Path(folder))
        _one_step(config, objective, built, splits, Path(folder), rows=len(train))

    # Of heads only one that came with the files: that of a language model is always new.
    facts = [f"{name}: {built.info[name]}" for name in ("head", "problem_type") if name in built.info]
    notes += [f"note: {config.model.name}: {fact}" for fact in facts if fact != "head: new"]
    # A base model may be a run of this program that was trained with another attention.
    file = Path(config.model.name, CONFIG_FILE)
    attention = read_yaml(file).get("attention") if file.is_file() else None
    variant = attention.get("variant") if isinstance(attention, Mapping) else None
    if variant not in (None, config.attention.variant):
        notes.append(
            f"note: {config.model.name} was trained with {variant}, and {config.attention.variant} makes "
            "another model of it: what training makes good again is in the figures"
        )
    return notes


def built_on(rows: Any, config: RunConfig, objective: Objective, loaded: Data) -> Built:
    """The model of a run, with a tokenizer that is trained on ``rows`` where it is a scratch model."""
    texts = dataset.training_texts(rows, objective.text_columns)
    return build_model(config, objective, texts, loaded.info["label_names"])


class _StopAtOnce(TrainerCallback):
    """Ends a training at its first step, with the schedule of all of them."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True


def _one_step(
    config: RunConfig, objective: Objective, built: Built, splits: dict[str, Any], folder: Path, *, rows: int
) -> None:
    """Evaluates, takes a step and predicts with the run's own Trainer, which saves and reports nothing.

    ``rows`` are those that the run itself trains on: its schedule goes by their number.
    """
    callbacks = warm_start.callbacks(config)
    trainer = loop.build_trainer(config, objective, built, splits, folder, callbacks=callbacks)
    args, steps = trainer.args, loop.total_steps(trainer.args, rows)
    epochs = steps / loop.epoch_steps(args, rows)
    length, unit = (steps, "steps") if args.eval_strategy == "steps" else (epochs, "epochs")
    if args.eval_strategy != "no" and args.eval_delay > length:
        raise UserError(
            f"train.eval_delay {args.eval_delay:g} is longer than the training, of {length:g} {unit}: "
            "nothing would be evaluated while training; lower it, or set --train.eval_strategy no"
        )
    train_alone(trainer)
    trainer.add_callback(_StopAtOnce)
    try:
        evaluated = trainer.evaluate(splits["validation"])
    except loop.NonFiniteLossError as error:
        if config.attention.variant != BASELINE or config.model.name.startswith(SCRATCH):
            return  # which is a result of the variant or of the size: its run records it
        raise UserError(
            f"'{config.model.name}' gives NaN before it is trained, under its own softmax: look at its "
            "config.json (rope_theta, factors, epsilons), or set train.bf16 and train.fp16 to false"
        ) from error
    measured = {key.removeprefix("eval_") for key in evaluated if not key.endswith(NO_METRICS)}
    best = args.metric_for_best_model
    if best is not None and best.removeprefix("eval_") not in measured:
        raise UserError(
            f"train.metric_for_best_model takes {' or '.join(sorted(measured))}, not '{best}': "
            "an evaluation while training returns nothing else"
        )
    args.max_steps = max(1, steps)
    try:
        trainer.train()
    except loop.NonFiniteLossError:
        return  # the run itself says so, and those of other variants go on
    objective.shorten(built.base)
    objective.predict(config, trainer, built.tokenizer, splits[config.scored], config.scored)


def train_alone(trainer: Any) -> None:
    """Has a trainer write, print and report nothing."""
    for unwanted in (PrinterCallback, ProgressCallback, EarlyStoppingCallback):
        trainer.remove_callback(unwanted)
    loop.silence(trainer)
    trainer.args.save_strategy, trainer.args.load_best_model_at_end = SaveStrategy.NO, False


def _first(rows: Any, count: int) -> Any:
    return rows.select(range(min(count, len(rows))))
