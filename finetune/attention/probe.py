"""Run a model once on a few made-up tokens to see which attention calls it makes, and of which kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune.attention.interface import AttentionKind, ObservedCall, observing
from finetune.errors import UserError

SOURCE_LEN, TARGET_LEN = 7, 5  # unequal, so that lengths alone tell the kinds of an encoder-decoder apart


@dataclass(frozen=True)
class Observed:
    """Every attention call of one pass, in order, with its kind; and the dropout in train mode."""

    calls: tuple[tuple[nn.Module, AttentionKind], ...]
    dropout: float | dict[AttentionKind, float]  # one number where all kinds agree


def observe(model: Any) -> Observed:
    """Pass made-up tokens through ``model`` in eval mode, then in train mode.

    Nothing is changed: no gradients, random states kept, every module's train or eval mode restored.
    ``UserError`` where the model cannot run on token ids alone.
    """
    calls = [(call.module, _kind(model, call)) for call in _calls(model, train=False)]
    rates: dict[AttentionKind, float] = {
        _kind(model, call): call.dropout for call in _calls(model, train=True)
    }
    same = len(set(rates.values())) == 1
    return Observed(tuple(calls), next(iter(rates.values())) if same else rates)


def expected_calls(config: Any) -> int:
    """How many attention calls one pass must make: one a layer, two in a layer with cross-attention."""
    values = config.to_dict()
    layers = getattr(config, "num_hidden_layers", None) or 0  # many configurations map their own name to it
    if not config.is_encoder_decoder:
        return layers * values.get("inner_group_num", 1)  # ALBERT's inner groups
    encoder, decoder = (values.get(part) or {} for part in ("encoder", "decoder"))  # two models in one
    encoder_layers = encoder.get("num_hidden_layers", values.get("encoder_layers", layers))
    decoder_layers = values.get("decoder_layers", values.get("num_decoder_layers", 0))
    return encoder_layers + 2 * decoder.get("num_hidden_layers", decoder_layers)


def _inputs(model: Any) -> dict[str, torch.Tensor]:
    """Token ids (1, tokens) from the model's vocabulary, none of them masked."""
    embedding = model.get_input_embeddings()
    ids = torch.arange(1, SOURCE_LEN + 1, device=embedding.weight.device)[None] % embedding.num_embeddings
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :TARGET_LEN]
    return inputs


def _calls(model: Any, train: bool) -> list[ObservedCall]:
    base = model.base_model  # without its head: heads have demands of their own on the tokens
    with _undisturbed(model), torch.no_grad(), observing() as calls:
        model.train(train)
        try:
            base(**_inputs(base))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{type(model).__name__} cannot be swapped: it does not run on token ids alone ({error})"
            ) from error
    return calls


# What would disturb a dry pass: checkpointing warns where there is no gradient, layerdrop leaves out layers.
_OFF = {"gradient_checkpointing": False, "layerdrop": 0.0}


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Keep random states and each module's mode; meanwhile switch off what would disturb the pass."""
    names = ("training", *_OFF)
    kept = [(module, name, module.__dict__[name]) for module in model.modules() for name in names
            if name in module.__dict__]  # fmt: skip
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type != "cpu"}
    with torch.random.fork_rng(
        devices=[device.index or 0 for device in devices],
        device_type=next((device.type for device in devices), "cuda"),
    ):
        try:
            for module, name, _ in kept:
                setattr(module, name, _OFF.get(name, getattr(module, name)))
            yield
        finally:
            for module, name, value in kept:
                setattr(module, name, value)


def _kind(model: Any, call: ObservedCall) -> AttentionKind:
    if not model.config.is_encoder_decoder:
        return "decoder" if call.causal else "encoder"
    kinds: dict[tuple[int, int], AttentionKind] = {
        (SOURCE_LEN, SOURCE_LEN): "encoder",
        (TARGET_LEN, TARGET_LEN): "decoder",
        (TARGET_LEN, SOURCE_LEN): "cross",
    }
    try:
        return kinds[call.query_len, call.key_len]
    except KeyError:
        raise UserError(
            f"{type(model).__name__} cannot be swapped: an attention of {call.query_len} queries and "
            f"{call.key_len} keys is neither self- nor cross-attention"
        ) from None
