"""The tasks. Every declaration in a module of this package counts: adding a file adds a task."""

import builtins
import importlib
import importlib.util
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import UserError, shown, unknown
from finetune.system import user_file
from finetune.system.language_codes import language_of
from finetune.system.text import clean
from finetune.tasks.base import (
    TASK_TYPES,
    ClassificationTask,
    LanguageTask,
    Task,
    TranslationTask,
    languages,
)

__all__ = [
    "TASKS",
    "TASK_TYPES",
    "ClassificationTask",
    "LanguageTask",
    "Task",
    "TranslationTask",
    "check_kind",
    "check_pair",
    "get_task",
]


TABLE = "csv"
"""The task of a table of the user's own, in whatever format: named after its file, known by its columns."""


def get_task(
    name_or_path: str, data: Mapping[str, Any] | DataConfig | None = None, pair: str | None = None
) -> Task:
    """Looks up a known name, or a user's own ``path/to/mine.py``, with ``:NAME`` if it declares several.

    Where ``data``, the section of a configuration, names ``columns``, the task is a table with these, called
    ``name_or_path`` or, if that is ``csv``, as its file; ``pair`` says which languages it holds.

    Raises ``UserError`` for an unknown name (with the nearest one) and for a file that is missing, fails
    to run, or does not hold exactly one declaration.
    """
    values = asdict(data) if isinstance(data, DataConfig) else data
    if isinstance(values, Mapping) and values.get("columns"):
        return _of_table(name_or_path, values["columns"], str(values.get("source")), pair)
    if name_or_path == TABLE:
        raise UserError(
            "the task csv is a table of your own: say which it is and name its columns, e.g. --data "
            "reviews.csv --text review --label stars (or --source de --target en)"
        )
    if user_file.is_file(name_or_path):
        import_ = _import_by_the_old_name(user_file.split(name_or_path)[0])
        example = "TASK = ClassificationTask(name=..., ...)"
        return user_file.declared(name_or_path, "task", Task, TASKS, example, import_=import_)
    if name_or_path not in TASKS:
        raise unknown("task", name_or_path, [*TASKS, TABLE])
    return TASKS[name_or_path]


def _of_table(name: str, columns: Any, source: str, pair: str | None) -> Task:
    """Declares the task of a table from ``data.columns``, whose keys decide its type."""
    keys = [key for key, column in columns.items() if column] if isinstance(columns, Mapping) else []
    types = [task_type for task_type in dict.fromkeys(TASK_TYPES.values()) if task_type.columns]
    ways = [" and ".join(task_type.columns) for task_type in types]
    fitting = [task_type for task_type in types if set(task_type.columns) == set(keys)]
    if not fitting:
        raise UserError(
            f"data.columns takes {', or '.join(ways)}, not {' and '.join(keys) or shown(columns)}"
        )
    for key in keys:
        texts = columns[key] if key == "text" and isinstance(columns[key], list) else [columns[key]]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"data.columns.{key} must be the name of a column, not {shown(columns[key])}")
    if name == TABLE:
        name = _named_after(source)
    if name in TASKS or name.endswith(".py"):
        raise UserError(
            f"'{name}' declares its own columns: leave out {' and '.join(keys)}, or give your table a name "
            "of its own, e.g. --task reviews"
        )
    return fitting[0].of_columns(name, columns, pair)


def _named_after(source: str) -> str:
    """Names a table after its file or folder.

    ``reviews`` of ``reviews.csv``, ``data/reviews`` and ``data/reviews/train.csv.gz``.
    """
    if source in ("auto", "hub", "sample"):
        raise UserError(
            f"the task csv is a table of your own, not {source}: name the file with --data, e.g. reviews.csv"
        )
    path = Path(source).expanduser().resolve()
    names = [path.name.split(".")[0].lower(), *(folder.name.lower() for folder in path.parents)]
    # Names that files and folders of any table have say nothing; the next folder up may say more.
    telling = next((name for name in names if name not in ("train", "data", "all", "")), "")
    name = re.sub(r"[^a-z0-9._-]+", "-", telling).strip("._-")
    if not name:
        raise UserError(f"{source} gives no name that a folder may have: add one, e.g. --task reviews")
    return name


