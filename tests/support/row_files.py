"""Rows written as users have them: in every format and packing, and read by the program."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data import sources
from finetune.tasks.base import ClassificationTask, Task, TranslationTask

MAIL = ClassificationTask(
    name="mail", title="Mail", text=("subject", "body"), label="kind", labels=("ham", "spam", "other")
)
STARS = ClassificationTask(
    name="stars", title="Stars", text=("text",), label="stars", labels=("1", "2", "3", "4", "5")
)
TALK = TranslationTask(name="talk", title="Talk", pairs=("de-en", "en-de"), default_pair="de-en")

# Texts that readers have been seen to change: numbers, dates, missing values, quotes, line breaks, umlauts.
TEXTS = [
    "007",
    "2024-01-01",
    "null",
    "NA",
    'she said "no"',
    "one\ntwo",
    "a,b;c\td|e",
    "Grüße ☃",
    "1e5",
    "true",
]

Rows = list[dict[str, Any]]


def rows_of(labels: list[Any], texts: list[str] = TEXTS) -> Rows:
    return [
        {"subject": text, "body": f"body {i}", "kind": labels[i % len(labels)]}
        for i, text in enumerate(texts)
    ]


def delimited(rows: Rows, delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue().encode()


def columnar(
    rows: Rows, write: Callable[[pa.Table, Any], Any], schema: dict[str, Any] | None = None
) -> bytes:
    table = pa.Table.from_pylist(rows)
    for name, kind in (schema or {}).items():
        column = table[name].combine_chunks()
        table = table.set_column(
            table.schema.get_field_index(name),
            name,
            column.dictionary_encode() if kind is dict else column.cast(kind),
        )
    out = io.BytesIO()
    write(table, out)
    return out.getvalue()


def ipc(opened: Callable[..., Any]) -> Callable[[pa.Table, Any], None]:
    def write(table: pa.Table, out: Any) -> None:
        with opened(out, table.schema) as writer:
            writer.write_table(table)

    return write


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "csv": delimited,
    "tsv": lambda rows: delimited(rows, "\t"),
    "jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "ndjson": lambda rows: "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(),
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "parquet": lambda rows: columnar(rows, pq.write_table),
    "arrow": lambda rows: columnar(rows, ipc(pa.ipc.new_stream)),
    "feather": lambda rows: columnar(rows, ipc(pa.ipc.new_file)),
}


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("inside", data)
    return out.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
    ".zip": zipped,
}


def read(folder: Path, task: Task = MAIL, pair: str | None = None) -> sources.Raw:
    return sources.read(sources.resolve(task, pair, str(folder)), task, pair)


def notes_of(raw: sources.Raw) -> list[str]:
    """But for the one that most of these tests give reason to: one content is train and test."""
    return [note for note in raw.notes if "are the same file" not in note]


def put(folder: Path, name: str, content: bytes, test: bytes | None = None) -> Path:
    """``content`` as train and test: ``name`` has {} for the split."""
    for split, data in (("train", content), ("test", content if test is None else test)):
        path = folder / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


ORDER = ["spam", "other", "ham"]
FEATURES = datasets.Features(
    subject=datasets.Value("string"), body=datasets.Value("string"), kind=datasets.ClassLabel(names=ORDER)
)
CARD = b"""---
dataset_info:
  features:
  - name: subject
    dtype: string
  - name: kind
    dtype:
      class_label:
        names:
          '0': spam
          '1': other
          '2': ham
---
# Mail
"""
