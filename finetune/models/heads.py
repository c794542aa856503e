"""The token of a row that a classifier's head reads the class off, set and checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from finetune.data.collate import lengths, token_values
from finetune.errors import UserError


def settle(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Sets the padding token of a decoder, which reads the class off the last token that is none."""
    kind = type(model.config)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING:
        model.config.pad_token_id = tokenizer.pad_token_id


def check_ends(name: str, base: PreTrainedModel, tokenizer: Any, splits: Mapping[str, Dataset]) -> None:
    """Raises ``UserError`` for an encoder-decoder unless every row holds its end token once.

    It classifies at that token, and its head fails in a batch of rows with different numbers of them.
    """
    stock = base.config
    if not stock.is_encoder_decoder:
        return
    end = f"'{name}' classifies at the end token {stock.eos_token_id} of its config.json"
    if tokenizer.pad_token_id == stock.eos_token_id:
        raise UserError(
            f"{end}, and its tokenizer pads with that too ('{tokenizer.pad_token}'): set pad_token in the "
            "tokenizer's files, and pad_token_id in config.json, to a token of their own"
        )
    for split, rows in splits.items():
        owner = np.repeat(np.arange(len(rows)), lengths(rows))
        ends = np.bincount(owner[token_values(rows, "input_ids") == stock.eos_token_id], minlength=len(rows))
        if (ends != 1).any():
            first = int(np.flatnonzero(ends != 1)[0])
            raise UserError(
                f"{end}, and its tokenizer gives row {rows[first]['row']} of {split} {ends[first]} of them: "
                "each text must end with one; mend eos_token_id there, or the tokenizer's post_processor"
            )
