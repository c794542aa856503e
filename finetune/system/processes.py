"""How this program starts itself again, importing nothing from the folder that it is started in.

Of the standard library only what every Python has loaded by then: the folder may hold modules of other names.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The folder that holds this package."""


def python_module(name: str) -> list[str]:
    """The command that runs a module of this program in a process of its own.

    ``-P``: a user's ``tasks.py`` or ``json.py`` in the working folder is not taken for the module of that
    name. Where the program itself lies there, not installed, Python has to look.
    """
    safe = [] if os.path.realpath(os.getcwd()) == HOME else ["-P"]
    return [sys.executable, *safe, "-m", name]


def leave_working_folder() -> None:
    """Take the working folder, which ``python -m`` puts first, from where modules are looked for."""
    here = os.getcwd()
    if not sys.flags.safe_path and sys.path[0] in ("", here) and os.path.realpath(here) != HOME:
        del sys.path[0]
