"""Raw splits -> checked, capped, canonical splits.

Everything here depends on the data settings alone, never on the variant or the seed of a run: every run of a
comparison sees the same rows.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from finetune.config.schema import DataConfig, RunConfig
from finetune.data import columns
from finetune.data.sources import Source, read
from finetune.data.streaming import Need
from finetune.data.synthetic import Sample
from finetune.errors import UserError
from finetune.tasks.base import Task


@dataclass(frozen=True)
class Data:
    """Canonical splits and where they came from.

    ``splits``: ``train``, ``validation`` and ``test``, with the columns ``row``, those of ``Task.texts`` and,
    where the task has labels or documents, ``label`` or ``document``. ``row`` is the position in the raw
    split. ``info`` is ready for JSON.
    """

    splits: dict[str, Dataset]
    info: dict[str, Any]
    task: Task  # with the labels that were read, where it declared none

    def given(self, config: RunConfig) -> "Data":
        """What a run is given: a trial of a tuning gets no test rows, so that none can decide a choice."""
        hidden = {"test"} - {config.scored}
        return replace(self, splits={name: rows for name, rows in self.splits.items() if name not in hidden})


def load(
    task: Task,
    pair: str | None,
    source: Source,
    config: DataConfig,
    sample: Sample | None = None,
    *,
    train_bytes: int | None = None,
) -> Data:
    """Reads ``source``, checks every row, holds out validation rows if there are none, and caps the splits.

    ``sample`` makes the rows of a source that is the built-in sample, and is needed for no other. Of a task
    that is ``streamed`` no more is read than the rows that ``config`` caps the splits at, and than
    ``train_bytes`` of text to train on.
    Raises ``UserError`` for missing columns, empty or non-string texts, labels out of range and empty splits.
    """
    tables: dict[str, pa.Table] = {}
    dropped: dict[str, int] = {}
    streamed = task.streamed and source.kind in ("hub", "cache")
    raw = read(source, task, pair, sample, need(task, config, train_bytes) if streamed else None)
    task = raw.task or task
    for name, table in raw.tables.items():
        empty = columns.empty_rows(table)
        if empty.any() and not config.drop_empty:
            raise UserError(
                f"split '{name}' has {int(empty.sum())} rows with an empty text, the first is row "
                f"{int(np.flatnonzero(empty)[0])} (counted from 0); "
                "mend them or leave them out with --data.drop_empty true"
            )
        if empty.all():
            raise UserError(f"split '{name}' has no rows" + (" with a text" if table.num_rows else ""))
        tables[name], dropped[name] = table.filter(pa.array(~empty)), int(empty.sum())
    sizes = {name: table.num_rows for name, table in tables.items()}
    chosen = _choose(tables, config)
    splits = {name: Dataset(tables[origin].take(pa.array(rows))) for name, (origin, rows) in chosen.items()}
    notes = [*raw.notes, *_test_notes(sizes, chosen["test"], config, splits)]
    info = {
        "kind": source.kind,
        "location": source.location,
        "revision": source.revision,
        "sample": source.kind == "sample",
        "why": source.why,
        "splits": {
            name: {"rows": len(split), "of": tables[chosen[name][0]].num_rows, "from": chosen[name][0],
                   "fingerprint": fingerprint(split)}
            for name, split in splits.items()
        },
        "dropped_empty": dropped,
        "label_names": list(task.labels) or None,
        "licence": task.licence,
        "files": raw.files,
        "notes": notes,
    }  # fmt: skip
    return Data(splits, info, task)


def fingerprint(split: Dataset) -> str:
    """Sixteen hexadecimal digits over the contents in order, row numbers included (SHA-256)."""
    digest = hashlib.sha256()
    for batch in split.iter(1000):
        for row in zip(*(batch[name] for name in sorted(batch)), strict=True):
            digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def training_texts(train: Dataset, columns: Sequence[str]) -> Iterator[str]:
    """Every text of ``columns`` of the train split, to train a tokenizer on."""
    for batch in train.iter(1000):
        for name in columns:
            yield from batch[name]


def need(task: Task, config: DataConfig, train_bytes: int | None) -> Need:
    """What is read of a task that is streamed."""
    if config.train_rows is None and train_bytes is None:
        raise UserError(
            f"'{task.name}' is read no further than is needed: say how much that is, with "
            "--language.train_tokens 100000000 or --data.train_rows 100000"
        )
    return Need(config.train_rows, train_bytes, config.validation_rows, config.test_rows)


def _choose(tables: Mapping[str, pa.Table], config: DataConfig) -> dict[str, tuple[str, np.ndarray]]:
    """Split name -> (the raw split it is taken from, row positions in ascending order).

    Test rows, then validation rows come off train before anything is capped, so a larger cap never reaches
    into them.
    """
    if config.validation_rows < 1:
        raise UserError("data.validation_rows must be 1 or more: checkpoints are judged on validation rows")
    size = tables["train"].num_rows
    train = _shuffled(tables["train"], config.split_seed)
    if "test" in tables:
        test_of, test = "test", _shuffled(tables["test"], config.split_seed)
    else:
        if config.test_share is None:
            raise UserError("there is no test split: data.test_share must say which share of the rows is one")
        many = max(1, round(config.test_share * size))
        test_of, (test, train) = "train", _held_out(tables["train"], train, many)
    if "validation" in tables:
        origin = "validation"
        validation = _shuffled(tables["validation"], config.split_seed)[: config.validation_rows]
        left = train
    else:
        origin = "train"
        validation, left = _held_out(tables["train"], train, config.validation_rows)
    if len(left) == 0:
        documents = _documents(tables["train"])[train]
        most = int(np.count_nonzero(documents != documents[-1:]))  # all but those of the last document
        in_parts = "document" in tables["train"].column_names
        more = "no document is split; give more documents" if in_parts else "give more rows"
        raise UserError(
            f"train has {size} rows and data.validation_rows takes {config.validation_rows}"
            + (f" beside {len(test)} test rows" if test_of == "train" else "")
            + "; nothing is left to train on: "
            + (f"set it to {most} at most" if most else more)
            + ", or give validation rows of their own"
        )
    return {
        "train": ("train", np.sort(left[: _cap("train_rows", config.train_rows)])),
        "validation": (origin, np.sort(validation)),
        "test": (test_of, np.sort(test[: _cap("test_rows", config.test_rows)])),
    }


def _test_notes(
    sizes: Mapping[str, int], test: tuple[str, np.ndarray], config: DataConfig, splits: Mapping[str, Dataset]
) -> list[str]:
    """Notes on a test split that was held out of train: its size, and the rows of it that train holds too."""
    origin, rows = test
    if origin == "test":
        return []
    notes = [
        f"there is no test split: {config.test_share:.0%} of the {sizes[origin]:,} rows (--data.test_share), "
        f"drawn by data.split_seed {config.split_seed}, are held out for it, and {len(rows):,} of them used"
    ]
    # A table of one's own may hold a text several times, and the draw puts its copies on both sides.
    column = next(name for name in splits["test"].column_names if name not in ("row", "label", "document"))
    known = set(splits["train"][column])
    seen = sum(text in known for text in splits["test"][column])
    if seen:
        notes.append(f"{seen:,} of the {len(rows):,} test rows have the {column} of a training row")
    return notes


def _cap(name: str, rows: int | None) -> int | None:
    """``rows`` of the setting ``name``, checked; ``None`` caps nothing."""
    if rows is not None and rows < 1:
        raise UserError(f"data.{name} must be 1 or more, or null for all rows, not {rows}")
    return rows


def _documents(table: pa.Table) -> np.ndarray:
    """The number of each row's document, (rows,); of rows that are parts of none, each its own."""
    if "document" not in table.column_names:
        return np.arange(table.num_rows)
    return columns.documents(table["document"])


def _shuffled(table: pa.Table, seed: int) -> np.ndarray:
    """All positions in an order fixed by ``seed``, documents whole and in their own order.

    RandomState is frozen, so it is the same with every numpy.
    """
    documents = _documents(table)
    order = np.random.RandomState(seed).permutation(documents.max(initial=-1) + 1)
    return np.argsort(np.argsort(order)[documents], kind="stable")


def _held_out(table: pa.Table, order: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` positions of ``order``, and those of it that are of other documents."""
    taken, rest = order[:count], order[count:]
    documents = _documents(table)
    return taken, rest[~np.isin(documents[rest], documents[taken])]
