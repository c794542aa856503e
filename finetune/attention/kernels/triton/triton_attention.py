"""The fused kernels as torch operators, so that torch.compile and activation checkpointing work.

Nothing of size query x key is made or kept: for the backward pass the operator keeps 2 floats of each row of
scores, for sa-softmax 3 and two positions. Sums are taken in a fixed order: equal inputs give equal bits.
Triton is imported when a kernel is first launched.
"""

# ruff: noqa: PLR0917 - an operator's schema is flat

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from finetune.attention.kernels.inputs import (
    BoundVariant,
    Inputs,
    no_second_derivative,
    room_for_gradient,
    sum_by_distance,
    with_contiguous_rows,
)
from finetune.attention.kernels.triton.forms import DEFAULT, FORMS, in_order
from finetune.attention.kernels.triton.forms import why_not as why_not_form
from finetune.attention.kernels.triton.launch import (
    KNOWN,
    Launch,
    capability_of,
    heads_of_a_program,
    scorewise,
)

_PROGRAMS = 512  # of the gradient by distance: with fewer diagonals than that the batch is cut into parts
MOST_WIDTH = 256  # of a head; those under 16 are padded to it
_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_INSTALLED = importlib.util.find_spec("triton") is not None


def why_not(inputs: Inputs, variant: BoundVariant) -> str | None:
    """Why this kernel cannot do these inputs; None if it can."""
    if variant.name not in KNOWN:
        return f"it computes {', '.join(KNOWN)} only"
    if not _INSTALLED:
        return "triton is not installed"
    return _device_lacks(inputs.query.device) or _inputs_lack(inputs)


def _device_lacks(device: torch.device) -> str | None:
    if _interpreted():
        return None if device.type == "cpu" else "Triton's interpreter computes on the CPU only"
    if device.type != "cuda":
        return f"it needs a CUDA device, not {device.type}"
    if capability_of(device.index) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or later"
    return None


def _inputs_lack(inputs: Inputs) -> str | None:
    types = {tensor.dtype for tensor in (inputs.query, inputs.key, inputs.value)}
    for dtype in types:
        if dtype not in _TYPES:
            return f"it computes in float16, bfloat16 or float32, not {dtype}"
    if len(types) > 1 and not torch.is_autocast_enabled(inputs.query.device.type):
        return "query, key and value differ in type"
    for width in (inputs.query.shape[-1], inputs.value.shape[-1]):
        if width > MOST_WIDTH:
            return f"it computes heads of width 1 to {MOST_WIDTH}, not {width}"
    return None


def attend(inputs: Inputs, variant: BoundVariant, form: str = DEFAULT) -> Tensor:
    """The output, (batch, query, heads, value width), contiguous, in the value's type.

    ``form``: one of ``forms.FORMS``. The default one takes the place of one that does not take such a call
    (``forms.why_not``), and its like that of one that adds atomically, where torch is to be deterministic.
    Under autocast the matrix products are in its type, as in torch's own attention.
    """
    query, key, value = inputs.in_autocast()
    form = _form(form, query, key, value)
    bias = _four_dimensional(inputs.bias)
    if inputs.by_distance is not None:
        bias = with_contiguous_rows(inputs.by_distance)
    seed = None
    if inputs.dropout > 0.0:
        seed = torch.randint(2**62, (1,), dtype=torch.int64, device=query.device)
    asked = any(tensor is not None and tensor.requires_grad for tensor in (query, key, value, bias))
    output, *_ = _attention(
        query, key, value, _four_dimensional(inputs.allowed), bias, seed, variant.name,
        variant.parameters.get("eps", 0.0), inputs.scaling, inputs.causal, inputs.dropout, form,
        torch.is_grad_enabled() and asked,
    )  # fmt: skip
    return output.to(inputs.value.dtype)


