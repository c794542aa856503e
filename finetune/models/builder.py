"""Configuration -> model and tokenizer, with the attention swapped."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers import GenerationConfig as HFGenerationConfig

from finetune.attention import find_variant
from finetune.attention.swap import SwapReport, swap
from finetune.config.schema import RunConfig
from finetune.models.adapters import adapted_model
from finetune.models.languages import set_languages
from finetune.models.model_files import check_sizes
from finetune.models.pretrained import (
    AUTO_MODELS,
    SCRATCH,
    Pretrained,
    build_tokenizer,
    commit_of,
    load_pretrained,
    set_dropout,
)
from finetune.models.scratch import scratch_config


@dataclass(frozen=True)
class Built:
    """A model ready to train: its tokenizer, what the swap proved, and facts for the record."""

    model: PreTrainedModel  # with its adapters, where it has any
    base: PreTrainedModel  # without them: the model whose attention was swapped
    tokenizer: PreTrainedTokenizerBase
    swap: SwapReport
    info: dict[str, Any]


def build_model(config: RunConfig, texts: Iterator[str], labels: Sequence[str] | None) -> Built:
    """Make the model that ``config`` names.

    ``texts`` are those of the train split; a scratch model trains its tokenizer on them. ``labels`` are the
    class names, ``None`` for translation. The seed is set just before any weight is drawn, so runs that
    differ in attention alone start from the same weights. Raises ``UserError`` where the model cannot be
    had, lacks a dropout that is asked for, or cannot be swapped.
    """
    tokenizer = build_tokenizer(config, texts)
    heads = head_options(labels)
    set_seed(config.seed)
    if config.model.name.startswith(SCRATCH):
        stock = scratch_config(config.kind, config.model.name, tokenizer, _longest(config), heads)
        set_dropout(stock, config)
        check_sizes(
            f"{config.model.name} with --data.max_length and the like", stock, AUTO_MODELS[config.kind]
        )
        found = Pretrained(AUTO_MODELS[config.kind].from_config(stock), {})
    else:
        found = load_pretrained(config, config.model.name, config.model.revision, heads)
    model = found.model
    report = fitted(model, tokenizer, config)
    facts = {**_facts(model, tokenizer, config), **found.facts}
    adapted = adapted_model(model, config.kind, config.model.lora, found.facts.get("new_weights", []))
    facts["trainable"] = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Built(adapted, model, tokenizer, report, facts)


def _longest(config: RunConfig) -> int:
    """Tokens of the longest row that a model is to read or to write."""
    written = config.generation.max_new_tokens if config.generation else 0
    return max(config.data.max_length, config.data.max_target_length or 0, written)


def fitted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> SwapReport:
    """Settle how a model meets its tokens, and swap its attention; the same whether it is to be trained or
    comes back from a run's folder."""
    if config.kind == "translation":
        _set_generation(model, tokenizer, config)
    elif _classifies_at_its_end(model):
        model.config.pad_token_id = tokenizer.pad_token_id
    attention = config.attention
    return swap(
        model,
        find_variant(attention),
        scope=attention.scope,
        kernel=attention.kernel,
        parameters=attention.parameters,
    )


def _classifies_at_its_end(model: PreTrainedModel) -> bool:
    """A decoder reads the class off the last token that is no padding."""
    kind = type(model.config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING


def head_options(labels: Sequence[str] | None) -> dict[str, Any]:
    """The classes of a head, as a model's configuration has them; nothing for a translation."""
    if not labels:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


# What a checkpoint's own generation settings say about tokens; its search settings are replaced.
TOKEN_SETTINGS = (
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids",
)  # fmt: skip


def _set_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
    """Search as the configuration says and in no other way, whatever the checkpoint would do."""
    assert config.generation is not None  # build() of a translation preset always has it
    tokens = {name: getattr(model.generation_config, name) for name in TOKEN_SETTINGS}
    model.generation_config = HFGenerationConfig(
        num_beams=config.generation.num_beams,
        length_penalty=config.generation.length_penalty,
        max_length=config.generation.max_new_tokens + 1,  # counts the decoder's start token too
        do_sample=False,
        **tokens | {"pad_token_id": tokenizer.pad_token_id} | set_languages(tokenizer, config.pair),
    )


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Sixteen hexadecimal digits over every weight that a model computes with, by name.

    What peft keeps of a module before it was trained whole takes no part.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if ".original_module." not in name:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _facts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> dict[str, Any]:
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return {
        "name": config.model.name,
        "revision": commit_of(config.model.name, config.model.revision),
        "initial_weights": weights_fingerprint(model),  # before training; equal in the arms of one seed
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
