"""What training a language model takes, on paper: parameters, FLOPs, memory, hours. Imports no torch.

Sizes: L layers, d features, f of them between the two feed-forward layers, H heads, V entries of the
vocabulary, T tokens of a window, b windows of a batch.
"""

import re
from dataclasses import dataclass

ADAM = {"adamw_torch": 8, "adamw_torch_fused": 8}  # bytes a parameter: two moments in float32
KEPT = {False: 19, True: 25}  # numbers a token and feature in each layer: float32, half precision
OUTPUT = 3  # numbers a logit at the start of the backward pass: log-probability and the gradients of both


def layer_parameters(width: int, feed_forward: int) -> int:
    """Of a layer as of Vaswani et al., 2017: four d x d and two d x f matrices, their biases, two LayerNorms
    (4 d)."""
    d, f = width, feed_forward
    return 4 * d * d + 2 * d * f + 9 * d + f


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
    def layer(self) -> int:
        """Parameters of a layer."""
        return layer_parameters(self.width, self.feed_forward)

    @property
    def body(self) -> int:
        """Parameters without embeddings and output layer, which is what scaling laws count.

        One LayerNorm more than those of the layers stands at the end.
        """
        return self.layers * self.layer + 2 * self.width + self.encoding

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

    @property
    def predicted(self) -> int:
        """Entries of the vocabulary that are predicted at each token."""
        return self.vocabulary


@dataclass(frozen=True)
class BertShape(Shape):
    """A BERT encoder with its head of masked tokens: as a decoder's layers, but an output that is tied."""

    places: int = 512
    """Learned positions."""

    @property
    def head(self) -> int:
        """A head of d x d with its bias and a LayerNorm."""
        return self.width * self.width + 3 * self.width

    @property
    def body(self) -> int:
        """As above, with a LayerNorm at the start, not the end, and the head."""
        return super().body + self.head

    @property
    def output(self) -> int:
        """The bias of the output, which is tied else."""
        return self.vocabulary

    @property
    def parameters(self) -> int:
        """The body, one table, positions, two segments and the output."""
        return self.body + self.table + (self.places + 2) * self.width + self.output


@dataclass(frozen=True)
class ModernBertShape(Shape):
    """A ModernBERT encoder with its head of masked tokens: no biases, gated feed-forward layers, tied."""

    @property
    def layer(self) -> int:
        """Parameters of a layer: four d x d and three d x f matrices and two norms of d."""
        d, f = self.width, self.feed_forward
        return 4 * d * d + 3 * d * f + 2 * d

    @property
    def body(self) -> int:
        """The first layer has one norm. There is a norm at the start and one at the end, and a head of d x d
        with another."""
        d = self.width
        return self.layers * self.layer - d + 2 * d + d * d + d + self.encoding

    @property
    def output(self) -> int:
        """The bias of the output, which is tied else."""
        return self.vocabulary

    @property
    def parameters(self) -> int:
        """The body, one table and the output."""
        return self.body + self.table + self.output


@dataclass(frozen=True)
class ClassifierShape(Shape):
    """What puts a whole row into one of some classes, and not each token into the vocabulary."""

    classes: int = 2

    @property
    def output(self) -> int:
        """Weights and biases of the classes."""
        return self.classes * (self.width + 1)

    @property
    def multiplied(self) -> int:
        return self.body

    @property
    def predicted(self) -> int:
        return 0


@dataclass(frozen=True)
class BertClassifierShape(ClassifierShape, BertShape):
    """A BERT encoder with a pooler in the place of the head of masked tokens."""

    @property
    def head(self) -> int:
        """A pooler of d x d with its bias."""
        return self.width * (self.width + 1)


@dataclass(frozen=True)
class ModernBertClassifierShape(ClassifierShape, ModernBertShape):
    """A ModernBERT encoder; its head is as with tokens."""


@dataclass(frozen=True)
class MarianShape:
    """A Marian encoder-decoder: one table for both ends and the output, positions that are not trained.

    For S tokens of a source and T of its target.
    """

    layers: int  # of the encoder, and of the decoder
    width: int
    heads: int
    feed_forward: int
    vocabulary: int
    places: int = 512

    @property
    def encoder_layer(self) -> int:
        """Parameters of an encoder layer."""
        return layer_parameters(self.width, self.feed_forward)

    @property
    def decoder_layer(self) -> int:
        """An encoder layer with a second attention, over the source, and its LayerNorm."""
        return self.encoder_layer + 4 * self.width * self.width + 6 * self.width

    @property
    def body(self) -> int:
        """Parameters of all layers."""
        return self.layers * (self.encoder_layer + self.decoder_layer)

    @property
    def trained(self) -> int:
        """The body and the table."""
        return self.body + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """With the positions of both sides."""
        return self.trained + 2 * self.places * self.width

    def row_flops(self, source: int, target: int) -> float:
        """FLOPs of training on a row: 6 a weight and token, 12 d a pair of tokens in each attention.

        The keys and values of the attention over the source are computed of the source.
        """
        d, pairs = self.width, source * source + target * target + source * target
        weights = source * (self.encoder_layer + 2 * d * d) + target * (self.decoder_layer - 2 * d * d)
        return 6.0 * (self.layers * weights + target * self.vocabulary * d) + 12.0 * self.layers * d * pairs

    def row_bytes(self, source: int, target: int, *, half: bool, fused: bool, again: bool) -> float:
        """Bytes that a row keeps for the backward pass; ``again``: with activation checkpointing.

        A post-norm layer keeps queries, keys, values, their sum and its copy (5 d), two numbers a feature
        around each LayerNorm (in float32 under autocast, and a copy), both sides of the activation (2 f), and
        a byte for each dropout; the decoder's attention over the source keeps queries and sums of the
        target, keys and values of the source. A definition that is not fused keeps 16 bytes a head and pair.
        """
        d, f, size = self.width, self.feed_forward, 2 if half else 4
        norm = d * (4 + 4 + 2 * half) + d  # what goes into a LayerNorm and comes out, and a mask of dropout
        encoder = source * (size * (5 * d + 2 * f) + 2 * norm)
        decoder = target * (size * (8 * d + 2 * f) + 3 * norm) + source * size * 2 * d
        if not fused:
            encoder += 16 * self.heads * source * source
            decoder += 16 * self.heads * target * (source + target)
        output = 4.0 * OUTPUT * target * self.vocabulary
        if not again:
            return self.layers * (encoder + decoder) + output
        return 4.0 * self.layers * (source + target) * d + max(encoder, decoder) + output


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
    output = 4 * OUTPUT * tokens * shape.predicted
    if not checkpointing:
        return shape.layers * layer + output
    return 4 * shape.layers * tokens * shape.width + layer + output


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
