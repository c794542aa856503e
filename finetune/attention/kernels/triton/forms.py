"""The forms in which one attention call is cut into kernels; all of them compute the same.

Which one is the fastest only a GPU can say, so none is dropped before one has: ``DEFAULT`` is what runs, the
others are there to be measured beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

MOST_KEYS = 128  # of a call that one tile holds
MOST_QUERIES = 32  # of a tile, in registers beside all keys; others follow
MOST_BYTES = 2**14  # of the keys of one tile, whose gradients stay in registers


@dataclass(frozen=True)
class Form:
    """How the two passes are cut into kernels."""

    sweeps: int = 2  # over the keys, in sa-softmax's forward pass; the other variants need one
    fused_backward: bool = False  # one kernel of five products, which adds to the query gradient atomically
    descriptors: bool = False  # in one sweep, keys and values through Hopper's tensor memory unit
    one_tile: bool = False  # all keys in one tile, both passes: short sequences only
    spans: bool = False  # passes over blocks of keys before the first and after the last allowed one


FORMS: Mapping[str, Form] = {
    "two-sweeps": Form(),
    "spans": Form(spans=True),
    "one-sweep": Form(sweeps=1, spans=True),
    "fused": Form(sweeps=1, spans=True, fused_backward=True),
    "descriptors": Form(sweeps=1, spans=True, descriptors=True),
    "one-tile": Form(one_tile=True),
}
DEFAULT = "two-sweeps"


def why_not(name: str, lengths: tuple[int, int], width: int, size: int) -> str | None:
    """Why form ``name`` does not take a call; None if it does.

    ``lengths``: of queries and of keys; ``width``: the wider of a head's query and value; ``size``: bytes of
    an element.
    """
    if not FORMS[name].one_tile:
        return None
    if lengths[1] > MOST_KEYS:
        return f"one tile holds up to {MOST_KEYS} keys, not {lengths[1]}"
    taken = max(16, power_of_two(lengths[1])) * max(16, power_of_two(width)) * size
    if taken > MOST_BYTES:
        return f"its keys take {taken} bytes, and the registers of one tile are for {MOST_BYTES}"
    return None


def in_order(name: str) -> str:
    """Form ``name``, or its like without atomic additions, so that equal inputs give equal bits."""
    like = replace(FORMS[name], fused_backward=False)
    return next(other for other, form in FORMS.items() if form == like)


def power_of_two(length: int) -> int:
    """The least power of two that is at least ``length``."""
    return 1 << (length - 1).bit_length()
