"""Compare attention softmaxes on downstream tasks: fine-tune, record, compare.

The way of the data, and the order in which modules may import each other:

    config -> tasks -> data -> model (+ attention) -> train -> record -> compare -> report

``finetune.load(place)`` gives a finished run's model and tokenizer back, *with its attention*: ``place`` is
its folder, or the id of the Hub repository that ``finetune push`` put it into.
"""

# ``python -m finetune`` comes by here with the working folder first in the path: nothing of the standard
# library is imported before __main__ has left it, for the folder may hold modules of those names.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> "Any":
    """``finetune.load`` pulls in torch, so it is imported when it is first asked for."""
    if name == "load":
        from finetune.models.checkpoint import load

        return load
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")
