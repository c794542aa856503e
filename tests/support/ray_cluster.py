"""A Ray cluster on this machine: ``ray start --head``, and a raylet more for each other node.

Each node has two logical CPUs and no GPU, and tells its name to what runs on it (``NODE``). Everything
lies in one temporary folder, on free ports, and ends with ``stop``. A lost node is one with a killed raylet.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

import psutil
import pytest

NEEDED = "FINETUNE_TEST_RAY"
"""Set where a cluster that cannot start is a failure, not a reason to skip."""
START_S = 200  # of all nodes and attempts, of the 300 that a test may take: its end leaves no node behind
ATTEMPTS = 3  # another process may take a port before Ray does
os.environ["RAY_AUTH_MODE"] = "disabled"  # before Ray is imported: a user's token is not for this cluster
NODE = "FINETUNE_TEST_NODE"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # others on this machine may take its memory
    # A lost node is known as such after seconds, not half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class RayCluster:
    """Names of nodes, and the process that keeps each: ``ray start --block``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets in it have short names
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = self.client = ""

    def add(self, name: str, until: float) -> None:
        """Starts a node and waits until it is there; the first one is the head.

        Raises ``RuntimeError``, at ``until`` of the monotonic clock at the latest.
        """
        log = self.folder / f"{name}.log"
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        words += ["--num-cpus", "2", "--num-gpus", "0", "--object-store-memory", str(80 * 2**20)]
        words += ["--include-log-monitor", "false"]
        if self.nodes:
            words += ["--address", self.address]
        else:
            words += ["--head", "--port", "0", "--include-dashboard", "false", "--no-monitor"]
            words += ["--temp-dir", str(self.folder / "t")]
            client = free_port()
            words += ["--dashboard-port", str(free_port()), "--ray-client-server-port", str(client)]
        with log.open("wb") as stream:
            self.nodes[name] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **SETTINGS, NODE: name},
                start_new_session=True,
            )
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if self.nodes[name].poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"ray start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        if not self.address:
            self.address = (self.folder / "t" / "ray_current_cluster").read_text().strip()
            self.client = f"ray://{self.address.partition(':')[0]}:{client}"

    def lose(self, name: str) -> None:
        """Kills the raylet of a node: what runs there is gone, without a word to anyone."""
        keeper = self.nodes.pop(name)
        for child in psutil.Process(keeper.pid).children():
            if child.name() == "raylet":
                child.kill()
        keeper.wait(30)

    def stop(self) -> None:
        keepers = [keeper.pid for keeper in self.nodes.values()]
        mine = [process for process in psutil.process_iter(["cmdline"]) if self._has(process, keepers)]
        for process in mine:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(mine, timeout=10)
        for keeper in self.nodes.values():
            keeper.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _has(self, process: psutil.Process, keepers: Sequence[int]) -> bool:
        """Whether a process is of this cluster; where it did not start, some may have no keeper."""
        with suppress(psutil.NoSuchProcess):
            if any(str(self.folder) in word for word in process.info["cmdline"] or ()):
                return True
            return any(parent.pid in keepers for parent in [process, *process.parents()])
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def started(*names: str) -> RayCluster:
    """A cluster of these nodes. Skips the test with the reason where it cannot be had, or fails it."""
    if not importlib.util.find_spec("ray"):
        refuse("ray is not installed")
    until = time.monotonic() + START_S
    for _ in range(ATTEMPTS):
        cluster = RayCluster()
        try:
            for name in names:
                cluster.add(name, until)
            return cluster
        except (OSError, RuntimeError) as error:
            cluster.stop()
            reason = f"no Ray cluster starts here: {error}"
            if time.monotonic() > until:
                break
        except BaseException:  # Ctrl-C, or the test has taken too long
            cluster.stop()
            raise
    refuse(reason)


def refuse(reason: str) -> NoReturn:
    if os.environ.get(NEEDED):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number
