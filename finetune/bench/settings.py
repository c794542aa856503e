"""What is measured on which device, and for how long: the defaults of ``finetune bench``, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from finetune.bench.cases import MASKS, Case
from finetune.errors import UserError, unknown

DEVICES = ("cpu", "cuda")
SHORTEST, LONGEST = 3, 10**6  # tokens; the numbers of a row of scores alone are 4 MB then
PARTS = ("attention", "steps", "pretraining")
TRAINING = ("steps", "pretraining")  # those with a model and data


@dataclass(frozen=True)
class Settings:
    """One measurement. Seconds are those that one task may take at one shape, beyond its warm-up."""

    device: str
    quick: bool
    full: bool
    parts: tuple[str, ...]
    lengths: tuple[int, ...]  # tokens, of attention
    seed: int
    dtype: str
    tokens: int  # in a batch, of all rows together
    heads: int
    widths: tuple[int, ...]  # features of a head; the first at every length, on a CPU the others at some
    masks: tuple[str, ...]  # the first at every length, on a CPU the others at some
    seconds: float  # for a kernel at the first mask; half of it at the others
    plain_seconds: float  # for the reference, which is slow and measured at the first mask alone
    model: str  # that is fine-tuned
    data: str  # sample or a folder
    train_rows: int
    test_rows: int
    rounds: int  # of whole trainings, 2 or more
    steps_seconds: float  # no further round of fine-tuning is begun after so long
    decoder: str  # that is pretrained
    windows: tuple[int, ...]  # tokens of a window in pretraining
    step_tokens: int  # of an optimizer step in pretraining, about
    batch_tokens: int  # of the batches that make it up, about
    windows_seconds: float  # no further round is begun after so long, at each length with each encoding


FULL = {
    "cpu": Settings(
        device="cpu", quick=False, full=True, parts=PARTS, lengths=(128, 256, 512, 1024, 2048, 4096), seed=0,
        dtype="float32", tokens=4096, heads=12, widths=(64, 128), masks=MASKS, seconds=5.0, plain_seconds=1.5,
        model="scratch:mini", data="sample", train_rows=384, test_rows=768, rounds=5, steps_seconds=110.0,
        decoder="scratch:mini", windows=(512, 2048), step_tokens=2048, batch_tokens=2048,
        windows_seconds=60.0,
    ),
    "cuda": Settings(
        device="cuda", quick=False, full=True, parts=PARTS, lengths=tuple(2**n for n in range(7, 16)), seed=0,
        dtype="bfloat16", tokens=32768, heads=16, widths=(64, 128), masks=MASKS, seconds=0.8,
        plain_seconds=0.8, model="scratch:base", data="sample", train_rows=3200, test_rows=1000, rounds=5,
        steps_seconds=150.0, decoder="scratch:125m", windows=(512, 2048), step_tokens=32768,
        batch_tokens=8192, windows_seconds=20.0,
    ),
}  # fmt: skip
USUAL = {
    "cpu": replace(
        FULL["cpu"], full=False, lengths=(128, 512, 2048), widths=(64,), seconds=1.2, plain_seconds=0.5,
        train_rows=96, test_rows=128, rounds=3, steps_seconds=25.0, windows=(512,), windows_seconds=10.0,
    ),
    "cuda": replace(
        FULL["cuda"], full=False, lengths=(128, 512, 2048, 8192), widths=(64,), seconds=0.4,
        plain_seconds=0.4, train_rows=1600, rounds=3, steps_seconds=40.0, windows_seconds=8.0,
    ),
}  # fmt: skip
QUICK = {
    "cpu": replace(
        FULL["cpu"], quick=True, full=False, lengths=(128, 512), widths=(64,), masks=("padded", "causal"),
        seconds=1.0, plain_seconds=0.5, model="scratch:tiny", train_rows=128, test_rows=256, rounds=2,
        steps_seconds=15.0, decoder="scratch:tiny", windows=(128,), step_tokens=512, batch_tokens=512,
    ),
    "cuda": replace(
        FULL["cuda"], quick=True, full=False, lengths=(512, 4096), widths=(64,), masks=("padded", "whole"),
        seconds=0.5, plain_seconds=0.5, train_rows=640, test_rows=256, rounds=2, steps_seconds=15.0,
        windows=(512,), windows_seconds=5.0,
    ),
}  # fmt: skip


def settings(
    device: str | None,
    *,
    quick: bool = False,
    full: bool = False,
    lengths: Sequence[int] = (),
    parts: Sequence[str] = (),
    model: str | None = None,
    data: str | None = None,
) -> Settings:
    """The defaults of a device with a user's choices laid on; ``None`` and empty choose nothing.

    Raises ``UserError`` for --quick with --full, an unknown device or part, a device that is not there, a
    length out of range, and a model or data where two parts would take them.
    """
    if quick and full:
        raise UserError("--quick and --full ask for opposites: leave one of them out")
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen not in DEVICES:
        raise unknown("device", chosen, DEVICES)
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible: leave out --device, or use --device cpu")
    for part in parts:
        if part not in PARTS:
            raise unknown("part of the benchmark", part, PARTS)
    for length in lengths:
        if not SHORTEST <= length <= LONGEST:
            raise UserError(
                f"--lengths takes numbers of tokens from {SHORTEST} to {LONGEST:,}, e.g. 128,512, "
                f"not {length}"
            )
    wanted = tuple(part for part in PARTS if part in parts) or PARTS
    for option, value in (("model", model), ("data", data)):
        if value and set(TRAINING) <= set(wanted):
            raise UserError(
                f"--{option} is of one part that trains, and two are measured: add --only attention,steps (a "
                "model to fine-tune, rows of AG News) or --only pretraining (a decoder, texts)"
            )
    base = (QUICK if quick else FULL if full else USUAL)[chosen]
    return replace(
        base,
        lengths=tuple(sorted(set(lengths))) or base.lengths,
        windows=tuple(sorted(set(lengths))) or base.windows,
        parts=wanted,
        model=model or base.model,
        decoder=model or base.decoder,
        data=data or base.data,
    )


def cases(chosen: Settings) -> list[Case]:
    """The shapes to time: batches of about as many tokens each.

    A CPU has the time for every length at the first mask and width alone. Of four lengths and more it takes
    every second one and the longest at the other masks, and two or so at the other widths.
    """
    thin = chosen.device == "cpu" and len(chosen.lengths) > 3
    every_second = chosen.lengths[::2]
    shapes = []
    for width in chosen.widths:
        for mask in chosen.masks:
            lengths = chosen.lengths
            if thin and width != chosen.widths[0]:
                lengths = every_second[1:] if mask == chosen.masks[0] else ()
            elif thin and mask != chosen.masks[0]:
                lengths = tuple(sorted({*every_second, chosen.lengths[-1]}))
            shapes += [_case(chosen, mask, width, length) for length in lengths]
    return shapes


def growth_cases(chosen: Settings) -> list[Case]:
    """The longest case of the first mask and width, and the same batch at half its length."""
    longest = _case(chosen, chosen.masks[0], chosen.widths[0], chosen.lengths[-1])
    return [replace(longest, length=longest.length // 2), longest]


def _case(chosen: Settings, mask: str, width: int, length: int) -> Case:
    batch = max(1, chosen.tokens // length)
    return Case(mask=mask, batch=batch, length=length, heads=chosen.heads, width=width, dtype=chosen.dtype)
