"""Stand-ins for pretrained models: a folder of each supported family, with a tokenizer, as a user has it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from finetune.scratch import train_tokenizer
from tiny_models import FAMILIES

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TEXTS = [" ".join(WORDS[start : start + 5]) for start in range(8)] * 3
POSITIONS = 32
"""Of the families that have a fixed number of them (``tiny_models``)."""


def kind_of(family: str) -> str:
    """The kind of task that a family's stand-in is for."""
    return "translation" if FAMILIES[family].kind == "seq2seq" else "classification"


def save(family: str, folder: Path, **overrides: Any) -> Path:
    """A pretrained model without a head for a task, and its tokenizer."""
    tokenizer = train_tokenizer(kind_of(family), iter(TEXTS), 300)
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if FAMILIES[family].kind == "seq2seq":
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    headless = AutoModel.from_config if FAMILIES[family].kind == "encoder" else None
    FAMILIES[family].build(model_class=headless, **{**ids, **overrides}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Write the weights of ``folder`` anew as ``change`` has them."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def change_json(file: Path, **values: Any) -> None:
    """Lay ``values`` on a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
