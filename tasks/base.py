"""What a task is: a frozen declaration of columns, labels and where the rows come from.

A task holds no code. Reading, checking, tokenising and scoring live in ``finetune``, the same for every task.
"""

import re
from dataclasses import dataclass
from typing import Literal

from finetune.errors import UserError

PARQUET_BRANCH = "refs/convert/parquet"
"""The branch on which the Hub keeps a parquet copy of a data set that is published as a script."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# A language with its script, its region or both: en, zh_CN, pt-BR, sr-Latn, es_419, eng_Latn.
_LANGUAGE = r"[A-Za-z]+(?:_[A-Za-z0-9]+)*(?:-(?:[A-Z][a-z]{3}|[A-Z]{2}|\d{3}))*"
_PAIR = re.compile(f"({_LANGUAGE})-({_LANGUAGE})")


@dataclass(frozen=True)
class ClassificationTask:
    """One text in, one of ``labels`` out."""

    name: str  # also names the folder of its runs
    title: str
    text: tuple[str, ...]  # columns; their texts are joined by one space, empty ones left out
    label: str  # column of numbers (an index into ``labels``) or of label names
    labels: tuple[str, ...]  # names, in the order of their numbers
    hub_id: str | None = None  # None: rows come from local files only
    hub_config: str | None = None
    revision: str | None = None  # commit, tag or branch on the Hub; None is its main branch
    licence: str = "unknown"
    source: str = "unknown"  # where the data set was published
    note: str = ""  # what a user should know where the Hub has no such data set

    @property
    def kind(self) -> Literal["classification"]:
        """Tells the two sorts of task apart."""
        return "classification"

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_strings(self.name, "text", self.text)
        _check_strings(self.name, "labels", self.labels)
        if len(self.labels) < 2:
            raise UserError(f"task '{self.name}' declares {len(self.labels)} label; at least 2 are needed")


@dataclass(frozen=True)
class TranslationTask:
    """A sentence in one language in, its translation out."""

    name: str
    title: str
    pairs: tuple[str, ...]  # "de-en" reads de and writes en
    default_pair: str
    column: str = "translation"  # holds {"de": ..., "en": ...}; columns "de" and "en" side by side do as well
    hub_id: str | None = None
    hub_config: str | None = None  # a template such as "iwslt2017-{pair}"
    revision: str | None = None
    licence: str = "unknown"
    source: str = "unknown"
    note: str = ""

    @property
    def kind(self) -> Literal["translation"]:
        """Tells the two sorts of task apart."""
        return "translation"

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_strings(self.name, "pairs", self.pairs)
        for pair in self.pairs:
            found = _PAIR.fullmatch(pair)
            if not found or found[1] == found[2]:
                raise UserError(
                    f"task '{self.name}' declares the pair {pair!r}; write it as source-target: de-en"
                )
        if self.default_pair not in self.pairs:
            raise UserError(f"task '{self.name}': default_pair {self.default_pair!r} is not among its pairs")


Task = ClassificationTask | TranslationTask


def languages(pair: str) -> tuple[str, str]:
    """Source and target of a pair.

    >>> languages("de-en"), languages("pt-BR-zh-Hant"), languages("en-zh_CN")
    (('de', 'en'), ('pt-BR', 'zh-Hant'), ('en', 'zh_CN'))
    """
    found = _PAIR.fullmatch(pair)
    if found is None:
        raise UserError(f"the pair {pair!r} is not source-target, as in de-en or en-zh_CN")
    return found[1], found[2]


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"a task's name must be lower-case letters, digits, '.', '_' or '-' "
            f"(it names a folder), not {name!r}"
        )


def _check_strings(task: str, field: str, values: object) -> None:
    """A tuple of distinct strings; ``("text")`` without its comma is the usual slip."""
    if (
        not isinstance(values, tuple)
        or not values
        or not all(isinstance(value, str) and value for value in values)
    ):
        raise UserError(
            f"task '{task}': {field} must be a tuple of strings such as ('one', 'two') or ('one',), "
            f"not {values!r}"
        )
    if len(set(values)) != len(values):
        raise UserError(f"task '{task}': {field} names one thing twice: {values!r}")
