"""What runs take on paper, for ``--plan``: parameters, tokens, FLOPs, memory of a device, hours."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune import objectives
from finetune.config.folders import model_slug
from finetune.models import scale
from finetune.models.scale import Workload
from finetune.studies.estimate import duration
from finetune.studies.grid import Cell
from finetune.system.tables import aligned

DEVICES = (1, 8, 64)


@dataclass(frozen=True)
class Speed:
    """How fast devices are taken to compute."""

    tflops: float | None = None  # of one device; None: each of those that are known
    mfu: float = 0.4  # the share of it that a training reaches; PaLM's was .46


USUAL = Speed()


def text(cells: Sequence[Cell], speed: Speed) -> str:
    """A paragraph for each different training among ``cells``; empty where nothing is known on paper."""
    found: dict[tuple[str, Workload], list[Cell]] = {}
    for cell in cells:
        workload = objectives.get(cell.config.kind).workload(cell.config)
        if workload is not None:
            found.setdefault((model_slug(cell.config.model), workload), []).append(cell)
    return "\n\n".join(_paragraph(name, each, alike, speed) for (name, each), alike in found.items())


def _paragraph(name: str, workload: Workload, cells: Sequence[Cell], speed: Speed) -> str:
    shape, batch, runs = workload.shape, workload.batch, len(cells)
    variants = ", ".join(dict.fromkeys(cell.config.attention.variant for cell in cells))
    many, kind = _many(runs, "run"), "half precision" if batch.half else "float32"
    lines = [
        f"on paper: {name}, {variants}: {many}, windows of {batch.length} tokens, {kind}",
        f"parameters: {shape.parameters:,} at most, {shape.body:,} without embeddings and output",
    ]
    each = workload.flops_per_token
    if workload.tokens is None:
        lines.append("tokens: what the text has (train.max_steps or language.train_tokens would say)")
        lines.append(f"FLOPs: {each:.3g} a token")
        flops, what = 1e9 * each, "a billion tokens"
    else:
        flops, what = workload.tokens * each, "a run"
        share = workload.tokens / shape.parameters
        lines.append(f"tokens: {workload.tokens:,.0f} a run, {share:.1f} a parameter")
        lines.append(f"FLOPs: {each:.3g} a token, {flops:.3g} a run, {runs * flops:.3g} in all")
    peaks = {device.title: device.tflops for device in scale.DEVICES}
    if speed.tflops is not None:
        peaks = {f"{speed.tflops:g} TFLOP/s": speed.tflops}
    times = {title: 3600 * scale.hours(flops, peak, speed.mfu) for title, peak in peaks.items()}
    taken = ", ".join(f"{title} {duration(seconds)}" for title, seconds in times.items())
    peak = "its peak" if batch.half else "its peak in half precision, which float32 is far from"
    lines.append(f"time for {what} on one device at {speed.mfu:.0%} of {peak}: {taken}")
    known = workload.optimizer in scale.ADAM
    moments = "its two moments in float32 are counted" if known else "what it keeps is not counted"
    lines.append(f"optimizer: {workload.optimizer}, {moments}")
    states = [
        scale.state_bytes(shape.parameters, count, half=batch.half, optimizer=workload.optimizer)
        for count in DEVICES
    ]
    rows = [["memory of a device", *(_many(count, "device") for count in DEVICES)]]
    rows += [[strategy, *(_memory(state[strategy]) for state in states)] for strategy in scale.STRATEGIES]
    lines.append(aligned(rows))
    kept, again = (
        _memory(scale.activation_bytes(shape, batch, checkpointing=checkpointing))
        for checkpointing in (False, True)
    )
    lines.append(
        f"and activations of a batch of {batch.windows} windows: {kept}, with train.activation_checkpointing "
        f"{again} (a run here takes one device)"
    )
    return "\n".join(lines)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}"


def _memory(size: float) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 1000 * 2**20 else f"{size / 2**30:.1f} GiB"
