"""Ends a run that is told to make room (a time limit, a spot machine), so that its command goes on with it.

A SIGTERM or SIGUSR1 while it trains waits for the end of the optimizer step, and of the evaluation that is
due there: the run leaves a checkpoint and ends with status 75. Before and after training there is no more to
save than lies in its folder: it ends at once. So it does where the same signal comes a second time.

transformers' own ``enable_jit_checkpoint`` will not do: it hears SIGTERM alone, waits three seconds, each
rank for itself, and stops as a training that has come to its end, which its checkpoint then says too.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from finetune.errors import PeerError, PreemptedError
from finetune.system import world
from finetune.system.text import reason

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
AGAIN_S = 5.0
"""Seconds after which a signal counts as a second one: Slurm and torchrun both tell a process the first."""


@dataclass
class _Told:
    """What this process has been told, and whether it has something to save first."""

    signals: dict[int, float] = field(default_factory=dict)  # number -> when it came first, monotonic seconds
    saves: bool = False


_told = _Told()


@contextmanager
def heard() -> Iterator[None]:
    """Has the signals raise ``PreemptedError`` within. Other threads than the main one get no signals."""
    _told.signals.clear()
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        now = {number: signal.getsignal(number) for number in SIGNALS}
        # One that is ignored was meant to be; None is a handler that Python could not put back.
        handlers = {number: old for number, old in now.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in handlers:
            signal.signal(number, _hear)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def put_off() -> Iterator[None]:
    """Has a signal within wait until somebody asks (``told``), and raises ``PreemptedError`` at the end.

    Whatever fails after a signal fails for it: a device or a disk may be gone already.
    """
    _told.saves = True
    try:
        yield
    except Exception as error:
        if not _told.signals or isinstance(error, PeerError):
            raise
        raise preempted(f"and then {reason(error, typed=True)}") from error
    finally:
        _told.saves = False
    if told():
        raise preempted("after the last step")


def told() -> bool:
    """Whether any process of the run has been told to end. All must ask, as often; it takes a tiny exchange
    between them."""
    return world.any_of(bool(_told.signals))


def preempted(where: str) -> PreemptedError:
    """Words the end of the run: ``SIGTERM at step 12``."""
    names = " and ".join(signal.Signals(number).name for number in _told.signals)
    return PreemptedError(f"{names or 'a signal to another process of the run'} {where}")


def deaf_worker(begin: Callable[[int], None] | None, number: int) -> None:
    """Begins a process that loads rows, and leaves the signals to the one that trains: both get them."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if begin is not None:
        begin(number)


def _hear(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    again = now - _told.signals.setdefault(number, now) > AGAIN_S
    if again or not _told.saves:
        raise PreemptedError(signal.Signals(number).name)
