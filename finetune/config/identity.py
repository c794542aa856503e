"""What makes two configurations one run: plain values, their hash, and the keys in which they differ."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from finetune.config import tuned
from finetune.config.schema import NEUTRAL, OWN, RunConfig


def as_dict(config: RunConfig) -> dict[str, Any]:
    """Converts a configuration to plain values, ready for JSON and the same for equal ones."""
    values: dict[str, Any] = TypeAdapter(RunConfig).dump_python(config, mode="json")
    # Keys that came later are left out where they say nothing: earlier runs keep their hashes.
    if config.attention.file is None:
        del values["attention"]["file"]
    if config.language is None:
        del values["language"]
    for key in ("until", "tuning"):
        if getattr(config, key) is None:
            del values[key]
    if not config.trial:
        del values["trial"]
    if config.model.position == OWN:
        del values["model"]["position"], values["model"]["position_parameters"]
    if config.model.layers == "torch":
        del values["model"]["layers"]
    data = values["data"]
    if config.data.columns is None:
        del data["columns"]
        if config.data.test_share is None:
            del data["test_share"]
    else:
        data["columns"] = {key: name for key, name in data["columns"].items() if name is not None}
    return values


def but_for_seed(config: RunConfig) -> str:
    """A key that runs have in common which differ in their seed alone, or as trials in what can be tuned."""
    values = as_dict(config) | {"seed": 0}
    if config.trial:
        values = tuned.without(flatten(values), [*tuned.FOLLOWS, tuned.PARAMETERS.rstrip(".")])
    return json.dumps(values)


def config_hash(config: RunConfig) -> str:
    """Twelve hexadecimal digits that name a configuration (SHA-256 of its sorted JSON)."""
    text = json.dumps(as_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings: ``{"train.learning_rate": 3e-5}``, by the names of the command line."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Lists the keys in which two configurations differ, by dotted names, sorted."""
    one, two = flatten(first), flatten(second)
    absent = object()
    return sorted(key for key in one.keys() | two.keys() if one.get(key, absent) != two.get(key, absent))


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Lists the keys, neutral ones apart, in which two configurations differ: with any they are two runs."""
    return [key for key in differing_keys(first, second) if key not in NEUTRAL]
