"""``report.json``: a comparison as it is, which can be read again where the predictions are gone."""

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from finetune.compare import Comparison
from finetune.errors import UserError
from finetune.reports.answer import answer
from finetune.values import JSON_BYTES, UnreadableError, json_value, read_text

FILE = "report.json"


def as_json(comparison: Comparison) -> str:
    """The whole file: every number of every other form, and the answer in words."""
    content = comparison.to_json() | {"answer": answer(comparison)}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> Comparison:
    """The comparison in ``path`` (a ``report.json``, or its folder); ``UserError`` naming what is wrong."""
    file = path / FILE if path.is_dir() else path
    again = "make it again from the runs by: finetune compare FOLDER"
    try:
        content = json_value(read_text(file, JSON_BYTES))
    except OSError as error:
        raise UserError(f"cannot read the report {file}: {error.strerror}") from error
    except UnreadableError as error:
        raise UserError(f"the report {file} is {error}: {again}") from error
    head = Comparison([], []).to_json()
    known = content if isinstance(content, dict) else {}
    if any(known.get(key) != head[key] for key in ("schema", "version")):
        wanted = f"schema '{head['schema']}', version {head['version']}"
        raise UserError(f"{file} is no report of this version ({wanted}): {again}")
    try:
        return TypeAdapter(Comparison).validate_python(known)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(
            f"the report {file} is damaged ({key}: {error.errors()[0]['msg']}): {again}"
        ) from error
