"""A model whose weights, gradients and optimizer states are shared out among the processes of a run (FSDP2).

torch's ``fully_shard`` does it, in groups that are gathered and let go of together: one for each layer, and
one for the rest, which holds all that is tied (embeddings and head), for no weight may lie in two groups.
Weights are gathered in their own type, and gradients are added up in it: mixed precision is autocast's, as
without sharding, so that a step computes the same but for the order of sums.
"""

import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from finetune.attention.position_bias import PositionBias
from finetune.attention.swap import attention_layers
from finetune.errors import UserError
from finetune.system import world

VIEW = "FSDP2-wrapped module .* returned a view"
"""Beginning of torch's warning of an output that must not be changed in place, as none is here."""


def shard(model: Any, *, on_gpu: bool, reshard: bool = True) -> None:
    """Shares out ``model``, a transformers model or one with adapters, in place. Once is enough.

    ``reshard``: a layer's weights are let go of after its forward pass, and gathered again for its backward.
    Raises ``UserError`` for weights that cannot be shared out.
    """
    if is_sharded(model):
        return
    scalars = [name for name, weight in model.named_parameters() if weight.dim() == 0]
    if scalars:
        raise UserError(f"train.fsdp cannot share out a weight of no dimension, {scalars[0]}: leave it out")
    world.join(cpu=not on_gpu)
    mesh = init_device_mesh("cuda" if on_gpu else "cpu", (world.size(),))
    for layer in layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard and not _lends(layer))
    # By default the rest would stay gathered where no backward pass follows, and outlive a checkpoint's.
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    # Encoding a text for a translation calls a part of the model, without the whole's own hooks.
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    model._is_fsdp_managed_module = True  # by which transformers ends a beam search on all ranks together
    # Limits that a forward pass sets on gathered weights would be forgotten: they are set on the shares.
    model.register_forward_pre_hook(_set_limits, prepend=True)
    warnings.filterwarnings("ignore", VIEW, UserWarning)


def is_sharded(model: Any) -> bool:
    """Whether ``model`` is shared out."""
    return isinstance(model, FSDPModule)


def let_go(model: Any) -> None:
    """Has no process keep gathered weights, as it does after a forward pass without a backward one."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers of ``model``: entries of its outermost lists that compute an attention, in any family.

    But for those that share a weight with anything outside of them.
    """
    modules = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for name in attention_layers(model):
        parts = name.split(".")
        above = [".".join(parts[:length]) for length in range(1, len(parts))]
        entries = [path for path in above if isinstance(modules[path.rpartition(".")[0]], nn.ModuleList)]
        if entries:
            found[entries[0]] = modules[entries[0]]
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))

    def alone(layer: nn.Module) -> bool:
        own = Counter(id(weight) for _, weight in layer.named_parameters(remove_duplicate=False))
        return all(uses[weight] == count for weight, count in own.items())

    return [layer for layer in found.values() if alone(layer)]


def _lends(layer: nn.Module) -> bool:
    """Whether other layers read a weight of this one, which must stay gathered until they have."""
    return any(module.lends for module in layer.modules() if isinstance(module, PositionBias))


@torch.no_grad()
def _set_limits(model: nn.Module, _: Any) -> None:
    for module in model.modules():
        if isinstance(module, PositionBias):
            module.limit()
