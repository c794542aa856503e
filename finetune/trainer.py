"""The three places where Hugging Face's Trainer must be overridden, since no callback reaches them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import Seq2SeqTrainer, Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from finetune.batches import lengths


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


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
    """Overrides shared by both trainers."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args = self.args  # type: ignore[attr-defined]
        rows = train_dataset if train_dataset is not None else self.train_dataset  # type: ignore[attr-defined]
        if args.train_sampling_strategy not in ("random", "group_by_length"):
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        grouped = args.train_sampling_strategy == "group_by_length"
        batch_size = args.train_batch_size * args.gradient_accumulation_steps
        seed = args.seed if args.data_seed is None else args.data_seed
        return EpochSampler(len(rows), lengths(rows).tolist() if grouped else None, batch_size, seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Rows in their own order: with group_by_length the stock sampler shuffles what it predicts too."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None  # type: ignore[attr-defined]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not torch.isfinite(loss):
            step = self.state.global_step + 1  # type: ignore[attr-defined]
            raise NonFiniteLossError(
                f"the loss became {loss.item()} at step {step}: lower train.learning_rate, lengthen "
                "train.warmup_steps, or set train.bf16 and train.fp16 to false"
            )
        return loss


class ComparableTrainer(_Comparable, Trainer):
    """Trainer for classification."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A forward with **kwargs makes Trainer believe that the loss is divided by the accumulation steps
        # already. A classifier's is a mean over its batch: gradients would come out that much too large.
        self.model_accepts_loss_kwargs = False


class ComparableSeq2SeqTrainer(_Comparable, Seq2SeqTrainer):
    """Trainer for translation."""
