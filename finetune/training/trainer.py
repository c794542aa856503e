"""The places where Hugging Face's Trainer must be overridden, since no callback reaches them.

Above all the loss: one definition for every kind of task and every family, a sum over targets divided by the
number of targets of the whole optimizer step, so that it does not depend on how the step is cut into batches,
nor on how many processes share them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import LabelSmoother, get_length_grouped_indices, nested_truncate

from finetune.data.collate import ABOUT, IGNORED, lengths
from finetune.models.sharding import is_sharded
from finetune.system import world
from finetune.system.memory import return_freed_memory
from finetune.training import shared
from finetune.training.resume import Resumable
from finetune.training.sharded import Sharded

FREED_AFTER = 8  # batches of an evaluation, whose logits the C library may hold until then


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite, in training or in an evaluation."""


def summed_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross entropy in nats, summed over the targets: a scalar, float32 or better.

    ``logits`` (..., classes or vocabulary), ``labels`` (...), of which ``IGNORED`` ones count for nothing.
    With ``smoothing`` e it is (1 - e) times that plus e times the mean of -log p over the classes (Szegedy et
    al., 2016, arXiv 1512.00567, section 7), as transformers' ``LabelSmoother`` has it.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if smoothing:
        return LabelSmoother(smoothing)((logits,), labels, num_items_in_batch=1)
    return functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def targets(labels: Tensor) -> Tensor:
    """Number of labels that count: target tokens, or rows that have one label each; a scalar."""
    return labels.ne(IGNORED).sum()


