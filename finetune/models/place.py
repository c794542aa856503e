"""Whether a model is on this machine: its folder, or its snapshot in the Hub's cache. Imports no torch."""

from pathlib import Path

FILE = "config.json"  # which every model has


def here(name: str, revision: str | None) -> bool:
    """Whether a model lies in a folder or in the Hub's cache. The Hub is not asked."""
    if Path(name).is_dir():
        return (Path(name) / FILE).is_file()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, FILE, revision=revision), str)
    except HFValidationError:
        return False


def is_folder(name: str) -> bool:
    """Whether ``model.name`` means a folder, there or not: a Hub id has one slash at most."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1
