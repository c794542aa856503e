"""The failure of one of several processes of a run: all of them end within seconds, and rank 0 says why.

A process that fails leaves the others in a collective operation, which waits for it, or fails with a message
about a connection. So each has a thread that tells the others that it is alive, and looks for a failure. It
gives the main thread ``GRACE_S`` to come to an end by itself, and then ends the process. Nothing here begins
where a run is one process.
"""

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from queue import Empty, Queue
from types import TracebackType
from typing import TypeVar, cast

from finetune.system import world
from finetune.system.text import reason as reason_of

T = TypeVar("T")

BEAT_S = 0.5
"""Seconds between two signs of life."""
SILENT = 40
"""Looks at another process without a sign of life, 20 seconds together, after which it is taken for lost."""
LOST = 8
"""The same where a connection has failed already."""
GRACE_S = 5.0
"""How long the main thread has to end by itself after another process has failed."""
TOLD_S = 30.0
"""How long a process that has failed waits for rank 0 to write the reason down: a launcher then ends all."""

VANISHED = "has vanished: it was killed, or its machine or network is lost"
INTERRUPTED = 130
"""Exit status after a Ctrl-C."""
FAILURE, TOLD = "failure", "told"  # keys in the store


class End(StrEnum):
    """How a process has come to its end; its exit status does not say: 75 is that of a full disk too."""

    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by a Ctrl-C
    PREEMPTED = "preempted"


@dataclass(frozen=True)
class Failure:
    """The first failure of a process of the run, or the first that has left it to be gone on with."""

    rank: int
    reason: str
    status: int  # with which all processes exit
    end: End = End.FAILED

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.reason}"


def going_on(end: End, reason: str = "") -> str:
    """The line of a command that was told to end, and is to be typed again.

    >>> going_on(End.PREEMPTED, "SIGTERM")
    'finetune: preempted (SIGTERM); the same command goes on from the last checkpoint'
    """
    why = f" ({reason})" if reason else ""
    return f"finetune: {end}{why}; the same command goes on from the last checkpoint"


