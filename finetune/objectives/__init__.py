"""What each kind of task does its own way, a module each. Importing this package loads no torch.

A new kind is a module here with an ``Objective`` called ``OBJECTIVE``, a type of task (``tasks/``), its
presets (``configs/KIND-*.yaml``) and its primary metric (``finetune.metrics``).
"""

import pkgutil
from functools import cache
from importlib import import_module

from finetune.config.schema import RunConfig
from finetune.errors import unknown
from finetune.objectives.base import Objective
from finetune.positions import get_encoding

__all__ = ["Objective", "get", "kinds", "of"]

SHARED = ("base", "language")
"""The modules here that are no kind of task."""


def kinds() -> list[str]:
    """Lists the kinds of task, which are the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SHARED)


@cache
def get(kind: str) -> Objective:
    """Looks up the objective of a kind of task; raises ``UserError`` for a kind that has none."""
    if kind not in kinds():
        raise unknown("kind of task", kind, kinds())
    objective: Objective = import_module(f"{__name__}.{kind}").OBJECTIVE
    return objective


def of(config: RunConfig) -> Objective:
    """Looks up the objective of a run and has it check the configuration. Raises ``UserError``."""
    objective = get(config.kind)
    objective.check(vars(config))
    get_encoding(config.model.position, config.model.position_parameters)
    return objective
