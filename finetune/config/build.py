"""Nested mappings -> one frozen, checked ``RunConfig``."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from finetune.config import lineage, names
from finetune.config.loading import merge, nest
from finetune.config.schema import BY_TUNING, EARLIER, RunConfig
from finetune.errors import UserError, shown, unknown

T = TypeVar("T")


def build(values: Mapping[str, Any]) -> RunConfig:
    """Checks ``values`` and freezes them; raises ``UserError`` naming the first key that is wrong.

    What a kind of task asks beyond that, its objective checks (``Objective.check``).
    """
    generation = values.get("generation")
    if isinstance(generation, Mapping) and generation.get("num_beams") == 1:
        # The penalty weighs hypotheses against each other: with a single one it cannot even be saved.
        penalty = generation.get("length_penalty", 1.0)
        if penalty != 1.0:
            raise UserError(
                f"generation.length_penalty {shown(penalty)} has no effect with generation.num_beams 1: "
                "raise the beams, or leave it at 1.0"
            )
    values = merge(EARLIER, values)
    match values:
        case {"data": {"columns": {"text": str(column)}}}:  # one column is a list of one
            values = merge(values, nest("data.columns.text", [column]))
    return _settled(checked(RunConfig, values))


def checked(holder: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Checks ``values`` against a frozen dataclass of pydantic's, and makes one of them.

    ``where`` stands before each key in a message, as "train." would. Raises ``UserError`` for the first key
    that is wrong.
    """
    # pydantic's strict rules for JSON take 1 for 1.0, but neither true for 1 nor "5" for 5.
    text = json.dumps(values, default=str)
    try:
        return TypeAdapter(holder).validate_json(text, strict=True)
    except ValidationError as error:
        raise _as_user_error(error, holder, where) from error


def _settled(config: RunConfig) -> RunConfig:
    """Drops the shares that a configuration has no use for, so that equal runs have equal hashes.

    Raises ``UserError`` where settings contradict each other.
    """
    lineage.check(config)
    attention, data = config.attention, config.data
    if attention.start != "annealed" and attention.annealing_share is not None:
        config = replace(config, attention=replace(attention, annealing_share=None))
    if attention.start == "annealed" and attention.annealing_share is None:
        raise UserError("attention.start annealed needs attention.annealing_share, e.g. 0.3 of the steps")
    if data.columns is None and config.language is None and data.test_share is not None:
        config = replace(config, data=replace(data, test_share=None))
    return config


def _as_user_error(error: ValidationError, holder: Any, where: str) -> UserError:
    """Words pydantic's first complaint as one line, with the nearest key where a key is unknown."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = where + ".".join(location)
    if first["type"] in ("unexpected_keyword_argument", "dataclass_exact_type"):
        parents = location[:-1]
        for part in parents:
            holder = holder.__dataclass_fields__[part].type
            # An optional section: what it is where it is not None.
            holder = next((t for t in getattr(holder, "__args__", ()) if t is not type(None)), holder)
        fields = [name for name in holder.__dataclass_fields__ if parents or name not in BY_TUNING]
        allowed = [where + ".".join([*parents, name]) for name in fields]
        # One that stands in another section: of engines' options there are no sections.
        return unknown("key", key, allowed, [] if where else names.meant(key))
    if first["type"] == "missing":
        return UserError(f"the key '{key}' is missing from the configuration")
    if first["type"] == "value_error":  # of a validator of ours, which names the value itself
        return UserError(f"{key}: {first['ctx']['error']}")
    message = first["msg"].replace("an object", "a mapping of keys to values").replace("valid array", "list")
    if first["type"] == "json_invalid":
        return UserError(f"a value of the configuration is no text of letters: {message}")
    return UserError(f"{key}: {message[0].lower()}{message[1:]}, not {shown(first['input'])}")
