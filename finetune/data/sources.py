"""The sources of a task's rows: a local folder or file, the Hub, its cache, or the built-in sample.

``resolve`` decides and says why; ``read`` reads. The library ``datasets`` serves the Hub alone: between a
local file and its rows stands no cache.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from finetune.data import columns, files, hub, labels, layout, streaming
from finetune.data.cards import SPLIT_NAMES
from finetune.data.readers import Part, parse
from finetune.data.streaming import Need
from finetune.data.synthetic import Sample
from finetune.errors import UserError
from finetune.system.checksum import sha256
from finetune.system.text import clean
from finetune.tasks import TASKS
from finetune.tasks.base import PARQUET_BRANCH, Task, languages

MOST_LISTED = 1000
"""Files of a split that a record lists one by one: more than shards are, fewer than texts may be."""


@dataclass(frozen=True)
class Source:
    """The source of rows. ``revision`` is the commit on the Hub, where there is one."""

    kind: Literal["local", "hub", "cache", "sample"]
    location: str  # a folder, a file, a Hub id, or "built-in"
    revision: str | None = None
    why: str = ""

    def describe(self) -> str:
        """One line: which source, and why this one."""
        what = {
            "local": f"the local {'file' if Path(self.location).is_file() else 'folder'} {self.location}",
            "hub": f"the Hub data set {self.location}",
            "cache": f"the cached copy of the Hub data set {self.location}",
            "sample": "the built-in SAMPLE (synthetic rows: figures mean nothing beyond this machinery)",
        }[self.kind]
        revision = f" at {self.revision}" if self.revision else ""
        return f"data: {what}{revision}" + (f" - {self.why}" if self.why else "")


@dataclass
class Raw:
    """The canonical rows of each split, and the files that they were read from.

    ``files``: ``split``, ``name`` (relative), ``bytes`` and ``sha256`` of each. Of the Hub they are the Arrow
    files that its client made and, with no split, those that it fetched.
    ``notes``: sentences that a user should see, each on one line.
    """

    tables: dict[str, pa.Table]
    files: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    task: Task | None = None  # with the labels that were read, where it declared none


def resolve(task: Task, pair: str | None, wanted: str) -> Source:
    """Turns ``auto``, ``hub``, ``sample`` or a folder into a source.

    ``auto`` takes the first of: a folder ``data/<task>[-<pair>]`` here, the Hub or its cache, the sample. The
    others are strict: ``UserError`` where they cannot be had.
    """
    if task.undeclared:  # a table, which lies where ``wanted`` says and nowhere else
        advice = "name its file or folder with --data, e.g. reviews.csv"
        if wanted in ("auto", "hub", "sample", "local"):
            raise UserError(f"'{task.name}' is a table of your own: {advice}")
        place = Path(wanted).expanduser()
        if not place.exists():
            raise UserError(f"'{task.name}' is not at '{wanted}': {advice}")
        return Source("local", str(place), why="asked for")
    if wanted == "sample":
        return Source("sample", "built-in", why="asked for")
    if wanted == "hub":
        return _from_hub(task, pair)
    if wanted == "auto":
        return _automatic(task, pair)
    folder = Path(wanted).expanduser()
    if folder.is_file():
        raise UserError(f"'{wanted}' is a file; give the folder that holds it beside the other splits")
    if not folder.is_dir():
        raise UserError(f"there is no data folder '{wanted}'; give auto, hub, sample or an existing folder")
    return Source("local", str(folder), why="asked for")


def read(
    source: Source, task: Task, pair: str | None, sample: Sample | None = None, need: Need | None = None
) -> Raw:
    """The rows of ``train``, ``test`` and perhaps ``validation``, in canonical columns.

    ``sample`` makes the rows of the source "sample", and is needed for no other. With ``need`` no more of a
    data set on the Hub is fetched than that.
    Raises ``UserError`` where files are missing or corrupt, rows are faulty, or the Hub fails half-way.
    """
    if source.kind == "local":
        raw = _read_local(Path(source.location), task, pair)
    elif source.kind == "sample":
        assert sample is not None  # whoever takes the sample knows how it is made
        raw = Raw({})
        for split, size in sample.sizes.items():
            part = Part(pa.Table.from_pylist(sample.rows(task, pair, split, size)))
            raw.tables[split] = columns.canonical(part, task, pair, f"split '{split}'")
    elif need is not None:
        raw = _stream_hub(source, task, pair, need)
    else:
        raw = _read_hub(source, task, pair)
    if task.note and source.kind in ("hub", "cache"):
        raw.notes.append(task.note)
    task = raw.task or task
    tables = columns.numbered(raw.tables, task)
    notes = raw.notes
    # Rows may be missing, or numbers be counted from 1: either way such a label cannot be learned.
    absent = labels.absent(tables["train"]["label"], task.labels) if task.labels else []
    if absent:
        notes = [*notes, f"train has no row with the label{'s' * (len(absent) > 1)} {_listing(absent, 5)}"]
    return Raw(tables, raw.files, list(dict.fromkeys(map(clean, notes))), task)


def local_folders(task: Task, pair: str | None) -> list[Path]:
    """The folders that ``auto`` takes: both directions of a pair can be read from one."""
    if pair is None:
        return [Path("data", task.name)]
    backwards = "-".join(reversed(languages(pair)))
    return [Path("data", f"{task.name}-{pair}"), Path("data", f"{task.name}-{backwards}")]


def _automatic(task: Task, pair: str | None) -> Source:
    """The first of: a folder here, the Hub, its cache, the sample; ``why`` names what comes before it."""
    folders = local_folders(task, pair)
    for folder in folders:
        if folder.is_dir():
            return Source("local", str(folder), why="found here; it comes before the Hub")
    missing = f"there is no folder {folders[0]}"
    if task.hub_id is None:
        return Source("sample", "built-in", why=f"{missing}, and this task is not on the Hub")
    commit, reason = hub.probe(task)
    if commit:
        return Source("hub", task.hub_id, commit, why=missing)
    cached = _kept_commit(task, pair)
    if cached:
        return Source("cache", task.hub_id, cached, why=f"{missing}; the Hub is out of reach ({reason})")
    return Source(
        "sample", "built-in", why=f"{missing}; the Hub is out of reach ({reason}) and nothing is cached"
    )


def _kept_commit(task: Task, pair: str | None) -> str | None:
    """The commit of rows that an earlier run has left on this machine."""
    if task.streamed:
        return streaming.kept_commit(str(task.hub_id), hub.config_name(task, pair), task.revision)
    return hub.cached_commit(task, pair)


# Local files


def _read_local(place: Path, task: Task, pair: str | None) -> Raw:
    """The rows of a folder, or of the one file of a table without a declaration."""
    folder = place if place.is_dir() else place.parent
    if task.undeclared:
        plan = layout.find_table(place, task.label, plain=task.document is not None)
    else:
        config = hub.config_name(task, pair)
        names = [name for name in (config, pair) if name]
        plain = task.document is not None
        plan = layout.find(folder, names, task.label, whole=not task.partial, plain=plain)
    raw = Raw({}, notes=_folder_notes(folder, task))
    parts: list[tuple[str, tuple[str, ...] | None, pa.Table]] = []
    known: dict[tuple[str, str], str] = {}
    for split, paths in plan.files.items():
        tables = []
        for path in paths:
            content = files.read(path, path.relative_to(folder).as_posix())
            facts = content.facts
            try:
                part = parse(content, columns.wanted(task, pair))
            except UserError as error:
                form, packing = files.ending(path.name, files.FORMATS | files.PLAIN) or (".arrow", "")
                raise UserError(f"cannot read {path} as {(form + packing)[1:]}: {error}") from error
            part = replace(part, names=part.names or plan.names[path])
            other = known.setdefault((split, facts["sha256"]), facts["name"])
            if other != facts["name"]:
                raise UserError(f"{other} and {facts['name']} of split '{split}' are the same file twice")
            raw.files.append({"split": split, **facts})
            raw.notes += [f"{facts['name']}: {note}" for note in part.notes]
            raw.notes += _order_notes(part, task)
            where = f"split '{split}'" + (f" ({facts['name']})" if len(paths) > 1 else "")
            tables.append(columns.canonical(part, task, pair, where))
            parts.append((facts["name"], part.names, tables[-1]))
        raw.tables[split] = pa.concat_tables(tables)
    if task.undeclared and task.label is not None:
        # The names that the data states, in their order, or the labels that the rows have.
        stated = tuple(dict.fromkeys(name for _, names, _ in parts for name in names or ()))
        column = {file: table["label"].combine_chunks() for file, _, table in parts}
        task = replace(task, labels=stated or labels.of_rows(column, f"column '{task.label}'"))
        raw.task = task
        raw.notes += _label_notes(task, raw.tables)
    _check_orders(parts, task)
    # A score on rows that were trained on is none.
    tested = {entry["sha256"]: entry["name"] for entry in raw.files if entry["split"] == "test"}
    raw.notes += [
        f"{entry['name']} and {tested[entry['sha256']]} are the same file: the test rows are no unseen ones"
        for entry in raw.files
        if entry["split"] != "test" and entry["sha256"] in tested
    ]
    if plan.unread:
        why = "as by its name it is of no split" if place == folder else "as one file was asked for"
        raw.notes.append(f"not read, {why}: {_listing(plan.unread, 6)}")
    raw.files = [entry for split in plan.files for entry in _counted(split, raw.files)]
    return raw


def _counted(split: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of one split, or one for all where they are more than a record should list.

    Its checksum is that of the lines "SHA-256, two spaces, name", as sha256sum writes them.
    """
    mine = [entry for entry in entries if entry["split"] == split]
    if len(mine) <= MOST_LISTED:
        return mine
    lines = "".join(f"{entry['sha256']}  {entry['name']}\n" for entry in mine)
    name = f"{mine[0]['name']} and {len(mine) - 1:,} more files"
    total = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    return [{"split": split, "name": name, "bytes": sum(entry["bytes"] for entry in mine), "sha256": total}]


