"""Rows of a data set on the Hub that is larger than a disk: fetched as they are read, kept for other runs.

An entry of the cache is a folder, named after the data set, its commit and how much of it is needed. It holds
a parquet file a split, and ``about.json`` with what it is and the checksums.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.cards import SPLIT_NAMES
from finetune.data.readers import BATCH
from finetune.errors import UserError
from finetune.system.cache import cache_folder
from finetune.system.checksum import sha256

FORMAT = 2
"""Version of the entries; to be raised when other rows are taken, or they are written otherwise."""
ABOUT = "about.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """How much of a data set is read: the first rows of each split.

    Train is read until it has ``train_rows`` or ``train_bytes`` of text, whichever comes first.
    """

    train_rows: int | None
    train_bytes: int | None
    validation_rows: int
    test_rows: int | None  # all rows of a split of their own


@dataclass(frozen=True)
class Rows:
    """The rows of each split, in the data set's own columns; ``files`` and ``notes`` as a source has them."""

    tables: dict[str, pa.Table]
    notes: list[str]
    files: list[dict[str, Any]]


def read(
    location: str,
    config: str | None,
    commit: str,
    *,
    need: Need,
    choose: Callable[[list[str]], list[str]],
    texts: Sequence[str],
    document: str | None = None,
    online: bool,
) -> Rows:
    """The rows that are needed, from the cache or the Hub: no shard beyond the last needed one is fetched.

    ``choose`` takes the columns that are there and returns those to read; those of ``texts`` count for
    ``need.train_bytes``. Rows of a split that the data set lacks are the first ones of train, so that a
    larger need of rows to train on moves none into another split; what else there is of their documents, by
    the names in the column ``document``, is in no split.

    Raises ``UserError`` where a split is missing and cannot be held out, or rows are not in the cache and the
    Hub is not ``online``, and the errors of the client.
    """
    about = {"format": FORMAT, "location": location, "config": config, "commit": commit, "texts": [*texts]}
    about |= {"document": document, "need": asdict(need)}
    folder = _root() / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    kept = _kept(folder, about)
    if kept is None and not online:
        raise UserError(
            "the Hub is out of reach, and the cache holds rows of other runs, which asked for more or less"
        )
    if kept is None:
        fetched = _fetch(location, config, commit, need=need, choose=choose, texts=texts, document=document)
        try:
            _keep(folder, about, fetched)
        except OSError as error:
            _log.warning(f"rows of {location} cannot be kept in {folder.parent} ({error.strerror or error})")
            return fetched
        kept = _kept(folder, about) or fetched
    return kept


def kept_commit(location: str, config: str | None, revision: str | None) -> str | None:
    """The commit of the newest entry of a data set, of ``revision`` where that is a commit."""
    entries = sorted(_root().glob(f"*/{ABOUT}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in entries:
        with suppress(OSError, ValueError, KeyError, TypeError):  # half-written, or no entry
            about = json.loads(path.read_text(encoding="utf-8"))["about"]
            same = (about["location"], about["config"]) == (location, config)
            if same and (about["commit"] == revision or len(str(revision)) != len(about["commit"])):
                return str(about["commit"])
    return None


def _root() -> Path:
    return cache_folder() / "streams"


def _kept(folder: Path, about: dict[str, Any]) -> Rows | None:
    """An entry of the cache; ``None`` where there is none, or it is not whole."""
    try:
        written = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if written["about"] != about:
            return None
        files = [entry for entry in written["files"] if entry["sha256"] == sha256(folder / entry["name"])]
        if len(files) < len(written["files"]):
            _log.warning(f"the rows in {folder} are damaged and are fetched anew")
            return None
        tables = {entry["split"]: pq.read_table(folder / entry["name"]) for entry in files}
        return Rows(tables, written["notes"], files)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(folder: Path, about: dict[str, Any], rows: Rows) -> None:
    """Writes an entry, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with TemporaryDirectory(dir=folder.parent, prefix=".writing-") as aside:
        made = Path(aside, "made")
        made.mkdir()
        files = []
        for split, table in rows.tables.items():
            path = made / f"{split}.parquet"
            pq.write_table(table, path, compression="zstd")
            size = path.stat().st_size
            files.append({"split": split, "name": path.name, "bytes": size, "sha256": sha256(path)})
        content = json.dumps({"about": about, "notes": rows.notes, "files": files}, indent=2)
        (made / ABOUT).write_text(content, encoding="utf-8")
        if _kept(folder, about) is None:  # else another process has been quicker
            with suppress(FileNotFoundError):
                folder.rename(Path(aside, "damaged"))
            made.rename(folder)


def _fetch(
    location: str,
    config: str | None,
    commit: str,
    *,
    need: Need,
    choose: Callable[[list[str]], list[str]],
    texts: Sequence[str],
    document: str | None,
) -> Rows:
    """The rows that are needed, from the Hub."""
    import datasets

    found = datasets.load_dataset(location, config, revision=commit, streaming=True)
    streams = {
        split: iter(found[name]) for split, names in SPLIT_NAMES.items() for name in names if name in found
    }
    if "train" not in streams:
        raise UserError(f"it has no train split; it has {', '.join(map(str, found))}")
    held: set[str] = set()  # names of documents; their rows may be anywhere in train
    train = (row for row in streams["train"] if document is None or repr(row.get(document)) not in held)
    rows = Rows({}, [], [])
    for split, count, most in (
        ("test", need.test_rows, None),
        ("validation", need.validation_rows, None),
        ("train", need.train_rows, need.train_bytes),
    ):
        if split not in streams:
            if count is None:
                raise UserError(
                    f"it has no {split} split: say how many rows of train are held out for it, e.g. "
                    f"--data.{split}_rows 1000"
                )
            rows.notes.append(
                f"there is no {split} split: the next {count:,} rows of train are held out for it"
            )
        stream = streams[split] if split in streams and split != "train" else train
        table = rows.tables[split] = _first(stream, count, most, choose, texts)
        if split not in streams and document in table.column_names:
            held |= {repr(name) for name in table[document].to_pylist() if name is not None}
    return rows


def _first(
    stream: Iterator[dict[str, Any]],
    rows: int | None,
    most: int | None,
    choose: Callable[[list[str]], list[str]],
    texts: Sequence[str],
) -> pa.Table:
    """The chosen columns of the next rows of a stream: so many, or until they hold ``most`` bytes of text."""
    first = next(stream, None)
    if first is None:
        raise UserError("it has no more rows than are held out of train, documents whole, or an empty split")
    chosen = choose(list(first))
    tables: list[pa.Table] = []
    kept: list[dict[str, Any]] = []
    size = 0
    for count, row in enumerate(chain([first], stream), 1):
        kept.append({name: row[name] for name in chosen})
        size += sum(len(str(row[name]).encode("utf-8", "surrogatepass")) for name in texts)
        whole = count == rows or (most is not None and size >= most)
        if whole or len(kept) == BATCH:  # a column takes a fraction of what the objects do
            tables.append(pa.Table.from_pylist(kept))
            kept = []
        if whole:
            break
    if kept:
        tables.append(pa.Table.from_pylist(kept))
    return pa.concat_tables(tables, promote_options="permissive")
