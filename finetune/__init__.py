"""Compare attention functions: pretrain or fine-tune with each, record, compare.

What ``__all__`` names is for notebooks and other programs. Importing this package loads none of it: a name is
imported when it is first used, and only what needs torch loads torch.

Each variant becomes an ``attn_implementation`` by its own name, once transformers is imported:
``AutoModel.from_pretrained(..., attn_implementation="sa-softmax")``, also in pipelines and other libraries.
``swap(model, "sa-softmax")`` proves that a model uses it.
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
    from finetune.studies.api import preset, run, study

__version__ = "0.1.0"
__all__ = [
    "VARIANTS",
    "Comparison",
    "Run",
    "Variant",
    "compare",
    "load",
    "preset",
    "read_runs",
    "register_variant",
    "run",
    "study",
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
    "preset": "finetune.studies.api",
    "read_runs": "finetune.records.run",
    "register_variant": "finetune.attention",
    "run": "finetune.studies.api",
    "study": "finetune.studies.api",
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
    value = import_module(f"{module}.{name}") if module == __name__ else getattr(import_module(module), name)
    globals()[name] = value  # so that this function is not asked for it again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _AfterTransformers:
    """An import hook, which registers the variants once transformers is imported."""

    target = "transformers.modeling_utils"  # where the registry is; importing it here would take seconds

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name != self.target:
            return None
        import sys
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: "Any") -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    import finetune.attention.register  # noqa: F401


def _register_with_transformers() -> None:
    import sys  # built in: no file of the working folder stands in for it

    if _AfterTransformers.target in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterTransformers())


_register_with_transformers()
