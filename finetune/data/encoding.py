"""Texts -> token numbers, the same for inputs of every kind of task; never padded."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from datasets import Dataset

from finetune.config.schema import DataConfig, RunConfig
from finetune.data.sources import quiet
from finetune.data.tokenizing import escaped, prefixed

MANY_ROWS = 50_000
"""From here on tokenizing takes long enough (about 5 seconds) to show a progress bar."""


class Encoding(Protocol):
    """The part of an objective (``finetune.objectives``) that makes token rows of its kind of task."""

    kind: str

    def tokenize(self, split: Dataset, name: str, tokenizer: Any, config: RunConfig) -> Dataset:
        """Token rows of a whole split."""

    def token_settings(self, config: RunConfig, name: str) -> dict[str, Any]:
        """The settings beside ``data.max_length`` and ``data.prefix`` that decide a split's token rows."""


def tokenize(
    splits: Mapping[str, Dataset], tokenizer: Any, encoding: Encoding, config: RunConfig
) -> dict[str, Dataset]:
    """Token numbers for texts: ``input_ids``, ``labels`` and ``row``; never padded.

    Sentences to classify or translate stay in their order, cut to ``data.max_length``, and have an
    ``attention_mask``; documents become windows (``finetune.data.windows``), which have none.
    What comes out depends on the arguments alone: ``token_cache`` keeps it on disk.
    """
    return {name: encoding.tokenize(split, name, tokenizer, config) for name, split in splits.items()}


def mapped(split: Dataset, name: str, encode: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> Dataset:
    """``encode`` over batches of a split; of its own columns only ``row`` is kept."""
    unwanted = [column for column in split.column_names if column != "row"]
    with quiet() if len(split) < MANY_ROWS else nullcontext():
        return split.map(encode, batched=True, remove_columns=unwanted, desc=f"Tokenizing {name}")


def inputs(texts: Sequence[str], tokenizer: Any, config: DataConfig) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask`` of input texts, each with ``data.prefix`` before it."""
    prefix = prefixed(tokenizer, config.prefix)
    encoded = tokenizer(
        text=[prefix + escaped(tokenizer, text) for text in texts],
        truncation=True,
        max_length=config.max_length,
        return_token_type_ids=False,
    )
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def targets(texts: Sequence[str], tokenizer: Any, limit: int | None) -> list[list[int]]:
    """Token numbers of texts that a model is to write, with its end token; ``limit`` None cuts nothing."""
    encoded = tokenizer(
        text_target=[escaped(tokenizer, text) for text in texts],
        truncation=limit is not None,
        max_length=limit,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids
