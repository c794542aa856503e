"""Which files of a folder are which split, and which label names the folder states. Nothing is guessed.

Files in the folder or in its ``data`` folder, shards, a folder a split, a clone of a Hub data set with the
card that names its files, and what ``save_to_disk`` writes.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import UserError
from finetune.files import ending, stem
from finetune.readers import feature_names

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SHARD = re.compile(r"(?P<before>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<after>(-[0-9a-f]{8,64})?)", re.I)
NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>(\D.*)?)")

# What a folder without a readable split may hold, and what to do about it.
ADVICE = {
    (".xlsx", ".xls", ".ods"): "save {} as CSV",
    (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".7z", ".rar"): "unpack {} in the folder",
    (
        ".pkl",
        ".pickle",
        ".pt",
        ".npz",
        ".npy",
    ): "{} can run code or has no columns: save its rows as parquet or CSV",
    (".txt", ".text"): "{} has no columns: save its rows as CSV with a header",
    (".lz4", ".br", ".7z"): "unpack {}",
}


@dataclass(frozen=True)
class Layout:
    """The files of each split in their order, and label names that the folder states for all of them."""

    files: dict[str, list[Path]]
    names: tuple[str, ...] | None


def find(folder: Path, configs: Sequence[str], label: str | None) -> Layout:
    """Look through ``folder``. ``configs`` are names by which the task's configuration may go in it.

    Raises ``UserError`` where a split is missing, incomplete or there more than once.
    """
    card = _card(folder)
    files = _of_card(folder, card, configs)
    if not files:
        places = [folder, folder / "data", *(folder / name for name in dict.fromkeys([*configs, "default"]))]
        kept = [place for place in places if place.is_dir()]
        files = {split: _of_names(folder, kept, names) for split, names in SPLIT_NAMES.items()}
    for split in ("train", "test"):
        if not files.get(split):
            raise UserError(_missing(folder, split))
    _check_apart(folder, files)
    return Layout({split: paths for split, paths in files.items() if paths}, _stated(folder, card, label))


def _check_apart(folder: Path, files: dict[str, list[Path]]) -> None:
    seen: dict[Path, str] = {}
    for split, paths in files.items():
        for path in paths:
            if seen.setdefault(path, split) != split:
                shown = path.relative_to(folder)
                raise UserError(
                    f"by its name {shown} in '{folder}' is both {seen[path]} and {split}: rename it"
                )


# By their names


def _of_names(folder: Path, places: list[Path], names: tuple[str, ...]) -> list[Path]:
    any_of = "|".join(names)
    for pattern in (rf"({any_of})([-_. (].*|\d+)?", rf".+[-_.]({any_of})([-_.].*)?"):
        ways = [found for place in places for found in _ways(place, re.compile(pattern, re.I), names)]
        if ways:
            break
    else:
        return []
    if len(ways) > 1:
        told = " and ".join(str(way[0].relative_to(folder)) for way in ways)
        raise UserError(f"the data folder '{folder}' has one split more than once: {told}; keep one of them")
    return ways[0]


def _ways(place: Path, pattern: re.Pattern[str], names: tuple[str, ...]) -> list[list[Path]]:
    """Each way in which a place holds a split: files by their names, or a folder of it."""
    entries = _entries(place)
    files = [path for path in entries if path.is_file() and ending(path.name)]
    files = [path for path in files if pattern.fullmatch(stem(path.name))]
    ways = [_in_order(place, files, mixed=False)] if files else []
    for entry in entries:
        if entry.is_dir() and stem(entry.name).lower() in names:
            if (entry / "state.json").is_file():
                ways.append(_saved(entry))
            elif inside := [path for path in _entries(entry) if path.is_file() and ending(path.name)]:
                ways.append(_in_order(entry, inside, mixed=True))
    return ways


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith((".", "_")))
    except OSError as error:
        raise UserError(f"cannot look into the folder {place}: {error.strerror or error}") from error


def _in_order(place: Path, files: list[Path], *, mixed: bool) -> list[Path]:
    """The files of one split, complete and in the order of their numbers.

    ``mixed`` allows names that are no numbers: those of a folder that holds one split and nothing else.
    """
    told = ", ".join(path.name for path in files[:6]) + (", ..." if len(files) > 6 else "")
    if len({ending(path.name) for path in files}) > 1:
        raise UserError(
            f"'{place}' has one split more than once, in several formats: {told}; keep one of them"
        )
    stems = [stem(path.name) for path in files]
    shards = [match for match in map(SHARD.fullmatch, stems) if match]
    numbered = shards or [match for match in map(NUMBERED.fullmatch, stems) if match]
    one_kind = {(match["before"], match["after"] if not shards else match["count"]) for match in numbered}
    series = len(numbered) == len(files) and len(one_kind) == 1
    if not series and (shards or (len(files) > 1 and not mixed)):
        raise UserError(
            f"'{place}' has one split more than once: {told} are no shards of one set; "
            f"keep what belongs together"
        )
    if not series:
        return files
    numbers = [int(match["number"]) for match in numbered]
    count = int(shards[0]["count"]) if shards else None
    _check_complete(place, told, numbers, count, padded=len(numbered[0]["number"]) >= 4)
    return [path for _, path in sorted(zip(numbers, files, strict=True))]


def _check_complete(place: Path, told: str, numbers: list[int], count: int | None, *, padded: bool) -> None:
    first = 1 if min(numbers) == 1 and (max(numbers) == count or (count is None and not padded)) else 0
    if count is None and len(numbers) == 1 and not (padded and 0 < numbers[0] < 1000):
        return  # a number in the name of a single file is no shard's: train-2024.csv
    expected = range(first, first + (count if count is not None else max(numbers) + 1 - first))
    if len(expected) > 100_000:
        raise UserError(f"the shards in '{place}' are numbered too high to be complete: {told}")
    missing = sorted(set(expected) - set(numbers))
    if missing:
        of = f" of {count}" if count is not None else ""
        raise UserError(f"'{place}' lacks shard {missing[0]}{of}: it holds {told}")
    twice = [number for number in numbers if numbers.count(number) > 1 or number not in expected]
    if twice:
        raise UserError(f"'{place}' has shard {twice[0]} twice or too many: it holds {told}")


def _saved(folder: Path) -> list[Path]:
    """The files of a split that ``save_to_disk`` wrote, in the order that it states."""
    state = _json(folder / "state.json")
    entries = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") for entry in entries or [] if isinstance(entry, dict)]
    files = [folder / name for name in names if isinstance(name, str) and Path(name).name == name]
    lacking = [path.name for path in files if not path.is_file()]
    if lacking or not files or len(files) != len(entries or []):
        raise UserError(f"'{folder}' lacks the file {(lacking or ['that its state.json names'])[0]}")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(
            f"'{folder}' was saved with a selection of rows: flatten_indices() it and save it anew"
        )
    return files


# By the card of a Hub data set


def _card(folder: Path) -> dict[str, Any]:
    """The YAML at the head of README.md; nothing where there is none."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
    match = re.match(r"---\n(.*?)\n---", text, re.S)
    try:
        found = yaml.safe_load(match[1]) if match and len(match[1]) < 1_000_000 else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"the head of {path} is no YAML: {' '.join(str(error).split())[:150]}") from error
    return found if isinstance(found, dict) else {}


