"""Text from outside made safe for a terminal, a report or a plot: one line, no invisible characters."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

LONGEST = 300
"""Letters of a library's message that one of ours quotes."""


def one_line(words: object) -> str:
    """Puts ``words`` on one line, with each run of blanks and line breaks as one blank."""
    return " ".join(str(words).split())


def short(words: object) -> str:
    """Puts ``words`` on one line of at most 60 letters.

    >>> short("x" * 100)[-5:], len(short("x" * 100))
    ('xx...', 60)
    """
    text = one_line(words)
    return text if len(text) <= 60 else f"{text[:57]}..."


def reason(error: BaseException, *, typed: bool = False) -> str:
    """Words an error of somebody else's code on one line: its message, or the name of its class without one.

    ``typed`` puts that name before it.

    >>> reason(ValueError("no\\nsuch row")), reason(KeyError("x"), typed=True), reason(MemoryError())
    ('no such row', "KeyError: 'x'", 'MemoryError')
    """
    name, message = type(error).__name__, one_line(error)[:LONGEST]
    if not message:
        return name
    return f"{name}: {message}" if typed else message


def clean(words: object) -> str:
    """Puts ``words`` on one line and marks invisible characters, such as those that reverse the direction.

    >>> clean("two\\nlines \\u202e")
    'two lines \ufffd'
    """
    return visible(one_line(words))


def visible(words: str) -> str:
    """Marks each invisible character of ``words`` and keeps its white space and lines."""
    # The name of a folder may be bytes that are no text, which no file and no terminal takes.
    text = words.encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\t\n" else "\ufffd" for char in text)


MINUS = "\u2212"  # what people read; a hyphen is shorter than the plus sign that it stands beside


def minus(number: str) -> str:
    """Writes a real minus sign for the hyphen before a formatted number; ``plain`` takes it back.

    >>> minus("-0.5"), plain(minus("-0.5"))
    ('\u22120.5', '-0.5')
    """
    return MINUS + number[1:] if number.startswith("-") else number


def plain(text: str) -> str:
    """Writes hyphens for real minus signs, for what programs read."""
    return text.replace(MINUS, "-")


def say(line: str) -> None:
    """Prints one line of progress, or a note; it may hold names from outside: of files, labels, models."""
    if not is_quiet():
        print(visible(line.replace("\n", " ")), flush=True)


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_verbose: ContextVar[bool] = ContextVar("verbose", default=False)


def is_quiet() -> bool:
    """Whether only results and errors are to be printed, no progress and no notes."""
    return _quiet.get()


def is_verbose() -> bool:
    """Whether libraries are to print what they print of themselves, in the place of our lines."""
    return _verbose.get()


def quietly() -> AbstractContextManager[None]:
    """Prints no progress and no notes meanwhile."""
    return _meanwhile(_quiet)


def verbosely() -> AbstractContextManager[None]:
    """Has libraries print what they print of themselves meanwhile."""
    return _meanwhile(_verbose)


@contextmanager
def _meanwhile(flag: ContextVar[bool]) -> Iterator[None]:
    token = flag.set(True)
    try:
        yield
    finally:
        flag.reset(token)
