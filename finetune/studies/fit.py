"""Whether the runs of a study fit into the memory of a worker, on paper, and what makes them fit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from finetune.models.workload import Strategy, Workload
from finetune.studies import on_paper
from finetune.studies.check import Fault, Kind, Report
from finetune.studies.grid import Cell
from finetune.studies.on_paper import DEVICES, Line, memory


@dataclass(frozen=True)
class Room:
    """The memory of a device."""

    title: str
    size: float  # bytes


def faults(cells: Iterable[Cell], report: Report, processes: int = 1) -> list[Fault]:
    """The runs that cannot be made on the machine of ``report`` by so many processes each.

    A run is refused for what it needs in any case (``Workload.least_bytes``); what nothing is known of on
    paper is not.
    """
    known, _ = on_paper.lines(cells)
    return [fault for line in known for fault in _faults(line, report, processes)]


def _faults(line: Line, report: Report, processes: int) -> Iterator[Fault]:
    workload, strategy = line.workload, line.workload.strategy(processes)
    what, step = f"{line.model} ({line.variants})", workload.amount.step
    needed = workload.least_bytes(strategy, processes)
    if workload.local_batch(processes) is None or needed is None:
        fitting = [number for number in range(1, min(step, 4 * processes) + 1) if step % number == 0]
        yield Fault(
            Kind.BATCH,
            f"{what} has steps of {step} rows, which {processes} processes cannot share: take "
            f"{' or '.join(map(str, fitting[-3:]))} of them, or another step",
        )
        return
    room = _room(line.cells[0], report)
    if room is None or needed <= room.size:
        return
    how = strategy if processes == 1 else f"{strategy} on {processes}"
    helps = list(_remedies(workload, strategy, processes, room.size))
    advice = " or ".join(helps) if helps else "no setting makes it fit: choose a smaller model"
    yield Fault(
        Kind.MEMORY,
        f"{what} needs at least {memory(needed)} ({how}), and {room.title} of {report['host']} has "
        f"{memory(room.size)}: {'set ' * bool(helps)}{advice}, or take larger devices",
    )


def _room(cell: Cell, report: Report) -> Room | None:
    """The smallest GPU of a worker, or the memory of its processor where a run computes there for certain.

    ``None`` where it is not known: of unified memory, of parts of a GPU, of other makers' devices.
    """
    if cell.config.train.get("use_cpu") or report.get("cpu_alone"):
        return Room("the memory", report["memory_gib"] * 2**30)
    gpus = report["gpus"]
    if not gpus or any(gpu["memory_gib"] is None for gpu in gpus):
        return None
    least = min(gpus, key=lambda gpu: float(gpu["memory_gib"]))
    return Room(f"the {least['name']}", least["memory_gib"] * 2**30)


def _remedies(workload: Workload, strategy: Strategy, processes: int, room: float) -> Iterator[str]:
    """The settings of which each alone makes a run fit."""

    def fits(changed: Workload, shared: Strategy = strategy, devices: int = processes) -> bool:
        needed = changed.least_bytes(shared, devices)
        return needed is not None and needed <= room

    amount = workload.amount
    for batch in range(amount.batch - 1, 0, -1):
        if amount.step % batch == 0 and fits(replace(workload, amount=replace(amount, batch=batch))):
            yield f"train.per_device_train_batch_size {batch} (with steps of {amount.step} rows as before)"
            break
    if not workload.checkpointing and fits(replace(workload, checkpointing=True)):
        yield "train.activation_checkpointing true"
    for devices in DEVICES:
        more = devices > processes or strategy is not Strategy.FSDP
        if more and devices >= processes and fits(workload, Strategy.FSDP, devices):
            yield f"train.fsdp true on {devices} GPUs a run"
            break
