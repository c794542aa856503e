"""What language modelling is, causal or masked: texts by document, windows over them, tokens a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import isclose, nan
from typing import TYPE_CHECKING, Any

from finetune.data.synthetic import STORIES
from finetune.errors import UserError
from finetune.objectives.base import Answers, Objective

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

    from finetune.config.schema import DataConfig, LanguageConfig, RunConfig

BYTES_A_TOKEN = 8
"""Bytes of text that are read for each token to train on: more than any tokenizer's mean over a corpus."""
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
"""How far the nats of a window may differ, relative, in batches of another size: float32, half precision."""


def section(config: RunConfig) -> LanguageConfig:
    """The section ``language`` of a run that has one, as every language model's does."""
    assert config.language is not None
    return config.language


class Language(Objective):
    """What ``causal`` and ``masked`` have in common; see ``Objective``.

    The prediction of a token row, which is a window, is ``{"document", "length", "nats", "tokens"}``: the
    place of its document in the split, the length that it is scored at (0 for a window of ``data.max_length``
    or less), and the loss summed over its scored tokens; ``nats`` is None where it could not be computed, and
    ``missing`` says why.
    """

    sample = STORIES
    text_columns = ("text",)
    trains_head = False

    def check(self, values: Mapping[str, Any]) -> None:
        if values.get("language") is None:
            raise UserError(
                "a language model needs the section language, which every preset of finetune pretrain has"
            )
        if values.get("generation") is not None:
            raise UserError("generation.* says how translations are decoded; a language model has none")
        data, train = values.get("data"), values.get("train")
        known = data if isinstance(data, Mapping) else vars(data) if data else {}
        for key, what in (
            ("prefix", "nothing stands before a text"),
            ("max_target_length", "there is no target"),
        ):
            if known.get(key) is not None:
                raise UserError(f"data.{key} is not for a language model, as {what}: set it to null")
        if isinstance(train, Mapping) and "gradient_accumulation_steps" in train:
            raise UserError(
                "train.gradient_accumulation_steps follows from language.tokens_per_step: leave it out"
            )

    def train_bytes(self, config: RunConfig) -> int | None:
        tokens = section(config).train_tokens
        return None if tokens is None else BYTES_A_TOKEN * tokens

    def references(self, split: Dataset) -> Sequence[Any]:
        raise UserError(
            "a language model writes no answer that a further metric could score: leave metrics []"
        )

    def settled(self, config: RunConfig) -> dict[str, Any]:
        """The batches that one optimizer step takes together."""
        tokens, length = section(config).tokens_per_step, config.data.max_length
        windows, rest = divmod(tokens, length)
        if rest or not windows:
            near = sorted({max(windows, 1) * length, (windows + 1) * length})
            raise UserError(
                f"language.tokens_per_step {tokens} is no whole number of windows of {length} tokens "
                f"(data.max_length): set it to {' or '.join(map(str, near))}"
            )
        batch = config.train.get("per_device_train_batch_size", 8)
        if windows % batch:
            fitting = [size for size in range(1, min(windows, 2 * batch) + 1) if windows % size == 0]
            raise UserError(
                f"an optimizer step takes {windows} windows (language.tokens_per_step), which batches of "
                f"{batch} do not make up: set train.per_device_train_batch_size to {fitting[-1]}"
            )
        return {"gradient_accumulation_steps": windows // batch}

    def token_settings(self, config: RunConfig, name: str) -> dict[str, Any]:
        decisive = {
            "train": ("train_tokens", "masked_share"),
            "validation": ("stride", "masked_share"),
            "test": ("stride", "masked_share", "eval_lengths", "scored_tokens", "test_windows"),
        }
        language = {key: getattr(section(config), key) for key in decisive[name]}
        return {"windows": name, "split_seed": config.data.split_seed, **language}

    def tokenize_again(
        self, split: Dataset, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, config: RunConfig
    ) -> Dataset:
        windows = self.tokenize(split, "test", tokenizer, config)
        places = {row: place for place, row in enumerate(windows["row"])}
        return windows.select([places[row] for row in ids])

    def target_length(self, data: DataConfig) -> int:
        return data.max_length

    @property
    def arguments(self) -> type[TrainingArguments]:
        from transformers import TrainingArguments

        return TrainingArguments

    @property
    def trainer(self) -> type[Trainer]:
        from transformers import Trainer

        return Trainer

    def trainer_options(self) -> dict[str, Any]:
        return {"preprocess_logits_for_metrics": _sums}

    def predict(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> dict[int, Any]:
        return self.answer(config, trainer, tokenizer, rows, prefix).predictions

    @abstractmethod
    def answer(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> Answers: ...

    def agree(self, one: Any, other: Any, *, half: bool) -> bool:
        if one["nats"] is None or other["nats"] is None:
            return bool(one == other)
        tolerance = HALF_TOLERANCE if half else TOLERANCE
        return one["tokens"] == other["tokens"] and isclose(one["nats"], other["nats"], rel_tol=tolerance)


def scored(trainer: Any, rows: Dataset, prefix: str) -> dict[int, Any]:
    """Row id -> prediction of windows, by one pass over them."""
    sums = trainer.predict(rows, metric_key_prefix=prefix).predictions
    columns = (rows["row"], rows["document"], rows["length"], sums.tolist())
    return {
        row: {"document": document, "length": length, "nats": nats, "tokens": int(tokens)}
        for row, document, length, (nats, tokens) in zip(*columns, strict=True)
    }


def mean_loss(predictions: Mapping[int, Any]) -> float:
    """Nats a token over windows of ``data.max_length``, or over the others where there is none of these.

    NaN where no window could be computed.
    """
    known = [each for each in predictions.values() if each["nats"] is not None]
    counted = [each for each in known if not each["length"]] or known
    tokens = sum(each["tokens"] for each in counted)
    return float(sum(each["nats"] for each in counted) / tokens) if tokens else nan


def _sums(logits: Any, labels: Any) -> Any:
    """The loss of each window summed over its scored tokens, in nats, and their number: (rows, 2), float64.

    ``logits`` (rows, tokens, vocabulary), ``labels`` (rows, tokens), not to be shifted. What is kept of an
    evaluation; logits would not fit into any memory.
    """
    import torch
    from torch.nn import functional

    from finetune.data.collate import IGNORED

    sums = []
    for one, wanted in zip(logits, labels, strict=True):  # a window at a time, for a copy is made of each
        nats = functional.cross_entropy(one.float(), wanted, ignore_index=IGNORED, reduction="none")
        sums.append(torch.stack([nats.double().sum(), wanted.ne(IGNORED).sum().double()]))
    return torch.stack(sums)
