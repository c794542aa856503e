"""Run a model once on a few inputs to see which attention calls it makes, and of which kind.

A text model runs on made-up token ids; any other one on the inputs that its owner gives.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.attention.interface import AttentionKind, ObservedCall, observing
from finetune.errors import UserError

SOURCE_LEN, TARGET_LEN = 7, 5  # unequal, so that lengths alone tell the kinds of an encoder-decoder apart


@dataclass(frozen=True)
class Observed:
    """Every attention call of one pass, in order, with its kind; and the dropout in train mode."""

    calls: tuple[tuple[nn.Module, AttentionKind], ...]
    dropout: float | dict[AttentionKind, float]  # one number where all kinds agree


def observe(model: Any, example_inputs: Mapping[str, Any] | None = None) -> Observed:
    """Pass ``example_inputs``, or made-up tokens, through ``model`` in eval mode, then in train mode.

    Nothing is changed: no gradients, random states kept, every module's train or eval mode restored.
    ``UserError`` where the model cannot run on them.
    """
    calls, trained = (
        _kinds(model, _calls(model, example_inputs, train), example_inputs is None) for train in (False, True)
    )
    rates = {kind: call.dropout for call, kind in trained}
    same = len(set(rates.values())) == 1
    return Observed(
        tuple((call.module, kind) for call, kind in calls), next(iter(rates.values())) if same else rates
    )


def expected_calls(model: Any) -> int:
    """How many attention calls one pass must make: one a layer, two in a layer with cross-attention."""
    decodes = any(name.rpartition(".")[2] == "decoder" for name, _ in model.named_modules())
    return _layers(model.config, decodes)


def _layers(config: Any, decodes: bool) -> int:
    values = config.to_dict()
    layers = getattr(config, "num_hidden_layers", None)  # many configurations map their own name to it
    if not config.is_encoder_decoder:
        if layers is None:  # several towers, one for text and one for images, say
            towers = (getattr(config, name) for name in config.sub_configs)
            return sum(_layers(tower, decodes) for tower in towers if tower is not None)
        return int(layers * values.get("inner_group_num", 1))  # ALBERT's inner groups
    encoder, decoder = (values.get(part) or {} for part in ("encoder", "decoder"))  # two models in one
    encoder_layers = encoder.get("num_hidden_layers", values.get("encoder_layers", layers or 0))
    decoder_layers = values.get("decoder_layers", values.get("num_decoder_layers", 0))
    per_decoder = 2 * decoder.get("num_hidden_layers", decoder_layers) if decodes else 0
    return int(encoder_layers + per_decoder)


def _token_ids(model: Any) -> dict[str, torch.Tensor]:
    """Token ids (1, tokens) from the model's vocabulary, none of them masked."""
    embedding = model.get_input_embeddings()
    ids = torch.arange(1, SOURCE_LEN + 1, device=embedding.weight.device)[None] % embedding.num_embeddings
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :TARGET_LEN]
    return inputs


def _on_device(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as the model takes them: on its device, and floating ones in its type."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in given.items()
    }


def _calls(model: Any, example_inputs: Mapping[str, Any] | None, train: bool) -> list[ObservedCall]:
    # Made-up tokens are for the base model: heads have demands of their own on them.
    runner = model.base_model if example_inputs is None else model
    with _undisturbed(model), torch.no_grad(), observing() as calls:
        model.train(train)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()  # in train mode it would take the inputs into its running statistics
        try:
            if example_inputs is not None:
                model(**_on_device(model, example_inputs))
            else:
                runner(**_token_ids(runner))
        except UserError:
            raise
        except Exception as error:
            raise _refusal(model, runner, example_inputs, error) from error
    return calls


def _refusal(
    model: Any, runner: Any, example_inputs: Mapping[str, Any] | None, error: Exception
) -> UserError:
    """Why the model cannot be tried, and what to pass."""
    name = type(model).__name__
    if example_inputs is not None:
        given = ", ".join(example_inputs) or "nothing"
        return UserError(f"{name} cannot be swapped: it does not run on the example_inputs {given} ({error})")
    wanted = inputs_of(runner)
    if wanted == ["input_ids"]:
        return UserError(f"{name} cannot be swapped: it does not run on token ids alone ({error})")
    return UserError(
        f"{name} reads {', '.join(wanted)}, and the proof runs it once: pass what its processor returns, "
        f"e.g. swap(model, ..., example_inputs={{{', '.join(_example(model, each) for each in wanted)}}})"
    )


def inputs_of(model: Any) -> list[str]:
    """What a model reads, of texts, images and sounds, by the names of its forward's arguments."""
    known = inspect.signature(model.forward).parameters
    return [name for name in ("input_ids", "pixel_values", "input_values", "input_features") if name in known]


def _example(model: Any, name: str) -> str:
    config = model.config.to_dict()
    if name == "pixel_values" and isinstance(size := config.get("image_size"), int):
        return f'"{name}": torch.zeros(1, {config.get("num_channels", 3)}, {size}, {size})'
    return f'"{name}": torch.zeros(1, 16000)' if name == "input_values" else f'"{name}": ...'


# What would disturb a dry pass, on modules and in configurations: checkpointing warns where there is no
# gradient, layerdrop leaves out layers, SpecAugment draws from numpy's generator.
_OFF = {"gradient_checkpointing": False, "layerdrop": 0.0, "apply_spec_augment": False}


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Keep random states and each module's mode; meanwhile switch off what would disturb the pass."""
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    kept = [(holder, name, vars(holder)[name]) for holder in (*model.modules(), *configs.values())
            for name in ("training", *_OFF) if name in vars(holder)]  # fmt: skip
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type != "cpu"}
    with torch.random.fork_rng(
        devices=[device.index or 0 for device in devices],
        device_type=next((device.type for device in devices), "cuda"),
    ):
        try:
            for holder, name, value in kept:
                setattr(holder, name, _OFF.get(name, value))
            yield
        finally:
            for holder, name, value in kept:
                setattr(holder, name, value)


def _kinds(model: Any, calls: list[ObservedCall], made_up: bool) -> list[tuple[ObservedCall, AttentionKind]]:
    """Each call with its kind. In an encoder-decoder, whose encoder comes first, the lengths tell it."""
    if not model.config.is_encoder_decoder:
        return [(call, "decoder" if call.causal else "encoder") for call in calls]
    shapes = [(call.query_len, call.key_len) for call in calls]
    source, target = SOURCE_LEN, TARGET_LEN
    if not made_up and shapes:
        source = shapes[0][0]
        target = next((query for query, _ in shapes if query != source), source)
    kinds: dict[tuple[int, int], AttentionKind] = {
        (target, target): "decoder",
        (target, source): "cross",
        (source, source): "encoder",
    }
    if target == source and any(call.causal for call in calls):
        raise UserError(
            f"in the example_inputs of {type(model).__name__} its encoder and its decoder both read {source} "
            "places, and lengths tell its attentions apart: give one of them more"
        )
    for query_len, key_len in shapes:
        if (query_len, key_len) not in kinds:
            raise UserError(
                f"{type(model).__name__} cannot be swapped: an attention of {query_len} queries and "
                f"{key_len} keys is neither self- nor cross-attention"
            )
    return [(call, kinds[shape]) for call, shape in zip(calls, shapes, strict=True)]
