"""The interface of an objective: what one kind of task does its own way, from its rows to its model card.

A run asks the objective of its kind by the names below and by nothing else. An objective keeps no
state. Its module is light, so that the command line can read its facts: what needs torch or transformers is
imported where it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.attention.variants import find_variant
from finetune.config.lineage import SCRATCH
from finetune.errors import UserError, unknown
from finetune.models import place
from finetune.models.workload import Amount, Anatomy, Workload
from finetune.records import pretraining
from finetune.tasks.base import TASK_TYPES, Task

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from finetune.config.schema import DataConfig, RunConfig
    from finetune.data.collate import Collator
    from finetune.data.synthetic import Sample
    from finetune.models.builder import Built
    from finetune.models.scratch import Scratch

    FloatArray = NDArray[np.floating[Any]]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Answers:
    """A model's output for some rows: their mean loss, and a prediction for each, by row id."""

    loss: float
    predictions: dict[int, Any]


class Objective(ABC):
    """One kind of task. A module of ``finetune.objectives`` holds one, as ``OBJECTIVE``."""

    kind: str
    """The name of the module, and one of ``Task.kinds`` of the tasks that it is for."""

    pipeline_tag: str
    """The Hub's name for what such a model does."""

    @property
    def task_type(self) -> type[Task]:
        """The type of declaration; it holds the verb, and which columns a task's rows must have."""
        return TASK_TYPES[self.kind]

    @abstractmethod
    def check(self, values: Mapping[str, Any]) -> None:
        """Raises ``UserError`` for a configuration that lacks a section, or has one that is of no use here.

        ``values`` are its keys, read from files and options or those of a ``RunConfig``.
        """

    # Data

    sample: Sample
    """The built-in synthetic rows: how many each split has, and how they are made."""

    text_columns: tuple[str, ...]
    """Canonical columns of texts. The tokenizer of a scratch model is trained on those of the train split."""

    def train_bytes(self, config: RunConfig) -> int | None:
        """Bytes of text that are read to train on of a data set that is streamed; ``None``: no limit."""
        return None

    @abstractmethod
    def references(self, split: Dataset) -> Sequence[Any]:
        """The right answers of canonical rows, one a row, which further ``metrics`` are given.

        Raises ``UserError`` where a row has none: then no further metric can be asked for.
        """

    def encode(
        self, batch: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, data: DataConfig
    ) -> dict[str, Any]:
        """Encodes canonical rows: ``input_ids``, ``attention_mask``, ``labels``; cut to limits, not padded.

        Labels are what the loss compares logits with, place by place: shift them here where need be. To be
        overridden unless ``tokenize`` is.
        """
        raise NotImplementedError

    def tokenize(
        self, split: Dataset, name: str, tokenizer: PreTrainedTokenizerBase, config: RunConfig
    ) -> Dataset:
        """Makes the token rows of a whole split called ``name``, in its order, each with its id, ``row``.

        To be overridden where a token row is not one row of the data, but a window over several.
        """
        from finetune.data.encoding import mapped

        return mapped(split, name, lambda batch: self.encode(batch, tokenizer, config.data))

    def tokenize_again(
        self, split: Dataset, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, config: RunConfig
    ) -> Dataset:
        """Makes the token rows with these ids alone, in their order, as a reloaded tokenizer does.

        To be overridden together with ``tokenize``.
        """
        places = {row: place for place, row in enumerate(split["row"])}
        return self.tokenize(split.select([places[row] for row in ids]), "test", tokenizer, config)

    def few(self, split: Dataset, name: str, config: RunConfig, count: int) -> Dataset:
        """Rows of a split called ``name`` with text enough for about ``count`` token rows, or all.

        To be overridden together with ``tokenize``.
        """
        return split.select(range(min(count, len(split))))

    def fitting(self, rows: Dataset) -> Dataset:
        """The token rows of a split that a model must have positions for: all, unless some can be missed."""
        return rows

    @abstractmethod
    def target_length(self, data: DataConfig) -> int | None:
        """Tokens of a target at most; ``None`` where targets are no texts of their own.

        Batches are padded to it where ``batches.padding`` is ``max_length``.
        """

    def token_settings(self, config: RunConfig, name: str) -> dict[str, Any]:
        """Settings that decide the token rows of the split ``name``, for the cache.

        Beside ``data.max_length`` and ``data.prefix``, which decide those of every kind.
        """
        return {"max_target_length": self.target_length(config.data)}

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase, model: Any, config: RunConfig) -> Collator:
        """What makes a padded batch of token rows, in training, evaluation and prediction alike."""

    # Model

    @property
    @abstractmethod
    def auto_model(self) -> Any:
        """transformers' auto class of the model."""

    @property
    @abstractmethod
    def scratch(self) -> Scratch:
        """The models behind ``scratch:SIZE``: sizes, the stock configuration, the tokenizer's recipe."""

    adapter_task: str
    """peft's ``TaskType`` of a model with adapters."""

    trains_head: bool
    """Whether adapters come with a head that is trained whole, be it new or not."""

    @abstractmethod
    def settle(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
        """Sets in a model that was just built or loaded how it meets its tokens: padding, generation."""

    @abstractmethod
    def check_model(self, config: RunConfig, built: Built, splits: Mapping[str, Dataset]) -> None:
        """Raises ``UserError`` where a model is not fit for this kind, or for one of the token rows.

        Beside what ``models.admission`` asks of every model.
        """

    def notes(self, config: RunConfig, built: Built, train: Dataset) -> list[str]:
        """Notes for the user about a pretrained model and the train split, as texts.

        Raises ``UserError`` where nothing could be measured with it.
        """
        return []

    def settled(self, config: RunConfig) -> dict[str, Any]:
        """Fields of ``train.*`` that other parts of a configuration decide."""
        return {}

    def generation(self, model: PreTrainedModel) -> dict[str, Any] | None:
        """Every setting that decided what the model wrote, for the record; ``None``: it writes nothing."""
        return None

    # Training and prediction

    sizes: Mapping[str, Mapping[str, Any]] = {}
    """The options of each scratch size, those of ``scratch``, without an import of transformers; empty where
    ``anatomy`` has no formula."""

    def amount(self, config: RunConfig) -> Amount:
        """How much a run trains on."""
        data, train = config.data, config.train
        batch = train.get("per_device_train_batch_size", 8)
        step = batch * train.get("gradient_accumulation_steps", 1)
        given = self.sample.sizes["train"] if data.source == "sample" else None
        given = data.train_rows or given
        limit, epochs = train.get("max_steps", -1), train.get("num_train_epochs", 3)
        return Amount(
            batch,
            step,
            length=data.max_length + (self.target_length(data) or 0),
            filled=config.batches.padding == "max_length",
            rows=step * limit if limit > 0 else given and given * epochs,
        )

    def anatomy(self, config: RunConfig, size: Mapping[str, Any], labels: Sequence[str]) -> Anatomy:
        """A scratch model of one of ``sizes`` on paper, for rows of the lengths of a run."""
        raise NotImplementedError

    def workload(self, config: RunConfig, labels: Sequence[str] = ()) -> Workload | None:
        """The training of a run on paper, for ``--plan``; ``None`` where its model is not here.

        ``labels`` are the task's. Neither a scratch model nor one that is not here needs torch. Raises
        ``UserError`` for a size that is none.
        """
        if config.model.name.startswith(SCRATCH):
            name = config.model.name.removeprefix(SCRATCH)
            if not self.sizes:
                return None
            if name not in self.sizes:
                raise unknown(f"scratch size for {self.kind}", name, self.sizes)
            model = self.anatomy(config, self.sizes[name], labels)
        elif located := located_at(config):
            from finetune.models import traced

            half, fused = in_half(config), is_fused(config)
            found = traced.anatomy(located, self, labels, half=half, fused=fused)
            if found is None:
                return None
            model = found
        else:
            return None
        train = config.train
        optimizer = str(train.get("optim", "adamw_torch_fused"))
        again = bool(train.get("activation_checkpointing") or train.get("gradient_checkpointing"))
        sharded = bool(train.get("fsdp"))
        return Workload(model, self.amount(config), in_half(config), optimizer, again, sharded)

    def flops_per_token(self, config: RunConfig, model: PreTrainedModel) -> float | None:
        """FLOPs of training on one token; ``None`` where rows are padded, so that no token costs the same."""
        return None

    @property
    @abstractmethod
    def arguments(self) -> type[TrainingArguments]:
        """The class that ``train.*`` are fields of."""

    set_elsewhere: Mapping[str, str] = {}
    """Fields of ``arguments`` that the objective itself decides -> what a user sets instead."""

    @property
    @abstractmethod
    def trainer(self) -> type[Trainer]:
        """The stock Trainer; ``training.trainer`` adds what makes runs comparable."""

    def trainer_options(self) -> dict[str, Any]:
        """Further arguments of the Trainer: what an evaluation while training measures beside the loss."""
        return {}

    def untrained_rows(self, rows: Dataset) -> Dataset:
        """The validation rows (tokens) that the model answers before it is trained: all, if that is quick."""
        return rows

    @abstractmethod
    def predict(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> dict[int, Any]:
        """Predicts token rows once, in evaluation mode: row id -> prediction.

        Trackers see it under ``prefix``.
        """

    def answer(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> Answers:
        """Computes the loss beside the predictions. Overridden where one pass over the rows gives both."""
        batches = trainer.get_eval_dataloader(rows)
        output = trainer.evaluation_loop(batches, "", prediction_loss_only=True, metric_key_prefix=prefix)
        predictions = self.predict(config, trainer, tokenizer, rows, prefix)
        return Answers(float(output.metrics[f"{prefix}_loss"]), predictions)

    def agree(self, one: Any, other: Any, *, half: bool) -> bool:
        """Whether two predictions are one, where both models are the same; ``half``: in half precision."""
        return bool(one == other)

    def shorten(self, model: PreTrainedModel) -> None:  # noqa: B027  most have nothing to shorten
        """Has a model predict as little as a rehearsal needs."""

    # Scoring

    @abstractmethod
    def rows(self, split: Dataset, predictions: Mapping[int, Any]) -> Rows:
        """The rows of ``predictions.jsonl``: ``row``, the truth and ``prediction`` of each predicted row.

        ``split`` is the canonical one, whose order they keep. The primary metric (``finetune.metrics``) reads
        single rows by these names.
        """

    @abstractmethod
    def score(
        self,
        rows: Rows,
        config: RunConfig,
        *,
        labels: Sequence[str] | None,
        tokenizer: str,
        generation: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Metrics of ``rows``, the primary one first: ``{name: {"value", "signature"}}``.

        ``labels`` are the task's, ``tokenizer`` is the fingerprint of the model's; ``generation`` is what
        ``generation()`` returned.
        """

    def log_probabilities(self, rows: Rows, predictions: Mapping[int, Any]) -> FloatArray | None:
        """The log probability of every class, (rows, classes); ``None`` where no class is predicted.

        ``rows`` are those that ``rows()`` made of ``predictions``.
        """
        return None

    def score_probabilities(self, rows: Rows, log_probabilities: FloatArray) -> dict[str, Any]:
        """Metrics of what ``log_probabilities()`` gave for ``rows``, as ``score`` gives others."""
        raise NotImplementedError

    # Publishing

    @abstractmethod
    def snippet(self, config: Mapping[str, Any]) -> str:
        """Python that uses ``model`` and ``tokenizer`` once, for a model card; ``config`` is a record's."""


def located_at(config: RunConfig) -> RunConfig | None:
    """``config`` with the place of its pretrained model; ``None`` where that is not on this machine."""
    try:
        origin = pretraining.resolve(config)
    except UserError:
        return None  # still to be made, or not there, as its run will say
    located = pretraining.at(config, origin) if origin else config
    return located if place.here(located.model.name, located.model.revision) else None


def in_half(config: RunConfig) -> bool:
    """Whether a run computes in half precision; ``auto`` is for a GPU, where it mostly does."""
    return bool(config.train.get("bf16") or config.train.get("fp16"))


def is_fused(config: RunConfig) -> bool:
    """Whether the kernel of a run's attention keeps no weights of queries and keys."""
    return config.attention.kernel != "reference" and bool(find_variant(config.attention).kernels)
