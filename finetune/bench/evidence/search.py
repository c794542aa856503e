"""A search for the tiles of every kernel: a table by architecture, as ``launch`` takes it."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from triton.runtime.errors import OutOfResources, PTXASError

from finetune.attention.kernels.triton import forms, launch
from finetune.bench.cases import NotMeasuredError
from finetune.bench.evidence.calls import SELF_ADJUST, Call, bundle, draw, events, passes
from finetune.bench.evidence.plan import Plan
from finetune.system.text import reason

Tile = tuple[int, int, int, int]  # queries, keys, warps, stages
Item = tuple[str, Callable[[], dict[str, Any]]]
QUERIES, KEYS, WARPS, STAGES = (32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3, 4)
MASKS = ("whole", "causal")


def items(plan: Plan, _: str) -> list[Item]:
    """By width of a head and kernel: the tile of the table first, then its neighbours, the nearest first.

    The candidates of all kernels come in turns, so that each has had its nearest when time runs out.
    """
    found: list[Item] = []
    size = 2 if plan.dtype != "float32" else 4
    for width in plan.tile_widths:
        by_kernel = []
        for kernel, form in _kernels(plan).items():
            usual = _table(plan)[1][kernel][width, size]
            tiles = list(neighbours(usual))[: plan.candidates]
            by_kernel.append([(kernel, form, width, size, tile) for tile in tiles])
        for turn in itertools.zip_longest(*by_kernel):
            found += [(_title(*one), partial(measure, plan, *one)) for one in turn if one is not None]
    return found


def _title(kernel: str, form: str, width: int, size: int, tile: Tile) -> str:
    return f"{kernel} of {form}, heads of {width}, tile {'x'.join(map(str, tile[:2]))}, {tile[2]} warps"


def neighbours(usual: Tile) -> Iterator[Tile]:
    """``usual``, then all others by how many steps they are away from it."""

    def steps(tile: Tile) -> int:
        axes = (QUERIES, KEYS, WARPS, STAGES)
        return sum(
            abs(_place(axis, one) - _place(axis, other))
            for axis, one, other in zip(axes, tile, usual, strict=True)
        )

    yield usual
    tiles = [tile for tile in itertools.product(QUERIES, KEYS, WARPS, STAGES) if tile != usual]
    yield from sorted(tiles, key=steps)


def _place(axis: tuple[int, ...], value: int) -> int:
    return min(range(len(axis)), key=lambda place: abs(axis[place] - value))


@cache
def _kernels(plan: Plan) -> Mapping[str, str]:
    """The kernels that sa-softmax launches, and the first form with each, the default before the others."""
    found: dict[str, str] = {}
    for form in (forms.DEFAULT, *(name for name in forms.FORMS if name != forms.DEFAULT)):
        with _recording() as launched:
            try:
                _tasks(plan, form, "whole", plan.tile_lengths[0] if plan.toy else 128)["both"]()
            except Exception:  # the proof of correctness says what is wrong with it
                continue
        for kernel in launched.keys() & _table(plan)[1].keys():  # others have no tile to choose
            found.setdefault(kernel, form)
    return found


@contextmanager
def _recording() -> Iterator[dict[str, None]]:
    """Collects the names of the kernels that are launched."""
    launched: dict[str, None] = {}
    usual = launch.Launch.launch

    def recorded(call: launch.Launch, kernel: Any, *others: Any) -> None:
        usual(call, kernel, *others)
        launched[kernel.__name__] = None

    launch.Launch.launch = recorded  # type: ignore[method-assign,assignment]
    try:
        yield launched
    finally:
        launch.Launch.launch = usual  # type: ignore[method-assign]


def _table(plan: Plan) -> tuple[int, dict[str, dict[tuple[int, int], Tile]]]:
    """The major compute capability of the device, and its table; in the interpreter the latest's."""
    major = torch.cuda.get_device_capability()[0] if plan.device == "cuda" else max(launch.TILES)
    return major, launch.tiles_of(major)


def _tasks(plan: Plan, form: str, mask: str, length: int, width: int = 0) -> dict[str, Callable[[], object]]:
    batch = max(1, plan.tokens // length)
    heads = plan.heads
    tensors, upstream = draw(
        batch, heads, heads, length, width or plan.width, plan.dtype, plan.device, plan.seed
    )
    return passes(Call(SELF_ADJUST, form), bundle(tensors, causal=mask == "causal"), upstream)


def measure(  # noqa: PLR0917 - an item's parts
    plan: Plan, kernel: str, form: str, width: int, size: int, tile: Tile
) -> dict[str, Any]:
    """Seconds of forward and backward with ``tile`` for one kernel and the table's for the others.

    Raises ``NotMeasuredError`` for a tile that the device has no room for: of many it is to be expected.
    """
    major, table = _table(plan)
    usual = table[kernel][width, size]
    table[kernel][width, size] = tile
    try:
        seconds = {}
        for mask, length in zip(MASKS, plan.tile_lengths, strict=True):
            task = _tasks(plan, form, mask, length, plan.width if plan.toy else width)["both"]
            events(task, plan.device, 1 if plan.toy else 2)
            seconds[mask] = statistics.median(events(task, plan.device, 1 if plan.toy else 7))
    except (OutOfResources, PTXASError) as error:
        raise NotMeasuredError(reason(error)) from error
    finally:
        table[kernel][width, size] = usual
    return {
        "kernel": kernel, "form": form, "width": width, "bytes": size, "tile": list(tile),
        "usual": tile == usual, "seconds": seconds, "sum": sum(seconds.values()),
        "capability": major,
    }  # fmt: skip
