"""Nested values: every place of one, a wrong value there, and their leaves."""

import json
from typing import Any

WRONG: tuple[Any, ...] = (None, "x", 7, -1.5, True, [], [1], {}, {"a": 1}, "\ud800", 10**400, float("nan"))


def every_place(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every key of a nested mapping or list, by its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *every_place(item, (*path, key))]]


def changed(content: Any, place: tuple[Any, ...], *value: object) -> Any:
    """A copy of ``content`` with another value at ``place``, or with none."""
    copy = json.loads(json.dumps(content))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    if value:
        holder[place[-1]] = value[0]
    else:
        del holder[place[-1]]
    return copy


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a nested value by their dotted names, for ``pytest.approx``."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for k, v in items for key, leaf in flat(v, f"{name}.{k}").items()}
    return {name: value}