def why_not_in_form(name: str, query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why form ``name`` does not take a call; None if it does."""
    lengths, width = (query.shape[-2], key.shape[-2]), max(query.shape[-1], value.shape[-1])
    return why_not_form(name, lengths, width, query.element_size())


def _form(name: str, query: Tensor, key: Tensor, value: Tensor) -> str:
    if why_not_in_form(name, query, key, value):
        return DEFAULT
    return in_order(name) if torch.are_deterministic_algorithms_enabled() else name


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on the CPU. Triton reads this when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _four_dimensional(mask: Tensor | None) -> Tensor | None:
    return mask if mask is None else mask[(None,) * (4 - mask.dim())]


# The operators. ``remember``: a backward pass will come.


@torch.library.custom_op("finetune::attention", mutates_args=())
def _attention(
    query: Tensor, key: Tensor, value: Tensor,
    allowed: Tensor | None, bias: Tensor | None, seed: Tensor | None,
    variant: str, eps: float, scaling: float, causal: bool, dropout: float, form: str, remember: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(output, residual, shortfall, statistics, positions); see ``forward`` and ``one_sweep``."""
    from finetune.attention.kernels.triton.forward import attend_rows
    from finetune.attention.kernels.triton.one_sweep import attend_rows_once
    from finetune.attention.kernels.triton.one_tile import attend_tile

    results = _forward_results(query, value, variant, form, remember)
    output, residual, shortfall, statistics, positions = results
    if output.numel() == 0 or key.shape[-2] == 0:
        for tensor in results:
            tensor.zero_()
        return results
    call = Launch(query, key, value, allowed, bias, seed, variant, eps, scaling, causal, dropout, form)

    def programs(queries: int, keys: int) -> int:
        return query.shape[:2].numel() * -(-query.shape[-2] // queries)

    if FORMS[form].one_tile:
        heads = heads_of_a_program(key)
        call.launch(
            attend_tile,
            lambda *_: key.shape[:2].numel() // heads,
            [output.transpose(1, 2)],
            [statistics, positions],
            [heads, remember],
        )
    elif variant == "sa-softmax" and FORMS[form].sweeps == 1:
        matrices = [tensor.transpose(1, 2) for tensor in (output, residual, shortfall)]
        extra = [remember, shortfall.numel() > 0]
        call.launch(attend_rows_once, programs, matrices, [statistics, positions], extra)
    else:
        matrices = [tensor.transpose(1, 2) for tensor in (output, residual)]
        call.launch(attend_rows, programs, matrices, [statistics, positions], [remember])
    return results


def _forward_results(
    query: Tensor, value: Tensor, variant: str, form: str, remember: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, heads, query_len, _ = query.shape
    adjusts, half = variant == "sa-softmax", value.element_size() == 2
    short = remember and adjusts and FORMS[form].fused_backward
    rows = query_len, heads, value.shape[-1]
    return (
        value.new_empty(batch, *rows),
        value.new_empty(batch if half and remember and not FORMS[form].one_tile else 0, *rows),
        value.new_empty(batch if short else 0, *rows),
        query.new_empty(3 if adjusts else 2, batch, heads, query_len, dtype=torch.float32),
        query.new_empty(2 if adjusts and remember else 0, batch, heads, query_len, dtype=torch.int32),
    )


@torch.library.custom_op("finetune::attention_gradient", mutates_args=())
def _attention_gradient(
    given: Tensor, output: Tensor, residual: Tensor, shortfall: Tensor, statistics: Tensor, positions: Tensor,
    query: Tensor, key: Tensor, value: Tensor,
    allowed: Tensor | None, bias: Tensor | None, seed: Tensor | None,
    variant: str, eps: float, scaling: float, causal: bool, dropout: float, form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(dL/dquery, dL/dkey, dL/dvalue, numbers) from ``given`` = dL/doutput; see ``backward``."""
    from finetune.attention.kernels.triton.backward import key_value_gradient, query_gradient
    from finetune.attention.kernels.triton.fused_backward import all_gradients, row_numbers
    from finetune.attention.kernels.triton.one_tile import tile_gradients

    for_query, for_key, for_value, numbers = results = _backward_results(query, key, value, variant)
    if query.numel() == 0 or key.shape[-2] == 0:
        return for_query.zero_(), for_key.zero_(), for_value.zero_(), numbers.zero_()
    call = Launch(query, key, value, allowed, bias, seed, variant, eps, scaling, causal, dropout, form)
    given = with_contiguous_rows(given.transpose(1, 2))
    output, residual, shortfall = (tensor.transpose(1, 2) for tensor in (output, residual, shortfall))

    def by_rows(queries: int, keys: int) -> int:
        return query.shape[:2].numel() * -(-query.shape[-2] // queries)

    def by_keys(queries: int, keys: int) -> int:
        return key.shape[:2].numel() * -(-key.shape[-2] // keys)

    if FORMS[form].one_tile:
        heads = heads_of_a_program(key)
        results_by_head = [given, for_query, for_key, for_value]
        rows = [statistics, positions, numbers]
        call.launch(tile_gradients, lambda *_: key.shape[:2].numel() // heads, results_by_head, rows, [heads])
    elif FORMS[form].fused_backward:
        kept = [output, residual, shortfall, given]
        call.launch(row_numbers, by_rows, kept, [statistics, numbers])
        whole = for_query.dtype == torch.float32
        query_sum = for_query.zero_() if whole else torch.zeros_like(for_query, dtype=torch.float32)
        sums = [given, query_sum, for_key, for_value]
        call.launch(all_gradients, by_keys, sums, [positions, numbers])
        if not whole:
            for_query.copy_(query_sum)
    else:
        kept = [output, residual, given, for_query]
        call.launch(query_gradient, by_rows, kept, [statistics, positions, numbers])
        call.launch(key_value_gradient, by_keys, [given, for_key, for_value], [positions, numbers])
    return results


def _backward_results(
    query: Tensor, key: Tensor, value: Tensor, variant: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers = query.new_empty(6 if variant == "sa-softmax" else 3, *query.shape[:3], dtype=torch.float32)
    return room_for_gradient(query), room_for_gradient(key), room_for_gradient(value), numbers


@torch.library.custom_op("finetune::attention_bias_gradient", mutates_args=())
def _attention_bias_gradient(
    given: Tensor, numbers: Tensor, positions: Tensor,
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, bias: Tensor, seed: Tensor | None,
    variant: str, eps: float, scaling: float, causal: bool, dropout: float, form: str,
) -> Tensor:  # fmt: skip
    """dL/dbias, of the bias's shape and type."""
    from finetune.attention.kernels.triton.backward import bias_gradient

    result = torch.empty_like(bias, memory_format=torch.contiguous_format)
    if query.numel() == 0 or bias.numel() == 0:
        return result.zero_()
    call = Launch(query, key, value, allowed, bias, seed, variant, eps, scaling, causal, dropout, form)
    if call.by_distance:
        return result.copy_(_distance_gradient(call, given, numbers, positions))
    shared = [query.shape[axis] // bias.shape[axis] for axis in (0, 1)]
    per_query, per_key = bias.shape[2] > 1, bias.shape[3] > 1

    def programs(queries: int, keys: int) -> int:
        return bias.shape[:2].numel() * -(-bias.shape[2] // queries) * -(-bias.shape[3] // keys)

    given = with_contiguous_rows(given.transpose(1, 2))
    extra = [scorewise(result, result), *shared, per_query, per_key]
    call.launch(bias_gradient, programs, [given], [positions, numbers], extra)
    return result


def _distance_gradient(call: Launch, given: Tensor, numbers: Tensor, positions: Tensor) -> Tensor:
    """dL/dbias by distance, (heads, query + key - 1), in float32."""
    from finetune.attention.kernels.triton.distance import distance_gradient

    batch, heads, query_len, _ = call.query.shape
    key_len = call.key.shape[-2]
    block = call.tile("distance_gradient")[0]
    lines, columns = -(-query_len // block), -(-key_len // block)
    diagonals = lines + columns - 1
    parts = min(batch, -(-_PROGRAMS // (heads * diagonals)))
    sums = call.query.new_empty(parts, heads, diagonals, block, block, dtype=torch.float32)
    call.launch(
        distance_gradient,
        lambda *_: sums.shape[:3].numel(),
        [with_contiguous_rows(given.transpose(1, 2))],
        [positions, numbers, sums],
        [parts],
    )
    # A tile's own diagonals, 2 block - 1 of them and one of zeros; the last half of them is the first half of
    # the next tile's.
    halves = torch.nn.functional.pad(sum_by_distance(sums.sum(0).mT), (0, 1)).unflatten(-1, (2, block))
    places = torch.nn.functional.pad(halves[:, :, 0], (0, 0, 0, 1))
    places[:, 1:] += halves[:, :, 1]
    first = lines * block - query_len  # rows beyond the last query
    return places.flatten(1)[:, first : first + query_len + key_len - 1]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output, *inputs[:6])
    ctx.numbers = inputs[6:12]


def _backward(ctx: Any, given: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if given is None:
        return (None,) * 13
    output, residual, shortfall, statistics, positions, *tensors = ctx.saved_tensors
    *gradients, numbers = _attention_gradient(
        given, output, residual, shortfall, statistics, positions, *tensors, *ctx.numbers
    )
    for_bias = None
    if ctx.needs_input_grad[4]:
        for_bias = _attention_bias_gradient(given, numbers, positions, *tensors, *ctx.numbers)
    return *gradients, None, for_bias, *(None,) * 8


_attention.register_autograd(_backward, setup_context=_save)
_attention_gradient.register_autograd(no_second_derivative)
_attention_bias_gradient.register_autograd(no_second_derivative)
_attention.register_fake(
    lambda query, key, value, allowed, bias, seed, variant, eps, scaling, causal, dropout, form, remember: (
        _forward_results(query, value, variant, form, remember)
    )
)
_attention_gradient.register_fake(
    lambda given, output, residual, shortfall, statistics, positions, query, key, value, *rest: (
        _backward_results(query, key, value, rest[3])  # the variant
    )
)
_attention_bias_gradient.register_fake(
    lambda given, numbers, positions, query, key, value, allowed, bias, *rest: torch.empty_like(
        bias, memory_format=torch.contiguous_format
    )
)
