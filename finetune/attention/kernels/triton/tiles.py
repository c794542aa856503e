"""Pieces that the forward and the backward kernels share. Device code: Triton compiles it when it is called.

A tile of scores x = query @ key^T * scaling + bias is held as (query, key) or as (key, query); what serves
both takes the two indices already shaped to broadcast, (n, 1) or (1, n).

The variants differ in a few numbers a row only. With e = exp(x - max x), l = sum e, R = M - m + eps and
da = dL/dweight,

    weight = e * y,   dL/dx = e * (da * u - D1 / l) + pulls,   D1 = sum weight * da,   D0 = sum e * da / l

    softmax         y = 1 / l            u = 1 / l
    sa-softmax-raw  y = x / l            u = y + 1 / l
    sa-softmax      y = (x - m) / (R l)  u = y + 1 / (R l)

and sa-softmax alone has pulls: (D1 - D0) / R at argmin x where m < 0, -D1 / R at argmax x where M > 0.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0917, SIM108 - device code has no keyword-only arguments, and branches at compile time

from typing import Any, NamedTuple

import triton
import triton.language as tl

SOFTMAX = tl.constexpr(0)
SELF_ADJUST = tl.constexpr(1)
SELF_ADJUST_RAW = tl.constexpr(2)

NONE = tl.constexpr(0)  # no mask, or no bias
PER_KEY = tl.constexpr(1)  # one row of it serves every query
PER_SCORE = tl.constexpr(2)
BY_DISTANCE = tl.constexpr(3)  # a number for each step from a query to a key, from that to its own slot

LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))
LEAST_BIAS = tl.constexpr(-1e30)  # so that x * log2(e) and 1 / R stay in the range of float32
MOST_FLOAT16 = tl.constexpr(65504.0)
NO_INDEX = tl.constexpr(2147483647)
ROUNDS = tl.constexpr(7)  # of Philox: enough to pass BigCrush (Salmon et al. 2011, Table 2)


class Matrices(NamedTuple):
    """(batch, heads, length, width) in memory. The last axis has stride 1."""

    base: Any
    batch_stride: int
    head_stride: int
    row_stride: int
    length: int
    width: Any  # constexpr
    block_width: Any  # constexpr: the next power of two


class Scorewise(NamedTuple):
    """A mask (bytes) or a bias, (batch, heads, query, key), with stride 0 along what is broadcast."""

    base: Any
    batch_stride: int
    head_stride: int
    query_stride: int
    key_stride: int
    kind: Any  # constexpr


class Problem(NamedTuple):
    """What every kernel of one attention call knows of it."""

    allowed: Scorewise
    bias: Scorewise
    seed: Any  # int64 (1,), of dropout
    spans: Any  # int32 (batch or 1, 2); see spans.py
    span_stride: int
    heads: int
    groups: int  # query heads to a key head
    query_len: int
    key_len: int
    rows: int  # batch * heads * query
    scaling: float
    eps: float
    threshold: int  # of dropout, in 2^-31
    keep_scale: float  # 1 / (1 - dropout)
    variant: Any  # constexpr, as all that follow
    causal: Any
    dropout: Any
    spanned: Any  # whether there are spans
    described: Any  # whether keys and values come through the tensor memory unit
    block_rows: Any
    block_keys: Any
    half: Any  # inputs of 2 bytes: where one way is shorter and another more exact, the shorter
    widen: (
        Any  # in the interpreter: multiply in float64, for it has no bfloat16, and sums vary with the order
    )


@triton.jit
def load_tile(matrices, batch, head, index, bounded: tl.constexpr):
    """Rows ``index`` of one head's (length, width) matrix; 0 outside it, where ``bounded``."""
    columns = tl.arange(0, matrices.block_width)[None, :]
    pointers = _pointers(matrices, batch, head, index)
    if matrices.width == matrices.block_width and not bounded:
        tile = tl.load(pointers)
    elif matrices.width == matrices.block_width:
        tile = tl.load(pointers, mask=index[:, None] < matrices.length, other=0.0)
    elif not bounded:
        tile = tl.load(pointers, mask=columns < matrices.width, other=0.0)
    else:
        inside = (index[:, None] < matrices.length) & (columns < matrices.width)
        tile = tl.load(pointers, mask=inside, other=0.0)
    return tile


@triton.jit
def described(matrices, batch, head, rows: tl.constexpr, problem):
    """One head's (length, width) matrix as the tensor memory unit of Hopper takes it, ``rows`` at a time; 0
    where it is not used. (Not ``matrices`` itself: Triton makes constants of a tuple that is assigned or
    returned variables, and a width must stay one.)"""
    if problem.described:
        base = matrices.base + batch.to(tl.int64) * matrices.batch_stride
        result = tl.make_tensor_descriptor(
            base + head.to(tl.int64) * matrices.head_stride,
            [matrices.length, matrices.width], [matrices.row_stride, 1], [rows, matrices.block_width],
        )  # fmt: skip
    else:
        result = 0
    return result


@triton.jit
def load_rows(matrices, description, batch, head, start, index, bounded: tl.constexpr, problem):
    """As ``load_tile``, by what ``described`` gave; ``index``: ``start`` and those that follow."""
    if problem.described:
        tile = description.load([start, 0])  # 0 beyond the matrix
    else:
        tile = load_tile(matrices, batch, head, index, bounded)
    return tile


@triton.jit
def store_tile(matrices, batch, head, index, tile, widen: tl.constexpr):
    """Write rows ``index`` of one head's (length, width) matrix, in its type."""
    columns = tl.arange(0, matrices.block_width)[None, :]
    inside = (index[:, None] < matrices.length) & (columns < matrices.width)
    tile = narrow(tile, matrices.base.dtype.element_ty, widen)
    tl.store(_pointers(matrices, batch, head, index), tile, mask=inside)


