"""The backward kernels. Device code; the mathematics is in ``tiles.py``.

Scores are computed again from query and key, so that nothing of size query x key is kept. ``query_gradient``
goes first: it holds a row from end to end, and so finds D0 beside its three matrix products and leaves each
row's numbers to ``key_value_gradient``, which has four products, and to ``bias_gradient``, which runs only if
the bias asks for a gradient. FlashAttention has five in all, in one kernel, which adds to the query gradient
from many programs at once; these two share nothing and so give the same bits every time. With the forward
pass that is 10 products for sa-softmax and 9 for the others, against FlashAttention's 7. The pull of a row's
extremes reaches two keys: for the query gradient these two are fetched once, after the loop.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917 - device code has no keyword-only arguments

import triton
import triton.language as tl

from finetune.attention.kernels.triton.forward import key_bounds, row_block
from finetune.attention.kernels.triton.spans import read_span
from finetune.attention.kernels.triton.tiles import (
    INFINITY,
    SELF_ADJUST,
    add_tile,
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
def query_gradient(
    query, key, value, output, residual, given, result, statistics, positions, numbers, problem
):  # fmt: skip
    """dL/dquery for one block of queries of one head, from ``given`` = dL/doutput.

    Leaves in ``numbers``, float32 (3 or, for sa-softmax, 6; batch, heads, query): max x; slope (see
    ``coefficients``); D1 / l; m; the pull at argmin x; the pull at argmax x.
    """
    sequence, block = row_block(problem)
    batch, head = sequence // problem.heads, sequence % problem.heads
    rows = block * problem.block_rows + tl.arange(0, problem.block_rows)
    inside = rows < problem.query_len
    row_ids = sequence.to(tl.int64) * problem.query_len + rows
    high, low, span, inverse = row_statistics(statistics, row_ids, inside, problem)
    slope = inverse / span
    q = load_tile(query, batch, head, rows, True)
    do = load_tile(given, batch, head, rows, True)
    if problem.half:  # in a row that attends to one key da * u and D1 / l cancel: D1 must be exact
        o = load_tile(output, batch, head, rows, True).to(tl.float32)
        o += load_tile(residual, batch, head, rows, True).to(tl.float32)
        d1 = tl.sum(o * do.to(tl.float32), 1)
    else:
        _, _, d1 = _sweep_keys(
            q, do, key, value, high, low, slope, slope, sequence, block, rows, problem, True
        )
    inner = d1 * inverse
    dq, d0, _ = _sweep_keys(q, do, key, value, high, low, slope, inner, sequence, block, rows, problem, False)
    at_low, at_high = store_numbers(
        numbers, row_ids, inside, high, low, span, inverse, d1, d1 - d0 * inverse, problem
    )
    if problem.variant == SELF_ADJUST:
        for which in range(2):  # a loop that stays one, to hold one fetched tile at a time
            pulled = tl.load(positions + which * problem.rows + row_ids, mask=inside, other=0)
            k = load_tile(key, batch, head // problem.groups, pulled, False)
            dq += tl.where(which == 0, at_low, at_high)[:, None] * k.to(tl.float32)
    store_tile(result, batch, head, rows, dq * problem.scaling, problem.widen)


@triton.jit
def row_statistics(statistics, row_ids, inside, problem):
    """max x, m, R and 1 / l of a block of rows; inf, 0, inf and 1 in a row that sees nothing."""
    high = tl.load(statistics + row_ids, mask=inside, other=INFINITY)
    total = tl.load(statistics + problem.rows + row_ids, mask=inside, other=0.0)
    low = tl.zeros_like(high)
    span = low + 1.0
    if problem.variant == SELF_ADJUST:
        low = tl.load(statistics + 2 * problem.rows + row_ids, mask=inside, other=0.0)
        span = tl.maximum(high, 0.0) - low + problem.eps
    return high, low, span, 1.0 / tl.where(total > 0.0, total, 1.0)


@triton.jit
def store_numbers(numbers, row_ids, inside, high, low, span, inverse, d1, excess, problem):
    """Leave a block of rows' ``numbers``; the pulls at argmin x and argmax x. ``excess``: D1 - D0."""
    at_low = tl.where(low < 0.0, excess / span, 0.0)
    at_high = tl.where(high > 0.0, -d1 / span, 0.0)
    tl.store(numbers + row_ids, high, mask=inside)
    tl.store(numbers + problem.rows + row_ids, inverse / span, mask=inside)
    tl.store(numbers + 2 * problem.rows + row_ids, d1 * inverse, mask=inside)
    if problem.variant == SELF_ADJUST:
        tl.store(numbers + 3 * problem.rows + row_ids, low, mask=inside)
        tl.store(numbers + 4 * problem.rows + row_ids, at_low, mask=inside)
        tl.store(numbers + 5 * problem.rows + row_ids, at_high, mask=inside)
    return at_low, at_high


