"""Checkpoints of a run: the choice of one to go on from, and all that it must hold to end the same."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import SaveStrategy, rotate_checkpoints

from finetune.config.identity import as_dict, flatten
from finetune.config.schema import NEUTRAL, RunConfig
from finetune.records import manifest, store
from finetune.system import world
from finetune.training import preemption

STATE = "trainer_state.json"
NEVER_READ = "training_args.bin"  # a pickle that Trainer leaves, and nobody opens
TORCH_FILES = (".pt", ".pth", ".bin")
LOSS = "loss since the last log"  # beside the callbacks in a checkpoint's state
_, BETWEEN = store.CHECKPOINTS
NAME = re.compile(r"(checkpoint-|preempted-)(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True)
class Checkpoints:
    """The newest whole checkpoint of a run, if there is one, and why the newer ones are passed over."""

    checkpoint: Path | None
    passed: list[str]  # a sentence each


def identity(config: RunConfig, info: dict[str, Any]) -> str:
    """Hash of the settings, initial weights and tokenizer that a checkpoint of the run must share."""
    settings = {key: value for key, value in flatten(as_dict(config)).items() if key not in NEUTRAL}
    text = json.dumps([settings, info["initial_weights"], info["tokenizer"]], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def newest(folder: Path, run: str) -> Checkpoints:
    """The checkpoint in ``folder`` that ``run`` (its ``identity``) goes on from; every file of it is read."""
    passed: list[str] = []
    for checkpoint in _checkpoints(folder):
        fault = _fault(checkpoint, run)
        if fault is None:
            return Checkpoints(checkpoint, passed)
        passed.append(f"{checkpoint.name} is passed over: {fault}")
    return Checkpoints(None, passed)


def discard(folder: Path, chosen: Checkpoints, run: str) -> None:
    """Removes checkpoints newer than the chosen one, and older ones that are not whole.

    Rotation and the search for the best model go by the folders that are there.
    """
    newer = chosen.checkpoint is not None
    for checkpoint in _checkpoints(folder):
        newer = newer and checkpoint != chosen.checkpoint
        if checkpoint != chosen.checkpoint and (newer or _fault(checkpoint, run)):
            _remove(checkpoint)


def discard_between(folder: Path, *, but: Path | None = None) -> None:
    """Removes the checkpoints that are not of the schedule of a preempted run, ``but`` for one."""
    for checkpoint in _checkpoints(folder):
        if checkpoint.name.startswith(BETWEEN) and checkpoint != but:
            _remove(checkpoint)


def discard_all(folder: Path) -> None:
    """Removes all checkpoints and the weights of a run that is done and whose model is not kept."""
    for checkpoint in _checkpoints(folder):
        _remove(checkpoint)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()


def discard_partial(folder: Path) -> None:
    """Removes the checkpoints that were not written to their end."""
    for checkpoint in _checkpoints(folder):
        if not (checkpoint / manifest.FILE).is_file():
            _remove(checkpoint)


def _remove(checkpoint: Path) -> None:
    if checkpoint.is_dir() and not checkpoint.is_symlink():
        shutil.rmtree(checkpoint)
    else:  # what a link leads to stays
        checkpoint.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, the newest first."""
    steps = {path: int(match[2]) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))}
    return sorted(steps, key=lambda path: (steps[path], path.name), reverse=True)


def _fault(checkpoint: Path, run: str) -> str | None:
    """The fault of a checkpoint, or of the one of the best model that it refers to; ``None`` without one."""
    fault = _own_fault(checkpoint, run)
    if fault is not None:
        return fault
    best = TrainerState.load_from_json(str(checkpoint / STATE)).best_model_checkpoint
    if best is None or Path(best).name == checkpoint.name:
        return None
    fault = _own_fault(checkpoint.parent / Path(best).name, run)
    return fault and f"of the best model, {Path(best).name}, {fault}"