@triton.jit
def add_tile(matrices, batch, head, index, tile):
    """Add to rows ``index`` of one head's float32 (length, width) matrix, atomically, in any order."""
    columns = tl.arange(0, matrices.block_width)[None, :]
    inside = (index[:, None] < matrices.length) & (columns < matrices.width)
    tl.atomic_add(_pointers(matrices, batch, head, index), tile, mask=inside, sem="relaxed")


@triton.jit
def _pointers(matrices, batch, head, index):
    """In 64 bits: a large batch passes 2^31 elements."""
    base = (
        matrices.base + batch.to(tl.int64) * matrices.batch_stride + head.to(tl.int64) * matrices.head_stride
    )
    columns = tl.arange(0, matrices.block_width)[None, :]
    return base + index[:, None].to(tl.int64) * matrices.row_stride + columns


@triton.jit
def product(left, right, widen: tl.constexpr):
    """left @ right, accumulated in float32; float32 operands are not shortened to TF32."""
    if widen:
        result = tl.dot(left.to(tl.float64), right.to(tl.float64)).to(tl.float32)
    else:
        result = tl.dot(left, right, input_precision="ieee")
    return result


@triton.jit
def fit(tile, like, widen: tl.constexpr):
    """``tile`` in the type of ``like``. 1 / eps can carry a gradient of scores beyond float16."""
    if like.dtype == tl.float16:
        tile = tl.minimum(tl.maximum(tile, -MOST_FLOAT16), MOST_FLOAT16)
    return narrow(tile, like.dtype, widen)


@triton.jit
def narrow(tile, dtype: tl.constexpr, widen: tl.constexpr):
    """float32 to ``dtype``, to nearest. The interpreter would cut bfloat16 off, hence the detour in bits."""
    if widen and dtype == tl.bfloat16:
        bits = tile.to(tl.int32, bitcast=True)
        tile = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return tile.to(dtype)


@triton.jit
def score(products, batch, head, query_index, key_index, problem, bounded: tl.constexpr):
    """A tile of scores, finite, and where the query may see the key.

    ``bounded``: the tile may reach beyond the last key, or beyond the diagonal of a causal mask. A bias of
    -inf blocks a key.
    """
    x = products * problem.scaling
    seen = tl.full(x.shape, 1, tl.int1)
    if bounded:
        seen = seen & (key_index < problem.key_len)
        if problem.causal:
            seen = seen & (key_index <= query_index)
    if problem.allowed.kind != NONE:
        seen = seen & (_load_scorewise(problem.allowed, batch, head, query_index, key_index, problem) != 0)
    if problem.bias.kind != NONE:
        added = _load_scorewise(problem.bias, batch, head, query_index, key_index, problem).to(tl.float32)
        seen = seen & (added != -INFINITY)
        x = x + tl.where(added < LEAST_BIAS, LEAST_BIAS, added)
    return x, seen


@triton.jit
def _load_scorewise(values, batch, head, query_index, key_index, problem):
    base = values.base + batch.to(tl.int64) * values.batch_stride + head.to(tl.int64) * values.head_stride
    inside = key_index < problem.key_len
    if values.kind == BY_DISTANCE:  # a line is short: 32 bits hold a step
        pointers = base + (key_index - query_index)
    else:
        pointers = base + key_index.to(tl.int64) * values.key_stride
    if values.kind == PER_SCORE:
        pointers = pointers + query_index.to(tl.int64) * values.query_stride
    if values.kind >= PER_SCORE:
        inside = inside & (query_index < problem.query_len)
    return tl.load(pointers, mask=inside, other=0)


@triton.jit
def exponential(x, seen, high, half: tl.constexpr):
    """exp(x - high) where seen, else 0; ``high`` is max x, inf in a row that sees nothing."""
    if half:  # one instruction
        power = x * LOG2_E - high * LOG2_E
    else:
        power = (x - high) * LOG2_E
    return tl.exp2(tl.where(seen, power, -INFINITY))


@triton.jit
def coefficients(x, low, slope, variant: tl.constexpr):
    """(y, u) of the table above; ``slope`` is 1 / l, for sa-softmax 1 / (R l)."""
    if variant == SOFTMAX:
        y = slope + tl.zeros_like(x)
        u = y
    elif variant == SELF_ADJUST_RAW:
        y = x * slope
        u = y + slope
    else:
        y = (x - low) * slope
        u = y + slope
    return y, u


@triton.jit
def kept(sequence, rows, key_start, problem):
    """Which weights of a (query, key) tile dropout keeps: those whose 31 random bits reach the threshold.

    A function of the seed, of ``sequence`` (batch and head), of the query (``rows``, (query,)) and of the key
    alone, so that every kernel finds the same mask. One call of Philox serves four neighbouring keys.
    """
    quads = key_start // 4 + tl.arange(0, problem.block_keys // 4)
    across = rows[:, None] * 0 + quads[None, :]
    down = rows[:, None] + quads[None, :] * 0
    nothing = across * 0
    seed = tl.load(problem.seed)
    first, second, third, fourth = tl.philox(seed, across, down, nothing + sequence, nothing, ROUNDS)
    even = tl.join(_reaches(first, problem), _reaches(third, problem))
    odd = tl.join(_reaches(second, problem), _reaches(fourth, problem))
    return tl.reshape(tl.join(even, odd), (problem.block_rows, problem.block_keys)) != 0


@triton.jit
def _reaches(bits, problem):
    return ((bits >> 1).to(tl.int32) >= problem.threshold).to(tl.int8)
