"""A model whose layers are given the tokens of a batch without its padding (``batches.padding skipped``)."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from finetune.attention.interface import LAYER
from finetune.attention.unpadded import Unpadding
from finetune.errors import UserError
from finetune.system.text import one_line

_LENGTHS = (7, 3, 1)  # tokens of the rows that the proof is made with
_TOLERANCE = 1e-4  # of the proof, relative to the largest number: rounding of a model's many layers
_MARK = "finetune_unpadding"  # the attribute of a model that skips its padding


def skip_padding(model: Any) -> None:
    """Has the layers of ``model``, whose attention is swapped, compute no padding. Once is enough.

    Embeddings, head and loss see the batch as it is: only between the first layer and the last there are
    tokens alone, and each attention call is padded again. A call that asks for attentions or hidden states
    computes the padding. Raises ``UserError`` for a model that does not answer the same so.
    """
    if _MARK in model.__dict__:
        return
    modules = {name: module for name, module in model.named_modules() if LAYER in module.__dict__}
    layers = _layers(model, list(modules))
    state = Unpadding()
    for module in modules.values():
        setattr(module, LAYER, replace(module.__dict__[LAYER], unpadding=state))
    handles = [model.register_forward_pre_hook(_reader(state), with_kwargs=True)]
    for number, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(_entering(state, number == 0), with_kwargs=True))
    handles.append(layers[-1].register_forward_hook(_leaving(state)))
    fault = _fault(model, state)
    if fault is not None:
        for handle in handles:
            handle.remove()
        state.places = None
        raise UserError(f"{type(model).__name__} cannot skip padding: {fault}; use --batches.padding longest")
    model.__dict__[_MARK] = state


def _layers(model: Any, attentions: list[str]) -> list[nn.Module]:
    """The layers, in order: members of the one list of modules in which all attention is."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and all(each.startswith(f"{name}.") for each in attentions)
    ]
    if not lists:
        raise UserError(
            f"{type(model).__name__} cannot skip padding: its attention is not in one list of layers; use "
            "--batches.padding longest"
        )
    return list(model.get_submodule(lists[0]))


def _reader(state: Unpadding) -> Any:
    def read(model: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        inside = keywords.get("output_attentions") or keywords.get("output_hidden_states")
        state.read(None if inside or not state.active else keywords.get("attention_mask"))

    return read


def _entering(state: Unpadding, first: bool) -> Any:
    """Takes the padding out of what enters a layer: what goes by position, and of the first hidden states."""

    def enter(
        layer: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if state.places is None:
            return None
        changed = {
            name: _by_position(state, keywords[name])
            for name in ("position_embeddings", "position_ids")
            if keywords.get(name) is not None
        }
        if first:
            if args:
                args = (state.unpad(args[0]), *args[1:])
            else:
                changed["hidden_states"] = state.unpad(keywords["hidden_states"])
        return args, {**keywords, **changed}

    return enter


def _by_position(state: Unpadding, value: Any) -> Any:
    """(rows or 1, length, ...) of every token -> (1, tokens, ...), also of several in a tuple."""
    if isinstance(value, tuple):
        return tuple(_by_position(state, each) for each in value)
    return state.unpad(value.expand(state.rows, *value.shape[1:]))


def _leaving(state: Unpadding) -> Any:
    """Puts the padding back into what leaves the last layer."""

    def leave(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if state.places is None:
            return None
        if isinstance(output, tuple):
            return (state.pad(output[0]), *output[1:])
        return state.pad(output)

    return leave


@torch.no_grad()
def _fault(model: Any, state: Unpadding) -> str | None:
    """What a model answers otherwise without padding than with it, on a few tokens; None if nothing."""
    if model.config.is_encoder_decoder:
        return "it has an encoder and a decoder"
    device = next(model.parameters()).device
    mask = torch.arange(max(_LENGTHS))[None] < torch.tensor(_LENGTHS)[:, None]
    pad = model.config.pad_token_id or 0
    ids = torch.randint(1, model.config.vocab_size, mask.shape, generator=torch.Generator().manual_seed(0))
    ids = torch.where(mask, torch.where(ids == pad, ids - 1, ids), pad).to(device)
    mask = mask.to(device)
    training, answers = model.training, []
    model.eval()
    try:
        for state.active in (False, True):
            output = model(input_ids=ids, attention_mask=mask.long())[0]
            answers.append(output[mask] if output.shape[:2] == mask.shape else output)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        return f"its layers do not take tokens alone ({one_line(error)})"
    finally:
        model.train(training)
    whole, skipped = answers
    if state.places is None or not (whole - skipped).abs().max() <= _TOLERANCE * whole.abs().max():
        return "it answers otherwise without it"
    return None
