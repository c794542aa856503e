"""How the Triton kernels are launched: the sizes of their tiles, and what they know of the tensors."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.attention.kernels.inputs import with_contiguous_rows
from finetune.attention.kernels.triton.forms import DEFAULT, FORMS, MOST_QUERIES, power_of_two
from finetune.attention.variants import known_to

KNOWN = known_to("triton")  # the number of each in tiles.py is its place here

Tile = tuple[int, int, int, int]  # queries, keys, warps, stages
Table = dict[str, dict[tuple[int, int], Tile]]  # by kernel, widest axis of a head and bytes of an element
_HOPPER: Table = {
    "attend_rows": {(64, 2): (128, 64, 8, 3), (128, 2): (128, 64, 8, 3), (256, 2): (64, 64, 8, 2),
                    (64, 4): (64, 32, 8, 2), (128, 4): (32, 32, 8, 2), (256, 4): (16, 32, 8, 2)},
    "attend_rows_once": {(64, 2): (128, 64, 8, 3), (128, 2): (64, 32, 8, 2), (256, 2): (32, 64, 8, 2),
                         (64, 4): (32, 32, 4, 2), (128, 4): (32, 32, 8, 2), (256, 4): (16, 32, 8, 2)},
    "query_gradient": {(64, 2): (128, 64, 8, 2), (128, 2): (128, 32, 8, 2), (256, 2): (64, 32, 8, 2),
                       (64, 4): (32, 32, 4, 2), (128, 4): (32, 32, 8, 2), (256, 4): (16, 16, 8, 1)},
    "key_value_gradient": {(64, 2): (32, 128, 8, 3), (128, 2): (32, 128, 8, 2), (256, 2): (16, 64, 8, 2),
                           (64, 4): (32, 32, 4, 2), (128, 4): (16, 32, 8, 1), (256, 4): (16, 32, 8, 1)},
    "row_numbers": {(width, size): (32, 16, 4, 1) for width in (64, 128, 256) for size in (2, 4)},
    "all_gradients": {(64, 2): (32, 128, 8, 2), (128, 2): (32, 64, 8, 2), (256, 2): (16, 64, 8, 1),
                      (64, 4): (32, 32, 4, 1), (128, 4): (16, 32, 8, 1), (256, 4): (16, 32, 8, 1)},
    "bias_gradient": {(64, 2): (64, 64, 8, 1), (128, 2): (64, 64, 8, 1), (256, 2): (32, 64, 8, 1),
                      (64, 4): (32, 32, 4, 1), (128, 4): (32, 32, 4, 1), (256, 4): (16, 16, 4, 1)},
    # as many queries as keys, so that its tiles meet corner to corner along a diagonal
    "distance_gradient": {(64, 2): (64, 64, 8, 1), (128, 2): (32, 32, 4, 1), (256, 2): (32, 32, 4, 1),
                          (64, 4): (32, 32, 4, 1), (128, 4): (32, 32, 4, 1), (256, 4): (16, 16, 4, 1)},
}  # fmt: skip
# Ampere holds operands of its matrix units in registers, and spills them in tiles of Hopper's size.
_AMPERE: Table = {
    "attend_rows": {(128, 2): (128, 32, 8, 3)},
    "attend_rows_once": {(64, 2): (32, 64, 4, 2)},
    "all_gradients": {(64, 2): (32, 64, 4, 2), (128, 2): (32, 32, 8, 2)},
    "query_gradient": {(64, 2): (128, 32, 8, 2), (128, 2): (64, 32, 8, 2)},
    "key_value_gradient": {(128, 2): (32, 64, 8, 2)},
    "distance_gradient": {(64, 2): (32, 32, 4, 1), (128, 2): (32, 32, 4, 1)},
}
MEASURED = Path(__file__).with_name("tiles.json")
"""The tiles that a GPU has found the fastest: the ``tiles`` of an evidence.json, copied here by hand."""


def laid_over(chosen: dict[int, Table], measured: Mapping[str, Any]) -> dict[int, Table]:
    """``chosen`` with the tiles of ``measured``: {"9": {"attend_rows": {"64,2": [128, 64, 8, 3]}}}.

    An architecture of its own starts from the latest before it; what is no kernel any more is passed over.
    """
    tables = {
        major: {kernel: dict(sizes) for kernel, sizes in table.items()} for major, table in chosen.items()
    }
    for name in sorted(measured, key=int):
        major, kernels = int(name), measured[name]
        latest = tables[max(known for known in tables if known <= major)]
        table = tables.setdefault(major, {kernel: dict(sizes) for kernel, sizes in latest.items()})
        for kernel in kernels.keys() & table.keys():
            for size, (queries, keys, warps, stages) in kernels[kernel].items():
                width, _, element = size.partition(",")
                table[kernel][int(width), int(element)] = queries, keys, warps, stages
    return tables


TILES = laid_over(
    {9: _HOPPER, 8: {kernel: sizes | _AMPERE.get(kernel, {}) for kernel, sizes in _HOPPER.items()}},
    json.loads(MEASURED.read_text(encoding="utf-8")),
)
"""Tiles by major compute capability (a later one takes the latest here), by kernel, then by the widest axis
of a head and the bytes of an element. The one table to tune. Chosen without a GPU, by registers and spills
(``finetune.bench.static``)."""
aim: ContextVar[tuple[int, int] | None] = ContextVar("aim", default=None)
"""A compute capability to compile for in place of the device's, where nothing is launched."""
ONE_TILE = ("attend_tile", "tile_gradients")  # as large as the call, but for many queries
_INTERPRETED_TILE = (32, 16, 1, 1)  # small, so that small inputs have several
_LEAST_TILE = 16  # of tl.dot
_ROOMY = ((8, 0), (9, 0), (10, 0))  # compute capabilities with the shared memory for the table's stages