def check_kind(task: Task, kind: Any) -> str:
    """Returns the kind of a run of ``task``: its own if ``None`` is asked for. Raises ``UserError``."""
    if kind is None:
        return task.kind
    if kind not in task.kinds:
        kinds = " or ".join(task.kinds)
        raise UserError(f"kind is {shown(kind)}, and '{task.name}' is a {kinds} task")
    return str(kind)


def check_pair(task: Task, pair: str | None) -> str | None:
    """Returns the language pair to run: the task's default if none is asked for, None without pairs."""
    if not task.pairs:
        if pair is not None:
            raise UserError(f"task '{task.name}' is a {task.kind} task and takes no pair; leave out '{pair}'")
        return None
    if pair is None:
        return task.default_pair
    if pair not in task.pairs:
        meant = [known for known in task.pairs if _spoken(known) == _spoken(pair)]
        raise unknown(f"{task.name} pair", pair, task.pairs, meant)
    return pair


def _spoken(pair: str) -> list[str]:
    """Returns the languages of a pair, however it is written: ``DE-en``, ``deu-eng``, ``de_DE-en_XX``."""
    try:
        return [language_of(code) for code in languages(pair)]
    except UserError:  # no pair at all
        return []


def _discover() -> dict[str, Task]:
    """Collects every task declared in this package, by its name."""
    tasks: dict[str, Task] = {}
    for entry in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        for task in vars(importlib.import_module(f"{__name__}.{entry.name}")).values():
            if isinstance(task, Task) and tasks.setdefault(task.name, task) is not task:
                raise UserError(f"two files in tasks/ declare a task named '{task.name}'; rename one")
    return tasks


OLD_NAME = "tasks"
"""What this package was called, and what other people's packages are called too."""


def _import_by_the_old_name(path: Path) -> Callable[..., Any]:
    """Makes an ``__import__`` for the file ``path``, by which ``tasks`` means this package where it is free.

    What Python imports by that name comes first, so that a file which means another package gets that.
    """

    def import_(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        names = [each for each in fromlist or () if each != "*"]
        ours = _ours(name, names) if not level and name.partition(".")[0] == OLD_NAME else None
        if ours is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        try:
            spec = importlib.util.find_spec(OLD_NAME)
            here_only = spec is None or Path(spec.origin or "").resolve() == Path(__file__).resolve()
        except ValueError:  # a module without a specification, so somebody else's
            here_only = False
        if not here_only:
            try:
                theirs = builtins.__import__(name, globals, locals, fromlist or (), level)
                if all(hasattr(theirs, each) for each in names):
                    return theirs
            except ModuleNotFoundError as error:
                if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # of their own code
                    raise
        here = sys.modules[__name__]
        home = here if names and all(hasattr(here, each) for each in names) else ours
        wanted = ", ".join(fromlist or ())
        advice = f"from {home.__name__} import {wanted}" if wanted else f"import {ours.__name__}"
        warnings.warn(f"{path} imports {name}: write {advice}", DeprecationWarning, stacklevel=2)
        _note(f"note: {path} says {'from' if wanted else 'import'} {name}: write {advice}")
        return ours if wanted else here  # as Python does: "import tasks.base" is to bind tasks

    return import_


def _ours(name: str, names: Sequence[str]) -> ModuleType | None:
    """Imports the module here that ``name`` is an old name of; None unless it has all of ``names``."""
    new = __name__ + name.removeprefix(OLD_NAME)
    try:
        ours = importlib.import_module(new)
        for each in names:
            if not hasattr(ours, each):
                importlib.import_module(f"{new}.{each}")  # which makes it an attribute
    except ModuleNotFoundError:
        return None
    return ours


@cache
def _note(line: str) -> None:
    """Prints a line once. On standard error: the output of a study's --print is read by programs."""
    print(clean(line), file=sys.stderr, flush=True)


TASKS: dict[str, Task] = _discover()
