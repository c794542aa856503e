"""Configurations of runs to be planned, and what a model keeps when a step of it is really computed."""

from typing import Any

import torch

from finetune.config.build import build
from finetune.config.loading import merge, read_preset
from finetune.config.schema import RunConfig

TASKS = {"classification": "agnews", "translation": "iwslt2017", "causal": "books", "masked": "books"}


def config_of(kind: str = "causal", over: Any = None, **model: Any) -> RunConfig:
    """The quick preset of a kind with keys of ``model``, and ``over`` laid over all."""
    values = read_preset(kind, "quick")
    pair = "de-en" if kind == "translation" else None
    others = {"kind": kind, "task": TASKS[kind], "pair": pair, "seed": 0}
    values = {key: value for key, value in values.items() if key not in ("variants", "seeds")}
    values = merge(values, {"attention": {"variant": "softmax"}, "model": model})
    return build({**merge(values, over or {}), **others})


def count(model: torch.nn.Module, *, trained: bool = False) -> int:
    """Parameters of a model, or those that are trained."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad or not trained)


def kept_bytes(model: Any, half: bool, **inputs: Any) -> int:
    """What ``model`` keeps for its backward pass, without weights."""
    weights = {weights.untyped_storage().data_ptr() for weights in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        model(**inputs, use_cache=False)
    return sum(size for address, (size, _) in kept.items() if address not in weights)
