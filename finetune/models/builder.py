"""Configuration -> model and tokenizer, with the attention swapped."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from finetune.attention import find_variant
from finetune.attention.swap import SwapReport, forget_calls, swap
from finetune.config.lineage import SCRATCH
from finetune.config.schema import OWN, RunConfig
from finetune.data.collate import Collator
from finetune.errors import UserError
from finetune.models.adapters import adapted_model
from finetune.models.model_files import check_sizes
from finetune.models.pretrained import (
    Pretrained,
    build_tokenizer,
    commit_of,
    load_pretrained,
    set_dropout,
)
from finetune.models.scratch import Scratch
from finetune.positions import attach as positions
from finetune.records import pretraining
from finetune.records.run import Run
from finetune.system.shares import whole


@dataclass(frozen=True)
class Built:
    """A model ready to train: its tokenizer, what the swap proved, and facts for the record."""

    model: PreTrainedModel  # with its adapters, where it has any
    base: PreTrainedModel  # without them: the model whose attention was swapped
    tokenizer: PreTrainedTokenizerBase
    swap: SwapReport
    info: dict[str, Any]


class ModelObjective(Protocol):
    """The part of an objective (``finetune.objectives``) that makes and checks models of its kind of task."""

    kind: str
    adapter_task: str
    trains_head: bool

    @property
    def auto_model(self) -> Any:
        """transformers' auto class of the model."""

    @property
    def scratch(self) -> Scratch:
        """The models behind ``scratch:SIZE``."""

    def settle(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
        """Sets in a model the tokens that it starts, ends and pads by."""

    def check_model(self, config: RunConfig, built: Built, splits: Mapping[str, Dataset]) -> None:
        """Raises ``UserError`` where a model is not fit for this kind, or for one of the token rows."""

    def fitting(self, rows: Dataset) -> Dataset:
        """The token rows of a split that a model must have positions for."""

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: Any, config: RunConfig) -> Collator:
        """The function from token rows to a padded batch."""


def build_model(
    config: RunConfig, objective: ModelObjective, texts: Iterator[str], labels: Sequence[str] | None
) -> Built:
    """Makes the model that ``config`` names.

    ``texts`` are those of the train split; a scratch model trains its tokenizer on them. ``labels`` are the
    class names, ``None`` for a task without them. The seed is set just before any weight is drawn, so runs
    that differ in attention alone start from the same weights. Raises ``UserError`` where the model cannot be
    had, lacks a dropout that is asked for, or cannot be swapped.
    """
    origin = pretraining.resolve(config, thorough=True)
    located = pretraining.at(config, origin) if origin else config
    tokenizer = build_tokenizer(located, objective.scratch.recipe, texts)
    vocabulary = _vocabulary(tokenizer)
    if origin:
        check_tokenizer(origin, vocabulary)
    heads = head_options(labels)
    set_seed(config.seed)
    if config.model.name.startswith(SCRATCH):
        # A stock architecture from random weights, with positions for the longest row or output.
        options = objective.scratch.options(config.model.name.removeprefix(SCRATCH), objective.kind)
        written = config.generation.max_new_tokens if config.generation else 0
        scored = config.language.eval_lengths if config.language else []
        longest = max(config.data.max_length, config.data.max_target_length or 0, written, *scored)
        stock = objective.scratch.configure(tokenizer, longest, **options, **heads)
        set_dropout(stock, config)
        positions.free(stock, config.model.position)
        described_by = f"{config.model.name} with --data.max_length and the like"
        check_sizes(described_by, stock, objective.auto_model)
        loaded = Pretrained(objective.auto_model.from_config(stock), {})
    else:
        name, revision = located.model.name, config.model.revision
        loaded = load_pretrained(located, objective.auto_model, name, revision, heads)
    model = loaded.model
    report = settle_and_swap(loaded, tokenizer, objective, located)
    facts = {
        "name": config.model.name,
        "revision": commit_of(located.model.name, config.model.revision),
        "initial_weights": weights_fingerprint(model),  # before training; equal in the variants of one seed
        "tokenizer": vocabulary,
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        **loaded.facts,
    }
    if config.model.lora.rank and not loaded.weights and positions.learned(model):
        raise UserError(
            f"adapters leave a positional encoding as it is, and {config.model.position} is new in "
            f"'{config.model.name}': train it with model.lora.rank 0, or leave --model.position {OWN}"
        )
    # What a folder's model was trained on stays with the model, however the folder was named.
    if began := origin or pretraining.kept_in(located.model.name):
        drawn = weights_fingerprint(model, loaded.facts.get("new_weights", []))
        facts["pretrained"] = pretraining.link(began, drawn)
    adapted = adapted_model(
        model,
        config.model.lora,
        loaded.facts.get("new_weights", []),
        task_type=objective.adapter_task,
        head=objective.trains_head,
    )
    facts["trainable"] = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Built(adapted, model, tokenizer, report, facts)


def settle_and_swap(
    loaded: Pretrained, tokenizer: PreTrainedTokenizerBase, objective: ModelObjective, config: RunConfig
) -> SwapReport:
    """Sets the tokens of a model, swaps its attention, and puts its positional encoding beside it.

    One function, so that a model to be trained and one from a run's folder are made alike.
    """
    model, attention = loaded.model, config.attention
    objective.settle(model, tokenizer, config)
    encoding, constants = positions.wanted(
        model.config, config.model.position, config.model.position_parameters
    )
    report = swap(
        model,
        find_variant(attention),
        scope=attention.scope,
        kernel=attention.kernel,
        parameters=attention.parameters,
    )
    positions.attach(model, encoding, constants, config.seed)
    if loaded.weights:
        positions.restore(model, loaded.weights)
    forget_calls(model)  # of what proved the encoding, some of them before it was there
    return report


def head_options(labels: Sequence[str] | None) -> dict[str, Any]:
    """The classes of a head as options of a model's configuration; empty without labels."""
    if not labels:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def check_tokenizer(origin: Run, vocabulary: str) -> None:
    """Raises ``UserError`` where the tokenizer in ``origin.folder`` is not what it was trained with."""
    recorded = (origin.record["model"] or {}).get("tokenizer")
    if recorded not in (None, vocabulary):
        raise UserError(
            f"the tokenizer in {origin.folder} is another one than that run was trained with (fingerprint "
            f"{vocabulary} against {recorded}): put its files back, or make the run again"
        )


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sixteen hexadecimal digits over the entries of a tokenizer and their numbers."""
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_fingerprint(model: torch.nn.Module, names: Collection[str] | None = None) -> str:
    """Sixteen hexadecimal digits over every weight that a model computes with, by name; or over ``names``.

    The copies that peft keeps of modules before they are trained whole take no part.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if ".original_module." not in name and (names is None or name in names):
            digest.update(name.encode())
            digest.update(whole(tensor.detach()).cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
