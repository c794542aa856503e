"""What a positional encoding is to attention: a bias on the scores, from where each query and key stand.

An encoding is a child module of an attention module, under the name ``POSITION``; ``finetune.positions`` has
the encodings and puts them there. Its bias is added to the scaled scores, before mask and variant, so that a
variant such as Self-Adjust Softmax works on scores that include it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.attention.kernels.inputs import Inputs, without_autocast
from finetune.attention.kernels.reference import scores_of
from finetune.errors import UserError
from finetune.system.shares import whole

POSITION = "position"  # the child of an attention module, and so a part of the names of its weights
RECORDED = "finetune_position"
"""The key of config.json that says which encoding a checkpoint was trained with: name and parameters."""


@dataclass(frozen=True)
class Places:
    """Where the queries of one attention call stand. Whole numbers.

    ``distance``, (1 or batch, query, key): slots from a key forward to the query, 0 for itself and for keys
    that lie ahead, which no query of a causal model sees.
    ``row``, (1 or batch, query): tokens before the query that it may see, which leaves out padding and other
    documents.
    """

    distance: Tensor
    row: Tensor


class PositionBias(nn.Module):
    """The bias of one attention module. ``heads`` counts query heads."""

    reads_scores = False
    """Whether the bias depends on the scores, as in DAPE."""

    generates = True
    """Whether it means the same with a cache of keys as without one."""

    lends = False
    """Whether other layers read a weight of this one's."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    @classmethod
    def build(
        cls, heads: int, *, width: int, first: "PositionBias | None", constants: Mapping[str, float]
    ) -> "PositionBias":
        """The encoding of a layer of a model of ``width`` features; ``first`` is that of its first layer."""
        return cls(heads, **constants)

    def by_distance(self, distance: Tensor) -> Tensor | None:
        """The bias of float32 ``distance``, (heads, *its shape); ``None`` where more than that decides it."""
        return None

    def limit(self) -> None:
        """Sets weights that an optimizer step has taken beyond a limit back to it, in place.

        Most have none.
        """

    def learned(self) -> dict[str, list[float]]:
        """Its parameters of one number, or of one a head, by name; without networks and tables."""
        return {
            name: whole(weight.detach()).float().reshape(-1).tolist()
            for name, weight in self.named_parameters(recurse=False)
            if weight.dim() < 2
        }

    def forward(self, places: Places, scores: Tensor | None, allowed: Tensor | None) -> Tensor:
        """The bias, broadcastable to (batch, heads, query, key), in float32.

        ``scores``, (batch, heads, query, key), are given where the encoding reads them, without any bias;
        ``allowed`` broadcasts to them, ``None`` allows all. To be overridden where distance alone does not
        decide it.
        """
        bias = self.by_distance(places.distance.float())
        if bias is None:
            raise NotImplementedError
        return bias.transpose(0, 1)


def a_head(values: Tensor, distance: Tensor) -> Tensor:
    """One value a head, (heads,), as it broadcasts to (heads, *shape of ``distance``)."""
    return values.reshape(-1, *[1] * distance.dim())


def biased(inputs: Inputs, position: PositionBias) -> Inputs:
    """The call with the bias of ``position``, computed in float32 whatever the precision of the model.

    In a full pass, a bias that distance alone decides is one value a head and distance; elsewhere it is
    written out. No query of a full pass sees a later key: those have the value of distance 0.
    """
    query_len, key_len = inputs.query.shape[-2], inputs.key.shape[-2]
    with without_autocast(inputs.query):
        if query_len == key_len:
            steps = torch.arange(key_len, device=inputs.query.device, dtype=torch.float32)
            past = position.by_distance(steps)
            if past is not None:
                ahead = past[:, :1].expand(-1, key_len - 1)
                return replace(inputs, by_distance=torch.cat([past.flip(-1), ahead], dim=-1))
        elif not position.generates:
            raise UserError(
                f"{type(position).__name__} does not mean the same with a cache of keys as without one, so "
                "it cannot generate: pass use_cache=False and texts of one length, or train with its "
                "consistent form"
            )
        scores = scores_of(inputs) if position.reads_scores else None
        bias = position(places(inputs), scores, inputs.all_allowed())
    return replace(inputs, bias=bias if inputs.bias is None else inputs.bias + bias)


def places(inputs: Inputs) -> Places:
    """Where the queries stand, by what each may see.

    transformers tells an attention function neither where its first query stands nor how much is padding:
    ``position_ids`` are not corrected for padding in a plain forward, and a static cache has more keys than
    there are tokens so far. What holds everywhere: without a mask several queries start at the first key and
    a single one (a decoding step) stands at the last; with a mask, a query stands at the last key that it
    may see.
    """
    query_len, key_len = inputs.query.shape[-2], inputs.key.shape[-2]
    keys = torch.arange(key_len, device=inputs.query.device)
    if inputs.allowed is None:
        slot = keys[None, -1:] if query_len == 1 else keys[None, :query_len]
        first = torch.zeros_like(slot)
    else:
        seen = inputs.allowed[:, 0].expand(-1, query_len, key_len)
        slot = torch.where(seen, keys, 0).amax(-1)
        first = torch.where(seen, keys, key_len).amin(-1).minimum(slot)
    return Places((slot[..., None] - keys).clamp(min=0), slot - first)


def encoding_of(module: Any) -> PositionBias | None:
    """The encoding of an attention module, if it has one."""
    child = module._modules.get(POSITION)
    return child if isinstance(child, PositionBias) else None
