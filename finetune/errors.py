"""The one exception for a user's mistake, and the sentence that names the nearest allowed value."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with status 2.

    The text says what was wrong, what is allowed and what to type.
    """


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """Build the error for a ``name`` that is not among ``allowed``.

    >>> str(unknown("task", "agnew", ["agnews", "yelp"]))
    "unknown task 'agnew': did you mean 'agnews'? Allowed: agnews, yelp"
    """
    names = sorted(allowed)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    listing = ", ".join(names) if len(names) <= 30 else f"{len(names)} names"
    return UserError(f"unknown {kind} '{name}': {hint}Allowed: {listing}")
