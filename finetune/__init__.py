"""Compare attention functions on downstream tasks: fine-tune, record, compare.

What ``__all__`` names is for notebooks and other programs. Importing this package loads none of it: a name is
imported when it is first used, and only what needs torch loads torch.
"""

# ``python -m finetune`` comes by here with the working folder first in the path: nothing of the standard
# library is imported before __main__ has left it, for the folder may hold modules of those names.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from finetune import tasks
    from finetune.attention import VARIANTS, Variant, register_variant
    from finetune.attention.swap import swap
    from finetune.comparison.compare import Comparison, compare
    from finetune.publishing.load import load
    from finetune.records.run import Run, read_runs

__version__ = "0.1.0"
__all__ = [
    "VARIANTS",
    "Comparison",
    "Run",
    "Variant",
    "compare",
    "load",
    "read_runs",
    "register_variant",
    "swap",
    "tasks",
]

_MODULES = {
    "VARIANTS": "finetune.attention",
    "Comparison": "finetune.comparison.compare",
    "Run": "finetune.records.run",
    "Variant": "finetune.attention",
    "compare": "finetune.comparison.compare",
    "load": "finetune.publishing.load",
    "read_runs": "finetune.records.run",
    "register_variant": "finetune.attention",
    "swap": "finetune.attention.swap",
    "tasks": "finetune",
}
"""Public name -> the module that holds it."""


def __getattr__(name: str) -> "Any":
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    from importlib import import_module

    module = _MODULES[name]
    found = import_module(f"{module}.{name}") if module == __name__ else getattr(import_module(module), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
