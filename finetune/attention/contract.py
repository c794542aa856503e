"""A user's own variant, tried on a few scores before a model computes with it: does it keep to the contract?

``functions.py`` states the contract. What breaks it would not stop a training, only spoil its figures: a mask
that is ignored shows a decoder the future, and a row without a key that gives NaN loses the whole batch.
"""

from functools import cache

import torch
from torch import Tensor

from finetune.attention.variants import Variant
from finetune.errors import UserError


@cache
def check(variant: Variant) -> None:
    """Raise ``UserError`` where ``variant`` breaks the contract; tried once a process."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, 5, generator=generator)
    allowed = torch.rand(2, 1, 4, 5, generator=generator) < 0.6
    allowed[0, 0, 1] = False  # a query that sees no key, as padding does
    blocked = ~allowed.expand(scores.shape)
    for dtype in (torch.float32, torch.float16):
        given = scores.to(dtype).requires_grad_()
        try:
            weights = variant.weigh(given, allowed, **variant.parameters)
            unmasked = variant.weigh(given, None, **variant.parameters)
        except Exception as error:  # whatever the user's own code raises is the user's to mend
            raise _broken(variant, f"it raises {type(error).__name__}: {error}") from error
        if not isinstance(weights, Tensor) or weights.shape != scores.shape or unmasked.shape != scores.shape:
            raise _broken(variant, "its weights must have the shape of the scores")
        if weights.dtype != torch.float32:
            raise _broken(variant, f"it returns {weights.dtype} for {dtype}: compute in float32 at least")
        if not torch.equal(given.detach(), scores.to(dtype)):
            raise _broken(variant, "it changes the scores in place")
        if (weights[blocked] != 0).any():
            raise _broken(variant, "a key that is not allowed must have the weight 0 exactly")
        if not weights.requires_grad:
            raise _broken(variant, "no gradient flows from its weights to the scores")
        (gradient,) = torch.autograd.grad(weights.square().sum(), given)
        if not (weights.isfinite().all() and gradient.isfinite().all()):
            raise _broken(variant, "its weights or gradients are not finite where a key is blocked")


def _broken(variant: Variant, fault: str) -> UserError:
    place = f" in {variant.file.path}" if variant.file else ""
    return UserError(f"the variant '{variant.name}'{place} cannot be used: {fault}")
