"""The files of each split in a folder, and the label names that the folder states. Nothing is guessed.

Files in the folder or in its ``data`` folder, shards, a folder a split, a clone of a Hub data set with the
card that names its files, and what ``save_to_disk`` writes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data import cards
from finetune.data.cards import SPLIT_NAMES, entries, has_rows
from finetune.data.files import FORMATS, PACKINGS, PLAIN, ending, stem
from finetune.errors import UserError
from finetune.system.language_codes import SHORT, language_of

SHARD = re.compile(r"(?P<before>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<after>(-[0-9a-f]{8,64})?)", re.I)
NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>(\D.*)?)")
# Names that are given to a copy of a file: "train (1)", "Copy of train".
COPY = re.compile(
    r"copy of (?P<first>.+)|"
    r"(?P<of>.+?)( ?\(\d+\)|[ _.-](copy|checkpoint|old|new|bak|backup|orig)([ _-]?\d+)?)", re.I
)  # fmt: skip
ALIGNED = re.compile(
    r"(?P<before>.+?)\.(?P<language>[a-z]{2,3}([_-][a-z]+)?)(?P<after>(\.(txt|xml|gz|bz2|xz))*)", re.I
)

# Endings of files that a folder without a readable split may hold -> advice on them.
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
    (".tmx", ".xliff", ".xlf", ".sgm", ".xml", ".po"): (
        'write the pairs of {} into train.jsonl and test.jsonl, one {{"de": "...", "en": "..."}} a line'
    ),
    (".lz4", ".br", ".7z"): "unpack {}",
}


@dataclass(frozen=True)
class Layout:
    """The files of each split in their order.

    ``names``: the label names that the folder states for a file, by the file. ``unread``: files of rows that
    lie beside them and are of no split.
    """

    files: dict[str, list[Path]]
    names: dict[Path, tuple[str, ...] | None]
    unread: list[str]


def find_table(place: Path, label: str | None, *, plain: bool = False) -> Layout:
    """The files of a table without a declaration: one file, or a folder that may lack a test split.

    In a folder the only file of rows needs no name of a split. ``plain`` as in ``find``.
    Raises ``UserError``.
    """
    if place.is_dir():
        return find(place, (), label, whole=False, plain=plain)
    if not has_rows(place) and not (plain and _is_plain(place)):
        advice = _advice(place.parent, "train", [place.name])
        formats = f"{', '.join(FORMATS | PLAIN if plain else FORMATS)}, packed or not"
        raise UserError(
            f"{place} is of no format that is read ({formats})" + (f": {advice}" if advice else "")
        )
    names = tuple(name for names in SPLIT_NAMES.values() for name in names)
    beside = [
        path.name
        for path in entries(place.parent)
        if path != place
        and has_rows(path)
        and {stem(path.name).lower(), stem(place.name).lower()} <= set(names)
    ]
    return Layout({"train": _regular([place])}, {place: None}, beside)


def find(
    folder: Path, configs: Sequence[str], label: str | None, *, whole: bool = True, plain: bool = False
) -> Layout:
    """Assigns the files of ``folder`` to splits.

    ``configs`` are names by which the task's configuration may go in it.

    Raises ``UserError`` where a split is missing, incomplete or there more than once. Unless it is to be
    ``whole`` a folder may lack its test split, or be the one file of its rows. With ``plain`` text files
    count too, each a document, by their names or in the folder of a split; where none has a name of a split,
    all that lie in the folder and below are train.
    """
    card = cards.read_card(folder)
    chosen = cards.configuration(card, configs)
    names = dict.fromkeys(["", "data", *configs, "default", str(chosen.get("data_dir") or "")])
    inside = [Path(name) for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
    places = [folder / name for name in dict.fromkeys(inside) if (folder / name).is_dir()]
    named = cards.data_files(folder, chosen)
    files = {split: _in_order(folder, paths, mixed=True) for split, paths in named.items()}
    if not files:
        files = {split: _of_names(folder, places, names) for split, names in SPLIT_NAMES.items()}
    if plain:
        files = _with_texts(folder, places, files)
    if not whole and not any(files.values()):
        rows = _regular([path for place in places for path in entries(place) if has_rows(path)])
        texts = _texts_below(folder) if plain else []
        if rows and texts:
            raise UserError(
                f"'{folder}' holds rows, {rows[0].name}, and text files, {texts[0].name}: name what is to be "
                f"read train{''.join(rows[0].suffixes)}, or put the text files into a folder train"
            )
        if len(rows) > 1:
            listing = ", ".join(path.relative_to(folder).as_posix() for path in rows[:6])
            raise UserError(
                f"'{folder}' holds several files of rows: {listing}; give one of them with --data, or name "
                "them train and test"
            )
        files = {"train": rows or texts}
    for split in ("train", "test") if whole else ("train",):
        if not files.get(split):
            raise UserError(_missing(folder, split, places, plain=plain))
    split_of: dict[Path, str] = {}
    for split, path in ((split, path) for split, paths in files.items() for path in paths):
        if split_of.setdefault(path, split) != split:
            raise UserError(
                f"by its name {path.relative_to(folder)} in '{folder}' is both {split_of[path]} and {split}: "
                "rename it, or have the card name it once"
            )
    files = {split: paths for split, paths in files.items() if paths}
    used = {path for paths in files.values() for path in paths}
    beside = {
        path
        for place in places
        for path in entries(place)
        if path.is_file() and (has_rows(path) or (plain and _is_plain(path)))
    }
    unread = sorted(path.relative_to(folder).as_posix() for path in beside - used)
    return Layout(files, _stated(folder, used, label, card, chosen.get("config_name")), unread)


def _stated(
    folder: Path, files: set[Path], label: str | None, card: dict[str, object], chosen: str | None
) -> dict[Path, tuple[str, ...] | None]:
    """The label names for each file: those of its own folder before those of the folders above it."""
    of_folder: dict[Path, tuple[str, ...] | None] = {}
    names: dict[Path, tuple[str, ...] | None] = {}
    for path in files:
        above = [place for place in path.parents if place == folder or folder in place.parents]
        for place in above if label is not None else []:
            if place not in of_folder:
                about = card if place == folder else {}
                of_folder[place] = cards.stated_names(place, str(label), about, chosen)
        names[path] = next((of_folder[place] for place in above if of_folder.get(place)), None)
    return names


# Text files


def _is_plain(path: Path) -> bool:
    return ending(path.name, PLAIN) is not None


def _texts_below(folder: Path) -> list[Path]:
    """Text files in a folder and the folders below, without the hidden ones, in the order of their names."""
    inside = entries(folder)
    below = [path for entry in inside if entry.is_dir() for path in _texts_below(entry)]
    return sorted([*_regular([path for path in inside if _is_plain(path)]), *below])


def _with_texts(folder: Path, places: list[Path], files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """``files`` with the text files of each split: train.txt, train-2.txt, or any in a folder train."""
    found = dict(files)
    for split, names in SPLIT_NAMES.items():
        pattern = re.compile(rf"({'|'.join(names)})([-_. (].*|\d+)?", re.I)
        texts: list[Path] = []
        for entry in (entry for place in places for entry in entries(place)):
            if entry.is_dir() and entry.name.lower() in names and not any(map(has_rows, entries(entry))):
                texts += _texts_below(entry)
            elif _is_plain(entry) and pattern.fullmatch(stem(entry.name, PLAIN)):
                texts += _regular([entry])
        if texts and files.get(split):
            raise UserError(
                f"the data folder '{folder}' has one split more than once: "
                f"{files[split][0].relative_to(folder)} and {texts[0].relative_to(folder)}; keep one of them"
            )
        found[split] = files.get(split) or texts
    return found


# By their names


def _of_names(folder: Path, places: list[Path], names: tuple[str, ...]) -> list[Path]:
    """The files of the split that goes by ``names``; a name that begins so comes before one that ends so."""
    any_of = "|".join(names)
    for pattern in (rf"({any_of})([-_. (].*|\d+)?", rf".+[-_.]({any_of})([-_.].*)?"):
        ways = [way for place in places for way in _ways(place, re.compile(pattern, re.I), names)]
        if ways:
            break
    else:
        return []
    if len(ways) > 1:
        first_files = " and ".join(str(way[0].relative_to(folder)) for way in ways)
        raise UserError(
            f"the data folder '{folder}' has one split more than once: {first_files}; keep one of them"
        )
    return ways[0]


def _ways(place: Path, pattern: re.Pattern[str], names: tuple[str, ...]) -> list[list[Path]]:
    """The ways in which a place holds a split: files by their names, or a folder of it."""
    inside = entries(place)
    files = [path for path in inside if has_rows(path) and pattern.fullmatch(stem(path.name))]
    files = _regular(files)
    ways = [_in_order(place, files, mixed=False)] if files else []
    for entry in inside:
        if entry.is_dir() and stem(entry.name).lower() in names:
            if (entry / "state.json").is_file():
                ways.append(_saved(entry))
            elif files_inside := _of_folder(entry):
                ways.append(_in_order(entry, files_inside, mixed=True))
    return ways


def _regular(paths: list[Path]) -> list[Path]:
    """The files among ``paths``; ``UserError`` for what is neither file nor folder."""
    for path in paths:
        if not path.is_file() and not path.is_dir():
            raise UserError(f"{path} is no file: its link leads nowhere, or it is a pipe or a device")
    return [path for path in paths if path.is_file()]


def _of_folder(place: Path) -> list[Path]:
    """The files of a folder that holds one split; ``UserError`` where more of them lie deeper."""
    inside = entries(place)
    for deeper in inside:
        more = (path for path in (deeper.rglob("*") if deeper.is_dir() else ()) if path.is_file())
        if any(has_rows(path) and not path.name.startswith((".", "_")) for path in more):
            raise UserError(
                f"'{place}' holds the folder '{deeper.name}' with files of rows: move them into '{place}' "
                "itself, numbered as one set"
            )
    return _regular([path for path in inside if has_rows(path)])


def _in_order(place: Path, files: list[Path], *, mixed: bool) -> list[Path]:
    """The files of one split, complete and in the order of their numbers.

    ``mixed`` allows names that are no numbers: those of a folder that holds one split and nothing else.
    """
    listing = ", ".join(path.name for path in files[:6]) + (", ..." if len(files) > 6 else "")
    if len({ending(path.name) for path in files}) > 1:
        raise UserError(
            f"'{place}' has one split more than once, in several formats: {listing}; keep one of them"
        )
    stems = [stem(path.name) for path in files]
    shards = [match for match in map(SHARD.fullmatch, stems) if match]
    for name in stems:
        copy = COPY.fullmatch(name)
        of = copy and (copy["first"] or copy["of"])
        if of and of in stems:
            raise UserError(
                f"'{place}' has one split more than once: by its name '{name}' is a copy of '{of}', and they "
                "are no shards of one set; keep one of them"
            )
    # Names of shards give their count, as in 00000-of-00002; plain numbers leave open which is the last.
    numbered = shards or [match for match in map(NUMBERED.fullmatch, stems) if match]
    one_kind = {(match["before"], match["after"] if not shards else match["count"]) for match in numbered}
    series = len(numbered) == len(files) and len(one_kind) == 1
    if not series and (shards or (len(files) > 1 and not mixed)):
        raise UserError(
            f"'{place}' has one split more than once: {listing} are no shards of one set; "
            f"keep what belongs together"
        )
    if not series:
        series_of = {(match["before"], match["number"]) for match in numbered}
        if len(numbered) == len(files) and len(series_of) < len(files):
            raise UserError(f"'{place}' holds two sets of files side by side: {listing}; keep one of them")
        return files
    numbers = [int(match["number"]) for match in numbered]
    count = int(shards[0]["count"]) if shards else None
    _check_complete(place, listing, numbers, count, padded=len(numbered[0]["number"]) >= 4)
    return [path for _, path in sorted(zip(numbers, files, strict=True))]


def _check_complete(
    place: Path, listing: str, numbers: list[int], count: int | None, *, padded: bool
) -> None:
    """Raises ``UserError`` where a number is missing or there twice. ``count`` is that of the names, if any.

    Shards are counted from 0 or from 1; ``padded`` numbers (00003) are those of shards even of a single file.
    """
    first = 1 if min(numbers) == 1 and (max(numbers) == count or (count is None and not padded)) else 0
    if count is None and len(numbers) == 1 and not (padded and 0 < numbers[0] < 1000):
        return  # a number in the name of a single file is no shard's: train-2024.csv
    expected = range(first, first + (count if count is not None else max(numbers) + 1 - first))
    if len(expected) > 100_000:  # a date, say
        raise UserError(f"the shards in '{place}' are numbered too high to be complete: {listing}")
    missing = sorted(set(expected) - set(numbers))
    if missing:
        of = f" of {count}" if count is not None else ""
        raise UserError(f"'{place}' lacks shard {missing[0]}{of}: it holds {listing}")
    twice = [number for number in numbers if numbers.count(number) > 1 or number not in expected]
    if twice:
        raise UserError(f"'{place}' has shard {twice[0]} twice or too many: it holds {listing}")


def _saved(folder: Path) -> list[Path]:
    """The files of a split that ``save_to_disk`` wrote, in the order that it states."""
    state = cards.read_json(folder / "state.json")
    stated = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") for entry in stated or [] if isinstance(entry, dict)]
    files = [folder / name for name in names if isinstance(name, str) and Path(name).name == name]
    lacking = [path.name for path in files if not path.is_file()]
    if lacking or not files or len(files) != len(stated or []):
        raise UserError(f"'{folder}' lacks the file {(lacking or ['that its state.json names'])[0]}")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(
            f"'{folder}' was saved with a selection of rows: flatten_indices() it and save it anew"
        )
    if any(SHARD.fullmatch(path.stem) for path in files):
        _in_order(folder, files, mixed=False)  # complete, whatever the state says
    return files


# Messages where a split is missing


def _missing(folder: Path, split: str, places: Sequence[Path], *, plain: bool = False) -> str:
    """The message for a missing split: the names that are read, what the folder holds, and advice."""
    inside = entries(folder)
    present = ", ".join(path.name for path in inside[:8]) or "nothing"
    message = (
        f"the data folder '{folder}' has no {split} split; it needs {split}.parquet, .csv, .tsv, "
        f".jsonl, .json or .arrow (or .csv.gz and the like, shards like {split}-00000-of-00002.parquet, or "
        f"{split}/*.parquet){f', or {split}.txt or {split}/*.txt' if plain else ''}; it holds {present}"
    )
    inside = [path for path in inside if not plain or not _is_plain(path)]
    advice = _advice(folder, split, [path.name for path in inside])
    for place in [*places, folder / split]:
        if not advice and place != folder and place.is_dir():
            held = [path.relative_to(folder).as_posix() for path in entries(place)]
            message += f"; {place.name} holds {', '.join(held[:5]) or 'nothing'}"
            advice = _advice(folder, split, held)
    return f"{message}: {advice}" if advice else message


def _advice(folder: Path, split: str, names: list[str]) -> str:
    """Advice on files that are not read as they are; empty where there is none."""
    if (folder / "state.json").is_file():
        return "it is one saved data set without splits; save a DatasetDict of train and test"
    if (folder / "snapshots").is_dir():
        return "it is the Hub's cache; give the folder below snapshots"
    if aligned := _aligned(names):
        one, other = aligned
        sides = ", ".join(f'"{match["language"]}": "..."' for match in aligned)
        advice = f"put {one[0]} and {other[0]} side by side into {split}.jsonl, one {{{sides}}} a line"
        paths = [folder / match[0] for match in aligned]
        if all(path.is_file() and path.suffix not in (*PACKINGS, ".xml") for path in paths):
            counts = [len(path.read_bytes().splitlines()) for path in paths]
            if counts[0] != counts[1]:
                advice += (
                    f"; they have {counts[0]} and {counts[1]} lines, so lines of one of them are missing"
                )
        return advice
    for endings, advice in ADVICE.items():
        for name in names:
            if name.lower().endswith(endings):
                return advice.format(name)
    return ""


def _aligned(names: list[str]) -> tuple[re.Match[str], re.Match[str]] | None:
    """Two files that are named alike but for their languages: each line of one is a line of the other."""
    sides: dict[tuple[str, str], re.Match[str]] = {}
    for match in filter(None, map(ALIGNED.fullmatch, names)):
        if language_of(match["language"]) not in SHORT.values() or has_rows(Path(match[0])):
            continue
        other = sides.setdefault((match["before"], match["after"]), match)
        if other is not match:
            return other, match
    return None
