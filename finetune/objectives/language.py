"""What language modelling is, causal or masked: texts by document, windows over them, tokens a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import isclose, nan
from typing import TYPE_CHECKING, Any

from finetune.data.synthetic import STORIES
from finetune.errors import UserError
from finetune.models.scale import Batch, Pairwise, Shape, flops_per_token
from finetune.models.sizes import size_of
from finetune.models.workload import Amount, Anatomy, of_shape
from finetune.objectives.base import Answers, Objective, in_half, is_fused
from finetune.positions import get_encoding

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from finetune.config.schema import DataConfig, LanguageConfig, RunConfig

BYTES_A_TOKEN = 8
"""Bytes of text that are read for each token to train on: more than any tokenizer's mean over a corpus."""
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
"""How far the nats of a window may differ, relative, in batches of another size: float32, half precision."""


def section(config: RunConfig) -> LanguageConfig:
    """The section ``language`` of a run that has one, as every language model's does."""
    assert config.language is not None
    return config.language


def keys(values: Any) -> Mapping[str, Any]:
    """The keys of a section, be it read from files and options or one of a ``RunConfig``.

    None without a section, or with what is no section at all, which the schema refuses.
    """
    return values if isinstance(values, Mapping) else getattr(values, "__dict__", {})


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
        data, train = keys(values.get("data")), values.get("train")
        for key, what in (
            ("prefix", "nothing stands before a text"),
            ("max_target_length", "there is no target"),
        ):
            if data.get(key) is not None:
                raise UserError(f"data.{key} is not for a language model, as {what}: set it to null")
        if isinstance(train, Mapping) and "gradient_accumulation_steps" in train:
            raise UserError(
                "train.gradient_accumulation_steps follows from language.tokens_per_step: leave it out"
            )

    def train_bytes(self, config: RunConfig) -> int | None:
        tokens = section(config).train_tokens
        return None if tokens is None else BYTES_A_TOKEN * tokens

    def shape(self, config: RunConfig, size: Mapping[str, Any], encoding: int) -> Shape:
        """The numbers of a scratch model of a ``size`` whose positional encoding learns ``encoding``."""
        return Shape(*size_of(size), config.model.vocab_size, encoding=encoding)

    def anatomy(self, config: RunConfig, size: Mapping[str, Any], labels: Sequence[str]) -> Anatomy:
        model = config.model
        encoding, _ = get_encoding(model.position, model.position_parameters)
        layers, _, heads, _ = size_of(size)
        batch = Batch(
            windows=1,
            length=config.data.max_length,
            half=in_half(config),
            dropout=bool(model.dropout or model.attention_dropout),
            fused=is_fused(config),
            pairwise=Pairwise(encoding.products(heads), encoding.kept(heads), not encoding.by_row),
        )
        return of_shape(self.shape(config, size, encoding.learned(layers, heads)), batch)

    def amount(self, config: RunConfig) -> Amount:
        language, train, length = section(config), config.train, config.data.max_length
        limit, epochs = train.get("max_steps", -1), train.get("num_train_epochs", 3)
        tokens = None if language.train_tokens is None else language.train_tokens * epochs
        if limit > 0:
            tokens = limit * language.tokens_per_step
        return Amount(
            batch=train.get("per_device_train_batch_size", 8),
            step=language.tokens_per_step // length,
            length=length,
            filled=True,
            rows=None if tokens is None else tokens / length,
        )

    def flops_per_token(self, config: RunConfig, model: PreTrainedModel) -> float | None:
        encoding, _ = get_encoding(config.model.position, config.model.position_parameters)
        stock, table = model.config, model.get_input_embeddings().weight
        tied = model.get_output_embeddings().weight is table  # and then multiplied too, not looked up alone
        weights = [weight for weight in model.parameters() if tied or weight is not table]
        count = sum(weight.numel() for weight in weights)
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        return flops_per_token(
            (2 * count + trained) / 3,  # of 6 operations a weight, 2 are for its own gradient
            layers=stock.num_hidden_layers,
            width=stock.hidden_size,
            length=config.data.max_length,
            pairwise=Pairwise(encoding.products(stock.num_attention_heads)),
        )

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

    def few(self, split: Dataset, name: str, config: RunConfig, count: int) -> Dataset:
        from finetune.data import windows

        longest = max([config.data.max_length, *section(config).eval_lengths])
        return windows.few(split, count * longest * BYTES_A_TOKEN, of_one=name != "train")

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
            return True  # whether a window fits is a matter of the memory at the moment, not of the model
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
