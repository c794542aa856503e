"""The gradient of a bias by distance. Device code; the mathematics is in ``tiles.py``.

It is dL/dx summed along the diagonals of the scores. Square tiles on one diagonal of tiles hold the same
distances in the same places, so a program adds such tiles up as they are, and what it leaves, one tile, is
summed along its own diagonals once, by ``triton_attention``. Nothing is added by two programs to one place:
equal inputs give equal bits.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917 - device code has no keyword-only arguments

import triton
import triton.language as tl

from finetune.attention.kernels.triton.backward import bias_tile


@triton.jit
def distance_gradient(query, key, value, given, positions, numbers, sums, problem, parts):
    """The sum of the tiles on one diagonal of tiles, over the batch rows of one part.

    ``sums``: float32 (parts, heads, diagonals, block, block), (key, query) in a tile; the diagonals from that
    of the last queries and first keys to that of the first queries and last keys. Part n has the batch rows
    n, n + parts, ...
    """
    lines = tl.cdiv(problem.query_len, problem.block_rows)
    columns = tl.cdiv(problem.key_len, problem.block_keys)
    diagonals = lines + columns - 1
    ahead = tl.program_id(0) % diagonals - (lines - 1)  # tiles from a query's own to the key's
    head = tl.program_id(0) // diagonals % problem.heads
    part = tl.program_id(0) // diagonals // problem.heads
    first, end = tl.maximum(0, -ahead), tl.minimum(lines, columns - ahead)
    if problem.causal:
        end = tl.where(ahead > 0, first, end)
    total = tl.zeros([problem.block_keys, problem.block_rows], tl.float32)
    for batch in range(part, problem.rows // problem.heads // problem.query_len, parts):
        for line in range(first, end):
            total += bias_tile(
                query, key, value, given, batch * problem.heads + head, line, line + ahead,
                positions, numbers, problem,
            )  # fmt: skip
    across = tl.arange(0, problem.block_keys)[:, None] * problem.block_rows
    place = tl.program_id(0).to(tl.int64) * (problem.block_keys * problem.block_rows)
    tl.store(sums + place + across + tl.arange(0, problem.block_rows)[None, :], total)
