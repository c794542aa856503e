"""Two nodes: network namespaces with an address each, a cable between them, and torchrun on both.

Needs the right to make namespaces (root, or CAP_NET_ADMIN), and ``ip`` of iproute2.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from finetune.records import store
from tests.support.processes import Ended, ends
from tests.support.small_runs import COMMON, folder

ADDRESSES = ("10.213.77.1", "10.213.77.2")
BOUND_S = 120
"""How long a node may go on that the other one has no connection to: 20 s of silence, and a busy machine."""
OPTIONS = [
    *COMMON, "--attention", "softmax", "--train.per_device_train_batch_size", "6", "--train.max_steps", "200",
    "--train.save_strategy", "steps", "--train.save_steps", "5", "--train.eval_strategy", "no",
    "--train.logging_steps", "50", "--train.save_total_limit", "3",
]  # fmt: skip


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """The names of two namespaces, each with an end of the cable as ``cable``."""
    names = tuple(f"finetune-{uuid4().hex[:8]}" for _ in ADDRESSES)
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
            _ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns", names[1])
            for name, address in zip(names, ADDRESSES, strict=True):
                _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "cable", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error.strerror
            pytest.skip(f"no network namespace can be made here: {why}")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def start(nodes: tuple[str, str], root: Path) -> list["subprocess.Popen[str]"]:
    """The command on both nodes, one process each."""
    started = []
    for number, node in enumerate(nodes):
        words = [
            "ip", "netns", "exec", node, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
            "--node-rank", str(number), "--nproc-per-node", "1", "--master-addr", ADDRESSES[0],
            "--master-port", "29611", "-m", "finetune", "classify", "--output", str(root), *OPTIONS,
        ]  # fmt: skip
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def cut_after_a_checkpoint(nodes: tuple[str, str], root: Path) -> list[Ended]:
    """Starts the command, pulls the cable once there is a checkpoint, and waits for both ends."""
    started, end = start(nodes, root), time.monotonic() + 240
    while not any(folder("classify", root).glob("checkpoint-*/manifest.json")):
        assert time.monotonic() < end and all(process.poll() is None for process in started), ends(started, 5)
        time.sleep(0.1)
    _ip("-n", nodes[1], "link", "set", "cable", "down")
    return ends(started, BOUND_S)


@pytest.mark.exhaustive
def test_a_node_that_is_cut_off_ends_the_run_and_the_command_goes_on(
    nodes: tuple[str, str], tmp_path: Path
) -> None:
    ended = cut_after_a_checkpoint(nodes, tmp_path)
    record = store.read(folder("classify", tmp_path))
    assert all(each.status for each in ended), ended
    assert record["status"] == "failed" and "rank 1: has vanished" in str(record["reason"]), record["reason"]

    _ip("-n", nodes[1], "link", "set", "cable", "up")
    ended = ends(start(nodes, tmp_path), 300)
    assert [each.status for each in ended] == [0, 0], ended
    assert "resumes from its checkpoint" in ended[0].output
    record = store.read(folder("classify", tmp_path))
    assert record["status"] == "finished"
    assert (record["computed"] or {})["parallelism"]["processes"] == 2
