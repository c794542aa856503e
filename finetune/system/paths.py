"""Absolute paths, stripped from the copy of a record that others read."""

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

ABSOLUTE = re.compile(r"(file://)?[~/]")
PREFIXED = re.compile(r"(pretrained:(?:[^@/~]*@)?)(?=[~/])")  # a model that begins from a run: model.name
# Inside a longer word, such as --metrics=[/disk/a].
INSIDE = re.compile(r"(?<=[\s=,:\[({\"'])(?:file://)?[~/][^\s,\])}\"']*")
NAMES_OF_THINGS = ("labels", "label_names", "per_class")  # a label may look like a path


def without_paths(value: Any) -> Any:
    """Copies a record, or a part of one, with each absolute path cut to its base name; relative paths stay.

    >>> without_paths({"location": "/disk/agnews", "command": "finetune classify --data=~/agnews"})
    {'location': 'agnews', 'command': 'finetune classify --data=agnews'}
    """
    if isinstance(value, Mapping):
        return {
            base_name(key): item
            if key in NAMES_OF_THINGS
            else _of_command(item)
            if key == "command"
            else without_paths(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return base_name(value) if isinstance(value, str) else value


def base_name(text: str) -> str:
    """The last part of an absolute path; any other text unchanged."""
    if prefix := PREFIXED.match(text):
        return prefix[0] + base_name(text[prefix.end() :])
    return (PurePosixPath(text).name or text) if ABSOLUTE.match(text) else text


def _of_command(command: str) -> str:
    """Cuts each word of a shell command by itself: ``--data=/disk/rows`` -> ``--data=rows``."""
    try:
        words = shlex.split(command)
    except ValueError:  # an open quotation mark
        words = command.split()
    return shlex.join(_of_word(word) for word in words)


def _of_word(word: str) -> str:
    option, equals, given = word.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={_of_word(given)}"
    whole = base_name(word)
    return whole if whole != word else INSIDE.sub(lambda match: base_name(match[0]), word)
