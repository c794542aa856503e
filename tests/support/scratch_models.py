"""The stock configuration of a model from random weights, without a tokenizer that is trained for it."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from finetune.models.scratch import Scratch


def stock(scratch: Scratch, size: Mapping[str, Any], vocabulary: int, longest: int = 512) -> Any:
    """The configuration of a size, for a vocabulary of so many entries."""

    class Tokenizer(SimpleNamespace):
        def __len__(self) -> int:
            return vocabulary

    marks = Tokenizer(pad_token_id=0, eos_token_id=1, bos_token_id=1, cls_token_id=2, sep_token_id=3)
    return scratch.configure(marks, longest, **size)
