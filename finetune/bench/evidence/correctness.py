"""Every form of the kernel against the definition in float64, on the device, in fresh random numbers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from finetune.attention.kernels import reference
from finetune.attention.kernels.inputs import Inputs
from finetune.attention.kernels.triton import forms
from finetune.bench.cases import bind
from finetune.bench.evidence.calls import SELF_ADJUST, Call, bundle, draw, ours, passes
from finetune.bench.evidence.plan import Plan

Check = tuple[Call, str, int, str]  # of which type, width of a head, and kind
KINDS = ("padded", "causal, grouped keys", "whole", "bias", "dropout")
TIMED = ("whole", "causal")  # masks of the times, in calls that are compiled as those of the times are
LIMITS = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}
"""Relative error in norm that rounding explains: of the output and of each gradient."""
DROPOUT = 0.1
BATCH, HEADS, KEY_HEADS = 3, 4, 2
SHORT = 125  # tokens, for a form that takes short sequences alone
SIGMAS = 5.0  # of the share of weights that dropout keeps
Item = tuple[str, Callable[[], dict[str, Any]]]


def items(plan: Plan, _: str) -> list[Item]:
    """What matters most first: every form at the first type and width, then the default one at all of them.

    Calls as the times have them come between, so that the compiler is done with them by then.
    """
    chosen = _toy(plan) if plan.toy else _all(plan)
    return [
        (f"{call.name}, {kind}, heads of {width}, {dtype}", partial(measure, plan, call, dtype, width, kind))
        for call, dtype, width, kind in dict.fromkeys(chosen)
    ]


def _all(plan: Plan) -> Iterator[Check]:
    first, *sizes = product(plan.widths, plan.dtypes)
    default, yardstick = Call(SELF_ADJUST, forms.DEFAULT), Call("softmax", "math")
    others = [call for call in ours() if call != default]
    yield from ((call, first[1], first[0], kind) for kind in KINDS for call in ours())
    yield from ((call, plan.dtype, plan.width, kind) for kind in TIMED for call in ours())
    yield from ((yardstick, dtype, plan.widths[0], "whole") for dtype in plan.dtypes)
    yield from ((default, dtype, width, kind) for width, dtype in sizes for kind in KINDS)
    yield from ((call, dtype, width, kind) for width, dtype in sizes for kind in KINDS for call in others)


def _toy(plan: Plan) -> Iterator[Check]:
    """Every kind once, every form once, every type once."""
    default, *others = ours()
    width = plan.widths[0]
    yield from ((default, plan.dtypes[0], width, kind) for kind in KINDS)
    yield from ((call, plan.dtypes[0], width, "padded") for call in others)
    yield from ((default, dtype, width, "whole") for dtype in plan.dtypes)
    yield Call("softmax", "math"), plan.dtypes[0], width, "whole"


def measure(plan: Plan, call: Call, dtype: str, width: int, kind: str) -> dict[str, Any]:
    """The relative errors of output and worst gradient, and whether they are within the limit."""
    short = call.by in forms.FORMS and forms.FORMS[call.by].one_tile
    length = min(plan.length, SHORT) if short else plan.length
    if kind in TIMED:  # Triton compiles anew for numbers that are no multiples of 16
        length = forms.power_of_two(length)
    found: dict[str, Any]
    if kind == "dropout":
        found = _dropped(plan, call, dtype, width, length)
    else:
        inputs, leaves, upstream = _inputs(plan, dtype, width, length, kind)
        exact, exact_leaves = _in_float64(inputs)
        ours_found = [call.attend(inputs)]
        ours_found += torch.autograd.grad(ours_found[0], leaves, upstream)
        output = reference.reference(exact, bind(call.variant))[0]
        truth = [output, *torch.autograd.grad(output, exact_leaves, upstream.double())]
        found = _errors(ours_found, truth)
    limit = LIMITS[dtype]
    right = max(found["output"], found["gradients"]) <= limit and found.get("deviation", 0.0) <= SIGMAS
    return {
        "variant": call.variant, "by": call.by, "dtype": dtype, "width": width, "kind": kind,
        "length": length, **found, "limit": limit, "right": right,
    }  # fmt: skip


def _inputs(
    plan: Plan, dtype: str, width: int, length: int, kind: str
) -> tuple[Inputs, list[Tensor], Tensor]:
    """A call of a kind, its leaves, and the output's gradient."""
    key_heads = KEY_HEADS if "grouped" in kind else HEADS
    if plan.toy:
        batch, heads, key_heads = 2, 2, max(1, key_heads // 2)
    else:
        batch, heads = BATCH, HEADS
    if kind in TIMED:
        heads = key_heads = plan.heads
    leaves, upstream = draw(batch, heads, key_heads, length, width, dtype, plan.device, _fresh())
    keywords: dict[str, Any] = {"causal": "causal" in kind}
    if kind in ("padded", "bias"):
        kept = torch.linspace(length // 2, length, batch, device=plan.device).round()
        keywords["allowed"] = (torch.arange(length, device=plan.device) < kept[:, None])[:, None, None, :]
    if kind == "bias":
        shape = (1, heads, length, length)
        keywords["bias"] = torch.randn(shape, device=plan.device, dtype=leaves[0].dtype).requires_grad_()
        leaves = [*leaves, keywords["bias"]]
    return bundle(leaves[:3], **keywords), leaves, upstream


def _fresh() -> int:
    """A seed that no earlier call had, of torch's generator, which the plan's seed starts."""
    return int(torch.randint(2**31, ()))


def _in_float64(inputs: Inputs) -> tuple[Inputs, list[Tensor]]:
    tensors = {name: getattr(inputs, name) for name in ("query", "key", "value", "bias")}
    wide = {
        name: tensor.detach().double().requires_grad_()
        for name, tensor in tensors.items()
        if tensor is not None
    }
    return replace(inputs, **wide), list(wide.values())


def _errors(found: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    """Of the output and the worst gradient; a number that is none counts as infinitely wrong."""
    errors = []
    for mine, exact in zip((each.detach() for each in found), (each.detach() for each in truth), strict=True):
        error = float(torch.linalg.vector_norm(mine.double() - exact) / torch.linalg.vector_norm(exact))
        errors.append(error if math.isfinite(error) else 1e9)
    return {"output": errors[0], "gradients": max(errors[1:])}


def _dropped(plan: Plan, call: Call, dtype: str, width: int, length: int) -> dict[str, Any]:
    """Dropout: how many standard deviations the share of kept weights is off, and the errors under its mask.

    Which weights are kept shows where the values are the unit matrix: the output then is the weights. Softmax
    with the same seed has the same mask, and no weight of 0 of its own.
    """
    length = min(length, width)
    leaves, upstream = draw(BATCH, HEADS, HEADS, length, width, dtype, plan.device, _fresh())
    unit = torch.eye(length, width, device=plan.device, dtype=leaves[0].dtype).expand(BATCH, HEADS, -1, -1)
    seed = _fresh()
    shown = bundle([leaves[0] * 0.1, leaves[1], unit], dropout=DROPOUT)
    torch.manual_seed(seed)
    weights = passes(Call("softmax", call.by), shown, upstream)["forward"]()
    assert isinstance(weights, Tensor)
    kept = (weights != 0).transpose(1, 2)[..., :length]
    count = kept.numel()
    share = float(kept.double().mean())
    deviation = abs(share - (1 - DROPOUT)) / math.sqrt(DROPOUT * (1 - DROPOUT) / count)

    inputs = bundle(leaves, dropout=DROPOUT)
    torch.manual_seed(seed)
    found = [call.attend(inputs)]
    found += torch.autograd.grad(found[0], leaves, upstream)
    exact, exact_leaves = _in_float64(replace(inputs, dropout=0.0))
    weighed = bind(call.variant).weigh(reference.scores_of(exact), None) * kept / (1 - DROPOUT)
    output = (weighed @ exact.value).transpose(1, 2)
    truth = [output, *torch.autograd.grad(output, exact_leaves, upstream.double())]
    return {**_errors(found, truth), "kept": share, "deviation": deviation}
