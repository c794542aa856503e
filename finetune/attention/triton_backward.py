"""The backward kernels. Device code; the mathematics is in ``triton_kernels.py``.

Scores are computed again from query and key, so that nothing of size query x key is kept. ``query_gradient``
goes first: it holds a row from end to end, and so finds D0 beside its three matrix products and leaves each
row's numbers to ``key_value_gradient``, which has four products, and to ``bias_gradient``, which runs only if
the bias asks for a gradient. FlashAttention has five in all, in one kernel, which adds to the query gradient
from many programs at once; these two share nothing and so give the same bits every time. The pull of a row's
extremes reaches two keys: for the query gradient these two are fetched once, after the loop.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from finetune.attention.triton_forward import key_bounds
from finetune.attention.triton_kernels import (
    INFINITY,
    SELF_ADJUST,
    coefficients,
    exponential,
    fit,
    kept,
    load_tile,
    of_head,
    product,
    score,
    store_tile,
)


@triton.jit
def query_gradient(
    query, key, value, output, residual, given, result, statistics, positions, numbers, allowed, bias, seed, problem
):
    """dL/dquery for one block of queries of one head, from ``given`` = dL/doutput.

    Leaves in ``numbers``, float32 (3 or, for sa-softmax, 6; batch, heads, query): max x; slope (see
    ``coefficients``); D1 / l; m; the pull at argmin x; the pull at argmax x.
    """
    blocks = tl.cdiv(problem.query_len, problem.block_rows)
    sequence = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    if problem.causal:  # the longest first
        block = blocks - 1 - block
    batch, head = sequence // problem.heads, sequence % problem.heads
    seed = tl.load(seed) if problem.dropout else 0
    rows = block * problem.block_rows + tl.arange(0, problem.block_rows)
    inside = rows < problem.query_len
    row_ids = sequence.to(tl.int64) * problem.query_len + rows
    q = load_tile(of_head(query, batch, head), rows, query.row_stride, problem.query_len,
                  problem.width, problem.block_width, True)  # fmt: skip
    do = load_tile(of_head(given, batch, head), rows, given.row_stride, problem.query_len,
                   problem.value_width, problem.block_value, True)  # fmt: skip
    high, low, span, inverse = _row_statistics(statistics, row_ids, inside, problem)
    slope = inverse / span
    tl.store(numbers + row_ids, high, mask=inside)
    tl.store(numbers + problem.rows + row_ids, slope, mask=inside)
    keys, values = of_head(key, batch, head // problem.groups), of_head(value, batch, head // problem.groups)
    if problem.half:  # in a row that attends to one key da * u and D1 cancel: D1 must be exact
        o = load_tile(of_head(output, batch, head), rows, output.row_stride, problem.query_len,
                      problem.value_width, problem.block_value, True).to(tl.float32)  # fmt: skip
        o += load_tile(of_head(residual, batch, head), rows, residual.row_stride, problem.query_len,
                       problem.value_width, problem.block_value, True).to(tl.float32)  # fmt: skip
        d1 = tl.sum(o * do.to(tl.float32), 1)
    else:
        _, _, d1 = _sweep_keys(q, do, keys, key.row_stride, values, value.row_stride, high, low, slope, slope,
                               sequence, block, batch, head, rows, allowed, bias, seed, problem, True)  # fmt: skip
    inner = d1 * inverse
    tl.store(numbers + 2 * problem.rows + row_ids, inner, mask=inside)
    dq, d0, _ = _sweep_keys(q, do, keys, key.row_stride, values, value.row_stride, high, low, slope, inner,
                            sequence, block, batch, head, rows, allowed, bias, seed, problem, False)  # fmt: skip
    if problem.form == SELF_ADJUST:
        at_low = tl.where(low < 0.0, (d1 - d0 * inverse) / span, 0.0)
        at_high = tl.where(high > 0.0, -d1 / span, 0.0)
        tl.store(numbers + 3 * problem.rows + row_ids, low, mask=inside)
        tl.store(numbers + 4 * problem.rows + row_ids, at_low, mask=inside)
        tl.store(numbers + 5 * problem.rows + row_ids, at_high, mask=inside)
        for which in range(2):  # a loop that stays one, to hold one fetched tile at a time
            pulled = tl.load(positions + which * problem.rows + row_ids, mask=inside, other=0)
            k = load_tile(
                keys, pulled, key.row_stride, problem.key_len, problem.width, problem.block_width, False
            )
            dq += tl.where(which == 0, at_low, at_high)[:, None] * k.to(tl.float32)
    store_tile(of_head(result, batch, head), dq * problem.scaling, rows, result.row_stride, problem.query_len,
               problem.width, problem.block_width, problem.widen)  # fmt: skip


@triton.jit
def _row_statistics(statistics, row_ids, inside, problem):
    """max x, m, R and 1 / l of a block of rows; inf, 0, inf and 1 in a row that sees nothing."""
    high = tl.load(statistics + row_ids, mask=inside, other=INFINITY)
    total = tl.load(statistics + problem.rows + row_ids, mask=inside, other=0.0)
    low = tl.zeros_like(high)
    span = low + 1.0
    if problem.form == SELF_ADJUST:
        low = tl.load(statistics + 2 * problem.rows + row_ids, mask=inside, other=0.0)
        span = tl.maximum(high, 0.0) - low + problem.eps
    return high, low, span, 1.0 / tl.where(total > 0.0, total, 1.0)


@triton.jit
def _sweep_keys(
    q, do, keys, key_stride, values, value_stride, high, low, slope, inner, sequence, block, batch, head, rows,
    allowed, bias, seed, problem, sums_only: tl.constexpr,
):  # fmt: skip
    """dL/dquery / scaling without the pulls, and D0 * l; or, ``sums_only``, D1."""
    full, end = key_bounds(block, problem)
    dq = tl.zeros([problem.block_rows, problem.block_width], tl.float32)
    d0 = tl.zeros([problem.block_rows], tl.float32)
    d1 = tl.zeros([problem.block_rows], tl.float32)
    for bounded in tl.static_range(2):
        for start in range(full if bounded else 0, end if bounded else full, problem.block_keys):
            index = start + tl.arange(0, problem.block_keys)
            k = load_tile(
                keys, index, key_stride, problem.key_len, problem.width, problem.block_width, bounded
            )
            v = load_tile(values, index, value_stride, problem.key_len, problem.value_width,
                          problem.block_value, bounded)  # fmt: skip
            x, seen = score(product(q, tl.trans(k), problem.widen), batch, head, rows[:, None], index[None, :],
                            allowed, bias, problem, bounded)  # fmt: skip
            e = exponential(x, seen, high[:, None], problem.half)
            da = product(do, tl.trans(v), problem.widen)
            if problem.dropout:
                da = tl.where(kept(seed, sequence, rows, start, problem), da * problem.keep_scale, 0.0)
            y, u = coefficients(x, low[:, None], slope[:, None], problem.form)
            if sums_only:
                d1 += tl.sum(e * y * da, 1)
            else:
                dq += product(fit(e * (da * u - inner[:, None]), k, problem.widen), k, problem.widen)
                if problem.form == SELF_ADJUST:
                    d0 += tl.sum(e * da, 1)
    return dq, d0, d1


@triton.jit
def _tile_of_columns(
    products, da, batch, head, rows, index, numbers, positions, allowed, bias, problem, bounded: tl.constexpr
):
    """(weight, dL/dx) of a (key, query) tile, pulls and all, before dropout is applied to the weight."""
    inside = rows < problem.query_len
    row_ids = (batch.to(tl.int64) * problem.heads + head) * problem.query_len + rows
    high = tl.load(numbers + row_ids, mask=inside, other=INFINITY)
    slope = tl.load(numbers + problem.rows + row_ids, mask=inside, other=0.0)
    inner = tl.load(numbers + 2 * problem.rows + row_ids, mask=inside, other=0.0)
    low = tl.zeros_like(slope)
    if problem.form == SELF_ADJUST:
        low = tl.load(numbers + 3 * problem.rows + row_ids, mask=inside, other=0.0)
    x, seen = score(products, batch, head, rows[None, :], index[:, None], allowed, bias, problem, bounded)
    e = exponential(x, seen, high[None, :], problem.half)
    y, u = coefficients(x, low[None, :], slope[None, :], problem.form)
    dx = e * (da * u - inner[None, :])
    if problem.form == SELF_ADJUST:
        at_low = tl.load(numbers + 4 * problem.rows + row_ids, mask=inside, other=0.0)
        at_high = tl.load(numbers + 5 * problem.rows + row_ids, mask=inside, other=0.0)
        argmin = tl.load(positions + row_ids, mask=inside, other=0)
        argmax = tl.load(positions + problem.rows + row_ids, mask=inside, other=0)
        dx += tl.where(index[:, None] == argmin[None, :], at_low[None, :], 0.0)
        dx += tl.where(index[:, None] == argmax[None, :], at_high[None, :], 0.0)
    return e * y, dx


@triton.jit
def key_value_gradient(
    query, key, value, given, key_result, value_result, positions, numbers, allowed, bias, seed, problem
):
    """dL/dkey and dL/dvalue for one block of keys of one key head, summed over the query heads it serves."""
    blocks = tl.cdiv(problem.key_len, problem.block_keys)
    block = tl.program_id(0) % blocks
    key_heads = problem.heads // problem.groups
    batch, key_head = tl.program_id(0) // blocks // key_heads, tl.program_id(0) // blocks % key_heads
    seed = tl.load(seed) if problem.dropout else 0
    first_key = block * problem.block_keys
    index = first_key + tl.arange(0, problem.block_keys)
    k = load_tile(of_head(key, batch, key_head), index, key.row_stride, problem.key_len,
                  problem.width, problem.block_width, True)  # fmt: skip
    v = load_tile(of_head(value, batch, key_head), index, value.row_stride, problem.key_len,
                  problem.value_width, problem.block_value, True)  # fmt: skip
    dk = tl.zeros([problem.block_keys, problem.block_width], tl.float32)
    dv = tl.zeros([problem.block_keys, problem.block_value], tl.float32)
    for member in range(0, problem.groups):
        head = key_head * problem.groups + member
        dk, dv = _sweep_queries(dk, dv, k, v, query, given, batch, head, first_key, index, positions, numbers,
                                allowed, bias, seed, problem)  # fmt: skip
    store_tile(of_head(key_result, batch, key_head), dk * problem.scaling, index, key_result.row_stride,
               problem.key_len, problem.width, problem.block_width, problem.widen)  # fmt: skip
    store_tile(of_head(value_result, batch, key_head), dv * problem.keep_scale, index, value_result.row_stride,
               problem.key_len, problem.value_width, problem.block_value, problem.widen)  # fmt: skip


@triton.jit
def _sweep_queries(
    dk,
    dv,
    k,
    v,
    query,
    given,
    batch,
    head,
    first_key,
    index,
    positions,
    numbers,
    allowed,
    bias,
    seed,
    problem,
):
    """Add what the queries of one head leave in one block of keys. What lies beyond the last key is garbage."""
    first, full = 0, 0
    if problem.causal:  # tiles on the diagonal, then those below it
        first = first_key // problem.block_rows * problem.block_rows
        full = tl.cdiv(first_key + problem.block_keys - 1, problem.block_rows) * problem.block_rows
    edge = tl.minimum(full, problem.query_len)
    queries, gradients = of_head(query, batch, head), of_head(given, batch, head)
    for diagonal in tl.static_range(1 if problem.causal else 0, -1, -1):
        for start in range(
            first if diagonal else full, edge if diagonal else problem.query_len, problem.block_rows
        ):
            rows = start + tl.arange(0, problem.block_rows)
            q = load_tile(
                queries, rows, query.row_stride, problem.query_len, problem.width, problem.block_width, True
            )
            do = load_tile(gradients, rows, given.row_stride, problem.query_len,
                           problem.value_width, problem.block_value, True)  # fmt: skip
            da = product(v, tl.trans(do), problem.widen)
            if problem.dropout:
                keep = tl.trans(kept(seed, batch * problem.heads + head, rows, first_key, problem))
                da = tl.where(keep, da * problem.keep_scale, 0.0)
            w, dx = _tile_of_columns(product(k, tl.trans(q), problem.widen), da, batch, head, rows, index,
                                     numbers, positions, allowed, bias, problem, diagonal)  # fmt: skip
            if problem.dropout:
                w = tl.where(keep, w, 0.0)
            dv += product(fit(w, do, problem.widen), do, problem.widen)
            dk += product(fit(dx, q, problem.widen), q, problem.widen)
    return dk, dv


@triton.jit
def bias_gradient(
    query, key, value, given, result, positions, numbers, allowed, bias, seed, problem,
    batches, heads, per_query: tl.constexpr, per_key: tl.constexpr,
):  # fmt: skip
    """dL/dbias for one tile of a bias of (1 or batch, 1 or heads, 1 or query, 1 or key), summed in a fixed order.

    ``batches`` and ``heads``: how many of them share a bias. ``result``: a contiguous ``Matrices`` whose width
    is the bias's last axis.
    """
    row_blocks = tl.cdiv(problem.query_len, problem.block_rows)
    key_blocks = tl.cdiv(problem.key_len, problem.block_keys)
    columns = key_blocks if per_key else 1
    lines = row_blocks if per_query else 1
    first_key, first_row = tl.program_id(0) % columns, tl.program_id(0) // columns % lines
    owner = tl.program_id(0) // columns // lines
    owners = problem.heads // heads
    seed = tl.load(seed) if problem.dropout else 0
    total = tl.zeros([problem.block_keys, problem.block_rows], tl.float32)
    for one in range(0, batches * heads):
        batch = owner // owners * batches + one // heads
        head = owner % owners * heads + one % heads
        for row_block in range(first_row if per_query else 0, first_row + 1 if per_query else row_blocks):
            for key_block in range(first_key if per_key else 0, first_key + 1 if per_key else key_blocks):
                total += _bias_tile(query, key, value, given, row_block, key_block, batch, head, positions,
                                    numbers, allowed, bias, seed, problem)  # fmt: skip
    rows = first_row * problem.block_rows + tl.arange(0, problem.block_rows)
    index = first_key * problem.block_keys + tl.arange(0, problem.block_keys)
    if not per_query:
        total = tl.sum(total, 1)[:, None] + tl.zeros_like(total)
    if not per_key:
        total = tl.sum(total, 0)[None, :] + tl.zeros_like(total)
    inside = (rows < (problem.query_len if per_query else 1))[None, :]
    inside = inside & (index < (problem.key_len if per_key else 1))[:, None]
    base = of_head(result, owner // owners, owner % owners)
    pointers = base + rows[None, :].to(tl.int64) * result.row_stride + index[:, None]
    tl.store(pointers, total.to(result.base.dtype.element_ty), mask=inside)


@triton.jit
def _bias_tile(
    query,
    key,
    value,
    given,
    row_block,
    key_block,
    batch,
    head,
    positions,
    numbers,
    allowed,
    bias,
    seed,
    problem,
):
    """dL/dx of one (key, query) tile; 0 outside."""
    rows = row_block * problem.block_rows + tl.arange(0, problem.block_rows)
    first_key = key_block * problem.block_keys
    index = first_key + tl.arange(0, problem.block_keys)
    key_head = head // problem.groups
    q = load_tile(of_head(query, batch, head), rows, query.row_stride, problem.query_len,
                  problem.width, problem.block_width, True)  # fmt: skip
    do = load_tile(of_head(given, batch, head), rows, given.row_stride, problem.query_len,
                   problem.value_width, problem.block_value, True)  # fmt: skip
    k = load_tile(of_head(key, batch, key_head), index, key.row_stride, problem.key_len,
                  problem.width, problem.block_width, True)  # fmt: skip
    v = load_tile(of_head(value, batch, key_head), index, value.row_stride, problem.key_len,
                  problem.value_width, problem.block_value, True)  # fmt: skip
    da = product(v, tl.trans(do), problem.widen)
    if problem.dropout:
        keep = tl.trans(kept(seed, batch * problem.heads + head, rows, first_key, problem))
        da = tl.where(keep, da * problem.keep_scale, 0.0)
    _, dx = _tile_of_columns(product(k, tl.trans(q), problem.widen), da, batch, head, rows, index,
                             numbers, positions, allowed, bias, problem, True)  # fmt: skip
    return tl.where((rows < problem.query_len)[None, :] & (index < problem.key_len)[:, None], dx, 0.0)
