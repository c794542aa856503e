"""Predictions of runs -> columns for a page: typed, compressed, and those that runs share stored once.

A column is text that an element of the page holds: base64 of zlib of little-endian numbers, or of JSON. The
page takes it out when it is looked at. A class is stored as its difference from the label, modulo the size of
the type: mostly zeros, so that a run of 60,000 rows takes some 10 KB.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.comparison.rescoring import Scored, predicted
from finetune.comparison.single_rows import sentences
from finetune.errors import UserError
from finetune.records.run import Run
from finetune.system.text import clean, visible

Array = npt.NDArray[Any]
Columns = dict[str, Array | list[str]]
Rows = Sequence[Mapping[str, Any]]
MOST_CLASSES = 2**12  # of which a page can still hold a matrix


@dataclass(frozen=True)
class Column:
    """A column as an element holds it; ``kind`` is ``u1``, ``u2``, ``u4`` or ``f4`` of numpy, or ``json``."""

    key: str  # the id of its element
    kind: str
    text: str


@dataclass(frozen=True)
class View:
    """What is kept of the predictions of runs whose metric has one ``truth``, by the name the page knows.

    ``shared`` gives the columns of a test set, from the rows of any run on it, and ``own`` those of a run.
    Both raise ``UserError`` for rows that they cannot take.
    """

    name: str
    shared: Callable[[Rows], Columns]
    own: Callable[[Run, Rows, bool], Columns]
    input: str | None = (
        None  # the column that the inputs of the rows become in the page; None: there are none
    )
    measured: bool = False  # whether the length of a row is that of its input


@dataclass
class TestSet:
    """The test rows that several runs were scored on."""

    number: int
    view: str
    rows: int
    labels: Sequence[str]
    columns: list[str] = field(default_factory=list)
    note: str = ""  # why the rows themselves are not at hand
    inputs: list[str] = field(default_factory=list)
    worth: Array | None = None  # whether any run is wrong on a row, so that its input is worth keeping


def packed(key: str, values: Array | Sequence[Any] | Mapping[str, Any]) -> Column:
    """Packs numbers in the smallest unsigned type that holds them, floats in four bytes, all else as JSON."""
    if isinstance(values, np.ndarray):
        kind = values.dtype.kind + str(values.dtype.itemsize)
        content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    else:
        kind = "json"
        content = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return Column(key, kind, base64.b64encode(zlib.compress(content, 9)).decode("ascii"))


def unsigned(values: Array) -> Array:
    """The same whole numbers, none below zero, in one, two or four bytes."""
    most = values.max(initial=0)
    size = next(size for size in (np.uint8, np.uint16, np.uint32) if most <= np.iinfo(size).max)
    return values.astype(size)


class Store:
    """Hands out columns: those of runs one by one, of a test set with its first run, and inputs at the end.

    ``inputs`` reads the inputs of a run's test rows, by row id; it raises ``UserError`` where there are none.
    """

    def __init__(self, texts: bool, inputs: Callable[[Run], Mapping[int, str]]) -> None:
        self.sets: dict[str, TestSet] = {}
        self._texts, self._inputs = texts, inputs

    def add(self, number: int, run: Run) -> tuple[TestSet, list[Column], Any]:
        """Reads the predictions of the run that has this ``number`` in the page, and also gives what it
        answered (``RowScorer.outputs``); raises ``UserError``."""
        rows = predicted(run, run.metric)
        view, identity = VIEWS[run.metric.truth], [row["row"] for row in rows]
        try:
            shared, own = view.shared(rows), view.own(run, rows, self._texts)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise UserError(f"the predictions in {run.folder} are none of {run.title}: {error}") from error
        if identity != list(range(len(rows))):
            shared["row"] = unsigned(np.array(identity))
        labels = run.record["task"]["labels"] or []
        key = _digest([run.title, view.name, len(rows), labels], shared)
        columns = []
        if key not in self.sets:
            found = TestSet(len(self.sets), view.name, len(rows), [visible(str(label)) for label in labels])
            self.sets[key] = found
            self._join(found, view, run, identity, shared)
            if not self._texts:
                shared.pop("reference", None)
            found.columns.extend(shared)
            columns = [packed(f"set-{found.number}-{name}", values) for name, values in shared.items()]
        columns += [packed(f"run-{number}-{name}", values) for name, values in own.items()]
        found, outputs = self.sets[key], run.metric.row_scorer().outputs
        if found.inputs:
            wrong = np.array([row["prediction"] != row[run.metric.truth] for row in rows])
            found.worth = wrong if found.worth is None else found.worth | wrong
        return found, columns, outputs(rows) if outputs else None

    def _join(self, found: TestSet, view: View, run: Run, identity: Sequence[int], shared: Columns) -> None:
        """Joins the inputs of the rows to a new set: their lengths and, to be kept, themselves."""
        if view.input is None:
            return
        try:
            texts = self._inputs(run)
            inputs = [visible(texts[row]) for row in identity]
        except UserError as error:
            found.note = clean(error)
            return
        except KeyError as error:
            found.note = f"the test rows of {run.title} have no row {error}"
            return
        if view.measured:
            shared["length"] = unsigned(np.array([len(text.split()) for text in inputs]))
        if self._texts:
            found.inputs = inputs

    def finish(self) -> list[Column]:
        """The inputs of rows that a run is wrong on, an empty text for each other one."""
        columns = []
        for found in self.sets.values():
            view = next(view for view in VIEWS.values() if view.name == found.view)
            if found.inputs and found.worth is not None and view.input:
                kept = [text if worth else "" for text, worth in zip(found.inputs, found.worth, strict=True)]
                columns.append(packed(f"set-{found.number}-{view.input}", kept))
                found.columns.append(view.input)
        return columns


def _digest(facts: Sequence[Any], columns: Columns) -> str:
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, values in sorted(columns.items()):
        content = values.tobytes() if isinstance(values, np.ndarray) else json.dumps(values).encode()
        digest.update(name.encode() + content)
    return digest.hexdigest()


def _whole(rows: Rows, name: str, most: int) -> Array:
    """A column of whole numbers from 0 up to ``most``."""
    values = [row[name] for row in rows]
    if not all(type(value) is int and 0 <= value < most for value in values):
        raise ValueError(f"a {name} is no number from 0 to {most - 1}")
    return np.array(values, dtype=np.int64)


def _labels(rows: Rows) -> Columns:
    return {"label": unsigned(_whole(rows, "label", MOST_CLASSES))}


def _classes(run: Run, rows: Rows, texts: bool) -> Columns:
    label, prediction = (_whole(rows, name, MOST_CLASSES) for name in ("label", "prediction"))
    kind = np.uint8 if max(label.max(), prediction.max()) < 256 else np.uint16
    return {"prediction": (prediction - label).astype(kind)}  # modulo its size


def _texts(rows: Rows, name: str) -> list[str]:
    texts = [row[name] for row in rows]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a {name} is no text")
    return texts


def _references(rows: Rows) -> Columns:
    texts = _texts(rows, "reference")
    lengths = unsigned(np.array([len(text.split()) for text in texts]))
    return {"length": lengths, "reference": [visible(text) for text in texts]}


def _sentences(run: Run, rows: Rows, texts: bool) -> Columns:
    found, references = _texts(rows, "prediction"), _texts(rows, "reference")
    digests = [hashlib.blake2b(text.encode(), digest_size=4).digest() for text in found]
    scored = Scored([], run.metric.row_scorer().score(rows, run.signature or ""), found)
    columns: Columns = {"same": np.frombuffer(b"".join(digests), dtype="<u4")}  # equal where the texts are
    for name, scores in sentences(scored, references).items():
        columns[name] = np.round(100 * np.array(scores)).astype(np.uint16)  # bleu and chrf, in hundredths
    return columns | ({"text": [visible(text) for text in found]} if texts else {})


def _documents(rows: Rows) -> Columns:
    names = [visible(str(row["document"])) for row in rows]
    return {"length": unsigned(_whole(rows, "tokens", 2**32)), "document": names}


def _nats(run: Run, rows: Rows, texts: bool) -> Columns:
    nats = np.array([row["nats"] for row in rows], dtype=np.float32)
    if not np.isfinite(nats).all():
        raise ValueError("a sum of nats is no number")
    return {"nats": nats}


VIEWS: Mapping[str, View] = {
    "label": View("classes", _labels, _classes, input="text", measured=True),
    "reference": View("sentences", _references, _sentences, input="source"),
    "document": View("documents", _documents, _nats),
}
"""By the column of predictions.jsonl that holds the right answer, which a metric declares."""


def lines(columns: Sequence[Column]) -> Iterator[str]:
    """The elements that hold columns; all in them is of our own making, letters of base64 and names."""
    for each in columns:
        yield f'<script type="text/plain" id="{each.key}" data-kind="{each.kind}">{each.text}</script>\n'
