"""YAML files and command-line values -> nested mappings, laid over each other."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import UserError, shown, unknown
from finetune.system.parsing import YAML_BYTES, UnreadableError, read_text, yaml_value

TEXTS = frozenset({"data.prefix"})
"""Keys whose values on the command line are taken to the letter, unless null or in quotation marks."""


def parse_value(text: str, key: str = "") -> Any:
    """Parses the value that a word of the command line gives ``key``, by the rules of the YAML files.

    >>> [parse_value(text) for text in ("3e-5", "true", "null", "linear", "no")]
    [3e-05, True, None, 'linear', 'no']
    """
    if key in TEXTS and text != "null" and text[:1] not in ('"', "'"):
        return text
    try:
        return yaml_value(text)
    except UnreadableError as error:
        raise UserError(f"cannot read the value {shown(text)}: it is {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads the mapping in a YAML file; raises ``UserError`` where it is missing, malformed or too large."""
    try:
        content = yaml_value(read_text(path, YAML_BYTES))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnreadableError as error:
        raise UserError(f"{path} is {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, not {type(content).__name__}")
    return content


@cache
def _reads_as_itself(text: str) -> bool:
    try:
        return bool(yaml_value(text) == text)
    except UnreadableError:
        return False


class _Writer(yaml.SafeDumper):
    """Writes every text so that ``read_yaml`` takes it for a text: PyYAML would leave 3e-5 without quotes."""

    def text(self, text: str) -> yaml.Node:
        style = None if _reads_as_itself(text) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _Writer.text)


def yaml_text(values: Mapping[str, Any]) -> str:
    """Writes ``values`` as YAML that ``read_yaml`` reads back.

    >>> print(yaml_text({"rate": 3e-05, "revision": "3e-5"}), end="")
    rate: 3.0e-05
    revision: "3e-5"
    """
    return yaml.dump(dict(values), Dumper=_Writer, sort_keys=False, allow_unicode=True)


def shipped() -> Traversable:
    """The folder ``configs/``, wherever it is installed."""
    return resources.files("finetune.configs")


def preset_kinds() -> list[str]:
    """Lists the kinds of task that presets are shipped for."""
    files = [entry.name for entry in shipped().iterdir() if entry.name.endswith(".yaml")]
    return sorted({file.partition("-")[0] for file in files})


def preset_names(kind: str) -> list[str]:
    """Lists the presets shipped for a kind of task: ``configs/<kind>-<preset>.yaml``."""
    prefix = f"{kind}-"
    files = [entry.name for entry in shipped().iterdir()]
    return sorted(f[len(prefix) : -5] for f in files if f.startswith(prefix) and f.endswith(".yaml"))


def read_preset(kind: str, preset: str) -> dict[str, Any]:
    """Reads a shipped preset. Its ``seeds`` and ``variants`` are the grid that it runs by default."""
    if preset not in preset_names(kind):
        raise unknown("preset", preset, preset_names(kind))
    with resources.as_file(shipped() / f"{kind}-{preset}.yaml") as path:
        return read_yaml(path)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lays ``over`` on ``base``, mapping by mapping; changes neither."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nest(key: str, value: Any) -> dict[str, Any]:
    """Nests a value below a dotted name, as ``merge`` takes it.

    >>> nest("model.lora.rank", 8)
    {'model': {'lora': {'rank': 8}}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
