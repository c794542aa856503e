"""The span of keys that a batch row may attend to, from the mask, so that padding costs nothing.

Device code, but for ``key_spans``. A block of keys outside the span holds no allowed key; within it the mask
still decides.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917 - device code has no keyword-only arguments

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # keys at a time


def key_spans(allowed: Tensor) -> Tensor:
    """The first allowed key of each batch row and the one after the last, int32 (batch or 1, 2).

    ``allowed``: bool (batch or 1, heads or 1, query or 1, key or 1). Nothing waits for the device.
    """
    for axis in (1, 2):
        shared = allowed.shape[axis] == 1 or allowed.stride(axis) == 0
        allowed = allowed.narrow(axis, 0, 1) if shared else allowed.any(axis, keepdim=True)
    spans = torch.empty(allowed.shape[0], 2, dtype=torch.int32, device=allowed.device)
    rows = allowed[:, 0, 0].view(torch.uint8)
    find_span[(len(spans),)](rows, rows.stride(0), rows.stride(1), rows.shape[1], spans, _BLOCK)
    return spans


@triton.jit
def find_span(rows, row_stride, key_stride, key_len, spans, block: tl.constexpr):
    """The span of one row of a mask; of a row that allows nothing, (key_len, 0)."""
    row = tl.program_id(0).to(tl.int64)
    first, last = key_len, 0
    for start in range(0, key_len, block):
        index = start + tl.arange(0, block)
        seen = tl.load(rows + row * row_stride + index * key_stride, mask=index < key_len, other=0) != 0
        first = tl.minimum(first, tl.min(tl.where(seen, index, key_len), 0))
        last = tl.maximum(last, tl.max(tl.where(seen, index + 1, 0), 0))
    tl.store(spans + 2 * row, first)
    tl.store(spans + 2 * row + 1, last)


@triton.jit
def read_span(batch, problem):
    """(first, last) of ``batch``, the first at the start of a block; all keys where there are no spans."""
    first, last = 0, problem.key_len
    if problem.spanned:
        pointer = problem.spans + batch * problem.span_stride
        first = tl.load(pointer) // problem.block_keys * problem.block_keys
        last = tl.load(pointer + 1)
    return first, last