def _listing(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _folder_notes(folder: Path, task: Task) -> list[str]:
    """A note where the folder has the name of another task's data: many tasks name their columns alike."""
    name = folder.resolve().name.lower()
    named = max(
        (other for other in TASKS if name == other or name.startswith(f"{other}-")), key=len, default=""
    )
    same = named == task.name or (named and task.hub_id and TASKS[named].hub_id == task.hub_id)
    if task.undeclared or not named or same:
        return []
    return [f"by its name the folder {name} holds the data of {named}, and it is read as that of {task.name}"]


def _label_notes(task: Task, tables: Mapping[str, pa.Table]) -> list[str]:
    """The labels that were taken from the rows, and those of them that are too rare."""
    notes = [
        f"the {len(task.labels)} labels of column '{task.label}', in this order: {_listing(task.labels, 20)}"
    ]
    rows = pa.concat_tables([table.select(["label"]) for table in tables.values()])["label"]
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows).to_pylist()}
    single = [label for label in task.labels if counts.get(label) == 1]
    if single:
        which = (
            f"label {single[0]} has one row"
            if len(single) == 1
            else f"labels {_listing(single, 5)} have one row each"
        )
        notes.append(f"the {which}: too few to learn from and to test on")
    return notes


def _check_orders(parts: Sequence[tuple[str, tuple[str, ...] | None, pa.Table]], task: Task) -> None:
    """Raises ``UserError`` where one file states label names in another order, and one numbers without any.

    Nobody could say which order the numbers follow.
    """
    if not task.labels:
        return
    ordered = [(name, names) for name, names, _ in parts if labels.in_another_order(names, task.labels)]
    for name, names, table in parts if ordered else []:
        if names is None and not labels.are_names(table["label"].chunks, task.labels):
            raise UserError(
                f"{ordered[0][0]} states its labels in the order {', '.join(ordered[0][1] or ())}, and "
                f"{name} holds numbers and states no names: write names instead of numbers into {name}, or "
                "state them for all files in dataset_info.json"
            )


