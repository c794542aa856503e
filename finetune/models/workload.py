"""What a run needs on paper: parameters, FLOPs, and the memory of each device by strategy. Imports no torch.

A model is described by what training it takes for one row at its full length (``Anatomy``); ``scale`` has the
formulas of the models from random weights, ``traced`` reads it off any other without memory for its weights.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from finetune.models.scale import ADAM, Batch, MarianShape, Shape, activation_bytes, flops_per_token


class Strategy(StrEnum):
    """How several devices share one run."""

    ONE = "one device"
    DDP = "DDP"  # every device holds all of the model, and adds up gradients with the others
    FSDP = "FSDP2"  # every device holds its share, and gathers a layer when it computes it


@dataclass(frozen=True)
class Anatomy:
    """A model on paper; what a row takes is for one of full length, forward and backward."""

    parameters: int
    trained: int  # of them: those with a gradient and, by the optimizer, moments
    layer: int  # parameters of its largest layer
    outside: int  # parameters of what is in no layer: embeddings, output
    row_flops: float
    row_bytes: float  # kept for the backward pass
    row_bytes_again: float  # the same with activation checkpointing
    batch_bytes: float = 0.0  # kept whatever the number of rows
    body: int | None = None  # parameters without embeddings and output, where the formula tells them apart


def of_shape(shape: Shape, batch: Batch) -> Anatomy:
    """A decoder or an encoder from random weights, for rows of ``batch.length`` tokens."""
    sizes = {"layers": shape.layers, "width": shape.width, "length": batch.length}

    def kept(rows: int, *, checkpointing: bool) -> float:
        return activation_bytes(shape, replace(batch, windows=rows), checkpointing=checkpointing)

    row = kept(2, checkpointing=False) - kept(1, checkpointing=False)
    again = kept(2, checkpointing=True) - kept(1, checkpointing=True)
    return Anatomy(
        parameters=shape.parameters,
        trained=shape.parameters,
        layer=shape.layer,
        outside=shape.parameters - shape.layers * shape.layer,
        row_flops=batch.length * flops_per_token(shape.multiplied, **sizes, pairwise=batch.pairwise),
        row_bytes=row,
        row_bytes_again=again,
        batch_bytes=kept(1, checkpointing=False) - row,
        body=shape.body,
    )


def of_marian(shape: MarianShape, source: int, target: int, *, half: bool, fused: bool) -> Anatomy:
    """An encoder-decoder from random weights, for rows of so many tokens of source and target."""
    kinds = {"half": half, "fused": fused}
    return Anatomy(
        parameters=shape.parameters,
        trained=shape.trained,
        layer=shape.decoder_layer,
        outside=shape.parameters - shape.body,
        row_flops=shape.row_flops(source, target),
        row_bytes=shape.row_bytes(source, target, **kinds, again=False),
        row_bytes_again=shape.row_bytes(source, target, **kinds, again=True),
        body=shape.body,
    )


def local_batch(step: int, most: int, devices: int) -> int | None:
    """Rows that each of ``devices`` computes at once, of a ``step`` of so many rows on all of them together.

    The largest batches, of ``most`` rows at most, that make up its share; ``None`` where the step cannot be
    divided.
    """
    share, rest = divmod(step, devices)
    if rest or not share:
        return None
    return max(size for size in range(1, min(share, most) + 1) if share % size == 0)


@dataclass(frozen=True)
class Amount:
    """How much a run trains on."""

    batch: int  # rows that one device computes at once, at most
    step: int  # rows of an optimizer step, on all devices together
    length: int  # tokens of a row at most, those of its target included
    filled: bool  # whether every row has as many: a window, or padded to the limit
    rows: float | None  # that are trained on, each as often as it is; None where only the data tells


@dataclass(frozen=True)
class Workload:
    """The training of one run, on paper."""

    model: Anatomy
    amount: Amount
    half: bool  # in bfloat16 or float16
    optimizer: str  # train.optim
    checkpointing: bool  # train.activation_checkpointing
    sharded: bool = False  # train.fsdp

    @property
    def flops_per_token(self) -> float:
        return self.model.row_flops / self.amount.length

    @property
    def flops(self) -> float | None:
        """FLOPs of the whole training; None where nobody knows yet on how many rows."""
        return None if self.amount.rows is None else self.amount.rows * self.model.row_flops

    @property
    def steps(self) -> float | None:
        """Optimizer steps."""
        return None if self.amount.rows is None else self.amount.rows / self.amount.step

    def strategy(self, devices: int) -> Strategy:
        """How so many devices share the run."""
        if self.sharded:
            return Strategy.FSDP
        return Strategy.DDP if devices > 1 else Strategy.ONE

    def local_batch(self, devices: int) -> int | None:
        """Rows that each of so many devices computes at once: the step is divided, and its share again.

        ``None`` where a step cannot be divided among them.
        """
        return local_batch(self.amount.step, self.amount.batch, devices)

    def state_bytes(self, strategy: Strategy, devices: int = 1) -> float:
        """Bytes on each device for weights, gradients and the two moments of torch's AdamW.

        4 + 4 + 8 bytes a parameter, and 2 for the copy of the weights that autocast computes with; only what
        is ``trained`` has the latter two. What an ``optimizer`` that is not in ``ADAM`` keeps is not known,
        and not counted. DDP adds the buckets in which gradients are added up. FSDP2 (Zhao et al., 2023,
        arXiv 2304.11277, by parameter) shares all but the copy out, and holds whole, in float32, what it
        computes: what is in no layer, the layer at hand and the one that is fetched meanwhile, and the
        gradients of the former two.
        """
        model, copy = self.model, 2 * self.half
        kept: float = 4 * model.parameters + (4 + ADAM.get(self.optimizer, 0)) * model.trained
        if strategy is Strategy.FSDP:
            gathered = model.outside + 2 * model.layer
            gradients = (model.outside + model.layer) * model.trained / model.parameters
            kept = kept / devices + 4 * (gathered + gradients)
        elif devices > 1:
            kept += 4 * model.trained
        return kept + copy * model.parameters

    def activation_bytes(self, rows: int, *, checkpointing: bool | None = None) -> float:
        """Bytes that are kept for the backward pass of so many rows of full length."""
        again = self.checkpointing if checkpointing is None else checkpointing
        each = self.model.row_bytes_again if again else self.model.row_bytes
        return self.model.batch_bytes + rows * each

    def memory_bytes(
        self, strategy: Strategy, devices: int = 1, *, checkpointing: bool | None = None
    ) -> float | None:
        """Bytes on each device at the peak of a step; ``None`` where a step cannot be divided so."""
        rows = self.local_batch(devices)
        if rows is None:
            return None
        return self.state_bytes(strategy, devices) + self.activation_bytes(rows, checkpointing=checkpointing)

    def least_bytes(self, strategy: Strategy, devices: int = 1) -> float | None:
        """Bytes that each device needs in any case; ``None`` where a step cannot be divided so.

        The larger of two moments of a step. When the optimizer takes it, weights, gradients, moments and the
        buckets of DDP are there. At the end of a forward pass weights and moments are, what it has kept, what
        FSDP2 holds whole for the output, and the gradients of the passes before it, if the step has any.
        Rows that are padded may all be short, and count for nothing. The copy that autocast computes with
        does neither: it is gone at the first, and may be at the other (activation checkpointing).
        """
        rows = self.local_batch(devices)
        if rows is None:
            return None
        model = self.model
        shares = devices if strategy is Strategy.FSDP else 1
        lasting = (4 * model.parameters + ADAM.get(self.optimizer, 0) * model.trained) / shares
        gradients = 4 * model.trained / shares
        buckets = 4 * model.trained if strategy is not Strategy.FSDP and devices > 1 else 0
        forward = self.activation_bytes(rows) if self.amount.filled else 0.0
        forward += 4 * model.outside if strategy is Strategy.FSDP else 0
        if self.amount.step > rows * devices:
            forward += gradients
        return lasting + max(gradients + buckets, forward)
