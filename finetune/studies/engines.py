"""The engines that can execute a study, and the choice of one with its options.

``--on slurm --slurm.partition gpu`` of the command line lies over what an earlier command said for the same
folder of runs (``ROOT/on.yaml``), and that over the section ``on:`` of the study file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.config.build import checked
from finetune.config.loading import read_yaml, yaml_text
from finetune.errors import UserError, shown, unknown
from finetune.studies.executors import local, ray_core, slurm
from finetune.studies.executors.base import Engine, Executor, Options
from finetune.studies.file import ON_FILE, Study
from finetune.system.files import write_text

ENGINES: Mapping[str, Engine] = {
    engine.name: engine for engine in (local.ENGINE, slurm.ENGINE, ray_core.ENGINE)
}
"""Name -> engine. To add one, write a module beside ``executors.local`` and name it here."""
LOCAL = local.ENGINE

Given = Mapping[str, Any]
"""``{"engine": NAME, OPTION: VALUE, ...}``, as in a study file; the name may be left out."""


@dataclass(frozen=True)
class Chosen:
    """An engine with its options."""

    engine: Engine
    options: Options
    said: Given
    """What command lines have said, this one and those before, for the next one."""

    def executor(self, study: Study, workers: int) -> Executor:
        """The engine at work on a study; ``workers``: what this machine would have."""
        return self.engine.make(study, self.options, workers)


def choose(study: Study, given: Given | None = None) -> Chosen:
    """The engine of a study; ``given`` by this command. Raises ``UserError`` for a wrong name or option."""
    kept = study.root / ON_FILE
    said = read_yaml(kept) if kept.is_file() else {}
    said = _over(said, given or {})
    values = _over(study.on or {}, said)
    name = values.get("engine", LOCAL.name)
    if not isinstance(name, str) or name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    engine = ENGINES[name]
    own = {key: value for key, value in values.items() if key != "engine"}
    return Chosen(engine, checked(engine.options, own, where=f"{name}."), said)


def keep(study: Study, chosen: Chosen) -> None:
    """Writes down what command lines have said, so that the same study goes on without saying it again."""
    if chosen.said:
        write_text(study.root / ON_FILE, [yaml_text(chosen.said)])


def given_on(name: str | None, options: Mapping[str, Any]) -> Given:
    """What ``--on NAME`` and ``--NAME.OPTION VALUE`` say. Raises ``UserError``.

    >>> given_on(None, {"local": {"retries": 1}})
    {'engine': 'local', 'retries': 1}
    """
    for key, value in options.items():
        if key not in ENGINES:
            raise unknown("option of finetune study", f"--{key}", [f"--{engine}" for engine in ENGINES])
        if not isinstance(value, Mapping):
            raise UserError(f"--{key} takes an option, e.g. --{key}.retries 1, not {shown(value)}")
    engines = {*options, *([] if name is None else [name])}
    if len(engines) > 1:
        one, other = sorted(engines)[:2]
        raise UserError(f"a study runs on one engine, and both {one} and {other} are named: leave one out")
    return {"engine": engine, **options.get(engine, {})} if (engine := next(iter(engines), None)) else {}


def _over(below: Given, above: Given) -> dict[str, Any]:
    """``above`` laid over ``below``, whose options count only where both are of one engine."""
    named = above.get("engine")
    same = named is None or named == below.get("engine", LOCAL.name)
    return {**(below if same else {}), **above}