class EpochSampler(Sampler[int]):
    """An order of the training rows that depends on the seed and the epoch, and on nothing else.

    The stock samplers draw from torch's global generator, as dropout on a CPU does: two variants whose
    attention kernels take unequally many numbers would see other batches from the second epoch on.
    ``lengths`` (tokens) groups rows of like length, ``None`` shuffles freely.
    """

    def __init__(self, rows: int, lengths: Sequence[int] | None, batch_size: int, seed: int) -> None:
        self.rows, self.lengths, self.batch_size, self.seed, self.epoch = rows, lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        if self.lengths is None:
            return iter(torch.randperm(self.rows, generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


class _Comparable:
    """Overrides of Trainer for the loss, the order of rows and what is read back, alike in every variant."""

    _signature_columns: Any  # of Trainer: the columns of the data that reach the collator
    loss_is_scaled_for_ga = True  # Trainer is not to divide by the accumulation steps

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # no model is asked for its own loss
        self._evaluated: list[tuple[Tensor, Tensor]] = []  # loss and targets of each batch
        # Of the inputs of all steps so far in this process, with padding and the rows that fill up a step.
        self.trained_tokens = 0
        self.optimizer_built: list[dict[str, Any]] = []  # the settings of its groups, before any step
        self.schedule_built: dict[str, Any] = {}
        self.order = ""  # the class of the order of training rows
        self.layers: AbstractContextManager[Any] = nullcontext()  # of a step (``models.layers``)
        self._sampler: Any = None
        self._finite = True  # the losses of this step so far

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """Targets of the batches of one optimizer step, or of one batch of an evaluation, here."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        return sum(targets(batch["labels"]) for batch in batch_samples).to(device)  # type: ignore[union-attr]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Tensor | None]:
        """The batches of one optimizer step here, and the targets of those of all processes."""
        batches, count = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        return batches, None if count is None else self.accelerator.reduce(count)  # type: ignore[attr-defined]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss over the targets of the step; of one batch, its share of that mean.

        Of a step that several processes share it is times their number, by which their mean is divided.
        """
        labels = inputs["labels"]
        # Labels make a model compute a loss of its own, which nothing reads; an encoder-decoder that is given
        # no decoder inputs makes them of the labels.
        stock = self.accelerator.unwrap_model(model).config  # type: ignore[attr-defined]
        needed = stock.is_encoder_decoder and "decoder_input_ids" not in inputs
        left_out = ("loss",) if needed else ("labels", "loss")
        outputs = model(**{name: value for name, value in inputs.items() if name not in left_out})
        loss = summed_loss(outputs["logits"], labels, self.args.label_smoothing_factor)  # type: ignore[attr-defined]
        if model.training:
            self.trained_tokens += inputs["input_ids"].numel()
        else:
            self._evaluated.append((loss.detach(), targets(labels)))
            if len(self._evaluated) % FREED_AFTER == 0:
                return_freed_memory()
        loss = loss / (targets(labels) if num_items_in_batch is None else num_items_in_batch)
        if model.training:
            loss = loss * world.size()
        return (loss, outputs) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        """Leaves a collator the columns that say which row it has, beside those that the model takes."""
        due = self._signature_columns is None
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if due:
            self._signature_columns = [*self._signature_columns, *ABOUT]

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        """Tells order and collator the epoch, before a batch of it is made and worker processes begin."""
        self.data_collator.set_epoch(epoch)  # type: ignore[attr-defined]
        # accelerate does not reach it in an epoch that a resumed run begins half-way, on several processes.
        if isinstance(self._sampler, EpochSampler):
            self._sampler.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)  # type: ignore[misc]

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """The stock loop, but for its loss: the mean over all targets, where that is one of batch means.

        Of several processes all return the answers to all rows, without those that fill up the last batches.
        Raises ``NonFiniteLossError``: of answers that are no numbers the first class would be the largest.
        """
        self._evaluated.clear()
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)  # type: ignore[misc]
        if world.size() > 1 and output.predictions is not None:
            # Of answers that are written, the stock loop keeps those to the rows that fill up a batch.
            rows = dataloader.dataset.total_dataset_length
            output = output._replace(predictions=nested_truncate(output.predictions, rows))
        name = f"{metric_key_prefix}_loss"
        if name in output.metrics:
            losses, counts = (torch.stack(each).tolist() for each in zip(*self._evaluated, strict=True))
            everywhere = world.gathered((losses, counts))
            total = math.fsum(loss for there, _ in everywhere for loss in there)
            loss = total / sum(count for _, there in everywhere for count in there)
            if not math.isfinite(loss):
                step = self.state.global_step  # type: ignore[attr-defined]
                raise NonFiniteLossError(
                    f"an evaluation after {step} steps gave a loss of {loss}: some answers are no "
                    "numbers; lower train.learning_rate, or set train.bf16 and train.fp16 to false"
                )
            output.metrics[name] = loss
        return output

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Has accelerate prepare the model anew, where several processes are to average its gradients.

        It has prepared it for an evaluation before, and would take it for ready: each would train its own.
        """
        model = self.model  # type: ignore[attr-defined]
        if world.size() > 1 and not is_sharded(model):
            self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # type: ignore[attr-defined]
            model._is_accelerate_prepared = False
            self.model_wrapped = model
        return super()._prepare_for_training(*args, **kwargs)  # type: ignore[misc]

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Keeps the settings of optimizer and schedule as built: a resumed run loads what a step left."""
        scheduler = super().create_scheduler(*args, **kwargs)  # type: ignore[misc]
        self.optimizer_built = [
            {key: value for key, value in group.items() if key != "params"}
            for group in scheduler.optimizer.param_groups
        ]
        self.schedule_built = dict(vars(scheduler))
        return scheduler

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The stock loader; of several processes, with whole batches for each (``shared``)."""
        processes = world.size()
        if processes == 1:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, *args, **kwargs)  # type: ignore[misc]
        whole = shared.filled(dataset, batch_size * processes)
        loader = super()._get_dataloader(  # type: ignore[misc]
            whole,
            description,
            batch_size,
            lambda _: shared.Order(sampler_fn(dataset), len(whole)),
            *args,
            **kwargs,
        )
        loader.dataset.total_dataset_length = len(dataset)  # to which accelerate cuts what it gathers
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """``EpochSampler`` for the orders that draw numbers; the stock one for those that do not."""
        args = self.args  # type: ignore[attr-defined]
        rows = train_dataset if train_dataset is not None else self.train_dataset  # type: ignore[attr-defined]
        if args.train_sampling_strategy in ("random", "group_by_length"):
            grouped = args.train_sampling_strategy == "group_by_length"
            batch_size = args.train_batch_size * args.gradient_accumulation_steps * world.size()
            seed = args.seed if args.data_seed is None else args.data_seed
            known = lengths(rows).tolist() if grouped else None
            self._sampler = EpochSampler(len(rows), known, batch_size, seed)
        else:
            self._sampler = super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        self.order = type(self._sampler).__name__
        return self._sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows in their own order: with group_by_length the stock sampler shuffles what it predicts too."""
        return SequentialSampler(eval_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The stock step. Raises ``NonFiniteLossError`` at once: Trainer would keep NaN out of its log.

        Where several processes share a step, all of them raise it in the same one.
        """
        # Not in evaluations: a model that is loaded answers as it was measured, to the last bit.
        with self.layers:
            loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self._finite = self._finite and bool(torch.isfinite(loss))
        if world.size() > 1 and self.accelerator.sync_gradients:  # type: ignore[attr-defined]
            self._finite = not world.any_of(not self._finite)
        elif world.size() > 1:
            return loss  # the others have further batches of this step
        if not self._finite:
            step = self.state.global_step + 1  # type: ignore[attr-defined]
            value = f"became {loss.item()}" if not torch.isfinite(loss) else "is no number on another process"
            raise NonFiniteLossError(
                f"the loss {value} at step {step}: lower train.learning_rate, lengthen "
                "train.warmup_steps, or set train.bf16 and train.fp16 to false"
            )
        return loss


def comparable(stock: type[Trainer]) -> Any:
    """A stock Trainer class, with what makes its runs comparable and resumable."""
    return type(f"Comparable{stock.__name__}", (_Comparable, Resumable, Sharded, stock), {})
