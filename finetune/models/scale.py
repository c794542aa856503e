"""What training a language model takes, on paper: parameters, FLOPs, memory, hours. Imports no torch.

Sizes: L layers, d features, f of them between the two feed-forward layers, H heads, V entries of the
vocabulary, T tokens of a window, b windows of a batch.
"""

import re
from dataclasses import dataclass

ADAM = {"adamw_torch": 8, "adamw_torch_fused": 8}  # bytes a parameter: two moments in float32
KEPT = {False: 19, True: 25}  # numbers a token and feature in each layer: float32, half precision
OUTPUT = 3  # numbers a logit at the start of the backward pass: log-probability and the gradients of both
STRATEGIES = ("data parallel", "ZeRO 1", "ZeRO 2", "ZeRO 3 (FSDP)")


@dataclass(frozen=True)
class Shape:
    """What decides the parameters of a GPT-NeoX decoder; encoders have formulas of their own below."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    vocabulary: int
    encoding: int = 0
    """Learned numbers of a positional encoding from ``finetune.positions``."""

    @property
    def body(self) -> int:
        """Parameters without embeddings and output layer, which is what scaling laws count.

        A layer has four d x d and two d x f matrices with their biases, and two LayerNorms (4 d); one
        LayerNorm more stands at the end.
        """
        d, f = self.width, self.feed_forward
        return self.layers * (4 * d * d + 2 * d * f + 9 * d + f) + 2 * d + self.encoding

    @property
    def table(self) -> int:
        """Parameters of one embedding of the vocabulary, V x d."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All parameters: the body and two tables, for the output layer is not tied."""
        return self.body + 2 * self.table

    @property
    def multiplied(self) -> int:
        """The parameters that each token is multiplied by: all but what is looked up."""
        return self.body + self.table


@dataclass(frozen=True)
class BertShape(Shape):
    """A BERT encoder with its head of masked tokens: as a decoder's layers, but an output that is tied."""

    places: int = 512
    """Learned positions."""

    @property
    def body(self) -> int:
        """As above, with a LayerNorm at the start, not the end, and a head of d x d with another."""
        return super().body + self.width * self.width + 3 * self.width

    @property
    def parameters(self) -> int:
        """The body, one table, positions, two segments and the bias of the output."""
        return self.body + self.table + (self.places + 2) * self.width + self.vocabulary


@dataclass(frozen=True)
class ModernBertShape(Shape):
    """A ModernBERT encoder with its head of masked tokens: no biases, gated feed-forward layers, tied."""

    @property
    def body(self) -> int:
        """A layer has four d x d and three d x f matrices and two norms of d, but the first has one. There is
        a norm at the start and one at the end, and a head of d x d with another."""
        d, f = self.width, self.feed_forward
        return self.layers * (4 * d * d + 3 * d * f + 2 * d) - d + 2 * d + d * d + d + self.encoding

    @property
    def parameters(self) -> int:
        """The body, one table and the bias of the output."""
        return self.body + self.table + self.vocabulary


@dataclass(frozen=True)
class Pairwise:
    """What a positional encoding adds at each pair of query and key in a layer, by its number of heads."""

    products: int = 0  # multiplications
    kept: int = 0  # numbers in float32 kept for the backward pass
    shared: bool = False  # by the rows of a batch


NOTHING = Pairwise()


def flops_per_token(
    multiplied: float, *, layers: int, width: int, length: int, pairwise: Pairwise = NOTHING
) -> float:
    """FLOPs of training on one token: 6 N + 12 L d T, and 6 L T for each product of an encoding.

    Chowdhery et al., 2022 (PaLM, arXiv 2204.02311), appendix B, where d is heads times their width: 2 N
    forward and 4 N backward, and the products of queries with keys and of weights with values, over the
    whole window (half of it is masked in a causal model, and counted). What activation checkpointing
    computes again is no work of the model, and not counted.
    """
    return 6.0 * multiplied + layers * length * (12.0 * width + 6.0 * pairwise.products)


