"""The forward kernel of sa-softmax in one sweep over the keys. Device code; mathematics in ``tiles.py``.

Its output is sum e (x - m) v / (R l), linear in m, so that two accumulators need no first sweep for m and R:
``plain`` = sum e v, and ``weighted`` = sum e (x - m) / R v with the m and R of the keys so far. When a block
of keys moves them to m' and R', with R' >= R and m' <= m,

    weighted <- weighted * R / R' + plain * (m - m') / R',

beside the factor that a new maximum gives both. All terms are positive, so nothing cancels, and where a row
attends to one key its weight is 1 in half types, too. (sum e x v and sum e v, with m taken off at the end,
would cancel in a row whose scores are all far below 0.)

Matrix products: query key^T, w v, e v; the two sweeps of ``forward.py`` have three as well, but read the keys
twice. ``plain`` is kept for the backward pass, too: D1 - D0 = -dL/doutput . shortfall, where
shortfall = plain / l - output, so that no kernel has to sweep for it.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917 - device code has no keyword-only arguments

import triton
import triton.language as tl

from finetune.attention.kernels.triton.forward import key_bounds, row_block
from finetune.attention.kernels.triton.tiles import (
    INFINITY,
    NO_INDEX,
    described,
    exponential,
    fit,
    kept,
    load_rows,
    load_tile,
    narrow,
    product,
    score,
    store_tile,
)


@triton.jit
def attend_rows_once(
    query, key, value, output, residual, shortfall, statistics, positions, problem,
    remember: tl.constexpr, remember_shortfall: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head, as ``forward.attend_rows``; and ``shortfall`` if it is to be kept."""
    sequence, block = row_block(problem)
    batch, head = sequence // problem.heads, sequence % problem.heads
    rows = block * problem.block_rows + tl.arange(0, problem.block_rows)
    inside = rows < problem.query_len
    row_ids = sequence.to(tl.int64) * problem.query_len + rows
    q = load_tile(query, batch, head, rows, True)
    begin, full, end = key_bounds(batch, block, problem)
    high = tl.full([problem.block_rows], -INFINITY, tl.float32)
    low = tl.zeros([problem.block_rows], tl.float32)
    total = tl.zeros([problem.block_rows], tl.float32)
    argmax = tl.zeros([problem.block_rows], tl.int32)
    argmin = tl.zeros([problem.block_rows], tl.int32)
    weighted = tl.zeros([problem.block_rows, value.block_width], tl.float32)
    plain = tl.zeros([problem.block_rows, value.block_width], tl.float32)
    key_head = head // problem.groups
    keys = described(key, batch, key_head, problem.block_keys, problem)
    values = described(value, batch, key_head, problem.block_keys, problem)
    for bounded in tl.static_range(2):
        for start in range(full if bounded else begin, end if bounded else full, problem.block_keys):
            index = start + tl.arange(0, problem.block_keys)
            k = load_rows(key, keys, batch, key_head, start, index, bounded, problem)
            products = product(q, tl.trans(k), problem.widen)
            x, seen = score(products, batch, head, rows[:, None], index[None, :], problem, bounded)
            above, below = tl.where(seen, x, -INFINITY), tl.where(seen, x, INFINITY)
            new_high, new_low = tl.maximum(high, tl.max(above, 1)), tl.minimum(low, tl.min(below, 1))
            if remember:
                first = tl.min(tl.where(above == new_high[:, None], index[None, :], NO_INDEX), 1)
                argmax = tl.where(new_high > high, first, argmax)
                first = tl.min(tl.where(below == new_low[:, None], index[None, :], NO_INDEX), 1)
                argmin = tl.where(new_low < low, first, argmin)
            top = tl.where(new_high == -INFINITY, 0.0, new_high)  # no key seen yet: any finite number
            rescale = exponential(high, high > -INFINITY, top, problem.half)
            slope = 1.0 / (tl.maximum(new_high, 0.0) - new_low + problem.eps)
            shrunk = (tl.maximum(high, 0.0) - low + problem.eps) * slope
            weighted = weighted * (rescale * shrunk)[:, None]
            weighted += plain * (rescale * (low - new_low) * slope)[:, None]
            total, plain = total * rescale, plain * rescale[:, None]
            high, low = new_high, new_low
            e = exponential(x, seen, top[:, None], problem.half)
            total += tl.sum(e, 1)
            if problem.dropout:
                e = tl.where(kept(sequence, rows, start, problem), e, 0.0)
            w = e * ((x - low[:, None]) * slope[:, None])
            v = load_rows(value, values, batch, key_head, start, index, bounded, problem)
            weighted += product(fit(w, v, problem.widen), v, problem.widen)
            plain += product(fit(e, v, problem.widen), v, problem.widen)
    tl.store(statistics + row_ids, tl.where(high == -INFINITY, INFINITY, high), mask=inside)
    tl.store(statistics + problem.rows + row_ids, total, mask=inside)
    tl.store(statistics + 2 * problem.rows + row_ids, low, mask=inside)
    if remember:
        tl.store(positions + row_ids, argmin, mask=inside)
        tl.store(positions + problem.rows + row_ids, argmax, mask=inside)
    norm = (problem.keep_scale / tl.where(total > 0.0, total, 1.0))[:, None]
    result = weighted * norm
    store_tile(output, batch, head, rows, result, problem.widen)
    if remember_shortfall:
        store_tile(shortfall, batch, head, rows, plain * norm - result, problem.widen)
    if remember and problem.half:
        result -= narrow(result, output.base.dtype.element_ty, problem.widen).to(tl.float32)
        store_tile(residual, batch, head, rows, result, problem.widen)
