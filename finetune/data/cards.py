"""Statements of a data set about itself: the files of each split, and the order of its label names.

A clone from the Hub has a card, README.md, whose head names both; dataset_info.json and its like name labels.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from finetune.data.files import ending
from finetune.data.readers import feature_names
from finetune.errors import UserError
from finetune.system.parsing import UnreadableError, yaml_parts
from finetune.system.text import reason

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
CARD = "README.md"
INFOS = ("dataset_info.json", "dataset_infos.json")
ABOUT = (*INFOS, "dataset_dict.json", "state.json")
"""Files that describe a data set, and hold no rows."""

# Settings of a card by which the same file would hold other columns or rows than it does by itself.
SETTINGS = {
    "names", "column_names", "header", "skiprows", "nrows", "usecols", "skipfooter", "comment",
    "quotechar", "escapechar", "field", "features",
}  # fmt: skip


def read_card(folder: Path) -> dict[str, Any]:
    """The entries ``configs`` and ``dataset_info`` in the head of README.md; empty without a head."""
    path = folder / CARD
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
    match = re.match(r"---\n(.*?)\n---", text, re.S)
    try:
        return yaml_parts(match[1], ("configs", "dataset_info")) if match else {}
    except UnreadableError as error:
        raise UserError(f"the head of {path} is {error}; mend it, or remove the file") from error


def configuration(card: dict[str, Any], configs: Sequence[str]) -> dict[str, Any]:
    """The card's configuration of one of these names, the default one, or the only one; empty without it."""
    configs_of_card = card.get("configs")
    stated = {
        str(entry.get("config_name", "default")): entry
        for entry in (configs_of_card if isinstance(configs_of_card, list) else [])
        if isinstance(entry, dict) and (entry.get("data_files") or entry.get("data_dir"))
    }
    default = [name for name, entry in stated.items() if entry.get("default") is True]
    wanted = [name for name in [*configs, *default, "default"] if name in stated]
    if not wanted and len(stated) != 1:
        return {}
    return stated[(wanted or list(stated))[0]]


def data_files(folder: Path, chosen: dict[str, Any]) -> dict[str, list[Path]]:
    """The files of each split that a configuration names; none where it does not name train and test.

    Raises ``UserError`` for a pattern that no file fits: a part of the rows is not there.
    """
    named: dict[str, tuple[str, list[str]]] = {}
    for split, patterns in _patterns(chosen.get("data_files")):
        ours = next((ours for ours, names in SPLIT_NAMES.items() if split in names), None)
        if ours in named:
            raise UserError(f"the card {folder / CARD} names files of the split '{ours}' twice: keep one")
        if ours:
            named[ours] = split, patterns
    if not {"train", "test"} <= set(named):
        return {}
    settings = sorted(SETTINGS & set(chosen))
    if settings:
        raise UserError(
            f"the card {folder / CARD} has its files read with '{settings[0]}', which is not done here: save "
            "them as what they are read as, e.g. CSV with a header, and remove the setting"
        )
    base = str(chosen.get("data_dir") or ".")
    return {ours: _matching(folder, base, *patterns) for ours, patterns in named.items()}


def entries(place: Path) -> list[Path]:
    """The entries of a folder, sorted by name, without the hidden ones."""
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith((".", "_")))
    except OSError as error:
        raise UserError(f"cannot look into the folder {place}: {error.strerror or error}") from error


def has_rows(path: Path) -> bool:
    """Whether a file holds rows in a format that is read, by its name."""
    return ending(path.name) is not None and path.name not in ABOUT


def read_json(path: Path) -> Any:
    """The content of a JSON file beside the rows."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"cannot read {path} as JSON: {reason(error)}") from error


def stated_names(
    folder: Path, label: str, card: dict[str, Any], chosen: str | None = None
) -> tuple[str, ...] | None:
    """The label names of dataset_info.json, dataset_infos.json and the card, which must agree.

    ``chosen``: the configuration that is read; what is stated of others counts for nothing.
    """
    stated: dict[tuple[str, ...], str] = {}
    meant = {chosen, None} if chosen else None

    def add(entry: Any, where: str) -> None:
        names = feature_names(entry.get("features"), label) if isinstance(entry, dict) else None
        if names:
            stated.setdefault(names, where)

    for name in INFOS:
        infos = read_json(folder / name) if (folder / name).is_file() else {}
        # One configuration's facts, or those of several by their names.
        for key, entry in [(None, infos), *infos.items()] if isinstance(infos, dict) else []:
            if meant is None or key in meant:
                add(entry, name)
    of_card = card.get("dataset_info")
    for entry in of_card if isinstance(of_card, list) else [of_card]:
        if meant is None or not isinstance(entry, dict) or entry.get("config_name") in meant:
            add(entry, CARD)
    if len(stated) > 1:
        ways = " and ".join(f"{', '.join(names)} ({name})" for names, name in list(stated.items())[:2])
        raise UserError(f"the data folder '{folder}' states the names of '{label}' in several ways: {ways}")
    return next(iter(stated), None)


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


def _matching(folder: Path, base: str, split: str, patterns: list[str]) -> list[Path]:
    """The files of rows that a card's patterns name, each once."""
    named: dict[Path, None] = {}
    for pattern in patterns:
        joined = Path(base, pattern)
        if joined.is_absolute() or ".." in joined.parts:
            raise UserError(f"the card {folder / CARD} names files outside its folder: {pattern!r}")
        try:
            matches = sorted(folder.glob(joined.as_posix()))
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"the card {folder / CARD} names files by {pattern!r}: {error}") from error
        inside = [path for match in matches for path in (entries(match) if match.is_dir() else [match])]
        files = [path for path in inside if path.is_file() and has_rows(path)]
        if not files:
            raise UserError(
                f"the card {folder / CARD} names {pattern!r} for '{split}', and no such file of rows is "
                "there: fetch it, or mend the card"
            )
        named |= dict.fromkeys(files)
    return list(named)
