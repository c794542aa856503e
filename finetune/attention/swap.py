"""Put a variant into a stock transformers model, and prove that it took.

Which variant a layer computes is kept on that layer's attention module, and in the model's configuration, so
that a saved checkpoint says it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from logging import getLogger
from typing import Any, get_args

from torch import nn
from transformers.utils import logging

from finetune.attention import (
    VARIANTS,
    Variant,
    contract,
    get_variant,
    position_bias,
    register_variant,
)
from finetune.attention.interface import LAYER, SOFTMAX, AttentionKind, LayerAttention
from finetune.attention.kernels import dispatch
from finetune.attention.kernels.inputs import BoundVariant
from finetune.attention.probe import Observed, expected_calls, inputs_of, observe
from finetune.attention.register import NAME, RECORDED
from finetune.attention.variants import BUILT_IN
from finetune.config.choices import Scope
from finetune.errors import UserError, unknown

SCOPES: tuple[str, ...] = get_args(Scope)
SUPPORTED = (
    "BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA, ModernBERT, GPT-2, GPT-NeoX, Llama, Qwen3, T5, BART, mBART, "
    "Marian, M2M100, with example_inputs ViT, DeiT, DINOv2, CLIP, SigLIP, Wav2Vec2, Whisper, and other "
    "models that call transformers' attention interface in every layer"
)
IMPLEMENTATION = "attn_implementation"  # the key of config.json that from_pretrained goes by
_log = getLogger(__name__)
_SMALLEST = 1e-12  # a smaller eps would let gradients overflow float32


@dataclass(frozen=True)
class SwapReport:
    """What a swap did, as the dry run proved it."""

    variant: str
    parameters: dict[str, float]  # the variant's defaults with the overrides laid on
    scope: str
    kernel: str  # what computes the variant here, e.g. native; several are joined by +
    layers: dict[AttentionKind, int]  # attention calls of the variant in one pass, by kind
    total: int  # attention calls in one pass, of the variant or not
    dropout: (
        float | dict[AttentionKind, float]
    )  # of the attention weights in train mode; by kind where they differ

    @property
    def swapped(self) -> bool:
        """Whether anything but plain softmax is computed."""
        return self.variant != SOFTMAX.name

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)


def swap(
    model: Any,
    variant: str | Variant,
    *,
    scope: str = "all",
    kernel: str = "auto",
    parameters: Mapping[str, float] | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> SwapReport:
    """Make the attention of ``model``, a transformers model, compute ``variant`` within ``scope``.

    ``variant`` is a name, the path of a file that declares one, or a ``Variant`` of the user's own.
    ``scope``: "all", or only "encoder" self-, "decoder" self- or "cross"-attention; the rest computes plain
    softmax. ``kernel``, one of ``dispatch.CHOICES``: "auto" takes the fastest that there is for the device,
    "reference" computes everything step by step; plain softmax runs on torch's fused kernel unless
    "reference" is chosen. ``calls_by_kernel`` says which ones ran.
    ``parameters`` override the variant's own. ``example_inputs`` is what a model of images or speech is
    called with, such as ``{"pixel_values": ...}`` or what its processor returns; the proof runs it once. A
    swapped model can be swapped again.

    Raises ``UserError``, and leaves the model as it was, for an unknown name, for a scope of which the model
    has no layer, and for a model that would not use the variant in every layer.
    """
    chosen = get_variant(variant) if isinstance(variant, str) else register_variant(variant)
    if chosen.name not in BUILT_IN:
        contract.check(chosen)
    merged = _merge(chosen, parameters or {})
    for what, given, allowed in (
        ("attention scope", scope, SCOPES),
        ("attention kernel", kernel, dispatch.CHOICES),
    ):
        if given not in allowed:
            raise unknown(what, given, allowed)
    with _restoring_on_error(model):
        observed = _prove(model, example_inputs)
        counts = Counter(kind for _, kind in observed.calls if scope in ("all", kind))
        if not counts:
            present = ", ".join(sorted({kind for _, kind in observed.calls}))
            raise UserError(
                f"{type(model).__name__} has no {scope} attention to swap: its attention is {present}; "
                "choose one of these or 'all' as attention.scope"
            )
        plain, swapped = BoundVariant.of(VARIANTS["softmax"]), BoundVariant.of(chosen, merged)
        for module, kind in observed.calls:
            inside = scope in ("all", kind)
            setattr(module, LAYER, LayerAttention(swapped if inside else plain, kind, kernel))
        observe(model, example_inputs)
        if chosen.name != SOFTMAX.name:
            for name, module in model.named_modules():
                if isinstance(module, nn.MultiheadAttention):  # as in SigLIP's pooling
                    _log.warning("%s keeps torch's own softmax attention in %s", type(model).__name__, name)
        ran = "+".join(sorted(calls_by_kernel(model, chosen.name)))
        forget_calls(model)
        _record(model, chosen, merged, scope)
    return SwapReport(chosen.name, merged, scope, ran, dict(counts), len(observed.calls), observed.dropout)


def _record(model: Any, variant: Variant, parameters: Mapping[str, float], scope: str) -> None:
    """Say in the configuration, and so in config.json, what a checkpoint of ``model`` computes.

    Plain ``from_pretrained`` goes by ``IMPLEMENTATION``: it computes the variant where finetune is imported,
    and stops where it is not, instead of computing softmax. A variant within a scope needs a swap.
    """
    facts: dict[str, Any] = {"variant": variant.name, "parameters": dict(parameters), "scope": scope}
    if variant.file:
        facts["sha256"] = variant.file.sha256
    for config in _configs(model):
        if variant.name == SOFTMAX.name:
            config.__dict__.pop(RECORDED, None)
            config.__dict__.pop(IMPLEMENTATION, None)
        else:
            setattr(config, RECORDED, facts)
            setattr(config, IMPLEMENTATION, variant.name if scope == "all" else NAME)
        if hasattr(config, position_bias.RECORDED):  # nothing loads it whole but finetune.load
            setattr(config, IMPLEMENTATION, NAME)


def calls_by_kernel(model: Any, variant: str) -> dict[str, int]:
    """How many attention calls of ``variant`` each kernel has computed since the swap, the most first."""
    total: Counter[str] = Counter()
    for layer in attention_layers(model).values():
        if layer.variant.name == variant:
            total.update(layer.ran)
    return dict(total.most_common())


def forget_calls(model: Any) -> None:
    """Count the calls of ``calls_by_kernel`` from here on."""
    for layer in attention_layers(model).values():
        layer.ran.clear()


def blend(model: Any, share: float) -> None:
    """Let the swapped attention weigh with ``share`` (0 to 1) of the variant and the rest of softmax."""
    for layer in attention_layers(model).values():
        layer.blend.share = share


def attention_layers(model: Any) -> dict[str, LayerAttention]:
    """What each swapped attention module computes, by its name, in the order of ``named_modules``."""
    return {
        name: module.__dict__[LAYER] for name, module in model.named_modules() if LAYER in module.__dict__
    }


def _merge(variant: Variant, overrides: Mapping[str, float]) -> dict[str, float]:
    """The variant's parameters with ``overrides``, checked."""
    for name, value in overrides.items():
        if name not in variant.parameters:
            if not variant.parameters:
                raise UserError(f"the attention variant '{variant.name}' has no parameters: remove '{name}'")
            raise unknown(f"parameter of the attention variant '{variant.name}'", name, variant.parameters)
        if not (math.isfinite(value) and value >= _SMALLEST):
            raise UserError(
                f"the parameter {name} of '{variant.name}' must be a finite number of at least {_SMALLEST}, "
                f"not {value}; its default is {variant.parameters[name]}"
            )
    return {**variant.parameters, **{name: float(value) for name, value in overrides.items()}}


