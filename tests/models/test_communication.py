"""What devices exchange on paper, against a ring that is gone through step by step."""

import pytest

from docs.generate.clusters import steps
from finetune.models.communication import LINKS, Step, exchanged_bytes
from finetune.models.scale import Shape
from finetune.models.workload import Strategy


def reduce_scatter(rows: list[list[float]]) -> int:
    """Sums up a column for each device by a ring, in place; the numbers that each device sends."""
    count = len(rows)
    for turn in range(count - 1):
        sent = [(device, (device - turn) % count) for device in range(count)]
        values = [rows[device][part] for device, part in sent]
        for (device, part), value in zip(sent, values, strict=True):
            rows[(device + 1) % count][part] += value
    return count - 1


def all_gather(rows: list[list[float]]) -> int:
    """Gives all devices the column that each of them holds summed up, by a ring, in place."""
    count = len(rows)
    for turn in range(count - 1):
        sent = [(device, (device + 1 - turn) % count) for device in range(count)]
        values = [rows[device][part] for device, part in sent]
        for (device, part), value in zip(sent, values, strict=True):
            rows[(device + 1) % count][part] = value
    return count - 1


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_a_ring_sends_what_the_formula_says(devices: int) -> None:
    """A number in each of as many parts as there are devices, of four bytes."""
    rows = [[float(10 * device + part) for part in range(devices)] for device in range(devices)]
    sums = [sum(row[part] for row in rows) for part in range(devices)]
    scattered = reduce_scatter(rows)
    gathered = all_gather(rows)
    assert rows == [sums] * devices
    assert 4 * (scattered + gathered) == pytest.approx(exchanged_bytes(Strategy.DDP, devices, devices))
    assert 4 * (2 * gathered + scattered) == pytest.approx(exchanged_bytes(Strategy.FSDP, devices, devices))
    assert exchanged_bytes(Strategy.ONE, devices, 1) == exchanged_bytes(Strategy.DDP, devices, 1) == 0


def test_a_step_by_hand() -> None:
    shape = Shape(layers=1, width=4, heads=1, feed_forward=8, vocabulary=10)
    step = Step(shape, length=3, tokens=12, devices=2, tflops=1e-9, mfu=0.5)
    flops = 12 * (6 * shape.multiplied + 12 * 4 * 3)
    assert step.computing_s == pytest.approx(flops / (2 * 1000 * 0.5))
    slow = LINKS[-1]
    exchange = 2 / 2 * 4 * shape.parameters / 3.125e9
    assert step.exchanging_s(Strategy.DDP, slow) == pytest.approx(exchange)
    assert step.efficiency(Strategy.DDP, slow)[0] == pytest.approx(
        step.computing_s / (step.computing_s + exchange)
    )


def test_what_the_page_says_of_its_table() -> None:
    """Neither waits within a node; 64 GPUs are for the large model, over InfiniBand; Ethernet is for none."""
    nvlink, infiniband, ethernet = LINKS
    for name, step in steps():
        for strategy in (Strategy.DDP, Strategy.FSDP):
            least, most = step.efficiency(strategy, infiniband)
            assert step.exchanging_s(strategy, ethernet) > step.computing_s
            if step.devices <= 8:
                assert step.efficiency(strategy, nvlink)[0] > 0.97
            elif name == "125m":
                assert least < 0.5 and most < 0.8
            else:
                assert least > 0.5 and most == 1
