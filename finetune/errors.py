"""The exceptions that end the command in one line, and the sentence that names the nearest allowed value."""

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with status 2.

    The text says what was wrong, what is allowed and what to type.
    """

    exit_status = 2


class BusyError(UserError):
    """Another process holds what is asked for: no mistake, and later it can be had."""

    exit_status = os.EX_TEMPFAIL  # 75


class PeerError(Exception):
    """The process of rank 0 has failed, for which this one was waiting, and says why itself."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("the process of rank 0 has failed")
        self.exit_status = exit_status


class PreemptedError(SystemExit):
    """A run that was told to make room, and goes on with the same command; ``str``: by what.

    It ends the program as ``sys.exit`` does, one that only calls ``finetune.run`` too, and no handler of
    failures takes it for one.
    """

    exit_status = os.EX_TEMPFAIL

    def __init__(self, told: str) -> None:
        super().__init__(self.exit_status)
        self.told = told

    def __str__(self) -> str:
        return self.told


class RunFailedError(Exception):
    """A run that has failed, and whose record says why."""


LONG = 100
"""Letters of a value that a message quotes."""


def shown(value: object) -> str:
    """Quotes ``value`` for a message: as Python writes it, cut where it is long.

    >>> shown("sa-softmax"), shown("x" * 1000)[-8:]
    ("'sa-softmax'", 'xxxxx...')
    """
    text = repr(value)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def unknown(kind: str, name: object, allowed: Iterable[str], meant: Sequence[str] = ()) -> UserError:
    """Words the error for a ``name`` that is not among ``allowed``; ``meant``: what to type, if known.

    >>> str(unknown("task", "agnew", ["agnews", "yelp"]))
    "unknown task 'agnew': did you mean 'agnews'? Allowed: agnews, yelp"
    """
    names = sorted(allowed)
    name = str(name) if len(str(name)) <= LONG else f"{str(name)[:LONG]}..."
    lower = {known.lower(): known for known in names}
    near = meant or [lower[match] for match in get_close_matches(name.lower(), lower, 1, 0.5)]
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    listing = ", ".join(names) or "none" if len(names) <= 30 else f"{len(names)} names"
    return UserError(f"unknown {kind} '{name}': {hint}Allowed: {listing}")
