"""Masked tokens of a text from what stands on both sides: an encoder, scored by its loss at them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.config.schema import SHORTEST_WINDOW
from finetune.errors import UserError
from finetune.models.scale import BertShape, ModernBertShape, Shape
from finetune.models.sizes import ENCODERS, MODERNBERT, size_of
from finetune.objectives.base import Answers, Rows
from finetune.objectives.language import Language, keys, mean_loss, scored, section

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetune.config.schema import RunConfig
    from finetune.data.collate import Collator
    from finetune.data.masking import Masking
    from finetune.models.builder import Built
    from finetune.models.scratch import Scratch

CAUSAL_ONLY: Mapping[str, Any] = {
    "eval_lengths": [],
    "scored_tokens": None,
    "test_windows": None,
    "stride": None,
}
"""Keys of ``language`` that say how a causal model is scored -> what they are here."""
MARKS = ("mask", "cls", "sep")


class Masked(Language):
    """See ``Objective`` and ``Language``."""

    kind = "masked"
    pipeline_tag = "fill-mask"
    adapter_task = "FEATURE_EXTRACTION"  # peft has no task of its own for masked tokens

    def check(self, values: Mapping[str, Any]) -> None:
        super().check(values)
        known = keys(values["language"])
        if known.get("masked_share") is None:
            raise UserError(
                "language.masked_share is the share of the tokens that are masked: set it, e.g. to 0.15"
            )
        for key, none in CAUSAL_ONLY.items():
            if known.get(key, none) != none:
                raise UserError(
                    f"language.{key} is for --objective causal, and masked windows are scored at "
                    f"data.max_length alone: set it to {json.dumps(none)}"
                )

    def settled(self, config: RunConfig) -> dict[str, Any]:
        if config.data.max_length < SHORTEST_WINDOW:
            raise UserError(
                f"data.max_length {config.data.max_length} leaves little of a text between the two marks of "
                f"a window: set it to {SHORTEST_WINDOW} or more"
            )
        return super().settled(config)

    def token_settings(self, config: RunConfig, name: str) -> dict[str, Any]:
        language = section(config)
        if name != "train":
            return {"windows": "scored", "masked_share": language.masked_share}
        order = {"split_seed": config.data.split_seed, "train_tokens": language.train_tokens}
        return {"windows": language.documents, **order}

    def tokenize(
        self, split: Dataset, name: str, tokenizer: PreTrainedTokenizerBase, config: RunConfig
    ) -> Dataset:
        import numpy as np

        from finetune.data import masking, windows

        ids: Any = [getattr(tokenizer, f"{mark}_token_id") for mark in MARKS]
        if None in ids:
            missing = MARKS[ids.index(None)]
            raise UserError(
                f"the tokenizer of '{config.model.name}' has no {missing}_token, which masked windows need: "
                "choose an encoder, such as BERT's or RoBERTa's"
            )
        _, first, last = ids
        frame = windows.Frame(first, last, between=last, special=tuple(tokenizer.all_special_ids))
        language, length, seed = section(config), config.data.max_length, config.data.split_seed
        documents = windows.documents(split, tokenizer)
        if name != "train":
            names = [document for document, *_ in windows.texts(split)]
            return masking.scored(windows.apart(documents, frame, length), names, _masking(tokenizer, config))
        if language.documents == "cross":
            return windows.packed(documents, frame, length, seed, language.train_tokens)
        order = np.random.RandomState(seed).permutation(len(documents)).tolist()
        rows = windows.apart(documents, frame, length, order, language.train_tokens)
        return rows.remove_columns("document")  # by which rows are told that are scored

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: Any, config: RunConfig) -> Collator:
        from transformers import DataCollatorForTokenClassification

        from finetune.data.collate import collator
        from finetune.data.masking import EpochMasks

        pad = DataCollatorForTokenClassification(tokenizer)  # labels are padded as the tokens are
        length = self.target_length(config.data)
        masks = EpochMasks(_masking(tokenizer, config), config.seed)
        return collator(pad, tokenizer, config, target_length=length, renewal=masks)

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    sizes = ENCODERS

    def shape(self, config: RunConfig, size: Mapping[str, Any], encoding: int) -> Shape:
        numbers = (*size_of(size), config.model.vocab_size)
        if size.get("model_type") == MODERNBERT:
            return ModernBertShape(*numbers)
        return BertShape(*numbers, places=max(512, config.data.max_length))

    @property
    def scratch(self) -> Scratch:
        from finetune.models.scratch import BERT

        return BERT

    def settle(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
        """Nothing: a model that reads both sides of a masked token starts and ends by no token of its own."""

    def check_model(self, config: RunConfig, built: Built, splits: Mapping[str, Dataset]) -> None:
        if built.base.config.is_encoder_decoder or getattr(built.base.config, "is_decoder", False):
            raise UserError(
                f"'{config.model.name}' is no encoder that sees both sides of a masked token: choose one, "
                "such as BERT or scratch:modernbert-mini, or predict the next token (--objective causal)"
            )

    def answer(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> Answers:
        predictions = scored(trainer, rows, prefix)
        return Answers(mean_loss(predictions), predictions)

    def rows(self, split: Dataset, predictions: Mapping[int, Any]) -> Rows:
        from finetune.data import windows

        found: list[dict[str, Any]] = [
            {"row": row, "document": name, "nats": 0.0, "tokens": 0} for name, row, _ in windows.texts(split)
        ]
        for each in predictions.values():
            row = found[each["document"]]
            row["nats"], row["tokens"] = row["nats"] + each["nats"], row["tokens"] + each["tokens"]
        return [row for row in found if row["tokens"]]

    def score(
        self,
        rows: Rows,
        config: RunConfig,
        *,
        labels: Sequence[str] | None,
        tokenizer: str,
        generation: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        from finetune.metrics.perplexity import masked_metrics

        share = section(config).masked_share
        assert share is not None  # ``check`` has seen to it
        return masked_metrics(rows, tokenizer=tokenizer, length=config.data.max_length, masked_share=share)

    def snippet(self, config: Mapping[str, Any]) -> str:
        return """\
inputs = tokenizer("A text of some words", return_tensors="pt")
inputs["input_ids"][0, 3] = tokenizer.mask_token_id
print(tokenizer.decode(model(**inputs).logits[0, 3].argmax()))"""


def _masking(tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> Masking:
    import numpy as np

    from finetune.data.masking import Masking

    share, mask = section(config).masked_share, tokenizer.mask_token_id
    assert share is not None and isinstance(mask, int)
    words = sorted({*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids})
    return Masking(share, mask, np.array(words, np.int32))


OBJECTIVE = Masked()