def _order_notes(part: Part, task: Task) -> list[str]:
    """A note where the data numbers its labels otherwise than the task."""
    if not task.labels or not labels.in_another_order(part.names, task.labels):
        return []
    return [f"labels are mapped by the names that the data states: {', '.join(part.names or ())}"]


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the progress bars of ``datasets`` for the length of the block: for what takes a moment."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


# The Hub


def _from_hub(task: Task, pair: str | None) -> Source:
    """The Hub, or its cache where the Hub is out of reach; ``UserError`` where neither has the rows."""
    if task.hub_id is None:
        folder = local_folders(task, pair)[0]
        hint = task.note or f"put its files into {folder}"
        raise UserError(f"task '{task.name}' is not on the Hub; {hint} (then DATA=auto finds them)")
    commit, reason = hub.probe(task)
    if commit:
        return Source("hub", task.hub_id, commit, why="asked for")
    cached = _kept_commit(task, pair)
    if cached:
        return Source("cache", task.hub_id, cached, why=f"the Hub is out of reach ({reason})")
    raise UserError(
        f"cannot reach the Hub for {task.hub_id} ({reason}) and it is not in the cache; "
        f"use DATA=sample, or a folder with its files"
    )


def _read_hub(source: Source, task: Task, pair: str | None) -> Raw:
    """The rows on the Hub at the commit that was resolved, or those prepared of it before."""
    try:
        if source.kind == "cache":
            prepared = hub.load_cached(task, pair, str(source.revision))
        else:
            prepared = _load_remote(source, task, pair)
    except Exception as error:  # errors of the client, httpx, fsspec and pyarrow, which have no common parent
        place = "the cache" if source.kind == "cache" else "the Hub"
        raise UserError(f"cannot read {source.location} from {place}: {hub.cause(error)}") from error
    splits = {
        split: prepared[name] for split, names in SPLIT_NAMES.items() for name in names if name in prepared
    }
    for split in ("train",) if task.partial else ("train", "test"):
        if split not in splits:
            raise UserError(
                f"the Hub data set {source.location} has no {split} split; it has {', '.join(prepared)}"
            )
    raw, wanted = Raw({}), columns.wanted(task, pair)
    for split, rows in splits.items():
        try:
            chosen = wanted.choose(list(rows.column_names))
        except UserError as error:
            raise UserError(f"{source.location}, split '{split}': {error}") from error
        names = getattr(rows.features.get(wanted.label), "names", None)  # only a ClassLabel has names
        part = Part(rows.select_columns(chosen).with_format("arrow")[:], tuple(names) if names else None)
        raw.tables[split] = columns.canonical(part, task, pair, f"split '{split}'")
        raw.notes += _order_notes(part, task)
        # The Arrow files that the client made of the Hub's, and that these rows are read from.
        paths = [Path(entry["filename"]) for entry in rows.cache_files]
        raw.files += [
            {"split": split, "name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in paths
        ]
    # The files that the client fetched for all splits together, by their names on the Hub. It hashed them
    # when it made the rows; one that did so for another program may have kept no hashes.
    fetched = next(iter(splits.values())).info.download_checksums or {}
    raw.files += [
        {"split": None, "name": str(name).split("@")[-1].partition("/")[2] or str(name),
         "bytes": facts.get("num_bytes"), "sha256": facts.get("checksum")}
        for name, facts in fetched.items()
    ]  # fmt: skip
    return raw


def _stream_hub(source: Source, task: Task, pair: str | None, need: Need) -> Raw:
    """The rows that are needed of a data set that is larger than a disk."""
    config = hub.config_name(task, pair)
    texts = [name for names in task.texts(pair).values() for name in names]
    choose = columns.wanted(task, pair).choose
    try:
        with quiet():
            kept = streaming.read(
                source.location,
                config,
                str(source.revision),
                need=need,
                choose=choose,
                texts=texts,
                document=task.document,
                online=source.kind == "hub",
            )
    except UserError as error:
        raise UserError(f"{source.location}: {error}") from error
    except Exception as error:  # as in _read_hub
        raise UserError(f"cannot read {source.location} from the Hub: {hub.cause(error)}") from error
    tables = {
        split: columns.canonical(Part(table), task, pair, f"split '{split}'")
        for split, table in kept.tables.items()
    }
    return Raw(tables, kept.files, list(kept.notes))


def _load_remote(source: Source, task: Task, pair: str | None) -> dict[str, Any]:
    """The splits as ``datasets.load_dataset`` makes them, step by step so that it hashes what it fetches."""
    import datasets

    config = hub.config_name(task, pair)
    which = {"data_dir": config or "default"} if task.revision == PARQUET_BRANCH else {"name": config}
    cache = str(hub.cache_dir(task, pair))
    builder = datasets.load_dataset_builder(
        source.location, revision=source.revision, cache_dir=cache, **which
    )
    builder._record_checksums = True
    builder.download_and_prepare()
    prepared = builder.as_dataset()
    for split in prepared.values():
        # When anything goes wrong the client takes any version that is in its cache, with only a log line.
        if any(Path(file["filename"]).parent.name != source.revision for file in split.cache_files):
            raise RuntimeError(
                f"the Hub failed half-way, and the cache holds another version than {source.revision}"
            )
    return dict(prepared)