def _of_card(folder: Path, card: dict[str, Any], configs: Sequence[str]) -> dict[str, list[Path]]:
    """The files that the card's configuration names; empty where it names none, or none that are there."""
    found = card.get("configs")
    stated = {
        str(entry.get("config_name", "default")): entry
        for entry in (found if isinstance(found, list) else [])
        if isinstance(entry, dict) and entry.get("data_files")
    }
    default = [name for name, entry in stated.items() if entry.get("default") is True]
    wanted = [name for name in [*configs, *default, "default"] if name in stated]
    if not stated or not (wanted or len(stated) == 1):
        return {}
    entry = stated[(wanted or list(stated))[0]]
    files: dict[str, list[Path]] = {}
    for split, patterns in _patterns(entry["data_files"]):
        paths = _matching(folder, str(entry.get("data_dir", ".")), patterns)
        for ours, names in SPLIT_NAMES.items():
            if split in names and paths:
                files[ours] = _in_order(folder, paths, mixed=len(patterns) > 1)
    return files if {"train", "test"} <= set(files) else {}


def _patterns(stated: Any) -> Iterable[tuple[str, list[str]]]:
    """``data_files`` in its three forms -> (split, patterns); without a split all is train."""
    if isinstance(stated, dict):
        pairs = list(stated.items())
    elif isinstance(stated, list) and all(isinstance(entry, dict) for entry in stated):
        pairs = [(entry.get("split"), entry.get("path")) for entry in stated]
    else:
        pairs = [("train", stated)]
    for split, paths in pairs:
        patterns = paths if isinstance(paths, list) else [paths]
        yield str(split), [pattern for pattern in patterns if isinstance(pattern, str)]


