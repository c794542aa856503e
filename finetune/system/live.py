"""Lines that stay at the foot of a terminal, below whatever is printed meanwhile, and show what goes on."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from finetune.system.text import clean, is_quiet

REFRESH_S = 0.5  # seconds between two pictures

Line = Callable[[], Sequence[str]]
"""Makes the parts of a line, the most important first: those for which there is no room are left out."""


class Foot:
    """Lines by their names, each made anew for a picture, so that what they tell of need not wait for it."""

    def __init__(self, live: Live) -> None:
        self.live, self.drawn = live, 0.0
        self.lines: dict[str, Line] = {}
        self.left_s: float | None = None  # that what is going on still takes, as far as is known

    def draw(self) -> None:
        """Makes a new picture where the last one is old enough; quick elsewhere."""
        now = time.monotonic()
        if now - self.drawn >= REFRESH_S:
            self.drawn = now
            self.live.update(self.picture(), refresh=True)

    def picture(self) -> Group:
        """The lines, each on one line of the terminal."""
        width = self.live.console.width
        shown = (_fitting(line(), width) for line in self.lines.values())
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in shown if line))


_foot: ContextVar[Foot | None] = ContextVar("foot", default=None)


def current() -> Foot | None:
    """The foot of the terminal, where there is one."""
    return _foot.get()


@contextmanager
def foot(*, wanted: bool = True) -> Iterator[Foot | None]:
    """A foot of the terminal meanwhile; None where standard output is none, or it is not ``wanted``."""
    console = Console(highlight=False, soft_wrap=True)  # a path that is printed stays whole
    if not (wanted and is_terminal(console)):
        yield None
        return
    errors = sys.stderr is not None and sys.stderr.isatty()
    with Live(
        console=console,
        auto_refresh=False,  # no thread beside a training
        transient=True,
        redirect_stderr=errors,  # what goes into a file stays there
        vertical_overflow="crop",
    ) as live:
        console.show_cursor(True)  # a killed process could not bring it back
        token = _foot.set(Foot(live))
        try:
            with _handlers_redirected():
                yield _foot.get()
        finally:
            _foot.reset(token)
            live.update(Text(""))


def is_terminal(console: Console) -> bool:
    """Whether pictures can replace each other there; not in a pipe, whatever variables make rich believe."""
    out = sys.stdout is not None and sys.stdout.isatty()
    return out and console.is_terminal and not console.is_dumb_terminal and not is_quiet()


@contextmanager
def _handlers_redirected() -> Iterator[None]:
    """Has loggers that were set up before write above the foot, as ``print`` does."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}
    behind = getattr(sys.stderr, "rich_proxied_file", None)
    moved = [each for each in handlers if isinstance(each, logging.StreamHandler) and each.stream is behind]
    moved = moved if behind is not None else []
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(behind)


def _fitting(parts: Sequence[str], width: int) -> str:
    """As many of the parts as there is room for, and at least the first."""
    kept = [clean(part) for part in parts]
    while len(kept) > 1 and cell_len(", ".join(kept)) > width:
        kept.pop()
    return ", ".join(kept)
