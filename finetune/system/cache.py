"""Where this program keeps what it can make again."""

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Where this program keeps what it can make again: ``FINETUNE_CACHE``, or ``finetune`` in the user's own
    cache folder (``XDG_CACHE_HOME``, or ``~/.cache``)."""
    chosen = os.environ.get("FINETUNE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if home.startswith("~"):  # there is no home
        home = tempfile.gettempdir()
    return Path(home, "finetune")