def _matching(folder: Path, base: str, patterns: list[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        joined = Path(base, pattern)
        if joined.is_absolute() or ".." in joined.parts:
            raise UserError(f"the card {folder / 'README.md'} names files outside its folder: {pattern!r}")
        try:
            matches = sorted(folder.glob(joined.as_posix()))
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"the card {folder / 'README.md'} names files by {pattern!r}: {error}") from error
        inside = [path for match in matches for path in (_entries(match) if match.is_dir() else [match])]
        found |= dict.fromkeys(path for path in inside if path.is_file() and ending(path.name))
    return list(found)


# Label names


def _stated(folder: Path, card: dict[str, Any], label: str | None) -> tuple[str, ...] | None:
    """The label names of dataset_info.json, dataset_infos.json or the card, which must agree."""
    if label is None:
        return None
    stated: dict[tuple[str, ...], str] = {}
    for name in ("dataset_info.json", "dataset_infos.json"):
        found = _json(folder / name) if (folder / name).is_file() else {}
        for entry in [found, *found.values()] if isinstance(found, dict) else []:
            _add(stated, entry, label, name)
    infos = card.get("dataset_info")
    for entry in infos if isinstance(infos, list) else [infos]:
        _add(stated, entry, label, "README.md")
    if len(stated) > 1:
        told = " and ".join(f"{', '.join(names)} ({name})" for names, name in list(stated.items())[:2])
        raise UserError(f"the data folder '{folder}' states the names of '{label}' in several ways: {told}")
    return next(iter(stated), None)


def _add(stated: dict[tuple[str, ...], str], entry: Any, label: str, where: str) -> None:
    names = feature_names(entry.get("features"), label) if isinstance(entry, dict) else None
    if names:
        stated.setdefault(names, where)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"cannot read {path} as JSON: {' '.join(str(error).split())[:150]}") from error


# Where nothing is found


def _missing(folder: Path, split: str) -> str:
    entries = _entries(folder)
    present = ", ".join(path.name for path in entries[:8]) or "nothing"
    told = (
        f"the data folder '{folder}' has no {split} split; it needs {split}.parquet, .csv, .tsv, "
        f".jsonl, .json or .arrow (or .csv.gz and the like, shards like {split}-00000-of-00002.parquet, or "
        f"{split}/*.parquet); it holds {present}"
    )
    advice = _advice(folder, split, [path.name for path in entries])
    return f"{told}: {advice}" if advice else told


def _advice(folder: Path, split: str, names: list[str]) -> str:
    if (folder / "state.json").is_file():
        return "it is one saved data set without splits; save a DatasetDict of train and test"
    if (folder / "snapshots").is_dir():
        return "it is the Hub's cache; give the folder below snapshots"
    beside = [name for name in names if re.fullmatch(rf"{split}\.[a-z]{{2,3}}(_[A-Za-z]+)?", name)]
    for endings, advice in ADVICE.items():
        for name in names:
            if name.lower().endswith(endings):
                return advice.format(name)
    if len(beside) > 1:
        one, other = (Path(name).suffix[1:] for name in beside[:2])
        return (
            f"put {beside[0]} and {beside[1]} side by side into {split}.jsonl, "
            f'one {{"{one}": "...", "{other}": "..."}} a line'
        )
    return ""