def _own_fault(checkpoint: Path, run: str) -> str | None:
    """The fault of a checkpoint itself: a wrong manifest, a foreign file, or one that cannot be read."""
    if checkpoint.is_symlink():
        return "it is a link, and what it leads to is not the run's own"
    fault = manifest.fault(checkpoint, run)
    if fault is not None:
        return fault
    # Trainer reads files by their names, whoever put them there, and a manifest lists its own alone.
    read = (*TORCH_FILES, ".safetensors", ".json", ".pkl", ".py")
    planted = [file.relative_to(checkpoint) for file in manifest.strangers(checkpoint) if file.suffix in read]
    # Last, since a manifest agrees with whatever it was written over.
    return f"{planted[0]} was not written with it" if planted else _unreadable(checkpoint)


def _unreadable(checkpoint: Path) -> str | None:
    """The first file that the readers of a resumed run would not take; tensors stay on the disk."""
    for file in sorted(checkpoint.iterdir()):
        try:
            if file.suffix in TORCH_FILES and file.name != NEVER_READ:
                with safe_globals():  # of numpy, for its random state
                    torch.load(file, map_location="meta", mmap=True, weights_only=True)
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            if file.name == STATE:
                kept = TrainerState.load_from_json(str(file)).stateful_callbacks
                _own_loss(kept[LOSS]["sums"]), int(kept[LOSS]["logged"])
                bool(kept[TrainerControl.__name__]["args"]["should_training_stop"])
        except Exception:  # whatever a file of anybody's makes of these readers
            return f"its {file.name} cannot be read"
    return None


def _own_loss(sums: list[float]) -> float:
    """That of this process, of those of the processes that wrote a checkpoint; their mean for other ones.

    Trainer logs the mean over the processes, so that what is logged next is the same with either.
    """
    if len(sums) == world.size():
        return float(sums[world.rank()])
    return math.fsum(sums) / len(sums)


