"""What runs take on paper, for ``--plan``: parameters, tokens, FLOPs, hours, and memory by strategy."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from finetune import objectives
from finetune.config.folders import model_slug
from finetune.config.lineage import SCRATCH
from finetune.models import scale
from finetune.models.workload import Strategy, Workload
from finetune.studies.grid import Cell
from finetune.system.durations import duration
from finetune.system.sheet import Sheet
from finetune.tasks import get_task

DEVICES = (2, 4, 8)
"""That a run is divided among."""
MILLION = 1e6


@dataclass(frozen=True)
class Speed:
    """How fast devices are taken to compute."""

    tflops: float | None = None  # of one device; None: each of those that are known
    mfu: float = 0.4  # the share of it that a training reaches; PaLM's was .46


USUAL = Speed()


@dataclass(frozen=True)
class Line:
    """Runs that take the same."""

    model: str
    workload: Workload
    cells: tuple[Cell, ...]

    @property
    def variants(self) -> str:
        return ", ".join(dict.fromkeys(cell.config.attention.variant for cell in self.cells))


def workload_of(cell: Cell) -> Workload | None:
    """The training of a run on paper; ``None`` where its model is not on this machine, or not made yet.

    What begins from a run of its study that is still to be made has the size of that one.
    """
    config, origin = cell.config, cell.origin
    objective = objectives.get(config.kind)
    labels = get_task(cell.task, config.data, config.pair).labels
    known = objective.workload(config, labels)
    if known is not None or origin is None:
        return known
    made = origin.config.model
    if made.name.removeprefix(SCRATCH) not in objective.sizes:
        return None
    model = replace(config.model, name=made.name, vocab_size=made.vocab_size)
    return objective.workload(replace(config, model=model), labels)


def lines(cells: Iterable[Cell]) -> tuple[list[Line], list[Cell]]:
    """The different trainings among ``cells``, and the runs that nothing is known of on paper."""
    found: dict[tuple[str, Workload], list[Cell]] = {}
    unknown: list[Cell] = []
    for cell in cells:
        workload = workload_of(cell)
        if workload is None:
            unknown.append(cell)
        else:
            found.setdefault((model_slug(cell.config.model), workload), []).append(cell)
    return [Line(model, workload, tuple(each)) for (model, workload), each in found.items()], unknown


def text(cells: Sequence[Cell], speed: Speed, width: float = math.inf) -> str:
    """Two tables with a line for each different training, and what is counted in them."""
    different, unknown = lines(cells)
    known, sheet = _merged(different), Sheet(width)
    parts = []
    if known:
        notes = "\n".join(map(sheet.prose, _notes(known, speed)))
        parts = [_work(sheet, known, speed), _memory(sheet, known), notes]
    if unknown:
        names = ", ".join(dict.fromkeys(model_slug(cell.config.model) for cell in unknown))
        parts.append(sheet.prose(
            f"not on paper: {len(unknown)} run{'s' * (len(unknown) > 1)} of {names}, whose files are not on "
            "this machine (a plan asks no Hub), or which no formula and no trace describes"
        ))  # fmt: skip
    return "\n\n".join(parts)


def _merged(different: Sequence[Line]) -> list[Line]:
    """Lines that would be shown alike as one: a task of more classes has a few weights more."""
    found: dict[tuple[object, ...], Line] = {}
    for line in different:
        workload, model = line.workload, line.workload.model
        key = (
            line.model, workload.amount, workload.half, workload.optimizer, workload.checkpointing,
            f"{model.parameters:.2g} {model.trained:.2g} {model.row_flops:.2g} {model.row_bytes:.2g}",
        )  # fmt: skip
        other = found.get(key)
        found[key] = line if other is None else replace(other, cells=other.cells + line.cells)
    return list(found.values())


def _work(sheet: Sheet, known: Sequence[Line], speed: Speed) -> str:
    """Parameters, rows, FLOPs and hours."""
    peaks: dict[float, list[str]] = {}
    for device in scale.DEVICES:
        peaks.setdefault(device.tflops, []).append(device.title)
    if speed.tflops is not None:
        peaks = {speed.tflops: [f"{speed.tflops:g} TFLOP/s"]}
    heading = ["on paper, at most", "attention", "runs", "parameters", "trained", "a step", "tokens a run"]
    rows = [[*heading, "FLOPs a run", *(" or ".join(titles) for titles in peaks.values())]]
    for line in known:
        workload, model, amount = line.workload, line.workload.model, line.workload.amount
        flops = workload.flops
        # Where only the data tells how many rows there are, a million of them.
        asked = MILLION * model.row_flops if flops is None else flops
        times = [duration(3600 * scale.hours(asked, peak, speed.mfu)) for peak in peaks]
        rows.append([
            line.model, line.variants, str(len(line.cells)), count(model.parameters), count(model.trained),
            f"{amount.step} x {amount.length}",
            "all rows" if amount.rows is None else count(amount.rows * amount.length),
            f"{model.row_flops:.3g} a row" if flops is None else f"{flops:.3g}",
            *(f"{each} a million rows" if flops is None else each for each in times),
        ])  # fmt: skip
    return sheet.table(rows, "ll" + "r" * (len(rows[0]) - 2), keys=2)


def _memory(sheet: Sheet, known: Sequence[Line]) -> str:
    """Memory of each device, by strategy and number of devices."""
    rows = [["memory of a device", "attention", "computes in", Strategy.ONE, "with checkpointing"]]
    rows[0] += [f"{strategy} on {many}" for strategy in (Strategy.DDP, Strategy.FSDP) for many in DEVICES]
    for line in known:
        workload = line.workload
        sizes = [
            workload.memory_bytes(Strategy.ONE),
            workload.memory_bytes(Strategy.ONE, checkpointing=True),
        ]
        for strategy in (Strategy.DDP, Strategy.FSDP):
            sizes += [workload.memory_bytes(strategy, many) for many in DEVICES]
        precision = "half precision" if workload.half else "float32"
        shown = [memory(size) if size is not None else "-" for size in sizes]
        rows.append([line.model, line.variants, precision, *shown])
    return sheet.table(rows, "lll" + "r" * (len(rows[0]) - 3), keys=2)


def _notes(known: Sequence[Line], speed: Speed) -> list[str]:
    """What the tables count, what they leave out, and what in them is an upper bound."""
    optimizers = dict.fromkeys(line.workload.optimizer for line in known)
    unknown = [name for name in optimizers if name not in scale.ADAM]
    lacking = f"; what {', '.join(unknown)} keeps is not counted" if unknown else ""
    peak = "of the peak in half precision" + (
        "" if all(line.workload.half for line in known) else ", which float32 is far from"
    )
    return [
        "At most: rows are taken to have their full length (a step: rows x tokens), and a scratch tokenizer "
        "all of its entries. Estimates: --time-one measures.",
        f"Time: training alone, on one device at {speed.mfu:.0%} {peak}.",
        "Memory: weights, gradients and Adam's moments of what is trained, half precision's copy, buckets of "
        f"DDP, gathered layers of FSDP2, and activations of the local batch{lacking}; not what the GPU's "
        "context and its allocator take beside that. -: a step cannot be divided so.",
    ]


def count(number: float) -> str:
    """``162.3M``: a number to four digits."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"


def memory(size: float) -> str:
    """``2.7 GiB``."""
    return f"{size / 2**20:.0f} MiB" if size < 1000 * 2**20 else f"{size / 2**30:.1f} GiB"