def _prove(model: Any, example_inputs: Mapping[str, Any] | None) -> Observed:
    """Switch the model to our function and count its calls; ``UserError`` unless every layer made them."""
    name = type(model).__name__
    if model.config.output_attentions:
        raise UserError(
            f"the configuration of {name} sets output_attentions, which transformers allows for its eager "
            "attention only: unset it, and pass output_attentions=True to the call"
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the warning that the name is ignored becomes an error below
    try:
        model.set_attn_implementation(NAME)
        observed = observe(model, example_inputs)
    finally:
        logging.set_verbosity(verbosity)
    made, expected = len(observed.calls), expected_calls(model)
    if made != expected:
        how = "never calls it" if made == 0 else f"makes {made} of its {expected} attention calls through it"
        if example_inputs is None and len(inputs := inputs_of(model)) > 1:
            how += f" on token ids alone (pass example_inputs with {', '.join(inputs)} to reach all of it)"
        raise UserError(f"{name} accepts an attention function but {how}. Supported: {SUPPORTED}")
    return observed


@contextmanager
def _restoring_on_error(model: Any) -> Iterator[None]:
    """Give the model its former attention back if anything is raised."""
    keys = (RECORDED, IMPLEMENTATION, "_attn_implementation_internal")
    before = [
        (config, {key: config.__dict__[key] for key in keys if key in config.__dict__})
        for config in _configs(model)
    ]
    layers = [(module, module.__dict__.get(LAYER)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, layer in layers:
            module.__dict__.pop(LAYER, None)
            if layer is not None:
                setattr(module, LAYER, layer)
        for config, values in before:
            for key in keys:
                config.__dict__.pop(key, None)
            config.__dict__.update(values)
        raise


def _configs(model: Any) -> list[Any]:
    """Every configuration in the model that holds an attention implementation, each once."""
    configs: dict[int, Any] = {}
    queue = [module.config for module in model.modules() if hasattr(module, "set_attn_implementation")]
    while queue:
        config = queue.pop()
        if config is not None and id(config) not in configs:
            configs[id(config)] = config
            queue.extend(getattr(config, name) for name in config.sub_configs)
    return list(configs.values())
