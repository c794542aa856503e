"""Token numbers of documents -> windows to train on and to score, the same for every variant and seed.

A document is a text, or several rows that carry its name, in their order. Each row is tokenized alone.

Windows of a decoder (``train``, ``test``): the end-of-text token stands before every document, so that it is
what a document's first token is predicted from. ``labels`` are shifted already: ``labels[i]`` is the token
after ``input_ids[i]``, or ``IGNORED`` where it is not scored.

Windows of an encoder (``packed``, ``apart``): each has the marks of a ``Frame`` around it. ``labels`` are not
shifted: ``labels[i]`` is ``input_ids[i]``, or ``IGNORED`` at marks; ``masking`` chooses what is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from finetune.config.schema import SHORTEST_WINDOW
from finetune.data.collate import IGNORED, evenly
from finetune.errors import UserError

BATCH_CHARACTERS = 10**6
"""Characters that are tokenized at a time: what a tokenizer notes of each token takes a hundred bytes."""
CHUNK_TOKENS = 2**28
"""Token numbers of one chunk of an Arrow list at most, whose offsets have 32 bits."""


@dataclass(frozen=True)
class Documents:
    """Token numbers of documents, one after the other.

    ``tokens`` (all tokens,); document ``i`` is ``tokens[bounds[i] : bounds[i + 1]]``.
    """

    tokens: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        found: np.ndarray = self.tokens[self.bounds[index] : self.bounds[index + 1]]
        return found

    @classmethod
    def of(cls, each: Sequence[Any]) -> Documents:
        """Documents given one by one."""
        parts = [np.asarray(tokens, dtype=np.int32) for tokens in each]
        bounds = np.cumsum([0, *map(len, parts)])
        return cls(np.concatenate([np.empty(0, np.int32), *parts]), bounds)


def documents(split: Dataset, tokenizer: Any) -> Documents:
    """The documents of a split of canonical rows, in the order of their first rows; no token is added."""
    numbers, lengths = [np.empty(0, np.int32)], [0]
    for texts in _batches(split):
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for ids in encoded["input_ids"]:
            numbers.append(np.asarray(ids, dtype=np.int32))
            lengths.append(len(ids))
    parts = _parts(split)
    row_bounds = np.cumsum(lengths)
    tokens = np.concatenate([numbers[1 + row] for rows in parts for row in rows] or numbers)
    sizes = np.diff(row_bounds)
    return Documents(tokens, np.cumsum([0, *(int(sizes[rows].sum()) for rows in parts)]))


def texts(split: Dataset) -> list[tuple[str, int, list[str]]]:
    """Name, id of the first row and texts of the rows of each document, in the order of ``documents``."""
    rows, texts = split["row"][:], split["text"][:]
    names = split["document"][:] if "document" in split.column_names else list(map(str, rows))
    return [
        (str(names[places[0]]), rows[places[0]], [texts[place] for place in places])
        for places in _parts(split)
    ]


def few(split: Dataset, characters: int, *, of_one: bool) -> Dataset:
    """The first rows of a split that hold so many characters, or all; ``of_one``: of its longest document.

    Windows to train on go on from document to document, but those to be scored are of one.
    """
    places: Any = range(len(split))
    if of_one:
        sizes = [len(text) for text in split["text"]]
        places = max(_parts(split), key=lambda rows: sum(sizes[row] for row in rows), default=np.arange(0))
    chosen: list[int] = []
    for place in places:
        if characters <= 0:
            break
        chosen.append(int(place))
        characters -= len(split[int(place)]["text"])
    return split.select(chosen)


def train(documents: Documents, end: int, length: int, seed: int, most: int | None = None) -> Dataset:
    """Windows of ``length`` tokens to train on: ``row``, ``input_ids``, ``labels``.

    The documents, in an order fixed by ``seed``, each after the token ``end``, are one stream, of which the
    first ``most`` tokens are predicted. Windows follow each other without a gap; only the last, incomplete
    one is dropped. Raises ``UserError`` where there is no whole window.
    """
    order = np.random.RandomState(seed).permutation(len(documents))
    mark = np.array([end], np.int32)
    stream = np.concatenate([part for index in order for part in (mark, documents[index])] or [mark])
    read = len(stream) - 1 if most is None else min(most, len(stream) - 1)
    count = read // length
    if not count:
        whole = read == len(stream) - 1
        raise UserError(
            _too_few(read, length, read)
            if whole
            else f"language.train_tokens {most} is less than one window of {length:,} tokens "
            f"(data.max_length): set it to {length} or more"
        )
    inputs, labels = stream[: count * length], stream[1 : count * length + 1]
    counts = {
        "documents": len(documents),
        "document_tokens": len(stream) - 1,
        "windows": count,
        "trained_tokens": count * length,
        "dropped_tokens": read - count * length,
    }
    return as_dataset(
        {"row": np.arange(count), "input_ids": _even(inputs, length), "labels": _even(labels, length)}, counts
    )


def test(
    documents: Documents,
    end: int,
    length: int,
    *,
    stride: int | None = None,
    lengths: Sequence[int] = (),
    scored: int = 1,
    most: int | None = None,
) -> Dataset:
    """Windows to score: ``row``, ``input_ids``, ``labels``, ``document`` and ``length``.

    ``document`` is the index of the window's document. Windows of ``length`` 0 score every token once, those
    of another ``length`` score the tokens that ``targets`` chooses, the same for all of ``lengths``.

    Of the first kind each covers up to ``length`` tokens of one document and scores those that the one before
    it has not; it begins ``stride`` tokens after it, or ``length`` for None, but the last one reaches back as
    far as it may, as lm-evaluation-harness has it (``get_rolling_token_windows``).
    Raises ``UserError`` where the documents hold no token.
    """
    if not len(documents.tokens):
        raise UserError("the documents to be scored have no tokens: add text")
    windows: list[tuple[int, int, int, int, int]] = []  # document, start, stop, scored tokens, length
    step = stride or length
    for index, size in enumerate(np.diff(documents.bounds).tolist()):
        stops = [*range(min(length, size), size, step), size] if size else []
        for before, stop in zip([0, *stops], stops, strict=False):
            windows.append((index, max(0, stop - length), stop, stop - before, 0))
    chosen, short = targets(documents, max(lengths, default=0), scored, most)
    for size in sorted(set(lengths)):
        windows += [(index, stop - size, stop, scored, size) for index, stop in chosen]
    mark = np.array([end], np.int32)
    inputs, labels = [], []
    for index, start, stop, new, _ in windows:
        # The first token of a document is predicted from the mark, another from the one before it.
        tokens = documents[index]
        inputs.append(
            np.concatenate([mark, tokens[: stop - 1]]) if not start else tokens[start - 1 : stop - 1]
        )
        wanted = tokens[start:stop].copy()
        wanted[: stop - start - new] = IGNORED
        labels.append(wanted)
    counts = {
        "documents": len(documents),
        "document_tokens": len(documents.tokens),
        "windows": sum(not window[-1] for window in windows),
        "windows_by_length": len(chosen),
        "too_short_documents": short,
    }
    return as_dataset(
        {
            "row": np.arange(len(windows)),
            "input_ids": token_lists(inputs),
            "labels": token_lists(labels),
            "document": np.array([window[0] for window in windows]),
            "length": np.array([window[-1] for window in windows]),
        },
        counts,
    )


@dataclass(frozen=True)
class Frame:
    """The marks around and between texts in an encoder's windows, as token numbers."""

    first: int
    last: int
    between: int  # after each document but the last of a window
    special: tuple[int, ...]  # every token that is none of a text, these three among them

    def around(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``input_ids`` and ``labels`` of one window: tokens with the frame, and what of it is no mark."""
        framed = np.concatenate([[self.first], tokens, [self.last]]).astype(np.int32)
        return framed, np.where(np.isin(framed, self.special), IGNORED, framed).astype(np.int32)


FRAMING = 2
"""Tokens of a frame: one before a text, one after it."""


def packed(documents: Documents, frame: Frame, length: int, seed: int, most: int | None = None) -> Dataset:
    """Framed windows of ``length`` tokens to train on, over documents in an order fixed by ``seed``.

    Of ``length`` the frame takes two. A window goes on with the next document after ``frame.between``
    (FULL-SENTENCES of Liu et al., 2019, arXiv 1907.11692). ``labels`` are the tokens in their own places,
    ``IGNORED`` at marks. Of the stream the first ``most`` tokens are taken, and only the last, incomplete
    window is dropped. Raises ``UserError`` where there is no whole window.
    """
    body = length - FRAMING
    order = np.random.RandomState(seed).permutation(len(documents))
    mark = np.array([frame.between], np.int32)
    parts = [part for index in order if len(documents[index]) for part in (documents[index], mark)]
    stream = np.concatenate([np.empty(0, np.int32), *parts])
    read = len(stream) if most is None else min(most, len(stream))
    count = read // body
    if not count:
        raise _no_window(len(stream), most, body, FRAMING)
    inputs = np.empty((count, length), np.int32)
    inputs[:, 0], inputs[:, -1] = frame.first, frame.last
    inputs[:, 1:-1] = stream[: count * body].reshape(count, body)
    labels = np.where(np.isin(inputs, frame.special), np.int32(IGNORED), inputs)
    counts = {
        "documents": len(documents),
        "document_tokens": len(stream),
        "windows": count,
        "trained_tokens": count * body,
        "dropped_tokens": read - count * body,
    }
    columns = {"input_ids": _even(inputs.ravel(), length), "labels": _even(labels.ravel(), length)}
    return as_dataset({"row": np.arange(count), **columns}, counts)


def apart(
    documents: Documents,
    frame: Frame,
    length: int,
    order: Sequence[int] | None = None,
    most: int | None = None,
) -> Dataset:
    """Framed windows of ``length`` tokens at most that each hold a part of one document, alike in size.

    A document is cut into as few as there can be, so that none is left with a few tokens (DOC-SENTENCES of
    Liu et al., 2019). As ``packed`` otherwise, with the index of each window's ``document``, in the ``order``
    given or that of the documents. Raises ``UserError`` where these hold no token.
    """
    body = length - FRAMING
    windows = [
        (index, part)
        for index in (range(len(documents)) if order is None else order)
        for part in np.array_split(documents[index], -(-len(documents[index]) // body) or 1)
        if len(part)
    ]
    if not windows:
        raise UserError("the documents have no tokens: add text")
    read = np.cumsum([len(part) for _, part in windows])
    if most is not None:
        windows = windows[: int(np.searchsorted(read, most, side="right"))]
        if not windows:
            raise _no_window(int(read[-1]), most, body, FRAMING)
    framed = [frame.around(part) for _, part in windows]
    counts = {
        "documents": len(documents),
        "document_tokens": len(documents.tokens),
        "windows": len(windows),
        "trained_tokens": int(read[len(windows) - 1]),
        "dropped_tokens": 0,
    }
    return as_dataset(
        {
            "row": np.arange(len(windows)),
            "input_ids": token_lists([inputs for inputs, _ in framed]),
            "labels": token_lists([labels for _, labels in framed]),
            "document": np.array([index for index, _ in windows]),
        },
        counts,
    )


def _no_window(there: int, most: int | None, body: int, framing: int) -> UserError:
    """What is said where ``there`` tokens, of which ``most`` are wanted, make no window of ``body`` tokens.

    Beside those of a text it has ``framing`` ones.
    """
    length = body + framing
    if most is not None and most < there:
        return UserError(
            f"language.train_tokens {most} is less than one window of {length:,} tokens (data.max_length), "
            f"which takes {body:,} of a text: set it to {body} or more"
        )
    return UserError(_too_few(there, length, there + framing))


def _too_few(there: int, length: int, possible: int) -> str:
    """What is said of a train split of so few tokens, which a ``possible`` shorter window would do with."""
    shorter = f", or take --data.max_length {possible}" if possible >= SHORTEST_WINDOW else ""
    return (
        f"the train split has {there:,} tokens, less than one window of {length:,} (data.max_length): add "
        f"text{shorter}"
    )


def targets(
    documents: Documents, longest: int, scored: int, most: int | None = None
) -> tuple[list[tuple[int, int]], int]:
    """The tokens that are scored at every length, as (document, stop): ``scored`` tokens before ``stop``.

    From the end of each document on, one block beside the other, as long as ``longest`` - ``scored`` tokens
    of the same document stand before; of more than ``most``, so many at even distances. Beside them the
    number of documents that are too short for one. No ``longest`` (0) asks for none.
    """
    if not longest:
        return [], 0
    blocks, short = [], 0
    for index, size in enumerate(np.diff(documents.bounds).tolist()):
        stops = range(size, longest - 1, -scored)
        short += not stops
        blocks += [(index, stop) for stop in reversed(stops)]
    if most is not None:
        blocks = [blocks[place] for place in evenly(len(blocks), most)]
    return blocks, short


def counts(rows: Dataset) -> dict[str, int]:
    """What windows were made from: documents, their tokens, tokens that were dropped; empty of other rows."""
    found: dict[str, int] = json.loads(rows.info.description or "{}")
    return found


def _parts(split: Dataset) -> list[np.ndarray]:
    """Places of the rows of each document, in the order of the documents' first rows."""
    if "document" not in split.column_names:
        return list(np.arange(len(split)).reshape(-1, 1))
    codes: dict[str, int] = {}
    code_of = np.array([codes.setdefault(name, len(codes)) for name in split["document"]], dtype=np.int64)
    order = np.argsort(code_of, kind="stable")
    return np.split(order, np.cumsum(np.bincount(code_of))[:-1]) if len(order) else []


def _batches(split: Dataset) -> Iterator[list[str]]:
    """The texts of a split in its order, about ``BATCH_CHARACTERS`` at a time."""
    batch: list[str] = []
    characters = 0
    for rows in split.iter(1000):
        for text in rows["text"]:
            batch.append(text)
            characters += len(text)
            if characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _even(tokens: np.ndarray, length: int) -> pa.ChunkedArray:
    """A column of windows of ``length`` tokens, which follow each other in ``tokens``; copies nothing."""
    step = max(CHUNK_TOKENS // length, 1) * length
    chunks = [tokens[start : start + step] for start in range(0, len(tokens), step)]
    return pa.chunked_array([
        pa.ListArray.from_arrays(np.arange(0, len(chunk) + 1, length, dtype=np.int32), pa.array(chunk))
        for chunk in chunks
    ])  # fmt: skip


def token_lists(each: Sequence[np.ndarray]) -> pa.ChunkedArray:
    """A column of lists of token numbers, of any lengths."""
    chunks, start, held = [], 0, 0
    for place, tokens in enumerate(each):
        held += len(tokens)
        if held >= CHUNK_TOKENS or place == len(each) - 1:
            lists = each[start : place + 1]
            offsets = np.cumsum([0, *map(len, lists)]).astype(np.int32)
            chunks.append(pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(lists))))
            start, held = place + 1, 0
    return pa.chunked_array(chunks, pa.list_(pa.int32()))


def as_dataset(columns: dict[str, Any], counts: dict[str, int]) -> Dataset:
    """``columns`` as a data set that knows its ``counts``."""
    rows = Dataset(pa.table(columns))
    rows.info.description = json.dumps(counts)
    return rows