class SaveAtEpochEnd(TrainerCallback):
    """Writes the checkpoint of an epoch's last step after the evaluation and the log at its end.

    A run that is resumed from it begins the next epoch, and would go without.
    """

    def __init__(self) -> None:
        self.within = self.due = False

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Marks the beginning of the steps whose checkpoint can be put off."""
        self.within = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Puts off the checkpoint of the last step of an epoch, or of all."""
        if control.should_training_stop or float(state.epoch).is_integer():
            self._put_off(control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Puts off the checkpoint of an evaluation after which training stops early."""
        if control.should_training_stop and self.within:
            self._put_off(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Asks for the checkpoint that was put off: Trainer evaluates, logs and saves now."""
        control.should_save = control.should_save or self.due
        self.within = self.due = False

    def _put_off(self, control: TrainerControl) -> None:
        self.due = self.due or control.should_save
        control.should_save = False


@contextmanager
def own_names(model: Any) -> Iterator[None]:
    """Has ``model`` save its weights by the names of its modules.

    Some families are saved by the names of their first checkpoints (GPT-NeoX's head as ``embed_out``), which
    ``from_pretrained`` understands. Trainer loads its checkpoints without it: weights of another name would
    stay as they were drawn, with no more than a warning.
    """
    if not isinstance(model, PreTrainedModel):  # adapters keep to their names
        yield
        return
    model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    try:
        yield
    finally:
        del model.save_pretrained


class Resumable:
    """Overrides of Trainer by which a checkpoint is whole, and holds everything that the run goes on with."""

    identity = ""  # of the run, in the manifest of its checkpoints
    _carried: dict[str, Any] | None = None  # the loss since the last log, until the first epoch takes it up
    _ended = False  # the checkpoint is of the last step
    _saved: int | None = None  # the step of the newest checkpoint

    args: Any
    model: Any
    control: Any
    state: Any
    callback_handler: Any
    _tr_loss: torch.Tensor
    _total_loss_scalar: float
    _globalstep_last_logged: int

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Takes tied weights out of the missing ones: one is in the file, and the others follow it.

        Raises ``RuntimeError`` where any other is missing or unknown, which the stock method only warns of.
        """
        there, missing = self.model.state_dict(), load_result.missing_keys
        loaded = {weights.data_ptr() for name, weights in there.items() if name not in missing}
        missing[:] = [name for name in missing if name not in there or there[name].data_ptr() not in loaded]
        unsaved = self.model._keys_to_ignore_on_save or ()  # Marian's positions, which are computed
        unlike = sorted({*missing, *load_result.unexpected_keys} - {*unsaved})
        if unlike:
            raise RuntimeError(
                f"a checkpoint of this run holds other weights than its model ({len(unlike)} are missing or "
                f"unknown, e.g. {unlike[0]}): remove its checkpoint folders, and the run starts anew"
            )
        super()._issue_warnings_after_load(load_result)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any, *, between: bool = False) -> None:
        """Saves a checkpoint with its manifest, and removes older ones once the new one is whole.

        ``between``: of a preempted run, and not of its schedule. All processes of a run return once it is
        there.
        """
        self.state.stateful_callbacks[LOSS] = {
            "sums": world.gathered(float(self._tr_loss)),  # each process adds up its own
            "logged": self._globalstep_last_logged,
        }
        args, step = self.args, self.state.global_step
        limit, args.save_total_limit = args.save_total_limit, None
        strategy = args.save_strategy
        if between:  # so that it is no candidate for the best model: without the preemption it were none
            args.save_strategy = SaveStrategy.NO
        with own_names(self.model):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        args.save_total_limit, args.save_strategy = limit, strategy
        self._saved = step
        world.wait()  # for what each process writes of it
        if world.is_main():
            self._complete(Path(args.output_dir), step, limit, between=between)
        world.wait()

    def _complete(self, folder: Path, step: int, limit: int | None, *, between: bool) -> None:
        """Puts the manifest into the checkpoint of ``step``, and removes what it takes the place of."""
        checkpoint = folder / f"checkpoint-{step}"
        if between:
            # By another name, which neither Trainer's rotation nor its search for the best model goes by.
            checkpoint = checkpoint.rename(folder / f"{BETWEEN}{step}")
        manifest.write(checkpoint, self.identity, (file for file in checkpoint.rglob("*") if file.is_file()))
        discard_between(folder, but=checkpoint)
        rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        """Saves no state of a generator: every step has a seed of its own (``shared.StepSeeds``)."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Loads none."""

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """The stock one, whose worker processes leave it to this process to end when all are told."""
        loader = super()._get_dataloader(*args, **kwargs)  # type: ignore[misc]
        inner = loader.base_dataloader  # accelerate's own class holds torch's
        inner.worker_init_fn = partial(preemption.deaf_worker, inner.worker_init_fn)
        return loader

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Ends a preempted run after a step; after the last one of an epoch, once that has ended too."""
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *args, **kwargs)  # type: ignore[misc]
        if not (self.control.should_training_stop or float(self.state.epoch).is_integer()):
            self._end_if_told(model)

    def _end_if_told(self, model: Any) -> None:
        """Saves where the step was not one to save at, and raises ``PreemptedError``."""
        if not preemption.told():
            return
        if self._saved != self.state.global_step:
            self._save_checkpoint(model, trial=None, between=True)
        raise preemption.preempted(f"at step {self.state.global_step}")

    def _load_callback_state(self) -> None:
        """Gives callbacks their state back; the stock method makes new ones, without what they refer to."""
        kept = self.state.stateful_callbacks
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState) and type(callback).__name__ in kept:
                state = kept[type(callback).__name__]["attributes"]
                vars(callback).update(
                    {key: state[key] for key in callback.state()["attributes"] if key in state}
                )
        self._carried = kept[LOSS]
        stopped = kept[TrainerControl.__name__]["args"]["should_training_stop"]
        self._ended = stopped or self.state.global_step >= self.state.max_steps
        best = Path(self.args.output_dir, f"checkpoint-{self.state.best_global_step}")
        if best.is_dir():  # also where the folder has been moved since
            self.state.best_model_checkpoint = str(best)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates, but not (``eval_on_start``) where a run is resumed: it would count twice."""
        return {} if self._carried is not None else super()._evaluate(*args, **kwargs)  # type: ignore[misc]

    def _run_epoch(self, *args: Any, model: Any, **kwargs: Any) -> None:
        """Takes no further step where the checkpoint is of the last one: the loop looks only after a step."""
        if self._carried is not None:
            carried = _own_loss(self._carried["sums"])
            self._tr_loss += carried
            self._total_loss_scalar -= carried  # the mean at the end is over the steps from here
            self._globalstep_last_logged = int(self._carried["logged"])
            self._carried = None
        if self._ended:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, model=model, **kwargs)  # type: ignore[misc]
        self._end_if_told(model)
