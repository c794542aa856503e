"""Both passes where one tile holds all keys. Device code; the mathematics is in ``tiles.py``.

A row of scores is there from end to end, so that there are two matrix products forward and five backward, one
kernel each, no atomic additions, and D1 and D0 are sums over what registers hold. A program goes through
several heads, and through the queries of each, one block after the other.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917 - device code has no keyword-only arguments

import triton
import triton.language as tl

from finetune.attention.kernels.triton.backward import row_statistics, store_numbers
from finetune.attention.kernels.triton.tiles import (
    INFINITY,
    NO_INDEX,
    SELF_ADJUST,
    coefficients,
    exponential,
    fit,
    kept,
    load_tile,
    product,
    score,
    store_tile,
)


@triton.jit
def attend_tile(
    query, key, value, output, statistics, positions, problem, key_heads, remember: tl.constexpr
):  # fmt: skip
    """The output of the query heads that ``key_heads`` key heads serve; else as ``forward.attend_rows``."""
    index = tl.arange(0, problem.block_keys)
    batch, first = _share(problem, key_heads)
    blocks = tl.cdiv(problem.query_len, problem.block_rows)
    for number in range(0, key_heads * problem.groups * blocks):
        head = first * problem.groups + number // blocks
        rows = number % blocks * problem.block_rows + tl.arange(0, problem.block_rows)
        inside = rows < problem.query_len
        sequence = batch * problem.heads + head
        row_ids = sequence.to(tl.int64) * problem.query_len + rows
        q = load_tile(query, batch, head, rows, True)
        k = load_tile(key, batch, head // problem.groups, index, True)
        v = load_tile(value, batch, head // problem.groups, index, True)
        products = product(q, tl.trans(k), problem.widen)
        x, seen = score(products, batch, head, rows[:, None], index[None, :], problem, True)
        above, below = tl.where(seen, x, -INFINITY), tl.where(seen, x, INFINITY)
        highest, lowest = tl.max(above, 1), tl.min(below, 1)
        high = tl.where(highest == -INFINITY, INFINITY, highest)
        low = tl.minimum(lowest, 0.0)
        e = exponential(x, seen, high[:, None], problem.half)
        total = tl.sum(e, 1)
        slope = 1.0 / tl.where(total > 0.0, total, 1.0)
        tl.store(statistics + row_ids, high, mask=inside)
        tl.store(statistics + problem.rows + row_ids, total, mask=inside)
        if problem.variant == SELF_ADJUST:
            slope = slope / (tl.maximum(highest, 0.0) - low + problem.eps)
            tl.store(statistics + 2 * problem.rows + row_ids, low, mask=inside)
            if remember:
                argmin = tl.min(tl.where(below == lowest[:, None], index[None, :], NO_INDEX), 1)
                argmax = tl.min(tl.where(above == highest[:, None], index[None, :], NO_INDEX), 1)
                tl.store(positions + row_ids, argmin, mask=inside)
                tl.store(positions + problem.rows + row_ids, argmax, mask=inside)
        y, _ = coefficients(x, low[:, None], slope[:, None], problem.variant)
        w = e * y
        if problem.dropout:
            w = tl.where(kept(sequence, rows, 0, problem), w * problem.keep_scale, 0.0)
        store_tile(
            output, batch, head, rows, product(fit(w, v, problem.widen), v, problem.widen), problem.widen
        )


@triton.jit
def tile_gradients(
    query, key, value, given, query_result, key_result, value_result, statistics, positions, numbers,
    problem, key_heads,
):  # fmt: skip
    """dL/dquery, dL/dkey and dL/dvalue of ``key_heads`` key heads; and ``numbers``, as ``query_gradient``."""
    index = tl.arange(0, problem.block_keys)
    batch, first = _share(problem, key_heads)
    for number in range(0, key_heads):
        key_head = first + number
        k = load_tile(key, batch, key_head, index, True)
        v = load_tile(value, batch, key_head, index, True)
        dk = tl.zeros([problem.block_keys, key.block_width], tl.float32)
        dv = tl.zeros([problem.block_keys, value.block_width], tl.float32)
        for member in range(0, problem.groups):
            head = key_head * problem.groups + member
            for start in range(0, problem.query_len, problem.block_rows):
                rows = start + tl.arange(0, problem.block_rows)
                dk, dv = _add_rows(
                    dk, dv, k, v, query, given, query_result, statistics, positions, numbers, batch, head,
                    rows, problem,
                )  # fmt: skip
        store_tile(key_result, batch, key_head, index, dk * problem.scaling, problem.widen)
        store_tile(value_result, batch, key_head, index, dv, problem.widen)


@triton.jit
def _share(problem, key_heads):
    """Which batch row this program has, and the first of its key heads."""
    programs = problem.heads // problem.groups // key_heads
    return tl.program_id(0) // programs, tl.program_id(0) % programs * key_heads


@triton.jit
def _add_rows(
    dk, dv, k, v, query, given, query_result, statistics, positions, numbers, batch, head, rows, problem
):  # fmt: skip
    """Store dL/dquery of one block of queries; add what it leaves in its keys and values."""
    index = tl.arange(0, problem.block_keys)[None, :]
    inside = rows < problem.query_len
    sequence = batch * problem.heads + head
    row_ids = sequence.to(tl.int64) * problem.query_len + rows
    high, low, span, inverse = row_statistics(statistics, row_ids, inside, problem)
    q = load_tile(query, batch, head, rows, True)
    do = load_tile(given, batch, head, rows, True)
    products = product(q, tl.trans(k), problem.widen)
    x, seen = score(products, batch, head, rows[:, None], index, problem, True)
    e = exponential(x, seen, high[:, None], problem.half)
    y, u = coefficients(x, low[:, None], (inverse / span)[:, None], problem.variant)
    w, da = e * y, product(do, tl.trans(v), problem.widen)
    if problem.dropout:
        keep = kept(sequence, rows, 0, problem)
        da = tl.where(keep, da * problem.keep_scale, 0.0)
        d1 = tl.sum(w * da, 1)
        w = tl.where(keep, w * problem.keep_scale, 0.0)
    else:
        d1 = tl.sum(w * da, 1)
    excess = d1 - tl.sum(e * da, 1) * inverse
    at_low, at_high = store_numbers(numbers, row_ids, inside, high, low, span, inverse, d1, excess, problem)
    dx = e * (da * u - (d1 * inverse)[:, None])
    if problem.variant == SELF_ADJUST:
        argmin = tl.load(positions + row_ids, mask=inside, other=0)
        argmax = tl.load(positions + problem.rows + row_ids, mask=inside, other=0)
        dx += tl.where(index == argmin[:, None], at_low[:, None], 0.0)
        dx += tl.where(index == argmax[:, None], at_high[:, None], 0.0)
    dx = fit(dx, q, problem.widen)
    store_tile(
        query_result, batch, head, rows, product(dx, k, problem.widen) * problem.scaling, problem.widen
    )
    dk += product(tl.trans(dx), q, problem.widen)
    dv += product(tl.trans(fit(w, do, problem.widen)), do, problem.widen)
    return dk, dv
