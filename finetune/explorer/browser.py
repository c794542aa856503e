"""Opens a page in the browser of whoever sits at this machine, and in nobody else's."""

import os
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path


def wanted(environment: Mapping[str, str], *, terminal: bool, platform: str) -> bool:
    """Whether somebody sees a window that is opened here.

    Not so of what is no terminal (a pipe, a test, a job), of CI, and of a machine that is reached without a
    display: there ``webbrowser`` would start a browser of the terminal, or on the other machine.
    """
    if not terminal or environment.get("CI"):
        return False
    if platform.startswith(("win", "darwin")):
        return not any(environment.get(name) for name in ("SSH_CONNECTION", "SSH_TTY"))
    return any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def show(file: Path) -> bool:
    """Opens ``file`` where it is wanted; returns whether it did."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if not wanted(os.environ, terminal=terminal, platform=sys.platform):
        return False
    return webbrowser.open(file.resolve().as_uri())
