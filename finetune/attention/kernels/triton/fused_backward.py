"""The backward pass with five matrix products. Device code; the mathematics is in ``tiles.py``.

``row_numbers`` finds each row's numbers from vectors that are kept, D1 = dL/doutput . output and
D1 - D0 = -dL/doutput . shortfall, without a matrix product. ``all_gradients`` then goes through the queries
for a block of keys, as ``backward.key_value_gradient`` does, and adds dx k of each tile to the query gradient
atomically: k q^T, v do^T, w do, dx q, dx^T k. Programs finish in any order, so equal inputs can give query
gradients that differ in the last bits. They are added up in float32, and rounded once, at the end.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917 - device code has no keyword-only arguments

import triton
import triton.language as tl

from finetune.attention.kernels.triton.backward import (
    key_value_block,
    row_statistics,
    store_numbers,
    sweep_queries,
)
from finetune.attention.kernels.triton.forward import row_block
from finetune.attention.kernels.triton.tiles import SELF_ADJUST, load_tile, store_tile


@triton.jit
def row_numbers(query, key, value, output, residual, shortfall, given, statistics, numbers, problem):
    """``numbers`` of ``backward.query_gradient`` for one block of queries of one head."""
    sequence, block = row_block(problem)
    batch, head = sequence // problem.heads, sequence % problem.heads
    rows = block * problem.block_rows + tl.arange(0, problem.block_rows)
    inside = rows < problem.query_len
    row_ids = sequence.to(tl.int64) * problem.query_len + rows
    high, low, span, inverse = row_statistics(statistics, row_ids, inside, problem)
    do = load_tile(given, batch, head, rows, True).to(tl.float32)
    o = load_tile(output, batch, head, rows, True).to(tl.float32)
    if problem.half:
        o += load_tile(residual, batch, head, rows, True).to(tl.float32)
    d1 = tl.sum(o * do, 1)
    excess = tl.zeros_like(d1)  # D1 - D0
    if problem.variant == SELF_ADJUST:
        excess -= tl.sum(load_tile(shortfall, batch, head, rows, True).to(tl.float32) * do, 1)
    store_numbers(numbers, row_ids, inside, high, low, span, inverse, d1, excess, problem)


@triton.jit
def all_gradients(
    query, key, value, given, query_sum, key_result, value_result, positions, numbers, problem
):  # fmt: skip
    """dL/dkey and dL/dvalue for one block of keys of one key head, and what it adds to dL/dquery.

    ``query_sum``: float32, of the query's shape, 0 at first.
    """
    batch, key_head, first_key = key_value_block(problem)
    index = first_key + tl.arange(0, problem.block_keys)
    k = load_tile(key, batch, key_head, index, True)
    v = load_tile(value, batch, key_head, index, True)
    dk = tl.zeros([problem.block_keys, key.block_width], tl.float32)
    dv = tl.zeros([problem.block_keys, value.block_width], tl.float32)
    for member in range(0, problem.groups):
        sequence = batch * problem.heads + key_head * problem.groups + member
        dk, dv = sweep_queries(
            dk, dv, k, v, query, given, query_sum, sequence, first_key, positions, numbers, problem, True
        )
    store_tile(key_result, batch, key_head, index, dk * problem.scaling, problem.widen)
    store_tile(value_result, batch, key_head, index, dv * problem.keep_scale, problem.widen)
