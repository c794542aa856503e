"""What the evidence is taken of, on a GPU and at toy sizes, and the share of the time that each step has.

Imports no torch: the process that watches over the steps needs none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.errors import UserError, unknown

BUDGET = 540.0  # seconds; leaves a minute of a ten-minute loan for its start
LEAST, MOST = 30.0, 86_400.0
SHARES = {
    "environment": 0.06,
    "correctness": 0.26,
    "times": 0.26,
    "tiles": 0.16,
    "fine-tuning": 0.09,
    "pretraining": 0.11,
    "memory": 0.06,
}
"""Step -> its share of the budget, in order; what one leaves over goes to those after it."""
PARALLEL = ("correctness",)  # most of its time is the compiler's: several processes at once


@dataclass(frozen=True)
class Plan:
    """Sizes of everything; plain values, ready for JSON."""

    device: str
    toy: bool
    budget: float  # seconds, of all steps together
    processes: int  # at once, of the steps in PARALLEL
    seed: int
    widths: tuple[int, ...]  # features of a head, in the proof of correctness
    dtypes: tuple[str, ...]  # likewise
    length: int  # tokens, likewise: no multiple of a tile
    lengths: tuple[int, ...]  # tokens of the times, those that matter most first
    tokens: int  # of a batch in the times, of all rows together
    heads: int  # in the times
    width: int  # of a head in the times
    dtype: str  # of the times, and of the matrix products in training
    repeats: int  # at most, of one time
    seconds: float  # that one time may take, without what the compiler takes
    tile_lengths: tuple[int, int]  # tokens at which a tile is chosen, without a mask and with a causal one
    tile_widths: tuple[int, ...]
    candidates: int  # tiles tried at most, a kernel
    encoder: str  # a size of finetune.models.sizes, fine-tuned at random weights
    decoder: str  # likewise, trained on windows
    vocabulary: int
    rows: int  # of a batch in fine-tuning
    row_tokens: int
    windows: tuple[int, ...]  # tokens
    window_tokens: int  # of a batch of windows
    steps: int  # optimizer steps measured at most
    memory_lengths: tuple[int, ...]

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan whose ``asdict`` came through JSON, which has lists for tuples."""
        fields: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in values.items()
        }
        return cls(**fields)


CUDA = Plan(
    device="cuda", toy=False, budget=BUDGET, processes=8, seed=0, widths=(64, 128, 80),
    dtypes=("bfloat16", "float16", "float32"), length=197,
    lengths=(2048, 512, 128, 8192, 32768, 1024, 4096, 256, 16384), tokens=32768, heads=16, width=64,
    dtype="bfloat16", repeats=40, seconds=0.25, tile_lengths=(512, 4096), tile_widths=(64, 128),
    candidates=24, encoder="base", decoder="125m", vocabulary=30522, rows=32, row_tokens=128,
    windows=(512, 2048), window_tokens=16384, steps=20, memory_lengths=(1024, 2048, 4096, 8192, 16384, 32768),
)  # fmt: skip
TOY = Plan(
    device="cpu", toy=True, budget=BUDGET, processes=2, seed=0, widths=(16,), dtypes=("float32", "bfloat16"),
    length=19, lengths=(16,), tokens=16, heads=1, width=16, dtype="float32", repeats=2, seconds=0.1,
    tile_lengths=(16, 16), tile_widths=(64,), candidates=2, encoder="tiny", decoder="tiny", vocabulary=64,
    rows=1, row_tokens=12, windows=(12,), window_tokens=12, steps=1, memory_lengths=(16, 32),
)  # fmt: skip


def plan(device: str, *, toy: bool = False, budget: float = BUDGET, cores: int = 1) -> Plan:
    """The plan of a device. Raises ``UserError`` for one without, and for a budget out of range."""
    if device not in ("cpu", "cuda"):
        raise unknown("device", device, ("cpu", "cuda"))
    if device == "cpu" and not toy:
        raise UserError(
            "--evidence is about a GPU: add --device cuda, or --toy to try its whole path in Triton's "
            "interpreter on the CPU"
        )
    if not LEAST <= budget <= MOST:
        raise UserError(f"--budget takes seconds from {LEAST:.0f} to {MOST:.0f}, e.g. 540, not {budget:g}")
    base = TOY if device == "cpu" else replace(TOY, device="cuda") if toy else CUDA
    processes = max(1, min(base.processes, cores - 1))
    return replace(base, budget=budget, processes=processes)