@triton.jit
def _sweep_keys(
    q, do, key, value, high, low, slope, inner, sequence, block, rows, problem, sums_only: tl.constexpr
):
    """dL/dquery / scaling without the pulls, and D0 * l; or, ``sums_only``, D1."""
    batch, head = sequence // problem.heads, sequence % problem.heads
    begin, full, end = key_bounds(batch, block, problem)
    dq = tl.zeros([problem.block_rows, key.block_width], tl.float32)
    d0 = tl.zeros([problem.block_rows], tl.float32)
    d1 = tl.zeros([problem.block_rows], tl.float32)
    for bounded in tl.static_range(2):
        for start in range(full if bounded else begin, end if bounded else full, problem.block_keys):
            index = start + tl.arange(0, problem.block_keys)
            k = load_tile(key, batch, head // problem.groups, index, bounded)
            v = load_tile(value, batch, head // problem.groups, index, bounded)
            products = product(q, tl.trans(k), problem.widen)
            x, seen = score(products, batch, head, rows[:, None], index[None, :], problem, bounded)
            e = exponential(x, seen, high[:, None], problem.half)
            da = product(do, tl.trans(v), problem.widen)
            if problem.dropout:
                da = tl.where(kept(sequence, rows, start, problem), da * problem.keep_scale, 0.0)
            y, u = coefficients(x, low[:, None], slope[:, None], problem.variant)
            if sums_only:
                d1 += tl.sum(e * y * da, 1)
            else:
                dx = e * (da * u - inner[:, None])
                dq += product(fit(dx, k, problem.widen), k, problem.widen)
                if problem.variant == SELF_ADJUST:
                    d0 += tl.sum(e * da, 1)
    return dq, d0, d1


@triton.jit
def key_value_gradient(query, key, value, given, key_result, value_result, positions, numbers, problem):
    """dL/dkey and dL/dvalue for one block of keys of one key head, summed over the query heads it serves."""
    batch, key_head, first_key = key_value_block(problem)
    index = first_key + tl.arange(0, problem.block_keys)
    k = load_tile(key, batch, key_head, index, True)
    v = load_tile(value, batch, key_head, index, True)
    dk = tl.zeros([problem.block_keys, key.block_width], tl.float32)
    dv = tl.zeros([problem.block_keys, value.block_width], tl.float32)
    for member in range(0, problem.groups):
        sequence = batch * problem.heads + key_head * problem.groups + member
        dk, dv = sweep_queries(
            dk, dv, k, v, query, given, query, sequence, first_key, positions, numbers, problem, False
        )
    store_tile(key_result, batch, key_head, index, dk * problem.scaling, problem.widen)
    store_tile(value_result, batch, key_head, index, dv * problem.keep_scale, problem.widen)


@triton.jit
def key_value_block(problem):
    """Which batch row, key head and first key this program has."""
    blocks = tl.cdiv(problem.key_len, problem.block_keys)
    key_heads = problem.heads // problem.groups
    block, owner = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    return owner // key_heads, owner % key_heads, block * problem.block_keys


@triton.jit
def sweep_queries(
    dk, dv, k, v, query, given, query_sum, sequence, first_key, positions, numbers, problem,
    add: tl.constexpr,
):  # fmt: skip
    """Add what the queries of one head leave in one block of keys; garbage beyond the last key.

    If ``add``: and to ``query_sum``, atomically, what the keys leave in the queries.
    """
    first, full = 0, 0
    if problem.causal:  # tiles on the diagonal, then those below it
        first = first_key // problem.block_rows * problem.block_rows
        full = tl.cdiv(first_key + problem.block_keys - 1, problem.block_rows) * problem.block_rows
    last = problem.query_len
    if problem.spanned:
        begin, end_of_keys = read_span(sequence // problem.heads, problem)
        last = tl.where((first_key < begin) | (first_key >= end_of_keys), 0, last)
    edge = tl.minimum(full, last)
    for diagonal in tl.static_range(1 if problem.causal else 0, -1, -1):
        end = edge if diagonal else last
        for start in range(first if diagonal else full, end, problem.block_rows):
            rows = start + tl.arange(0, problem.block_rows)
            w, dx, q, do = _transposed_tile(
                k, v, query, given, sequence, rows, first_key, positions, numbers, problem, diagonal
            )
            dv += product(fit(w, do, problem.widen), do, problem.widen)
            dx = fit(dx, q, problem.widen)
            dk += product(dx, q, problem.widen)
            if add:
                index = first_key + tl.arange(0, problem.block_keys)
                dx = tl.where((index < problem.key_len)[:, None], dx, 0.0).to(q.dtype)
                dq = product(tl.trans(dx), k, problem.widen) * problem.scaling
                add_tile(query_sum, sequence // problem.heads, sequence % problem.heads, rows, dq)
    return dk, dv


@triton.jit
def _transposed_tile(
    k, v, query, given, sequence, rows, first_key, positions, numbers, problem, bounded: tl.constexpr
):
    """(weight after dropout, dL/dx with its pulls), (key, query), and the tiles of query and ``given``."""
    batch, head = sequence // problem.heads, sequence % problem.heads
    index = first_key + tl.arange(0, problem.block_keys)[:, None]
    inside = rows < problem.query_len
    row_ids = sequence.to(tl.int64) * problem.query_len + rows
    high = tl.load(numbers + row_ids, mask=inside, other=INFINITY)[None, :]
    slope = tl.load(numbers + problem.rows + row_ids, mask=inside, other=0.0)[None, :]
    inner = tl.load(numbers + 2 * problem.rows + row_ids, mask=inside, other=0.0)[None, :]
    low = tl.zeros_like(slope)
    if problem.variant == SELF_ADJUST:
        low = tl.load(numbers + 3 * problem.rows + row_ids, mask=inside, other=0.0)[None, :]
    q = load_tile(query, batch, head, rows, True)
    do = load_tile(given, batch, head, rows, True)
    products = product(k, tl.trans(q), problem.widen)
    x, seen = score(products, batch, head, rows[None, :], index, problem, bounded)
    e = exponential(x, seen, high, problem.half)
    y, u = coefficients(x, low, slope, problem.variant)
    w, da = e * y, product(v, tl.trans(do), problem.widen)
    if problem.dropout:
        keep = tl.trans(kept(sequence, rows, first_key, problem))
        w, da = tl.where(keep, w, 0.0), tl.where(keep, da * problem.keep_scale, 0.0)
    dx = e * (da * u - inner)
    if problem.variant == SELF_ADJUST:
        at_low = tl.load(numbers + 4 * problem.rows + row_ids, mask=inside, other=0.0)
        at_high = tl.load(numbers + 5 * problem.rows + row_ids, mask=inside, other=0.0)
        argmin = tl.load(positions + row_ids, mask=inside, other=0)
        argmax = tl.load(positions + problem.rows + row_ids, mask=inside, other=0)
        dx += tl.where(index == argmin[None, :], at_low[None, :], 0.0)
        dx += tl.where(index == argmax[None, :], at_high[None, :], 0.0)
    return w, dx, q, do


@triton.jit
def bias_gradient(
    query, key, value, given, positions, numbers, problem, result,
    batches, heads, per_query: tl.constexpr, per_key: tl.constexpr,
):  # fmt: skip
    """dL/dbias for one tile of a bias of (1 or batch, 1 or heads, 1 or query, 1 or key).

    ``result``: ``Scorewise``. ``batches`` and ``heads``: how many of them share an entry. They are summed one
    after the other.
    """
    row_blocks = tl.cdiv(problem.query_len, problem.block_rows)
    key_blocks = tl.cdiv(problem.key_len, problem.block_keys)
    columns = key_blocks if per_key else 1
    lines = row_blocks if per_query else 1
    key_block, row_block = tl.program_id(0) % columns, tl.program_id(0) // columns % lines
    owner, owners = tl.program_id(0) // columns // lines, problem.heads // heads
    batch, head = owner // owners, owner % owners
    total = tl.zeros([problem.block_keys, problem.block_rows], tl.float32)
    for one in range(0, batches * heads):
        sequence = (batch * batches + one // heads) * problem.heads + head * heads + one % heads
        for line in range(row_block if per_query else 0, row_block + 1 if per_query else row_blocks):
            for column in range(key_block if per_key else 0, key_block + 1 if per_key else key_blocks):
                total += bias_tile(
                    query, key, value, given, sequence, line, column, positions, numbers, problem
                )
    if not per_query:
        total = tl.sum(total, 1)[:, None] + tl.zeros_like(total)
    if not per_key:
        total = tl.sum(total, 0)[None, :] + tl.zeros_like(total)
    rows = (row_block * problem.block_rows + tl.arange(0, problem.block_rows))[None, :]
    index = (key_block * problem.block_keys + tl.arange(0, problem.block_keys))[:, None]
    inside = (rows < (problem.query_len if per_query else 1)) & (index < (problem.key_len if per_key else 1))
    pointers = result.base + batch.to(tl.int64) * result.batch_stride + head.to(tl.int64) * result.head_stride
    pointers = pointers + rows.to(tl.int64) * result.query_stride + index.to(tl.int64) * result.key_stride
    tl.store(pointers, total.to(result.base.dtype.element_ty), mask=inside)


@triton.jit
def bias_tile(query, key, value, given, sequence, line, column, positions, numbers, problem):
    """dL/dx of one (key, query) tile; 0 outside."""
    batch, head = sequence // problem.heads, sequence % problem.heads
    rows = line * problem.block_rows + tl.arange(0, problem.block_rows)
    first_key = column * problem.block_keys
    index = first_key + tl.arange(0, problem.block_keys)
    k = load_tile(key, batch, head // problem.groups, index, True)
    v = load_tile(value, batch, head // problem.groups, index, True)
    _, dx, _, _ = _transposed_tile(
        k, v, query, given, sequence, rows, first_key, positions, numbers, problem, True
    )
    return tl.where((rows < problem.query_len)[None, :] & (index < problem.key_len)[:, None], dx, 0.0)
