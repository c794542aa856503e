"""A user's own Python file, ``path/to/mine.py`` or ``path/to/mine.py:NAME``, and what it declares."""

import builtins
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from finetune.errors import UserError, unknown

Declaration = TypeVar("Declaration")


def is_file(text: str) -> bool:
    """Whether a text means a file and not a name."""
    return text.endswith(".py") or ".py:" in text


def split(text: str) -> tuple[Path, str | None]:
    """Splits a text into the file, and the variable in it where one is named.

    >>> split("mine.py:WIDE")
    (PosixPath('mine.py'), 'WIDE')
    """
    path, _, wanted = text.partition(".py:")
    return Path(path if path.endswith(".py") else f"{path}.py"), wanted or None


def declared(
    text: str,
    what: str,
    kind: type[Declaration],
    built_in: Mapping[str, Declaration],
    example: str,
    *,
    import_: Callable[..., Any] = builtins.__import__,
) -> Declaration:
    """Runs a file and returns its one declaration of ``kind``, or the one that ``text`` names.

    ``what`` is the word for it and ``example`` shows one; those that are ``built_in``, which a file may
    import, do not count. ``import_`` is what the file's import statements call. Raises ``UserError`` for a
    file that is missing, fails to run, leaves open which declaration is meant, or takes a built-in name.
    """
    path, wanted = split(text)
    if not path.is_file():
        names = ", ".join(sorted(built_in))
        raise UserError(f"there is no {what} file '{path}'; give a path to a .py file or one of: {names}")
    known = {id(value) for value in built_in.values()}
    names_here = vars(_run(path, import_)).items()
    own = {name: value for name, value in names_here if isinstance(value, kind) and id(value) not in known}
    if wanted is not None and wanted not in own:
        raise unknown(f"{what} variable in {path}", wanted, own)
    if not own:
        raise UserError(f"{path} declares no {what}; it needs one like {example}")
    if wanted is None and len(own) > 1:
        choices = ", ".join(f"{path}:{name}" for name in own)
        raise UserError(f"{path} declares {len(own)} {what}s; choose one: {choices}")
    declaration = own[wanted or next(iter(own))]
    name = getattr(declaration, "name", None)
    if name in built_in:
        raise UserError(f"{path} names its {what} '{name}', which is built in; give it another name")
    return declaration


def _run(path: Path, import_: Callable[..., Any]) -> ModuleType:
    """Runs a file as a module of its own; raises ``UserError`` with whatever it raises."""
    spec = importlib.util.spec_from_file_location(f"user_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    # Names are looked up in a module's own builtins: no import but those of this very file is another one.
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_}
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the user's own code raises is the user's to mend
        raise UserError(f"{path} failed to run: {type(error).__name__}: {error}") from error
    return module