class Watch(threading.Thread):
    """The thread of this process, and what its main thread asks of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="peers")
        self.store = world.connection()
        self.record: Callable[[Failure], None] = _print
        self.ending = threading.Lock()  # of who ends the process, or has said that it ends by itself
        self.stopped = threading.Event()
        # The main process looks at all others, and they at it.
        self.watched = [rank for rank in range(world.size()) if not rank or world.is_main()]
        self.beats, self.silence = dict.fromkeys(self.watched, 0), dict.fromkeys(self.watched, 0)
        self.alike = 0  # mistakes that all processes have made so far

    def run(self) -> None:
        while not self.stopped.wait(BEAT_S):
            try:
                failure = in_time(self.look)
            except Exception as error:  # of the store, which rank 0 or its launcher keeps
                failure = Failure(0, f"{VANISHED} ({reason_of(error)})", 1)
            if failure and not self.stopped.wait(GRACE_S):
                with self.ending:
                    if not self.stopped.is_set():
                        self.close(failure)

    def look(self) -> Failure | None:
        """Tells the others that this process is alive; what has failed, be it that one has not told so."""
        self.beat()
        for rank, before in self.beats.items():
            self.beats[rank] = self.beats_of(rank)
            self.silence[rank] = 0 if self.beats[rank] != before else self.silence[rank] + 1
            if self.silence[rank] >= SILENT and not self.has_left(rank):
                self.tell(Failure(rank, VANISHED, 1))
        return self.failure()

    def look_closely(self) -> Failure | None:
        """The process that gives no sign of life any more, where one has taken a connection along."""
        silent = {rank: self.beats_of(rank) for rank in range(world.size()) if rank != world.rank()}
        for _ in range(LOST):
            self.beat()
            time.sleep(BEAT_S)
            silent = {rank: count for rank, count in silent.items() if self.beats_of(rank) == count}
            if not silent or self.failure():
                return None
        lost = [rank for rank in silent if not self.has_left(rank)]
        return Failure(lost[0], VANISHED, 1) if lost else None

    def beat(self) -> None:
        self.store.add(f"beat/{world.rank()}", 1)

    def beats_of(self, rank: int) -> int:
        return self.store.add(f"beat/{rank}", 0)

    def has_left(self, rank: int) -> bool:
        return self.store.check([f"left/{rank}"])

    def tell(self, failure: Failure) -> Failure:
        """Says what has failed, unless something else has before; returns what has."""
        return _read(self.store.compare_set(FAILURE, "", json.dumps(asdict(failure))))

    def failure(self) -> Failure | None:
        """What the first process that failed has said."""
        if not self.store.check([FAILURE]):
            return None
        return _read(self.store.get(FAILURE))

    def close(self, failure: Failure) -> None:
        """Has the main process write the reason down, waits for it in the others, and ends this process."""
        if world.is_main():
            try:
                self.record(failure)
            except Exception:  # of a full disk, say: the processes end all the same, and not without a word
                with suppress(Exception):
                    _print(failure)
            with suppress(Exception):
                self.store.set(TOLD, "")
                time.sleep(BEAT_S)  # the store may be this process's own, and the others ask it
        end = time.monotonic() + TOLD_S
        with suppress(Exception):  # of a store that is gone
            while not in_time(lambda: self.store.check([TOLD])) and time.monotonic() < end:
                time.sleep(BEAT_S / 5)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(failure.status)


def in_time(function: Callable[[], T]) -> T:
    """What ``function`` returns; ``TimeoutError`` where that takes longer than a process may be silent.

    A machine that is cut off gets no answer from the store, and no word that there will be none.
    """
    answers: Queue[tuple[T, None] | tuple[None, Exception]] = Queue()

    def ask() -> None:
        try:
            answers.put((function(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer, error = answers.get(timeout=SILENT * BEAT_S)
    except Empty:
        raise TimeoutError("no answer") from None
    if error is not None:
        raise error
    return cast(T, answer)


_watches: list[Watch] = []  # the one of this process, once it has met the others


def watch() -> None:
    """Begins to watch the other processes of a run, once all have met; until this program ends."""
    if world.size() > 1 and not _watches:
        _watches.append(Watch())
        _watches[0].start()
        atexit.register(_leave)
        sys.excepthook = partial(_break_off, sys.excepthook)


@contextmanager
def recording(record: Callable[[Failure], None]) -> Iterator[None]:
    """Has the main process ``record`` a failure of any process meanwhile, where else it prints it."""
    if not _watches:
        yield
        return
    before, _watches[0].record = _watches[0].record, record
    try:
        yield
    finally:
        _watches[0].record = before


def shared(status: int, end: End = End.FAILED) -> bool:
    """Whether all processes have come to the same ``end`` here, as they do for most mistakes of a user.

    Then they can go on together. True where a run is one process. Where their ends are of different kinds
    or statuses rank 0 is the first to know, so that the others hear what has failed from it.
    """
    if not _watches:
        return True
    own = _watches[0]
    own.alike += 1
    ended = f"ends/{own.alike}"
    alike, until = f"{ended}/{end}/{status}", time.monotonic() + GRACE_S
    store = world.connection()
    store.add(alike, 1)
    store.add(ended, 1)
    while True:
        all_here = store.add(ended, 0) == world.size()  # asked first: then the other count is whole
        if store.add(alike, 0) == world.size():
            return True
        if (all_here and world.is_main()) or time.monotonic() > until or store.check([FAILURE]):
            return False
        time.sleep(BEAT_S / 5)


def fail(reason: str, status: int, *, end: End = End.FAILED, explained: bool = True) -> None:
    """Tells all processes why this one fails, has the reason written down, and ends this one.

    Returns where a run is one process. A failure that nobody has ``explained`` may be that of another
    process, which has taken a connection along: that one is looked for first.
    """
    if not _watches:
        return
    own = _watches[0]
    failure = Failure(world.rank(), reason, status, end)
    with own.ending:
        own.stopped.set()
    own.join()
    with suppress(Exception):  # of a store that is gone
        failure = in_time(lambda: own.tell(failure if explained else own.look_closely() or failure))
    own.close(failure)


def _break_off(
    report: Callable[..., object],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Ends all processes where a program of somebody's own, which calls ``finetune.run``, ends by an error.

    Here and not at exit, where it would have left in order, and Python starts no thread any more.
    """
    report(kind, error, trace)
    if isinstance(error, KeyboardInterrupt):
        fail("", INTERRUPTED, end=End.INTERRUPTED)
    fail(reason_of(error, typed=True), getattr(error, "exit_status", 1), explained=False)


def _leave() -> None:
    """Parts from the other processes; rank 0, which may keep the store, is last."""
    own = _watches[0]
    with suppress(Exception):  # of a store that is gone
        store, end = world.connection(), time.monotonic() + TOLD_S
        store.set(f"left/{world.rank()}", "")
        own.stopped.set()  # its thread, which starts others: Python does not at exit, from 3.12 on
        own.join()
        keys = [f"left/{rank}" for rank in range(world.size())] if world.is_main() else []
        while keys and not store.check(keys) and time.monotonic() < end:
            if failure := own.failure():
                own.close(failure)
            time.sleep(BEAT_S / 5)
    own.stopped.set()
    own.join()
    import torch.distributed as dist

    dist.destroy_process_group()


def _read(said: bytes) -> Failure:
    values = json.loads(said)
    return Failure(**{**values, "end": End(values["end"])})


def _print(failure: Failure) -> None:
    left = failure.end is not End.FAILED
    text = going_on(failure.end, failure.reason) if left else f"finetune: error: {failure}"
    print(text, file=sys.stderr, flush=True)
