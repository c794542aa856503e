"""``report.json``: a comparison as it is, which can be read again where the predictions are gone."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12

from finetune.comparison.aggregate import completed
from finetune.comparison.caveats import NoteKind
from finetune.comparison.claims import weigh
from finetune.comparison.compare import KEPT_AS, Comparison, judged
from finetune.errors import UserError
from finetune.metrics import registry
from finetune.records.schema import Number, Split
from finetune.report.answer import answer
from finetune.system.parsing import UnreadableError, fitted, read_json
from finetune.system.text import plain

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
    margin: NotRequired[Number | None]
    improvement: NotRequired[Number | None]
    error_reduction: NotRequired[Number | None]


class _Share(TypedDict):
    interval: Interval


class _Churn(TypedDict):
    swap: _Share
    reseed: _Share | None
    difference_interval: Interval | None


class _Variant(TypedDict):
    difference: _Difference | None
    at_lengths: NotRequired[dict[str, _Difference]]  # kept reports of earlier days lack this and the next
    churn: NotRequired[_Churn | None]
    attention: _Attention | None
    start: _Start | None


def _primary(name: str) -> str:
    """Checks that ``name`` is a metric that comparisons test."""
    if registry.get(name).primary_of is None:
        raise ValueError(f"no comparison tests the metric '{name}'")
    return name


def _of_interactions(name: str) -> str:
    """Checks that ``name`` is a metric that interactions are tested in; earlier ones are in the primary."""
    scales = {metric.interaction_scale for metric in registry.METRICS.values()}
    return name if name in scales else _primary(name)


class _Table(TypedDict):
    metric: Annotated[str, AfterValidator(_primary)]
    margin: NotRequired[Number | None]
    data: _Data | None
    arms: Annotated[list[_Variant], Field(min_length=1)]


class _Overall(TypedDict):
    interval: Interval
    difference_interval: Interval
    improvement: NotRequired[Number | None]
    improvement_interval: NotRequired[Interval | None]


class _Interaction(TypedDict):
    metric: Annotated[str, AfterValidator(_of_interactions)]
    difference: _Difference


class _Nested(TypedDict):
    tables: list[_Table]
    overall: list[_Overall]
    interactions: NotRequired[list[_Interaction]]  # kept reports of earlier days lack it


# How reports that were written before notes had kinds put them: a pattern that only one kind fits.
_EARLIER = {
    r": no comparison over rows: ": NoteKind.NO_ROWS,
    r" is left out: a newer run of this ": NoteKind.LEFT_OUT,
    r" did not learn in \d+ of \d+ runs ": NoteKind.UNLEARNED,
    r"^training time and memory are not like for like: ": NoteKind.KERNELS,
    r": its runs differ in attention kernel$": NoteKind.MIXED_KERNELS,
    r"^precision inside attention is not like for like: ": NoteKind.PRECISION,
    r"^what was computed \(": NoteKind.UNRECORDED,
    r"^the runs differ in hardware: ": NoteKind.HARDWARE,
    r"^the runs differ in package versions: ": NoteKind.VERSIONS,
    r"^the runs differ in the project's commit: ": NoteKind.COMMIT,
}
_NESTED = TypeAdapter(_Nested)
_COMPARISON = TypeAdapter(Comparison)


def as_json(comparison: Comparison) -> str:
    """Writes the whole file: every number of every other form, and the answer in words."""
    content = comparison.to_json() | {"answer": plain("\n".join(answer(comparison)))}
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
        comparison: Comparison = fitted(_COMPARISON, _fields(known))
    except UnreadableError as error:
        raise UserError(f"the report {file} is {error}: {again}") from error
    return with_new_texts(comparison)


def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the content of a ``report.json``, of this version or an earlier one, as ``Comparison`` has it.

    Nothing is checked here: what has another shape stays as it is, for the check of ``Comparison`` to name.
    """
    names = {kept: name for name, kept in KEPT_AS.items()}
    fields = dict(content)
    for part in ("tables", "overall", "interactions"):
        if isinstance(content.get(part), list):
            fields[part] = [
                {names.get(key, key): value for key, value in line.items()}
                if isinstance(line, Mapping)
                else line
                for line in content[part]
            ]
    for table in fields.get("tables") or []:
        if not isinstance(table, dict):
            continue
        texts, kinds = table.get("notes"), table.pop("note_kinds", None)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            continue
        if kinds is None:  # reports were kept before they gave kinds
            kinds = [earlier_kind(text) for text in texts]
        if isinstance(kinds, list) and len(kinds) == len(texts):
            table["notes"] = [{"kind": kind, "text": text} for kind, text in zip(kinds, texts, strict=True)]
    return fields


def earlier_kind(text: str) -> NoteKind:
    """Finds the kind of a note in a report that does not give it, by its words."""
    return next((kind for pattern, kind in _EARLIER.items() if re.search(pattern, text)), NoteKind.OTHER)


def with_new_texts(comparison: Comparison) -> Comparison:
    """Writes the sentences of a comparison that was read from a file anew, and what an earlier one lacks.

    Numbers stay, and so does what is better or worse; other verdicts follow from the margins.
    """
    interactions = [
        replace(each, difference=weigh(each.difference, registry.get(each.metric), each.difference.margin))
        for each in comparison.interactions
    ]
    over_tasks = completed(comparison.overall, comparison.tables)
    return judged(replace(comparison, overall=over_tasks, interactions=interactions))
