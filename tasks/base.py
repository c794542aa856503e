"""The types of task: frozen declarations of columns, of labels or languages, and of where the rows come from.

A task holds no code of its own. What is done with the tasks of one kind, from encoding to scoring, is that
kind's objective (``finetune.objectives``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from finetune.errors import UserError
from finetune.system.language_codes import SHORT, language_of

PARQUET_BRANCH = "refs/convert/parquet"
"""The branch on which the Hub keeps a parquet copy of a data set that is published as a script."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# A language with its script, its region or both: en, zh_CN, pt-BR, sr-Latn, es_419, eng_Latn.
_LANGUAGE = r"[A-Za-z]+(?:_[A-Za-z0-9]+)*(?:-(?:[A-Z][a-z]{3}|[A-Z]{2}|\d{3}))*"
_PAIR = re.compile(f"({_LANGUAGE})-({_LANGUAGE})")


@dataclass(frozen=True, kw_only=True)
class Task:
    """The declaration of a task, of whatever type. A type is a subclass with a ``kind`` and its own fields.

    The code that asks a task about ``labels`` or ``pairs`` need not know its type: a type without them has
    none. Defining a type registers its kinds in ``TASK_TYPES``; ``finetune.objectives`` says what is done
    with a task of a kind. A run is of one kind (``RunConfig.kind``), which decides all that is done in it.
    """

    kind: ClassVar[str]  # the objective's module in finetune.objectives, the beginning of its presets' names
    kinds: ClassVar[tuple[str, ...]]  # every objective that such a task can be trained for; ``kind`` is first
    verb: ClassVar[str]  # of the command line
    purpose: ClassVar[str]  # of the verb, for its help
    example: ClassVar[str]  # the name of the task that the verb runs where none is given
    # Keys of data.columns, which make a task of a table without a declaration; a type may have none.
    columns: ClassVar[tuple[str, ...]] = ()
    # Whether such rows may lack a test split, which is held out of train then (data.test_share).
    partial: ClassVar[bool] = False
    # Further options of the verb: name -> the key of the configuration that takes their whole numbers.
    numbers: ClassVar[Mapping[str, str]] = {}

    name: str  # also names the folder of its runs
    title: str
    hub_id: str | None = None  # None: rows come from local files only
    hub_config: str | None = None  # may be a template such as "iwslt2017-{pair}"
    revision: str | None = None  # commit, tag or branch on the Hub; None is its main branch
    licence: str = "unknown"
    source: str = "unknown"  # where the data set was published
    note: str = ""  # what a user should know of the data set on the Hub, or where there is none
    # Made by ``of_columns``: the labels, and the test split if need be, are taken from the rows.
    undeclared: bool = False
    # What a type declares as an argument of its own, by overriding the field; none of them by default.
    label: str | None = field(default=None, init=False)  # column of class numbers or names
    labels: tuple[str, ...] = field(default=(), init=False)  # class names, in the order of their numbers
    pairs: tuple[str, ...] = field(default=(), init=False)  # language pairs; "de-en" reads de and writes en
    default_pair: str | None = field(default=None, init=False)
    column: str | None = field(default=None, init=False)  # that may hold a mapping of the other columns
    document: str | None = field(default=None, init=False)  # column that names the document of a row
    begins: str | None = field(default=None, init=False)  # pattern of a row that begins a document
    between: str = field(default="", init=False)  # text between the rows of one document
    streamed: bool = field(default=False, init=False)  # no more of it is fetched than a run reads

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            if "kinds" not in vars(cls):
                cls.kinds = (cls.kind,)
            if "purpose" not in vars(cls):
                cls.purpose = f"fine-tune on a {cls.kind} task"
            TASK_TYPES.update(dict.fromkeys(cls.kinds, cls))

    def texts(self, pair: str | None) -> Mapping[str, tuple[str, ...]]:
        """Maps each canonical column of texts to the data set's columns that one space joins to it."""
        raise NotImplementedError

    @classmethod
    def of_columns(cls, name: str, columns: Mapping[str, Any], pair: str | None) -> "Task":
        """Declares a task called ``name`` by its columns alone, one for each of ``cls.columns``.

        Raises ``UserError``.
        """
        raise NotImplementedError

    @property
    def shape(self) -> str:
        """The input and the output, in a few words."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise UserError(
                f"a task's name must be lower-case letters, digits, '.', '_' or '-' "
                f"(it names a folder), not {self.name!r}"
            )


TASK_TYPES: dict[str, type[Task]] = {}
"""Kind of task -> its type."""


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """One text in, one of ``labels`` out."""

    kind = "classification"
    verb = "classify"
    example = "agnews"
    columns = ("text", "label")

    text: tuple[str, ...]  # columns; their texts are joined by one space, empty ones left out
    label: str = field()  # column of numbers (an index into ``labels``) or of label names
    labels: tuple[str, ...] = field()  # names, in the order of their numbers

    def texts(self, pair: str | None) -> Mapping[str, tuple[str, ...]]:
        return {"text": self.text}

    @classmethod
    def of_columns(cls, name: str, columns: Mapping[str, Any], pair: str | None) -> "ClassificationTask":
        text = columns["text"]
        return cls(
            name=name,
            title=name,
            text=(text,) if isinstance(text, str) else tuple(text),
            label=columns["label"],
            labels=(),
            undeclared=True,
        )

    @property
    def shape(self) -> str:
        return f"{len(self.labels)} classes from {' + '.join(self.text)}"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strings(self.name, "text", self.text)
        if self.undeclared and not self.labels:  # they are known once the rows are read
            return
        _check_strings(self.name, "labels", self.labels)
        if len(self.labels) < 2:
            raise UserError(f"task '{self.name}' declares {len(self.labels)} label; at least 2 are needed")


@dataclass(frozen=True, kw_only=True)
class TranslationTask(Task):
    """A sentence in one language in, its translation out."""

    kind = "translation"
    verb = "translate"
    example = "iwslt2017"
    columns = ("source", "target")

    pairs: tuple[str, ...] = field()  # "de-en" reads de and writes en
    default_pair: str = field()
    column: str = "translation"  # holds {"de": ..., "en": ...}; columns "de" and "en" side by side do as well
    sides: tuple[str, str] | None = None  # columns that are not called as their languages

    def texts(self, pair: str | None) -> Mapping[str, tuple[str, ...]]:
        source, target = self.sides or languages(pair or self.default_pair)
        return {"source": (source,), "target": (target,)}

    @classmethod
    def of_columns(cls, name: str, columns: Mapping[str, Any], pair: str | None) -> "TranslationTask":
        sides = columns["source"], columns["target"]
        if pair is None:
            if not all(language_of(side) in SHORT.values() for side in sides):
                raise UserError(
                    f"the columns {sides[0]!r} and {sides[1]!r} name no languages: say which they hold, e.g. "
                    "--pair de-en"
                )
            pair = "-".join(sides)
        elif [*map(language_of, reversed(sides))] == [*map(language_of, languages(pair))]:
            raise UserError(f"the pair {pair} is the other way round than the columns {' and '.join(sides)}")
        return cls(name=name, title=name, pairs=(pair,), default_pair=pair, sides=sides, undeclared=True)

    @property
    def shape(self) -> str:
        return f"pairs: {', '.join(self.pairs)}"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strings(self.name, "pairs", self.pairs)
        for pair in self.pairs:
            match = _PAIR.fullmatch(pair)
            if not match or match[1] == match[2]:
                raise UserError(
                    f"task '{self.name}' declares the pair {pair!r}; write it as source-target: de-en"
                )
        if self.default_pair not in self.pairs:
            raise UserError(f"task '{self.name}': default_pair {self.default_pair!r} is not among its pairs")


@dataclass(frozen=True, kw_only=True)
class LanguageTask(Task):
    """Texts to read, of which a model learns to predict every token (causal) or masked ones (masked)."""

    kind = "causal"
    kinds = ("causal", "masked")
    verb = "pretrain"
    purpose = "train a language model from random weights, or go on with one"
    example = "books"
    columns = ("text",)
    partial = True
    numbers: ClassVar[Mapping[str, str]] = {"eval_lengths": "language.eval_lengths"}

    text: tuple[str, ...]  # columns; the texts of several are joined by one space, empty ones left out
    # Column that names documents, where the data has it: rows with the same name are parts of one, in their
    # order. Without it each row is a document of its own, or each text file.
    document: str | None = field(default="document")
    begins: str | None = field(default=None)  # pattern of a row that begins one, where no column names them
    between: str = field(default="\n\n")  # text between the rows of one document
    streamed: bool = field(default=False)  # larger than a disk: no more is fetched than a run reads

    def texts(self, pair: str | None) -> Mapping[str, tuple[str, ...]]:
        return {"text": self.text}

    @classmethod
    def of_columns(cls, name: str, columns: Mapping[str, Any], pair: str | None) -> "LanguageTask":
        text = columns["text"]
        return cls(
            name=name,
            title=name,
            text=(text,) if isinstance(text, str) else tuple(text),
            undeclared=True,
        )

    @property
    def shape(self) -> str:
        return f"every token of {' + '.join(self.text)}"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_strings(self.name, "text", self.text)


def languages(pair: str) -> tuple[str, str]:
    """Splits a pair into source and target.

    >>> languages("de-en"), languages("pt-BR-zh-Hant"), languages("en-zh_CN")
    (('de', 'en'), ('pt-BR', 'zh-Hant'), ('en', 'zh_CN'))
    """
    match = _PAIR.fullmatch(pair)
    if match is None:
        raise UserError(f"the pair {pair!r} is not source-target, as in de-en or en-zh_CN")
    return match[1], match[2]


def _check_strings(task: str, field: str, values: object) -> None:
    """Raises ``UserError`` unless ``values`` are a tuple of distinct strings; ``("text")`` lacks a comma."""
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