def tiles_of(major: int) -> Table:
    """The tiles of a major compute capability, or of the latest before it that has some."""
    return TILES[max(known for known in TILES if known <= major)]


@dataclass(frozen=True)
class Launch:
    """One attention call, as the operators are given it."""

    query: Tensor
    key: Tensor
    value: Tensor
    allowed: Tensor | None
    bias: Tensor | None  # scorewise, of 4 dimensions; or by distance, (heads, query + key - 1)
    seed: Tensor | None
    variant: str
    eps: float
    scaling: float
    causal: bool
    dropout: float
    form: str = DEFAULT

    @cached_property
    def _spans(self) -> Tensor | None:
        if self.allowed is None or not FORMS[self.form].spans:
            return None
        from finetune.attention.kernels.triton.spans import key_spans

        with self._device():
            return key_spans(self.allowed)

    @property
    def _described(self) -> bool:
        """Whether the form asks for the tensor memory unit, the device has one (interpreted, too), and it can
        step through keys and values: in multiples of 16 bytes."""
        if not FORMS[self.form].descriptors or (self._capability or (9, 0)) < (9, 0):
            return False
        return all(
            tensor.data_ptr() % 16 == 0
            and all(stride * tensor.element_size() % 16 == 0 for stride in tensor.stride()[:-1])
            for tensor in (with_contiguous_rows(self.key), with_contiguous_rows(self.value))
        )

    def launch(
        self,
        kernel: Any,
        programs: Callable[[int, int], int],
        matrices: Sequence[Tensor],
        tensors: Sequence[Tensor],
        extra: Sequence[Any] = (),
    ) -> None:
        """Run ``kernel`` on query, key, value, ``matrices``, ``tensors``, the ``Problem`` and ``extra``.

        ``programs``: (queries, keys) of a tile -> how many programs.
        """
        queries, keys, warps, stages = self.tile(kernel.__name__)
        if self._described:
            _give_descriptors_room()
        with self._device():
            kernel[(programs(queries, keys),)](
                *(_matrices(tensor) for tensor in (self.query, self.key, self.value, *matrices)),
                *tensors,
                self._problem(queries, keys),
                *extra,
                num_warps=warps,
                num_stages=stages,
            )

    def tile(self, kernel: str) -> tuple[int, int, int, int]:
        """The table's tile, no longer than the inputs, and fewer stages where memory on the chip is short."""
        if kernel in ONE_TILE:
            queries, keys = (
                max(_LEAST_TILE, power_of_two(tensor.shape[-2])) for tensor in (self.query, self.key)
            )
            queries = min(queries, MOST_QUERIES)
            return queries, keys, 8, 1
        width = max(64, power_of_two(self.query.shape[-1]), power_of_two(self.value.shape[-1]))
        capability = self._capability
        queries, keys, warps, stages = _INTERPRETED_TILE
        if capability:
            queries, keys, warps, stages = tiles_of(capability[0])[kernel][width, self.query.element_size()]
        queries = min(queries, max(_LEAST_TILE, power_of_two(self.query.shape[-2])))
        keys = min(keys, max(_LEAST_TILE, power_of_two(self.key.shape[-2])))
        if kernel == "distance_gradient":
            queries = keys = min(queries, keys)
        if self.by_distance and width > 64 and kernel in ("attend_rows", "query_gradient"):
            queries = max(
                _LEAST_TILE, queries // 2
            )  # its addresses take registers, and wide heads leave none
        masks = [mask for mask in (self.allowed, self.bias) if mask is not None]
        if any(mask.dim() == 2 or not is_shared(mask, 2) for mask in masks):
            stages = min(stages, 2)  # tiles of the mask are staged as well
        if capability and capability not in _ROOMY:
            stages = 1
        return queries, keys, warps, stages

    @property
    def by_distance(self) -> bool:
        return self.bias is not None and self.bias.dim() == 2

    @property
    def _capability(self) -> tuple[int, int] | None:
        """The compute capability that is compiled for; ``None`` in the interpreter."""
        device = self.query.device
        return aim.get() or (capability_of(device.index) if device.type == "cuda" else None)

    def _bias(self) -> Any:
        """The bias as kernels take it. By distance, a query's own slot is in place query - 1."""
        if self.bias is None or self.bias.dim() == 4:
            return scorewise(self.bias, self.query)
        from triton.language import constexpr

        from finetune.attention.kernels.triton.tiles import BY_DISTANCE, Scorewise

        first = self.bias[:, self.query.shape[-2] - 1 :]
        return Scorewise(first, 0, self.bias.stride(0), 0, 0, constexpr(BY_DISTANCE.value))

    def _device(self) -> AbstractContextManager[Any]:
        device = self.query.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def _problem(self, queries: int, keys: int) -> Any:
        from triton.language import constexpr

        from finetune.attention.kernels.triton.tiles import Problem

        batch, heads, query_len, _ = self.query.shape
        spans = self._spans
        return Problem(
            allowed=scorewise(self.allowed, self.query),
            bias=self._bias(),
            seed=self.query if self.seed is None else self.seed,
            spans=self.query if spans is None else spans,
            span_stride=0 if spans is None or len(spans) == 1 else 2,
            heads=heads,
            groups=heads // self.key.shape[1],
            query_len=query_len,
            key_len=self.key.shape[-2],
            rows=batch * heads * query_len,
            scaling=float(self.scaling),
            eps=float(self.eps),
            threshold=min(round(self.dropout * 2**31), 2**31 - 1),
            keep_scale=1.0 / (1.0 - self.dropout) if self.dropout < 1.0 else 0.0,
            variant=constexpr(KNOWN.index(self.variant)),
            causal=constexpr(self.causal),
            dropout=constexpr(self.dropout > 0.0),
            spanned=constexpr(spans is not None),
            described=constexpr(self._described),
            block_rows=constexpr(queries),
            block_keys=constexpr(keys),
            half=constexpr(self.query.element_size() == 2),
            widen=constexpr(self._capability is None),
        )


