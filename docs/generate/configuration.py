"""The reference of the configuration, from the dataclasses that check it and the presets that fill it."""

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from docs.generate.markdown import code, prose, table
from finetune.config import schema
from finetune.config.identity import flatten
from finetune.config.loading import preset_names, read_preset
from finetune.tasks import TASK_TYPES, Task

HEAD = """# Configuration

A run is one configuration: a preset, the `--config` files laid over it, then the options of the command line.
Every key is an option by its dotted name, `--data.train_rows 4000`, and a key of a study's grid. An unknown
key stops the program. The presets in `configs/` hold every default, each with its unit and source beside it;
the keys under `train` are fields of transformers' `TrainingArguments`, by their own names.

`null` means "none" or "all", as the key says. Beside the keys below a preset has `variants` and `seeds`, the
grid that it runs by default.

"""


def page() -> str:
    parts = [HEAD, "## Keys\n"]
    whole = TypeAdapter(schema.RunConfig).json_schema()
    for prefix, model in _sections(whole, schema.RunConfig.__name__, whole):
        rows = list(_keys(prefix, model, whole))
        about = prose(model.get("description", ""))
        parts.append(f"\n### {prefix or 'The run'}\n\n{about}\n\n{table(['key', 'values', 'meaning'], rows)}")
    for kind, task_type in TASK_TYPES.items():
        names = preset_names(kind)
        presets = [flatten(read_preset(kind, name)) for name in names]
        keys = list(dict.fromkeys(key for preset in presets for key in preset))
        rows = [[code(key), *(_value(preset, key) for preset in presets)] for key in keys]
        parts.append(
            f"\n## Presets of `{_command(task_type, kind)}`\n\n{table(['key', *map(code, names)], rows)}"
        )
    return "".join(parts)


def _command(task_type: type[Task], kind: str) -> str:
    """What runs a kind of task: its verb, with the objective where it is not the verb's first."""
    return f"finetune {task_type.verb}" + (f" --objective {kind}" if kind != task_type.kind else "")


def _sections(model: Mapping[str, Any], name: str, whole: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields dotted prefix and schema of each dataclass, the outermost first."""
    yield "", {**model, "name": name}
    for key, field in model["properties"].items():
        inner = _reference(field)
        if inner is not None:
            for prefix, section in _sections(whole["$defs"][inner], inner, whole):
                yield f"{key}.{prefix}" if prefix else key, section


def _reference(field: Mapping[str, Any]) -> str | None:
    """The dataclass that a field holds, itself or as an alternative to null."""
    for form in (field, *field.get("anyOf", ())):
        if "$ref" in form:
            return str(form["$ref"]).rpartition("/")[2]
    return None


def _keys(prefix: str, model: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[list[str]]:
    meanings = _comments(getattr(schema, model["name"]))
    for key, field in model["properties"].items():
        if _reference(field) is None:
            meaning = field.get("description") or meanings.get(key, "")
            yield [code(f"{prefix}.{key}" if prefix else key), _values(field), prose(meaning)]


def _values(field: Mapping[str, Any]) -> str:
    """What a key takes, in words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_values(form) for form in field["anyOf"]))
    if "enum" in field:
        return ", ".join(code(value) for value in field["enum"])
    kind = field.get("type")
    if kind in ("integer", "number"):
        words = {"integer": "whole number", "number": "number"}[kind]
        bounds = [
            f"{sign} {field[name]:,}"
            for name, sign in (
                ("minimum", "≥"),
                ("exclusiveMinimum", ">"),
                ("maximum", "≤"),
                ("exclusiveMaximum", "<"),
            )
            if name in field
        ]
        return f"{words} {', '.join(bounds)}".strip()
    if kind == "array":
        return "list"
    return {"boolean": "true or false", "string": "text", "object": "mapping", "null": "null"}[str(kind)]


def _comments(model: type) -> dict[str, str]:
    """Maps each field to the comment beside it in the source."""
    lines = inspect.getsource(model).splitlines()
    fields = ast.parse("\n".join(lines)).body[0]
    assert isinstance(fields, ast.ClassDef)
    comments = {}
    for node in fields.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            # A comment is after the field, on its last line or, where the formatter broke it, on one before.
            own = lines[node.lineno - 1 : node.end_lineno]
            beside = [line.partition("  # ")[2] for line in own if "  # " in line]
            comments[node.target.id] = " ".join(beside)
    return comments


def _value(preset: Mapping[str, Any], key: str) -> str:
    if key not in preset:
        return ""
    value = preset[key]
    if isinstance(value, list):
        return code(", ".join(map(str, value))) if value else "none"
    # As YAML has it: null, true, 0. A dictionary of words would take 1 for True.
    return code(value if isinstance(value, str) else json.dumps(value))
