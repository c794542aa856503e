"""A Ray cluster, as ``ray_core`` needs it: the one module that imports Ray, when it is first asked of."""

import os
import re
import signal
import socket
import textwrap
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from finetune.errors import UserError, shown
from finetune.studies.executors import ray_worker
from finetune.system.text import say

NAMESPACE = "finetune"
CONNECT_S = 5  # seconds in which a cluster must take a connection
TICK_S = 0.2  # seconds that a look at the calls takes
PATIENCE_S = 60  # seconds after which one is told what is waited for
PLACE = re.compile(r"(?:ray://)?\[?(?P<host>[^/\]]+)\]?:(?P<port>\d{1,5})")
GIB = 2**30

K = TypeVar("K")


@dataclass(frozen=True)
class End:
    """The end of a call. ``told`` None: its worker is gone, or that is ``unsure`` and must be asked again."""

    told: ray_worker.Told | None
    reason: str = ""
    unsure: bool = False


class Cluster:
    """A cluster by its address; connected to when it is first needed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.connected: Any = None

    @property
    def ray(self) -> Any:
        """The module, with a connection. Raises ``UserError``."""
        if self.connected is None:
            self.connected = _connected(self.address)
        return self.connected

    def leave(self) -> None:
        if self.connected is not None:
            self.connected.shutdown()
            self.connected = None

    def keep(
        self, name: str, wants: Mapping[str, float], words: Sequence[str], environment: Mapping[str, str]
    ) -> Any:
        """The actor that keeps a run in the folder of this process, as soon as there is room for it."""
        detached = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": 0}
        # By default a node is filled before the next one is used: its disk and cores, too.
        detached["scheduling_strategy"] = "SPREAD"
        keeper = self.ray.remote(ray_worker.Keeper).options(**detached, **_options(wants))
        return keeper.remote(words, os.getcwd(), environment)

    def names(self) -> list[str]:
        """The names of the actors of all studies that go on, or wait for room."""
        actors = self.ray.util.list_named_actors(all_namespaces=True)
        return [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE]

    def find(self, name: str) -> Any:
        """The actor of a name; None where it has ended by now."""
        try:
            return self.ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return None

    def ended(self, told: Mapping[K, Any]) -> list[tuple[K, End]]:
        """Those of the calls, Ray's references, that have ended, after a moment where there is none."""
        if not told:
            return []
        ready, _ = self.ray.wait(list(told.values()), num_returns=len(told), timeout=TICK_S)
        return [(key, self._end(reference)) for key, reference in told.items() if reference in ready]

    def _end(self, reference: Any) -> End:
        try:
            return End(tuple(self.ray.get(reference)))
        except self.ray.exceptions.ActorUnavailableError:  # for now: its node may be gone, or only the line
            return End(None, unsure=True)
        except self.ray.exceptions.RayError as error:
            return End(None, _why(error))

    def kill(self, actor: Any) -> None:
        self.ray.kill(actor)

    def ask(
        self, wants: Mapping[str, float], words: Sequence[str], environment: Mapping[str, str]
    ) -> ray_worker.Told:
        """Runs a command on a worker, once one has room, and waits. Raises ``UserError``."""
        task = self.ray.remote(ray_worker.run).options(max_retries=0, **_options(wants))
        reference = task.remote(words, os.getcwd(), environment)
        ready, _ = self.ray.wait([reference], timeout=PATIENCE_S)
        if not ready:
            say(f"waiting for a worker of the Ray cluster with {_amounts(wants)}")
        end = self._end(reference)
        if end.told is None:
            raise UserError(f"a worker of the Ray cluster was lost while it ran a command: {end.reason}")
        return end.told

    def check_room(self, wants: Mapping[str, float]) -> None:
        """Raises ``UserError`` where no node has what a run ``wants``: it would wait for ever."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in wants.items()) for node in nodes):
            return
        names = {"CPU", "GPU", *wants}
        kinds = Counter(_amounts({name: node.get(name, 0) for name in names}) for node in nodes)
        has = "; ".join(f"{count} with {kind}" for kind, count in kinds.most_common())
        raise UserError(
            f"no node of the Ray cluster has {_amounts(wants)} for a run, it has {has}: ask for less "
            "(--ray.gpus 0 for CPUs alone), or give --ray.autoscaling true where nodes are started as needed"
        )


def _connected(address: str) -> Any:
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise UserError(
            "the engine ray needs the package ray, in the version that the cluster has: "
            "pip install 'softmax-finetune[ray]'"
        ) from error
    # There is no public switch for what Ray prints of workers that die, into the middle of our own output.
    ray._private.worker._worker_logs_enabled = False
    ray.cloudpickle.register_pickle_by_value(ray_worker)
    if ray.is_initialized():  # by a notebook, or another engine
        return ray
    _check_answer(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise UserError(
            f"no connection to Ray ({address}): {reason}; ray start --head starts a cluster, --ray.address "
            "host:port names one, and one that asks for a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's would end this process where it is
    return ray


def _check_answer(address: str) -> None:
    """Raises ``UserError`` where nothing answers: Ray itself would ask for minutes."""
    place = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    match = PLACE.fullmatch(place)
    if match is None:
        if place == "auto":
            return
        raise UserError(f"ray.address is auto, host:port or ray://host:port, not {shown(place)}")
    try:
        socket.create_connection((match["host"], int(match["port"])), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"nothing answers at {place}, where the Ray cluster should be: {error.args[-1]}; ray status on "
            "its head says whether it runs, and what its address is"
        ) from error


def _options(wants: Mapping[str, float]) -> dict[str, Any]:
    """What is wanted, by the names of Ray's options."""
    own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    others = {name: amount for name, amount in wants.items() if name not in own}
    # What is left out would be one CPU.
    options: dict[str, Any] = {"num_cpus": 0, **{own[name]: wants[name] for name in wants if name in own}}
    return {**options, "resources": others} if others else options


def _amounts(resources: Mapping[str, float]) -> str:
    """``CPU 4, GPU 1, memory 32 GiB``."""
    return ", ".join(
        f"memory {amount / GIB:.0f} GiB" if name == "memory" else f"{name} {amount:g}"
        for name, amount in sorted(resources.items())
    )


def _why(error: Exception) -> str:
    """What Ray says of the end of a worker, in one line, without the indented lines of who it was."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return textwrap.shorten(" ".join(lines[1:] or lines), 200, placeholder=" ...")
