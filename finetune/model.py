"""Configuration -> model and tokenizer, with the attention swapped; and a run folder back to both.

A checkpoint on disk forgets its attention (``from_pretrained`` returns plain softmax, silently), so a run
folder keeps its configuration beside it, and ``load`` swaps again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers import GenerationConfig as HFGenerationConfig

from finetune import pushed
from finetune.attention.calibrate import RowSums, fold
from finetune.attention.swap import SwapReport, swap
from finetune.config import LoraConfig, RunConfig, as_dict, build, read_yaml
from finetune.errors import UserError
from finetune.languages import set_languages
from finetune.pretrained import (
    AUTO_MODELS,
    SCRATCH,
    build_tokenizer,
    commit_of,
    explain,
    pretrained_model,
    set_dropout,
)
from finetune.reading import settle
from finetune.scratch import scratch_config

CONFIG_FILE = "finetune.yaml"
ORIGIN_FILE = "origin.yaml"
CALIBRATION_FILE = "calibration.json"


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
    heads = _head_options(labels)
    set_seed(config.seed)
    if config.model.name.startswith(SCRATCH):
        stock = scratch_config(config.kind, config.model.name, tokenizer, config.data.max_length, heads)
        set_dropout(stock, config)
        model = AUTO_MODELS[config.kind].from_config(stock)
    else:
        model = pretrained_model(config, config.model.name, config.model.revision, heads)
    if config.kind == "translation":
        _set_generation(model, tokenizer, config)
    elif (
        type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(model.config) not in MODEL_FOR_MASKED_LM_MAPPING
    ):
        model.config.pad_token_id = (
            tokenizer.pad_token_id
        )  # a decoder classifies at its last token that is no padding
    report = _swap(model, config)
    facts = _facts(model, tokenizer, config)
    adapted = _with_lora(model, config.kind, config.model.lora)
    facts["trainable"] = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Built(adapted, model, tokenizer, report, facts)


def save_origin(config: RunConfig, labels: Sequence[str] | None, revision: str | None, folder: Path) -> None:
    """Write what ``load`` starts from: the merged configuration, and beside it the class names and the
    commit of the base model, which a folder of adapters does not know."""
    origin = {"labels": list(labels) if labels else None, "revision": revision}
    for name, content in ((CONFIG_FILE, as_dict(config)), (ORIGIN_FILE, origin)):
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / name).write_text(text, encoding="utf-8")


def save_calibration(sums: RowSums, folder: Path) -> None:
    """Write what ``load`` folds into a base model again, which a folder of adapters does not hold."""
    (folder / CALIBRATION_FILE).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def load(folder: str | Path, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a finished run *with its attention variant*, LoRA adapters included, in evaluation mode.

    ``folder`` is a run's, or the id of a Hub repository that ``finetune push`` made, with a ``revision``
    (commit, tag or branch) if need be. Raises ``UserError`` where there is no finished run.
    """
    folder = pushed.fetch(folder, revision, CONFIG_FILE)
    config = build(read_yaml(folder / CONFIG_FILE))
    with explain(str(folder)):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    settle(tokenizer)
    if config.model.lora.rank:
        from peft import PeftModel

        origin = read_yaml(folder / ORIGIN_FILE)
        heads = _head_options(origin["labels"])
        base = pretrained_model(config, config.model.name, origin["revision"] or config.model.revision, heads)
        _swap(base, config)
        if (folder / CALIBRATION_FILE).is_file():
            fold(base, json.loads((folder / CALIBRATION_FILE).read_text(encoding="utf-8")))
        if config.kind == "translation":
            _set_generation(base, tokenizer, config)
        model = PeftModel.from_pretrained(base, folder)
    else:
        model = pretrained_model(config, str(folder), None, {})
        _swap(model, config)
    return model.eval(), tokenizer


def _swap(model: PreTrainedModel, config: RunConfig) -> SwapReport:
    attention = config.attention
    return swap(
        model,
        attention.variant,
        scope=attention.scope,
        kernel=attention.kernel,
        parameters=attention.parameters,
    )


def _head_options(labels: Sequence[str] | None) -> dict[str, Any]:
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


def _with_lora(model: PreTrainedModel, kind: str, lora: LoraConfig) -> Any:
    if not lora.rank:
        return model
    from peft import LoraConfig as PeftLoraConfig
    from peft import TaskType, get_peft_model

    task_type = TaskType.SEQ_CLS if kind == "classification" else TaskType.SEQ_2_SEQ_LM
    try:
        return get_peft_model(
            model,
            PeftLoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                task_type=task_type,
            ),
        )
    except ValueError as error:
        raise UserError(f"LoRA does not fit this model: {error}. Set --model.lora.target_modules") from error


def _facts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> dict[str, Any]:
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {
        "name": config.model.name,
        "revision": commit_of(config.model.name, config.model.revision),
        "initial_weights": weights.hexdigest()[:16],  # before training; equal in the arms of one seed
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
