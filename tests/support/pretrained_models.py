"""Stand-ins for pretrained models: a folder of each supported family, with a tokenizer, as a user has it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from finetune import objectives
from finetune.models.scratch import train_tokenizer
from tests.support.tiny_models import FAMILIES

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TEXTS = [" ".join(WORDS[start : start + 5]) for start in range(8)] * 3
POSITIONS = 32
"""Of the families that have a fixed number of them (``tiny_models``)."""


def kind_of(family: str) -> str:
    """The kind of task that a family's stand-in is for."""
    return "translation" if FAMILIES[family].kind == "seq2seq" else "classification"


def save(family: str, folder: Path, **overrides: Any) -> Path:
    """A pretrained model without a head for a task, and its tokenizer."""
    tokenizer = train_tokenizer(objectives.get(kind_of(family)).scratch.recipe, iter(TEXTS), 300)
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
    """Writes the weights of ``folder`` anew as ``change`` has them."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def change_json(file: Path, **values: Any) -> None:
    """Lays ``values`` on a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def as_an_old_checkpoint(folder: Path) -> None:
    """Writes the weights as early versions did: a pickled file in half precision, with every buffer, tied
    weights more than once, a head of pretraining, and the names gamma and beta in a layer norm."""

    def old(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        more: dict[str, Tensor] = {}
        for key, value in weights.items():
            stem, _, last = key.rpartition(".")
            if key.endswith("position_embeddings.weight"):
                more[f"{stem.rpartition('.')[0]}.position_ids"] = torch.arange(len(value))[None]
                more["cls.predictions.bias"] = more["lm_head.bias"] = torch.zeros(value.shape[1])
            if stem.endswith(("c_attn", "query_key_value")):
                attention = stem.rpartition(".")[0]
                more[f"{attention}.bias"] = torch.ones(1, 1, POSITIONS, POSITIONS).tril()
                more[f"{attention}.masked_bias"] = torch.tensor(-1e4)
                more[f"{attention}.rotary_emb.inv_freq"] = torch.ones(2)
            if last == "weight" and stem.endswith("shared"):
                for side in ("encoder", "decoder"):
                    more[f"{stem.removesuffix('shared')}{side}.embed_tokens.weight"] = value.clone()
                    more[f"{stem.removesuffix('shared')}{side}.embed_positions.weights"] = torch.ones(
                        POSITIONS + 2, value.shape[1]
                    )
                more["lm_head.weight"] = value.clone()
        renamed = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): value
            for key, value in (more | weights).items()
        }
        return {key: value.half() if value.is_floating_point() else value for key, value in renamed.items()}

    file = folder / "model.safetensors"
    torch.save(old(load_file(file)), folder / "pytorch_model.bin")
    file.unlink()


def in_shards(folder: Path) -> None:
    """Writes the weights as a large model has them: several files and an index."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    file.unlink()
    names = sorted(weights)
    parts: dict[str, str] = {}
    for part in range(2):
        shard = f"model-0000{part + 1}-of-00002.safetensors"
        save_file({key: weights[key] for key in names[part::2]}, folder / shard, metadata={"format": "pt"})
        parts |= dict.fromkeys(names[part::2], shard)
    index = {"metadata": {"total_size": 0}, "weight_map": parts}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
