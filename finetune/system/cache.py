"""The folder of this program's caches."""

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """The folder of what can be made again.

    ``FINETUNE_CACHE``, or ``finetune`` in the user's cache folder (``XDG_CACHE_HOME``, or ``~/.cache``).
    """
    chosen = os.environ.get("FINETUNE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if home.startswith("~"):  # this user has no home folder
        home = tempfile.gettempdir()
    return Path(home, "finetune")