@cache
def _give_descriptors_room() -> None:
    """Has Triton take the memory in which kernels write their descriptors from torch."""
    import triton

    triton.set_allocator(
        lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda")  # 512-aligned
    )


@torch.compiler.assume_constant_result
def capability_of(index: int | None) -> tuple[int, int]:
    """The compute capability of a CUDA device; ``None`` is the current one."""
    return torch.cuda.get_device_capability(index)


def heads_of_a_program(key: Tensor) -> int:
    """As many heads of ``key`` as leave two programs for every multiprocessor."""
    batch, heads, _, _ = key.shape
    processors = 1
    if key.is_cuda:
        processors = torch.cuda.get_device_properties(key.device).multi_processor_count
    even = [count for count in range(1, heads + 1) if heads % count == 0]
    return max((count for count in even if batch * heads >= 2 * processors * count), default=1)


def is_shared(mask: Tensor, axis: int) -> bool:
    """Whether one entry of ``mask`` serves the whole axis."""
    return mask.shape[axis] == 1 or mask.stride(axis) == 0


def scorewise(mask: Tensor | None, dummy: Tensor) -> Any:
    """A mask or a bias, (batch or 1, heads or 1, query or 1, key or 1), as kernels take it."""
    from triton.language import constexpr

    from finetune.attention.kernels.triton.tiles import NONE, PER_KEY, PER_SCORE, Scorewise

    if mask is None:
        return Scorewise(dummy, 0, 0, 0, 0, constexpr(NONE.value))
    base = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
    batch, head, query, key = (0 if is_shared(mask, axis) else mask.stride(axis) for axis in range(4))
    kind = PER_KEY if is_shared(mask, 2) else PER_SCORE
    return Scorewise(base, batch, head, query, key, constexpr(kind.value))


def _matrices(tensor: Tensor) -> Any:
    from triton.language import constexpr

    from finetune.attention.kernels.triton.tiles import Matrices

    tensor = with_contiguous_rows(tensor)
    batch, head, row, _ = tensor.stride()
    width = tensor.shape[-1]
    return Matrices(
        tensor, batch, head, row, tensor.shape[-2], constexpr(width), constexpr(power_of_two(width))
    )
