"""``report.json``: a comparison as it is, which can be read again where the predictions are gone."""

import json
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12

from finetune.comparison.compare import Comparison, fields_of, with_new_texts
from finetune.errors import UserError
from finetune.metrics import registry
from finetune.records.schema import Number, Split
from finetune.report.answer import answer
from finetune.system.parsing import UnreadableError, fitted, read_json

FILE = "report.json"
Interval = tuple[Number, Number]


# What the forms read of the nested mappings, beside what ``Comparison`` itself says; more keys are welcome.
class _Data(TypedDict):
    kind: str
    location: str | None
    revision: str | None
    splits: dict[str, Split]


class _Attention(TypedDict):
    variant: str
    kernel: str
    layers: dict[str, int]
    total: int
    parameters: dict[str, Number]


class _Start(TypedDict):
    kind: str
    cosine_cold: NotRequired[Number | None]
    cosine: NotRequired[Number | None]


class _Difference(TypedDict):
    interval: Interval | None
    interval_rows: Interval | None
    interval_seeds: Interval | None


class _Variant(TypedDict):
    difference: _Difference | None
    attention: _Attention | None
    start: _Start | None


def _primary(name: str) -> str:
    if registry.get(name).primary_of is None:
        raise ValueError(f"no comparison tests the metric '{name}'")
    return name


class _Table(TypedDict):
    metric: Annotated[str, AfterValidator(_primary)]
    data: _Data | None
    arms: Annotated[list[_Variant], Field(min_length=1)]


class _Overall(TypedDict):
    interval: Interval
    difference_interval: Interval


class _Nested(TypedDict):
    tables: list[_Table]
    overall: list[_Overall]


_NESTED = TypeAdapter(_Nested)
_COMPARISON = TypeAdapter(Comparison)


def as_json(comparison: Comparison) -> str:
    """The whole file: every number of every other form, and the answer in words."""
    content = comparison.to_json() | {"answer": answer(comparison)}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> Comparison:
    """Reads ``path``, a ``report.json`` or its folder; raises ``UserError`` naming what is wrong."""
    file = path / FILE if path.is_dir() else path
    again = "make it again from the runs by: finetune compare FOLDER"
    content = read_json(file, "the report", again)
    head = Comparison([], []).to_json()
    known = content if isinstance(content, dict) else {}
    if any(known.get(key) != head[key] for key in ("schema", "version")):
        wanted = f"schema '{head['schema']}', version {head['version']}"
        raise UserError(f"{file} is no report of this version ({wanted}): {again}")
    try:
        fitted(_NESTED, known)
        found: Comparison = fitted(_COMPARISON, fields_of(known))
    except UnreadableError as error:
        raise UserError(f"the report {file} is {error}: {again}") from error
    return with_new_texts(found)
