"""Where a task's rows come from: a local folder, the Hub, its cache, or the built-in sample.

``resolve`` decides and says why; ``read`` reads. The only caller of ``datasets.load_dataset``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune import hub
from finetune.errors import UserError
from finetune.sample import SPLIT_SIZES, sample_rows
from tasks.base import PARQUET_BRANCH, ClassificationTask, Task, languages

FORMATS = {".parquet": "from_parquet", ".jsonl": "from_json", ".csv": "from_csv"}
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Source:
    """Where rows come from. ``revision`` is the commit on the Hub, where there is one."""

    kind: Literal["local", "hub", "cache", "sample"]
    location: str  # a folder, a Hub id, or "built-in"
    revision: str | None = None
    why: str = ""

    def describe(self) -> str:
        """One line: which source, and why this one."""
        what = {
            "local": f"the local folder {self.location}",
            "hub": f"the Hub data set {self.location}",
            "cache": f"the cached copy of the Hub data set {self.location}",
            "sample": "the built-in SAMPLE (synthetic rows: figures mean nothing beyond this machinery)",
        }[self.kind]
        revision = f" at {self.revision}" if self.revision else ""
        return f"data: {what}{revision}" + (f" - {self.why}" if self.why else "")


def resolve(task: Task, pair: str | None, wanted: str) -> Source:
    """Turn ``auto``, ``hub``, ``sample`` or a folder into a source.

    ``auto`` takes the first of: a folder ``data/<task>[-<pair>]`` here, the Hub or its cache, the sample. The
    others are strict: ``UserError`` where they cannot be had.
    """
    if wanted == "sample":
        return Source("sample", "built-in", why="asked for")
    if wanted == "hub":
        return _from_hub(task, pair)
    if wanted == "auto":
        return _automatic(task, pair)
    folder = Path(wanted).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no data folder '{wanted}'; give auto, hub, sample or an existing folder")
    return Source("local", str(folder), why="asked for")


def read(source: Source, task: Task, pair: str | None) -> dict[str, Any]:
    """The raw splits by name (``train``, ``test``, perhaps ``validation``), each a ``datasets.Dataset``.

    Raises ``UserError`` where files are missing or corrupt, or the Hub fails half-way.
    """
    if source.kind == "sample":
        return _read_sample(task, pair)
    if source.kind == "local":
        return _read_folder(Path(source.location))
    return _read_hub(source, task, pair)


def local_folders(task: Task, pair: str | None) -> list[Path]:
    """Where ``auto`` looks: both directions of a pair can be read from one folder."""
    if isinstance(task, ClassificationTask) or pair is None:
        return [Path("data", task.name)]
    backwards = "-".join(reversed(languages(pair)))
    return [Path("data", f"{task.name}-{pair}"), Path("data", f"{task.name}-{backwards}")]


def _automatic(task: Task, pair: str | None) -> Source:
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
    cached = hub.cached_commit(task, pair)
    if cached:
        return Source("cache", task.hub_id, cached, why=f"{missing}; the Hub is out of reach ({reason})")
    return Source(
        "sample", "built-in", why=f"{missing}; the Hub is out of reach ({reason}) and nothing is cached"
    )


# Local files


def _read_folder(folder: Path) -> dict[str, Any]:
    found = {split: _split_files(folder, names) for split, names in SPLIT_NAMES.items()}
    for split in ("train", "test"):
        if not found[split]:
            present = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise UserError(
                f"the data folder '{folder}' has no {split} split; it needs {split}.parquet, {split}.csv or "
                f"{split}.jsonl (or shards like {split}-*.parquet or {split}/*.parquet); it holds {present}"
            )
    return {split: _read_files(split, files) for split, files in found.items() if files}


def _split_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """``train.parquet``, ``train-00000-of-00002.parquet`` ... or ``train/*.parquet``, in one format."""
    ways: dict[str, list[Path]] = {}
    for name in names:
        for ending in FORMATS:
            for pattern in (f"{name}{ending}", f"{name}-*{ending}", f"{name}/*{ending}"):
                files = sorted(path for path in folder.glob(pattern) if path.is_file())
                if files:
                    ways[pattern] = files
    if len(ways) > 1:
        raise UserError(
            f"the data folder '{folder}' has one split more than once: {', '.join(ways)}; keep one of them"
        )
    return next(iter(ways.values()), [])


def _read_files(split: str, files: list[Path]) -> Any:
    """One split from files of one format. Every way in which a file can be broken becomes one sentence.

    Not through ``load_dataset``: that one reports each load to a server, and without a network waits for it.
    """
    import datasets
    import pyarrow

    ending, names = files[0].suffix, [str(path) for path in files]
    shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    empty = [path for path in files if path.stat().st_size == 0]
    if empty:
        raise UserError(f"the file {empty[0]} is empty")
    # pandas would read the words NA, null and None as missing; here they are text
    options: dict[str, Any] = {"keep_default_na": False} if ending == ".csv" else {}
    try:
        with quiet():
            return getattr(datasets.Dataset, FORMATS[ending])(names, split=split, **options)
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowException, ValueError, OSError) as error:
        if str(error).endswith("corresponds to no data!"):  # the client's words for columns without rows
            raise UserError(f"split '{split}' has no rows in {shown}") from error
        raise UserError(f"cannot read {shown} as {ending[1:]}: {hub.cause(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of ``datasets`` for the length of the block: for what takes a moment."""
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
    cached = hub.cached_commit(task, pair)
    if cached:
        return Source("cache", task.hub_id, cached, why=f"the Hub is out of reach ({reason})")
    raise UserError(
        f"cannot reach the Hub for {task.hub_id} ({reason}) and it is not in the cache; "
        f"use DATA=sample, or a folder with its files"
    )


def _read_hub(source: Source, task: Task, pair: str | None) -> dict[str, Any]:
    """Read from the Hub at the commit that was resolved, or the prepared rows of that commit."""
    try:
        if source.kind == "cache":
            found = hub.load_cached(task, pair, str(source.revision))
        else:
            found = _load_remote(source, task, pair)
    except Exception as error:  # errors of the client, httpx, fsspec and pyarrow, which have no common parent
        place = "the cache" if source.kind == "cache" else "the Hub"
        raise UserError(f"cannot read {source.location} from {place}: {hub.cause(error)}") from error
    splits = {split: found[name] for split, names in SPLIT_NAMES.items() for name in names if name in found}
    for split in ("train", "test"):
        if split not in splits:
            raise UserError(
                f"the Hub data set {source.location} has no {split} split; it has {', '.join(found)}"
            )
    return splits


def _load_remote(source: Source, task: Task, pair: str | None) -> dict[str, Any]:
    import datasets

    config = hub.config_name(task, pair)
    which = {"data_dir": config or "default"} if task.revision == PARQUET_BRANCH else {"name": config}
    cache = str(hub.cache_dir(task, pair))
    found = datasets.load_dataset(source.location, revision=source.revision, cache_dir=cache, **which)
    for split in found.values():
        # when anything goes wrong the client takes any version that is in its cache, with only a log line
        if any(Path(file["filename"]).parent.name != source.revision for file in split.cache_files):
            raise RuntimeError(
                f"the Hub failed half-way, and the cache holds another version than {source.revision}"
            )
    return dict(found)


# The sample


def _read_sample(task: Task, pair: str | None) -> dict[str, Any]:
    import datasets

    return {
        split: datasets.Dataset.from_list(sample_rows(task, pair, split, size))
        for split, size in SPLIT_SIZES[task.kind].items()
    }
