"""The dotted names of a configuration's keys, and those that a last part alone can mean."""

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from finetune.config.identity import flatten
from finetune.config.loading import preset_kinds, preset_names, read_preset
from finetune.config.schema import BY_TUNING, RunConfig


@cache
def known() -> tuple[str, ...]:
    """Every key of the schema that a user gives a value, and every field of ``train`` that a preset sets."""
    presets = [read_preset(kind, name)["train"] for kind in preset_kinds() for name in preset_names(kind)]
    train = {f"train.{key}" for preset in presets for key in flatten(preset)}
    return (*(key for key, _ in _given()), *sorted(train))


def words() -> dict[str, list[str]]:
    """The keys of the schema that take one of a few words, with these: ``{"data.drop_empty": [...]}``."""
    found = {}
    for key, kind in _given():
        if kind is bool:
            found[key] = ["true", "false"]
        elif typing.get_origin(kind) is typing.Literal:
            found[key] = list(typing.get_args(kind))
    return found


def _given() -> Iterator[tuple[str, Any]]:
    """The keys that a user gives, with their types."""
    return ((key, kind) for key, kind in _leaves(RunConfig) if key.partition(".")[0] not in BY_TUNING)


def _leaves(holder: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a dataclass with their types, and those of the dataclasses in it, which may be optional."""
    for field in dataclasses.fields(holder):
        kinds = [
            kind for kind in (field.type, *typing.get_args(field.type)) if dataclasses.is_dataclass(kind)
        ]
        if kinds:
            yield from _leaves(kinds[0], f"{prefix}{field.name}.")
        elif not _maps(field.type):
            yield prefix + field.name, field.type


def _maps(kind: Any) -> bool:
    return isinstance(origin := typing.get_origin(kind), type) and issubclass(origin, Mapping)


def ending(name: str, keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that end with ``name``, a last part or several, with "-" for "_" if need be.

    >>> ending("lora.target-modules", known())
    ['model.lora.target_modules']
    """
    wanted = f".{name.replace('-', '_')}"
    return [key for key in keys if f".{key}".endswith(wanted)]


def meant(key: str, keys: Iterable[str] | None = None) -> list[str]:
    """The keys whose last part is that of ``key``, which stands in another place."""
    return ending(key.rpartition(".")[2], known() if keys is None else keys)
