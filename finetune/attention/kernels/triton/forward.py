"""The forward kernel. Device code; the mathematics is in ``tiles.py``.

softmax and sa-softmax-raw go over the keys once, as FlashAttention does: two matrix products. sa-softmax goes
twice, for its weights need m and R, that is every score of the row: first for the extremes and where they
are, then, with the final maximum, for the output; three products, and no accumulator is ever rescaled. The
other way, one pass with the accumulators sum e x v and sum e v, has three products as well, but needs twice
the registers and rescales both.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917 - device code has no keyword-only arguments

import triton
import triton.language as tl

from finetune.attention.kernels.triton.spans import read_span
from finetune.attention.kernels.triton.tiles import (
    INFINITY,
    NO_INDEX,
    SELF_ADJUST,
    SELF_ADJUST_RAW,
    exponential,
    fit,
    kept,
    load_tile,
    narrow,
    product,
    score,
    store_tile,
)


@triton.jit
def attend_rows(
    query, key, value, output, residual, statistics, positions, problem, remember: tl.constexpr
):  # fmt: skip
    """One block of queries of one head: the output and, for the backward pass, numbers of each row.

    ``statistics``: float32 (2 or, for sa-softmax, 3; batch, heads, query): max x (inf in a row that sees no
    key), l, m. If ``remember``: ``positions``, for sa-softmax, int32 (2, batch, heads, query): argmin x,
    argmax x; ``residual``, for half types: what rounding took from the output.
    """
    sequence, block = row_block(problem)
    batch, head = sequence // problem.heads, sequence % problem.heads
    rows = block * problem.block_rows + tl.arange(0, problem.block_rows)
    inside = rows < problem.query_len
    row_ids = sequence.to(tl.int64) * problem.query_len + rows
    q = load_tile(query, batch, head, rows, True)
    if problem.variant == SELF_ADJUST:
        high, low, argmax, argmin = _extremes(q, key, sequence, block, rows, problem, remember)
        tl.store(statistics + 2 * problem.rows + row_ids, low, mask=inside)
        if remember:
            tl.store(positions + row_ids, argmin, mask=inside)
            tl.store(positions + problem.rows + row_ids, argmax, mask=inside)
    else:
        high, low = tl.full([problem.block_rows], -INFINITY, tl.float32), 0.0
    total, high, weighted = _accumulate(q, key, value, high, low, sequence, block, rows, problem)
    tl.store(statistics + row_ids, high, mask=inside)
    tl.store(statistics + problem.rows + row_ids, total, mask=inside)
    result = weighted * (problem.keep_scale / tl.where(total > 0.0, total, 1.0))[:, None]
    store_tile(output, batch, head, rows, result, problem.widen)
    if remember and problem.half:
        result -= narrow(result, output.base.dtype.element_ty, problem.widen).to(tl.float32)
        store_tile(residual, batch, head, rows, result, problem.widen)


@triton.jit
def row_block(problem):
    """Which sequence (batch and head) and which block of its queries this program has."""
    blocks = tl.cdiv(problem.query_len, problem.block_rows)
    block = tl.program_id(0) % blocks
    if problem.causal:  # the longest first
        block = blocks - 1 - block
    return tl.program_id(0) // blocks, block


@triton.jit
def key_bounds(batch, block, problem):
    """For one block of queries: where keys begin, where whole blocks of them end that need no bounds, and
    where all end. (begin, full) and (full, end) are to be gone through, each of them perhaps empty."""
    begin, end = read_span(batch, problem)
    full = problem.key_len // problem.block_keys * problem.block_keys
    if problem.causal:
        first = block * problem.block_rows
        full = tl.minimum(full, (first + 1) // problem.block_keys * problem.block_keys)
        end = tl.minimum(end, first + problem.block_rows)
    if problem.spanned:
        # A last block that goes beyond the span is left to the mask.
        full = tl.maximum(tl.minimum(full, tl.cdiv(end, problem.block_keys) * problem.block_keys), begin)
    return begin, full, end


@triton.jit
def _extremes(q, key, sequence, block, rows, problem, remember: tl.constexpr):
    """max x (inf where no key is seen), min(min x, 0), and the first key of either extreme."""
    batch, head = sequence // problem.heads, sequence % problem.heads
    begin, full, end = key_bounds(batch, block, problem)
    high = tl.full([problem.block_rows], -INFINITY, tl.float32)
    low = tl.full([problem.block_rows], INFINITY, tl.float32)
    argmax = tl.zeros([problem.block_rows], tl.int32)
    argmin = tl.zeros([problem.block_rows], tl.int32)
    for bounded in tl.static_range(2):
        for start in range(full if bounded else begin, end if bounded else full, problem.block_keys):
            index = start + tl.arange(0, problem.block_keys)
            k = load_tile(key, batch, head // problem.groups, index, bounded)
            products = product(q, tl.trans(k), problem.widen)
            x, seen = score(products, batch, head, rows[:, None], index[None, :], problem, bounded)
            above, below = tl.where(seen, x, -INFINITY), tl.where(seen, x, INFINITY)
            tile_high, tile_low = tl.max(above, 1), tl.min(below, 1)
            if remember:
                first = tl.min(tl.where(above == tile_high[:, None], index[None, :], NO_INDEX), 1)
                argmax = tl.where(tile_high > high, first, argmax)
                first = tl.min(tl.where(below == tile_low[:, None], index[None, :], NO_INDEX), 1)
                argmin = tl.where(tile_low < low, first, argmin)
            high, low = tl.maximum(high, tile_high), tl.minimum(low, tile_low)
    return tl.where(high == -INFINITY, INFINITY, high), tl.minimum(low, 0.0), argmax, argmin


@triton.jit
def _accumulate(q, key, value, high, low, sequence, block, rows, problem):
    """sum e, max x, and sum e y l v. sa-softmax knows its maximum; the others find it on the way."""
    batch, head = sequence // problem.heads, sequence % problem.heads
    begin, full, end = key_bounds(batch, block, problem)
    total = tl.zeros([problem.block_rows], tl.float32)
    weighted = tl.zeros([problem.block_rows, value.block_width], tl.float32)
    if problem.variant == SELF_ADJUST:
        slope = 1.0 / (tl.maximum(high, 0.0) - low + problem.eps)
    for bounded in tl.static_range(2):
        for start in range(full if bounded else begin, end if bounded else full, problem.block_keys):
            index = start + tl.arange(0, problem.block_keys)
            k = load_tile(key, batch, head // problem.groups, index, bounded)
            products = product(q, tl.trans(k), problem.widen)
            x, seen = score(products, batch, head, rows[:, None], index[None, :], problem, bounded)
            if problem.variant != SELF_ADJUST:
                previous = high
                high = tl.maximum(high, tl.max(tl.where(seen, x, -INFINITY), 1))
                top = tl.where(high == -INFINITY, 0.0, high)  # no key seen yet: any finite number will do
                rescale = exponential(previous, previous > -INFINITY, top, problem.half)
                total, weighted = total * rescale, weighted * rescale[:, None]
            else:
                top = high
            w = exponential(x, seen, top[:, None], problem.half)
            total += tl.sum(w, 1)
            if problem.variant == SELF_ADJUST:
                w = w * ((x - low[:, None]) * slope[:, None])
            if problem.variant == SELF_ADJUST_RAW:
                w = w * x
            if problem.dropout:
                w = tl.where(kept(sequence, rows, start, problem), w, 0.0)
            v = load_tile(value, batch, head // problem.groups, index, bounded)
            weighted += product(fit(w, v, problem.widen), v, problem.widen)
    return total, tl.where(high == -INFINITY, INFINITY, high), weighted
