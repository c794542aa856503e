"""A positional encoding put into a stock decoder, beside its attention, and got back from a checkpoint.

Two steps, for transformers draws a model's weights as it is built: ``free`` switches the architecture's own
encoding off in its configuration before that, ``attach`` adds the modules after the swap of the attention and
proves that no order of tokens shows through anything else. ``restore`` reads their weights from a checkpoint.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from finetune.attention.interface import observing
from finetune.attention.position_bias import POSITION, RECORDED, PositionBias
from finetune.attention.probe import observe
from finetune.attention.register import NAME
from finetune.attention.swap import IMPLEMENTATION, attention_layers
from finetune.config.schema import OWN
from finetune.errors import UserError
from finetune.positions import Encoding, get_encoding

PROBE = 12  # tokens of the proof that a model is free of an encoding
TOLERANCE = 1e-4  # float error of a sum over keys in another order, relative to the largest value


def _rotary_share(share: float) -> Callable[[Any], None]:
    def switch(stock: Any) -> None:
        stock.rope_parameters = {**stock.rope_parameters, "partial_rotary_factor": share}

    return switch


def _rotary_layers(on: int) -> Callable[[Any], None]:
    def switch(stock: Any) -> None:
        stock.no_rope_layers = [on] * stock.num_hidden_layers

    return switch


# model_type -> how its own rotary embedding is switched off, and on over the whole head. Other decoders with
# the attention interface either have no such switch or accept one and ignore it (Llama): see ``prove_free``.
SWITCHES: Mapping[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "gpt_neox": (_rotary_share(0.0), _rotary_share(1.0)),
    "phi": (_rotary_share(0.0), _rotary_share(1.0)),
    "smollm3": (_rotary_layers(0), _rotary_layers(1)),
}


def wanted(
    stock: PreTrainedConfig, name: str, parameters: Mapping[str, float]
) -> tuple[Encoding, dict[str, float]]:
    """The encoding that a model of this configuration is to have, with its constants.

    ``own`` is what a checkpoint was trained with, be it one of ``POSITIONS`` or the architecture's. Raises
    ``UserError`` where another one is asked for than a checkpoint has learned weights of.
    """
    held = getattr(stock, RECORDED, None)
    if not held:
        return get_encoding(name, parameters)
    encoding, constants = get_encoding(held["name"], held["parameters"])
    if name == OWN and not parameters:
        return encoding, constants
    asked = get_encoding(name, parameters)
    if asked != (encoding, constants):
        raise UserError(
            f"this checkpoint was trained with the positional encoding {_text(encoding, constants)}, "
            f"not with {_text(*asked)}: leave --model.position {OWN}"
        )
    return asked


def free(stock: PreTrainedConfig, name: str) -> None:
    """Switches the architecture's own encoding off, or on for ``rope``, as ``name`` wants it.

    Raises ``UserError`` for an architecture that cannot be had without its own.
    """
    if name == OWN:
        return
    if stock.model_type not in SWITCHES:
        raise UserError(
            f"the positional encoding '{name}' cannot be put into {stock.model_type}, whose own would stay "
            f"active: choose one of {', '.join(sorted(SWITCHES))}, or --model.position {OWN}"
        )
    off, on = SWITCHES[stock.model_type]
    (on if name == "rope" else off)(stock)


def attach(model: PreTrainedModel, encoding: Encoding, constants: Mapping[str, float], seed: int) -> None:
    """Puts ``encoding`` beside every attention of ``model``, whose attention was swapped before.

    Its weights are drawn from ``seed`` alone: whatever else is drawn stays the same. Raises ``UserError`` for
    a model that is no decoder, and for one that has an encoding of its own left.
    """
    if encoding.name in (OWN, "rope"):
        return
    layers = attention_layers(model)
    kinds = sorted({layer.kind for layer in layers.values()})
    if kinds != ["decoder"]:
        raise UserError(
            f"a positional encoding is for decoders, and {type(model).__name__} has {' and '.join(kinds)} "
            f"attention: leave --model.position {OWN}"
        )
    prove_free(model)
    if not encoding.module:
        return
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    device, dtype = next((p.device, p.dtype) for p in model.parameters())
    modules = [model.get_submodule(name) for name in layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first: PositionBias | None = None
        for module in modules:
            made = encoding.bias.build(heads, width=width, first=first, constants=constants)
            first = first or made
            module.add_module(POSITION, made.to(device, dtype))
    setattr(model.config, RECORDED, {"name": encoding.name, "parameters": dict(constants)})
    setattr(model.config, IMPLEMENTATION, NAME)  # so that no checkpoint of it is loaded without its encoding
    observe(model)


def prove_free(model: PreTrainedModel) -> None:
    """Raises ``UserError`` where the order of earlier tokens shows in the first layer's attention.

    With no encoding, the last query of the first layer sees a set of keys: any order of them gives the same.
    In later layers the causal mask tells the order.
    """
    layers = attention_layers(model)
    module = model.get_submodule(next(iter(layers)))
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, output: seen.append(output[0][0, -1].detach().float()))
    embedding = model.get_input_embeddings()
    ids = torch.arange(1, PROBE + 1, device=embedding.weight.device) % embedding.num_embeddings
    order = torch.cat([torch.arange(PROBE - 2, -1, -1), torch.tensor([PROBE - 1])]).to(ids.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), observing():
            for each in (ids, ids[order]):
                model.base_model(input_ids=each[None], use_cache=False)
    finally:
        hook.remove()
        model.train(training)
    one, other = seen
    if not torch.allclose(one, other, rtol=0, atol=TOLERANCE * float(one.abs().max())):
        raise UserError(
            f"{type(model).__name__} has a positional encoding of its own that stays active: choose one of "
            f"{', '.join(sorted(SWITCHES))}, or --model.position {OWN}"
        )


def learned(model: PreTrainedModel) -> list[str]:
    """Names of what the encoding in ``model`` learns."""
    return [name for name, _ in model.named_parameters() if f".{POSITION}." in name]


def restore(model: PreTrainedModel, files: Sequence[Path]) -> None:
    """Reads the weights of the encoding in ``model`` from the safetensors ``files`` of its checkpoint.

    Raises ``UserError`` unless they hold exactly those.
    """
    inside = f"{model.base_model_prefix}."
    weights = {
        name.removeprefix(inside): parameter
        for name, parameter in model.state_dict(keep_vars=True).items()
        if f".{POSITION}." in name
    }
    held: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            held |= {
                # FIRE's numbers had no dimension in earlier versions.
                name.removeprefix(inside): torch.atleast_1d(opened.get_tensor(name))
                for name in opened.keys()  # noqa: SIM118  not a mapping
                if f".{POSITION}." in name
            }
    unlike = sorted(weights.keys() ^ held.keys()) or sorted(
        name for name in weights if weights[name].shape != held[name].shape
    )
    if unlike:
        raise UserError(
            f"the checkpoint does not hold the weights of its positional encoding ({len(unlike)} are "
            f"missing, too many or of another shape, e.g. {unlike[0]}): get its files again"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(held[name])


def weight_files(name: str, files: Mapping[str, Any]) -> list[Path]:
    """The safetensors of a model on the Hub or in a folder; ``files`` are options of ``from_pretrained``."""
    index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **files, _raise_exceptions_for_missing_entries=False)
    names = [SAFE_WEIGHTS_NAME]
    if index:
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    return [Path(cached_file(name, each, **files)) for each in names]


def _text(encoding: Encoding, constants: Mapping[str, float]) -> str:
    return encoding.name + "".join(f" ({name} {value:g})" for name, value in constants.items())
