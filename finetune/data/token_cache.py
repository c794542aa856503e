"""Token rows, made once and kept on disk for every variant, seed and process that needs the same ones.

An entry of the cache is a folder, named after everything that decides its rows: it is never out of date. It
holds the rows as an Arrow stream, which is mapped into memory, and ``about.json`` with what they were made
from, their checksum, and what they say of themselves (``info.description``).
"""

import copy
import errno
import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from datasets import Dataset

from finetune.config.schema import RunConfig
from finetune.data.collate import longest_first
from finetune.data.dataset import Data
from finetune.data.encoding import Encoding, tokenize
from finetune.system.cache import cache_folder
from finetune.system.checksum import sha256
from finetune.system.environment import versions

FORMAT = 4
"""Version of the entries; to be raised when texts become other rows, or entries are written otherwise."""

ROWS, ABOUT = "rows.arrow", "about.json"
COLUMNS = {"row", "input_ids", "labels"}
"""Columns of every entry; some tokenizers make more."""
LIBRARIES = ("tokenizers", "transformers", "datasets")
# Settings that a tokenizer can be given once it is loaded, and does not save.
UNSAVED = ("truncation_side", "src_lang", "tgt_lang", "split_special_tokens")

_log = logging.getLogger(__name__)
_warned: set[str] = set()
# What the last call returned, by folder: the next run of a grid asks for the same and need not read it again.
_held: dict[Path, Dataset] = {}


def prepare(loaded: Data, tokenizer: Any, encoding: Encoding, config: RunConfig) -> dict[str, Dataset]:
    """The splits of a run as ``tokenize`` makes them, taken from the cache where it has them.

    ``train`` keeps its order; ``validation`` and ``test`` are put longest first if
    ``batches.sort_evaluation`` says so. Where the cache cannot be used, a warning is logged once and the
    rows are tokenized without it.
    """
    tokenizer = copy.deepcopy(tokenizer)  # truncation stays set in it, and the run's own is saved
    if config.batches.cache_tokens:
        tokens = _cached(loaded, tokenizer, encoding, config)
    else:
        tokens = tokenize(loaded.splits, tokenizer, encoding, config)
    if not config.batches.sort_evaluation:
        return tokens
    return {name: rows if name == "train" else longest_first(rows) for name, rows in tokens.items()}


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Sixteen hexadecimal digits over the files that a tokenizer saves and the settings that it does not.

    A hash of the vocabulary would not do: two tokenizers of one can cut, frame or normalize otherwise.
    """
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = file.read_bytes()
            if file.name == "tokenizer.json":  # two settings in it are those of the last call
                content = json.dumps(json.loads(content) | {"truncation": None, "padding": None}).encode()
            digest.update(f"{file.relative_to(folder)} {len(content)}\n".encode() + content)
    settings = [type(tokenizer).__name__, *(str(getattr(tokenizer, name, None)) for name in UNSAVED)]
    digest.update(json.dumps(settings).encode())
    return digest.hexdigest()[:16]


def _cached(loaded: Data, tokenizer: Any, encoding: Encoding, config: RunConfig) -> dict[str, Dataset]:
    """The splits, each from memory, else from the disk, else tokenized and kept on both."""
    try:
        fingerprint = tokenizer_fingerprint(tokenizer)
    except OSError as error:  # it needs a temporary folder
        _warn_once(f"token rows are not kept: {error}")
        return tokenize(loaded.splits, tokenizer, encoding, config)
    installed = versions()
    # Everything but the texts that decides the token rows. The variant and the seed do not.
    shared = {
        "format": FORMAT,
        "kind": encoding.kind,
        "max_length": config.data.max_length,
        "prefix": config.data.prefix,
        "tokenizer": fingerprint,
        "versions": {name: installed[name] for name in LIBRARIES},
    }
    root = cache_folder() / "tokens"
    tokens: dict[str, Dataset] = {}
    held: dict[Path, Dataset] = {}
    for name, split in loaded.splits.items():
        about = {
            **shared,
            **encoding.token_settings(config, name),
            "rows": loaded.info["splits"][name]["fingerprint"],
        }
        folder = root / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        rows = _held.get(folder)
        if rows is None:
            rows = _read(folder, about)
        if rows is None:
            rows = _keep(folder, about, tokenize({name: split}, tokenizer, encoding, config)[name])
        tokens[name] = held[folder] = rows
    _held.clear()
    _held.update(held)
    return tokens


def _read(folder: Path, about: dict[str, Any]) -> Dataset | None:
    """The rows of an entry, mapped into memory; ``None`` where there is none, or it is not whole."""
    if not os.path.exists(folder):  # Path.exists raises in a folder that may not be searched
        return None
    rows = None
    if _is_whole(folder, about):
        # A file that is no Arrow stream of token rows can have the right checksum all the same.
        with suppress(pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
            rows = Dataset.from_file(str(folder / ROWS))
            rows.info.description = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["description"]
    if rows is None or not COLUMNS.issubset(rows.column_names):
        _warn_once(f"the token rows in {folder} are damaged and are made anew")
        return None
    return rows


def _is_whole(folder: Path, about: dict[str, Any]) -> bool:
    """Whether an entry is the one that ``about`` describes, with the rows that were written."""
    try:
        written = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        description = written["description"]
        return bool(written == {**about, "description": description, "sha256": sha256(folder / ROWS)})
    except (OSError, ValueError, KeyError, TypeError):  # a file is missing, cannot be read, is no such JSON
        return False


def _keep(folder: Path, about: dict[str, Any], tokens: Dataset) -> Dataset:
    """``tokens`` as an entry, written whole or not at all; as they are where the disk does not take them."""
    try:
        # Tokens can be read back as the texts that they were: nobody else's business, where nobody has made
        # the folder otherwise.
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryDirectory(dir=folder.parent, prefix=".writing-") as aside:
            made = Path(aside, "made")
            made.mkdir()
            _write(made, about, tokens)
            if not _is_whole(folder, about):  # else another process has been quicker, and may be reading it
                with suppress(FileNotFoundError):
                    folder.rename(Path(aside, "damaged"))
                made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # quicker by a moment
            _warn_once(
                f"token rows cannot be kept in {folder.parent} ({error.strerror or error}); "
                "FINETUNE_CACHE names another folder, --batches.cache_tokens false keeps none"
            )
            return tokens
    kept = _read(folder, about)
    return tokens if kept is None else kept


def _write(folder: Path, about: dict[str, Any], tokens: Dataset) -> None:
    table = tokens.data.table
    with pa.OSFile(str(folder / ROWS), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    facts = {"description": tokens.info.description, "sha256": sha256(folder / ROWS)}
    content = json.dumps({**about, **facts}, indent=2)
    (folder / ABOUT).write_text(content, encoding="utf-8")


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        _log.warning(message)
