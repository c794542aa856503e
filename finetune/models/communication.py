"""How long the devices of a run exchange at each step, on paper, against how long they compute.

Sizes: N devices, P parameters, of 4 bytes as they are exchanged here: gradients under autocast, and the
weights that FSDP2 gathers, are float32. Imports no torch.
"""

from dataclasses import dataclass

from finetune.models.scale import Shape, flops_per_token
from finetune.models.workload import Strategy

NUMBER = 4  # bytes


@dataclass(frozen=True)
class Link:
    """What the devices of a ring send each other through, at the slowest of them."""

    title: str
    bytes_per_s: float  # in each direction
    within: int | None = None  # devices at most that are linked so


# NVLink: half of the 900 GB/s of both directions of an H100 (NVIDIA's data sheet), among the 8 of a node. The
# others are one port of a node, by its name: a port of NDR InfiniBand has 400 Gb/s in each direction (data
# sheet of NVIDIA's ConnectX-7). Bits over 8, without overheads, which no network is without.
LINKS = (
    Link("NVLink", 450e9, within=8),
    Link("InfiniBand, 400 Gb/s", 50e9),
    Link("Ethernet, 25 Gb/s", 3.125e9),
)


def exchanged_bytes(strategy: Strategy, parameters: int, devices: int) -> float:
    """Bytes that each device sends at a step, and receives, where all parameters are trained.

    DDP adds up gradients by a ring, 2 (N - 1) / N of them (Patarasuk and Yuan, 2009: a reduce-scatter and an
    all-gather, (N - 1) / N each). FSDP2 gathers the weights for the forward pass, and again for the backward,
    and reduce-scatters the gradients: 3 (N - 1) / N (ZeRO stage 3, Rajbhandari et al., 2020, section 7).
    """
    passes = {Strategy.ONE: 0, Strategy.DDP: 2, Strategy.FSDP: 3}[strategy]
    return passes * (devices - 1) / devices * NUMBER * parameters


@dataclass(frozen=True)
class Step:
    """A step of a decoder on several devices, each at a share of its peak."""

    shape: Shape
    length: int  # tokens of a window
    tokens: int  # of a step, on all devices together
    devices: int
    tflops: float  # the peak of a device
    mfu: float  # the share of it that a device reaches alone

    @property
    def computing_s(self) -> float:
        """Seconds of computing."""
        shape = self.shape
        each = flops_per_token(shape.multiplied, layers=shape.layers, width=shape.width, length=self.length)
        return self.tokens * each / (self.devices * self.tflops * 1e12 * self.mfu)

    def exchanging_s(self, strategy: Strategy, link: Link) -> float:
        """Seconds of exchange at the full speed of a link."""
        return exchanged_bytes(strategy, self.shape.parameters, self.devices) / link.bytes_per_s

    def efficiency(self, strategy: Strategy, link: Link) -> tuple[float, float]:
        """The share of the time that is computing: where nothing is exchanged meanwhile, and where all is."""
        computing, exchanging = self.computing_s, self.exchanging_s(strategy, link)
        return computing / (computing + exchanging), computing / max(computing, exchanging)
