"""The processes that make a run together: torchrun, accelerate launch or srun starts one for each device.

All of them run the same code. What only one may do, such as a download or a line of print, does the one of
rank 0 (``is_main``, ``first``), and what all must decide alike they decide by ``any_of``. Without a launcher
there is one process, and nothing here starts anything.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from finetune.errors import PeerError, PreemptedError, UserError

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")

MEETING = timedelta(minutes=10)
"""How long the processes of a run wait for the last of them to start."""
WORKING = timedelta(days=30)
"""How long they wait for each other once they have met: rank 0 may have a data set to download."""
PAUSE_S = 0.1  # seconds between two looks for what rank 0 says
FIRST_PORT, PORTS = 20_000, 20_000  # from which a step of Slurm takes its own


@dataclass
class _Meeting:
    """State of this process among the others."""

    store: "Store | None" = None  # which all can read and write, once they have met
    firsts: int = 0  # calls of ``first`` so far, which all processes make in the same order


_meeting = _Meeting()


def variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which torch knows the processes of a run; none of them without a launcher.

    torchrun and accelerate launch set them. For a step of Slurm of several tasks (``srun --ntasks 4``) they
    follow from its own: rank 0 is on the first node of the step.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    given = {name: environment[name].strip() for name in names if environment.get(name, "").strip()}
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if given.get("RANK") or given.get("WORLD_SIZE") or not tasks.isdecimal() or int(tasks) < 2:
        return given
    numbers = (environment.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    job, step = (int(number) if number.isdecimal() else 0 for number in numbers)
    return {
        "RANK": environment.get("SLURM_PROCID", "0"),
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": first_node(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        "MASTER_PORT": str(FIRST_PORT + (16 * job + step) % PORTS),
        **given,
    }


def first_node(nodes: str) -> str:
    """The first of the nodes in a list as Slurm writes it.

    >>> first_node("gpu[03-05,9],cpu1"), first_node("node7")
    ('gpu03', 'node7')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def size() -> int:
    """How many processes make the run; 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process among them, from 0."""
    return _number("RANK", 0) if size() > 1 else 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0: also that of its device."""
    return _number("LOCAL_RANK", 0)


def is_main() -> bool:
    """Whether this is the process that prints, downloads and writes."""
    return rank() == 0


def launched() -> bool:
    """Whether a launcher has started this process, be it alone or with others."""
    return size() > 1 or "LOCAL_RANK" in variables()


def join(*, cpu: bool = False) -> None:
    """Meets the other processes of the run; to be called before accelerate, which then takes what is there.

    ``cpu``: the run computes on the CPU, whatever else there is. Raises ``UserError`` where some do not come.
    """
    if not launched() or joined():
        return
    import torch
    import torch.distributed as dist

    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in variables()]
    if missing:
        raise UserError(
            f"the environment says WORLD_SIZE={size()} and has no {missing[0]}: start the run by torchrun, "
            "accelerate launch or srun, or type unset WORLD_SIZE LOCAL_RANK"
        )
    os.environ.update(variables())
    on_gpu = torch.cuda.is_available() and not cpu
    if on_gpu:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store = _met()
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank(), world_size=size(), timeout=WORKING)
    _meeting.store = store


def joined() -> bool:
    """Whether this process has met the others."""
    return _meeting.store is not None


def connection() -> "Store":
    """What all processes of the run can write to and read from, by a connection of its own for the caller."""
    assert _meeting.store is not None
    shared: Any = _meeting.store  # torch's stubs lack the method
    own: Store = shared.clone()
    return own


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is true in any process. All must ask, and all have the same answer."""
    if size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    join()
    agreed = torch.tensor(int(flag))
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return bool(agreed)


def wait() -> None:
    """Waits until all processes are here, as for files that another one writes."""
    any_of(False)


def gathered(value: T) -> list[T]:
    """The ``value`` of each process, by rank. All must ask.

    Values are pickled, and go through the process group, which asks nobody who he is: see SECURITY.md.
    """
    if size() == 1:
        return [value]
    import torch.distributed as dist

    join()
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def from_main(function: Callable[[], T]) -> T:
    """Calls ``function`` in the main process alone, and returns what it returns, in all of them.

    Raises in the others what ``first`` does. Values go the way of ``gathered``, not into the store, which
    whoever finds its port can write to.
    """
    if size() == 1:
        return function()
    import torch.distributed as dist

    value: list[Any] = [first(lambda: function() if is_main() else None)]
    dist.broadcast_object_list(value, src=0)
    return cast(T, value[0])


def first(function: Callable[[], T]) -> T:
    """Calls ``function`` in the main process, then in all others, and returns what it returns in each.

    For what leaves files behind that the others then find: a download, token rows. They wait as long as it
    takes. Where it raises in the main process it raises ``PeerError`` in them, or is left in them too.
    """
    if size() == 1:
        return function()
    join()
    store = _meeting.store
    assert store is not None
    _meeting.firsts += 1
    key = f"first/{_meeting.firsts}"
    if is_main():
        try:
            result = function()
        except PreemptedError as error:
            store.set(key, json.dumps({"preempted": str(error)}))
            raise
        except KeyboardInterrupt:
            store.set(key, json.dumps({"interrupted": True}))
            raise
        except BaseException as error:
            store.set(key, json.dumps({"failed": getattr(error, "exit_status", 1)}))
            raise
        store.set(key, "{}")
        return result
    while not store.check([key]):  # not ``wait``, in which no Ctrl-C arrives
        time.sleep(PAUSE_S)
    told = json.loads(store.get(key))
    if "preempted" in told:
        raise PreemptedError(told["preempted"])
    if "interrupted" in told:
        raise KeyboardInterrupt
    if "failed" in told:
        raise PeerError(told["failed"])
    return function()


def _met() -> "Store":
    """The store of the run, once all processes have come to it."""
    import torch.distributed as dist

    late = f"not all {size()} processes of the run have come together within {MEETING.seconds // 60} minutes"
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=MEETING))
        store = dist.PrefixStore("finetune", store)
        store.set(f"here/{rank()}", "")
        store.wait([f"here/{other}" for other in range(size())], MEETING)
    except (dist.DistError, ValueError) as error:
        raise UserError(f"{late}, at {place} (MASTER_ADDR:MASTER_PORT): {error}") from error
    return store


def _number(name: str, otherwise: int) -> int:
    text = variables().get(name, "")
    return int(text) if text.isdecimal() else otherwise
