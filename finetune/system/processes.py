"""The command that starts this program again, without importing modules from the working folder.

Imports only what every Python has loaded by then: a working folder may hold a module of any other name.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The folder that holds the package ``finetune``."""


def python_module(name: str) -> list[str]:
    """The command that runs a module of this program in a process of its own.

    ``-P`` keeps Python from importing a user's ``tasks.py`` or ``json.py`` in the working folder in place of
    the module of that name. It is left out where the program itself lies there, not installed.
    """
    safe = [] if os.path.realpath(os.getcwd()) == HOME else ["-P"]
    return [sys.executable, *safe, "-m", name]


def distributed(words: list[str], processes: int) -> list[str]:
    """The command of ``python_module`` made one of several processes on one machine (``torchrun``)."""
    if processes == 1:
        return words
    place = words.index("-m")
    launcher = ["-m", "finetune.system.torchrun", "--standalone", f"--nproc-per-node={processes}"]
    return [*words[:place], *launcher, *words[place:]]


def leave_working_folder() -> None:
    """Removes the working folder, which ``python -m`` puts first, from ``sys.path``."""
    here = os.getcwd()
    if not sys.flags.safe_path and sys.path[0] in ("", here) and os.path.realpath(here) != HOME:
        del sys.path[0]
