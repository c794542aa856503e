"""The ends of the processes of a run: alike or not, told or not."""

import sys

import pytest

from tests.support.processes import launch

ENDING = """
import os, sys, time
from finetune.system import peers, world
from finetune.system.peers import End

world.join(cpu=True)
peers.watch()
world.wait()
assert peers.shared(2) and peers.shared(75, End.PREEMPTED)
if sys.argv[1] == "unlike":  # of one status, and not of one kind
    end = (End.PREEMPTED, End.FAILED)[world.rank()]
    assert not peers.shared(75, end)
    peers.fail(f"reason {world.rank()}", 75, end=end)
if world.rank():
    raise ValueError("of a program of somebody's own")
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("unlike", 75, "finetune: preempted (reason 0); the same command goes on"),
        ("untold", 1, "rank 1: ValueError: of a program of somebody's own"),
    ],
)
def test_processes_end_as_one_whose_ends_are_not_alike(how: str, status: int, said: str) -> None:
    ended = launch([sys.executable, "-c", ENDING, how], 2, timeout=60)
    assert [each.status for each in ended] == [status, status], ended
    assert said in ended[0].output and "finetune: " not in ended[1].output