def state_bytes(parameters: int, devices: int, *, half: bool, optimizer: str) -> dict[str, float]:
    """Strategy -> bytes on each device for weights, gradients and the two moments of torch's AdamW.

    4 + 4 + 8 bytes a parameter, and 2 for the copy of the weights that autocast computes with. What an
    ``optimizer`` (``train.optim``) that is not in ``ADAM`` keeps is not known, and not counted. The stages of
    ZeRO (Rajbhandari et al., 2020, arXiv 1910.02054) share out among the devices the moments, then the
    gradients too, then the weights too; FSDP's full shard is stage 3.
    """
    weights, gradients, moments = 4 + 2 * half, 4, ADAM.get(optimizer, 0)
    kept = (
        weights + gradients + moments,
        weights + gradients + moments / devices,
        weights + (gradients + moments) / devices,
        (weights + gradients + moments) / devices,
    )
    return {name: parameters * each for name, each in zip(STRATEGIES, kept, strict=True)}


@dataclass(frozen=True)
class Batch:
    """What a device computes at once."""

    windows: int
    length: int
    half: bool  # in bfloat16 or float16
    dropout: bool
    fused: bool  # the kernel of attention keeps no weights
    pairwise: Pairwise = NOTHING


def activation_bytes(shape: Shape, batch: Batch, *, checkpointing: bool) -> float:
    """Bytes kept for the backward pass, counted as in Korthikanti et al., 2022 (arXiv 2205.05198).

    They have 34 bytes a token and feature in each layer (16 numbers in half precision, and the masks of two
    dropouts of a byte each) and 5 more a head, query and key. PyTorch keeps more of transformers' GPT-NeoX:
    the fused query, key and value whole, and under autocast LayerNorm's side in float32 (``KEPT``); the
    definition of a variant 16 bytes a head, query and key, a fused kernel none. Full checkpointing keeps the
    input of each layer, in float32 under autocast too, and all of one layer at a time. The output holds
    ``OUTPUT`` numbers in float32 a token and entry of the vocabulary.
    """
    size, tokens = (2 if batch.half else 4), batch.windows * batch.length
    layer = tokens * shape.width * (KEPT[batch.half] * size + 2 * batch.dropout)
    if not batch.fused:
        layer += tokens * batch.length * shape.heads * 16
    rows = 1 if batch.pairwise.shared else batch.windows
    layer += 4 * batch.pairwise.kept * rows * batch.length**2
    output = 4 * OUTPUT * tokens * shape.vocabulary
    if not checkpointing:
        return shape.layers * layer + output
    return 4 * shape.layers * tokens * shape.width + layer + output


@dataclass(frozen=True)
class Workload:
    """The training of one run, on paper."""

    shape: Shape
    batch: Batch
    tokens: float | None  # that are trained on; None where only the text tells
    optimizer: str  # train.optim

    @property
    def flops_per_token(self) -> float:
        shape, batch = self.shape, self.batch
        sizes = {"layers": shape.layers, "width": shape.width, "length": batch.length}
        return flops_per_token(shape.multiplied, **sizes, pairwise=batch.pairwise)


@dataclass(frozen=True)
class Device:
    """A GPU: what torch calls it, and its peak."""

    title: str
    names: str  # a pattern of the whole name
    tflops: float


# Dense products in half precision, summed in float32, by NVIDIA's data sheets and, for the RTX 4090, the
# whitepaper of its architecture (Ada, appendix A). Data sheets print twice that, with sparsity, first.
DEVICES = (
    Device("H200 SXM", "NVIDIA H200", 989),
    Device("H100 SXM", "NVIDIA H100 80GB HBM3", 989),
    Device("L40S", "NVIDIA L40S", 362),
    Device("A100", r"NVIDIA A100-(SXM4|PCIE|PG509)-\w+|NVIDIA A100 80GB PCIe", 312),
    Device("RTX 4090", "NVIDIA GeForce RTX 4090", 165),
)


def peak_tflops(device: str) -> float | None:
    """The peak of a device by the name that torch has for it; ``None`` where it is not known."""
    return next((known.tflops for known in DEVICES if re.fullmatch(known.names, device)), None)


def utilization(flops_per_s: float, device: str, products: str) -> float | None:
    """The share of the device's peak that is used (MFU); ``None`` where that is not known.

    The peaks are those of half precision, so that a training in float32 has none.
    """
    peak = peak_tflops(device) if products in ("bfloat16", "float16") else None
    return None if peak is None else flops_per_s / (peak * 1e12)


def hours(flops: float, tflops: float, share: float, devices: int = 1) -> float:
    """Hours at a ``share`` of a peak of ``tflops``."""
    return flops / (tflops * 1e12 * share * devices) / 3600
