"""A file's bytes -> an Arrow table of the needed columns, without guesses and without a cache.

pandas and ``datasets`` guess types, skip what they cannot read and cache what they did; here cells of CSV and
TSV are text, whatever they look like, and each reader names the row or line at fault.
"""

import ast
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finetune.data.files import Content
from finetune.errors import UserError
from finetune.system.parsing import MARKS, repeated
from finetune.system.text import reason

BATCH = 10_000
"""Rows that are Python objects at one time; the others are Arrow columns already."""

QUOTED = r'^"([^"]|"")*""([^"]|"")*"$'
SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Half of a pair: JSON may escape one alone, and no encoding has it."""

CONTINUATION = b"\xff\xff\xff\xff"
"""The mark before each message of an Arrow stream; with a length of 0 behind it, that of the end."""

LONG_TEXT = 50
"""Lines of one text from which on there is a note: a forgotten quote may have swallowed rows."""


@dataclass(frozen=True)
class Wanted:
    """The columns that a task needs of a file.

    ``choose`` takes the columns that are there and returns those to read, or raises ``UserError``.
    ``label`` is the column of labels, ``inside`` the keys that are read of a column of {key: text}. As
    ``plain`` a text file is read, and its name as ``document``.
    """

    choose: Callable[[list[str]], list[str]]
    label: str | None = None
    inside: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    document: str = ""


@dataclass(frozen=True)
class Part:
    """The rows of one file. ``names`` are the label names that the file itself states, in their order."""

    table: pa.Table
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


def parse(content: Content, wanted: Wanted) -> Part:
    """The rows of a file. Raises ``UserError`` in words that go after ``cannot read <file> as <format>:``."""
    readers = {"parquet": _parquet, "arrow": _arrow, "json": _json, "csv": _csv, "tsv": _tsv}
    try:
        if content.format == "plain":
            return _plain(content.data, content.facts["name"], wanted)
        return readers[content.format](content.data, wanted)
    except (
        pa.ArrowException, ValueError, OSError, KeyError, IndexError, TypeError, OverflowError,
        MemoryError, RecursionError, EOFError, NotImplementedError, AttributeError,
    ) as error:  # what the libraries raise for a damaged file  # fmt: skip
        raise UserError(reason(error, typed=True)) from error


# Columnar files


def _parquet(data: bytes, wanted: Wanted) -> Part:
    """Reads the needed columns alone, and verifies checksums of pages where the file has some."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    chosen = wanted.choose(list(file.schema_arrow.names))
    table = file.read(columns=chosen).select(chosen)
    return _checked(table, file.schema_arrow, wanted)


def _arrow(data: bytes, wanted: Wanted) -> Part:
    """Reads the file form and the stream form; save_to_disk writes the second."""
    is_file = data.startswith(b"ARROW1")
    # Arrow takes a stream that just ends for a whole one.
    if not is_file and data.startswith(CONTINUATION) and not data.endswith(CONTINUATION + bytes(4)):
        raise UserError("it lacks the mark of its end: what wrote it was stopped, and rows may be missing")
    opened = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(pa.BufferReader(data))
    chosen = wanted.choose(list(opened.schema.names))
    return _checked(opened.read_all().select(chosen), opened.schema, wanted)


def _checked(table: pa.Table, schema: pa.Schema, wanted: Wanted) -> Part:
    """A table that proved undamaged, with the ClassLabel names that ``datasets`` puts into schemas."""
    table.validate(full=True)  # else damaged text would raise only where it is used
    stated = (schema.metadata or {}).get(b"huggingface")
    if stated is None or wanted.label is None:
        return Part(table)
    facts = json.loads(stated)
    info = facts.get("info") if isinstance(facts, dict) else None
    return Part(table, feature_names(info.get("features"), wanted.label) if isinstance(info, dict) else None)


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column, out of whatever Arrow keeps them in: a dictionary, runs, views."""
    if pa.types.is_dictionary(column.type):
        chunks = [_unviewed(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
        column = pa.chunked_array(chunks, _unviewed(pa.array([], column.type.value_type)).type)
    elif pa.types.is_run_end_encoded(column.type):
        chunks = [pc.run_end_decode(chunk) for chunk in column.chunks]
        column = pa.chunked_array(chunks, column.type.value_type)
    return _unviewed(column)


def _unviewed(column: Any) -> Any:
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def feature_names(features: Any, label: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel in a data set's features: JSON's mapping, or the list of a card's YAML."""
    stated: Any = None
    if isinstance(features, dict):
        stated = features.get(label)
    elif isinstance(features, list):
        entries = [entry for entry in features if isinstance(entry, dict) and entry.get("name") == label]
        kind = entries[0].get("dtype") if entries else None
        stated = kind.get("class_label") if isinstance(kind, dict) else None
    names = stated.get("names") if isinstance(stated, dict) else None
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):  # {"0": "World", ...}
        numbered = {int(key): name for key, name in names.items()}
        if set(numbered) != set(range(len(names))):
            raise UserError(
                f"the names of '{label}' that the data set states are numbered "
                f"{', '.join(map(str, names))}, not 0 to {len(names) - 1}: number them so"
            )
        names = [numbered[number] for number in range(len(names))]
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


# JSON: one row a line, or one list of rows


def _json(data: bytes, wanted: Wanted) -> Part:
    """Reads rows in batches; the columns are those of the first batch."""
    rows = iter(_json_rows(data))
    first = list(islice(rows, BATCH))
    if not first:
        raise UserError("it has no rows")
    present = list(dict.fromkeys(key for _, row in first for key in row))
    chosen = wanted.choose(present)
    kinds: dict[str, tuple[str, str]] = {}
    tables = []
    batch = first
    while batch:
        columns = {name: _cells(name, batch, kinds, wanted) for name in chosen}
        tables.append(pa.table(columns))
        batch = list(islice(rows, BATCH))
    return Part(pa.concat_tables(tables, promote_options="permissive"))


class _Row(dict[str, Any]):
    """A JSON object. ``twice`` are the keys that it has more than once: the last value stands for them."""

    twice: frozenset[str] = frozenset()


def _json_rows(data: bytes) -> Iterator[tuple[str, _Row]]:
    """Yields each row with its place. A list is parsed whole; lines one by one."""
    text = io.TextIOWrapper(io.BytesIO(data), _encoding(data), newline="\n")
    start = _decoded(text.read, text, data, 256).lstrip()
    text.seek(0)
    if start.startswith("["):
        rows = _loads(_decoded(text.read, text, data))
        for number, row in enumerate(rows):
            yield f"row {number}", _row(row, f"row {number}")
        return
    for number, line in enumerate(_lines(text, data), 1):
        if not line.strip():
            continue
        try:
            parsed = _loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"line {number} is {line.strip()[:40]!r}: {error or 'too deep'}; "
                "one row a line, or one list of all rows, is read"
            ) from error
        yield f"line {number}", _row(parsed, f"line {number}")


def _loads(text: str) -> Any:
    """JSON with objects as ``_Row``, which know their repeated keys."""
    return json.loads(
        text,
        object_pairs_hook=_mapped,
        # A whole number that no Arrow column can hold is no label: as a float it is refused as one.
        parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits),
    )


def _mapped(pairs: list[tuple[str, Any]]) -> _Row:
    row = _Row(pairs)
    if len(row) < len(pairs):  # seldom, and there are as many as rows
        row.twice = frozenset(repeated(pairs))
    return row


def _row(row: Any, place: str) -> _Row:
    """``row`` itself; ``UserError`` for what is no object, and for a whole table in one object."""
    if not isinstance(row, _Row):
        raise UserError(f"{place} is {str(row)[:40]!r}, not a row such as {{'column': 'text', ...}}")
    lists = [key for key, value in row.items() if isinstance(value, list) and len(value) > 1]
    if place == "line 1" and lists and len(lists) == len(row):
        raise UserError(
            f"it is one object of the lists {', '.join(map(repr, lists[:5]))}; "
            "one row a line, or one list of all rows, is read"
        )
    return row


def _cells(
    name: str, batch: list[tuple[str, _Row]], kinds: dict[str, tuple[str, str]], wanted: Wanted
) -> pa.Array:
    """One column of a batch. Raises ``UserError`` naming the row where it holds values of several kinds."""
    cells = [row.get(name) for _, row in batch]
    for (place, row), cell in zip(batch, cells, strict=True):
        if name in row.twice:
            raise UserError(f"the key '{name}' is there twice in {place}")
        if cell is None:
            continue
        # Whole numbers and others are one kind: JSON itself does not distinguish 3 from 3.0.
        kind = "number" if type(cell) in (int, float) else type(cell).__name__.strip("_")
        known, before = kinds.setdefault(name, (kind, place))
        if kind != known:
            raise UserError(
                f"column '{name}' holds values of several types: "
                f"{before} has {known}, {place} has {str(cell)[:40]!r}"
            )
        if isinstance(cell, _Row) and not wanted.inside:
            raise UserError(f"column '{name}' holds no text and no number: {place} has {str(cell)[:40]!r}")
    if kinds.get(name, ("",))[0] == _Row.__name__.strip("_"):
        return _mappings(name, batch, cells, wanted.inside)
    return _array(name, batch, cells)


def _mappings(
    name: str, batch: list[tuple[str, _Row]], cells: Sequence[Any], inside: tuple[str, ...]
) -> pa.Array:
    """A column of {key: text}, with the keys that are needed; with all that there are if one is missing."""
    present = list(dict.fromkeys(key for cell in cells if cell for key in cell))
    keys = list(inside) if set(inside) <= set(present) else present
    for (place, _), cell in zip(batch, cells, strict=True):
        for key in set(inside) & set(cell or ()):
            if key in cell.twice:
                raise UserError(f"'{key}' is there twice in column '{name}' of {place}")
            if not isinstance(cell[key], str | None):
                raise UserError(
                    f"'{key}' in column '{name}' is not text: {place} has {str(cell[key])[:40]!r}"
                )
    kept = [cell and {key: cell.get(key) if key in inside else None for key in keys} for cell in cells]
    return _array(name, batch, kept, pa.struct([(key, pa.string()) for key in keys]))


def _array(name: str, batch: list[tuple[str, _Row]], cells: Sequence[Any], kind: Any = None) -> pa.Array:
    try:
        return pa.array(cells, kind)
    except UnicodeEncodeError as error:
        written = [json.dumps(cell, ensure_ascii=False) for cell in cells]
        places = [place for (place, _), text in zip(batch, written, strict=True) if SURROGATE.search(text)]
        raise UserError(
            f"column '{name}' holds half of a surrogate pair, which is no text, in {places[0]}"
        ) from error


# CSV and TSV


@dataclass
class _Lines:
    """The lines of one record, and how many stand before them."""

    before: int
    texts: list[str]


def _csv(data: bytes, wanted: Wanted) -> Part:
    """Reads by commas, or by what else makes a header with the columns that are needed."""
    failures: list[tuple[int, UserError]] = []
    for delimiter in (",", ";", "\t", "|"):
        header = None
        try:  # a quoted header, read by another delimiter than its own, is none
            header = next(_records(data, delimiter, quoted=True), None)
            if header is not None:
                wanted.choose(header[1])
        except UserError as error:
            failures.append((len(header[1]) if header else 0, error))
            continue
        if header is None:
            raise UserError("it has no header")
        part = _delimited(data, delimiter, wanted, quoted=True)
        if delimiter != ",":
            part.notes.append(f"between its columns stands {delimiter!r}")
        return part
    # The one by which there are most columns is the file's own, and its complaint the one that helps.
    raise max(failures, key=lambda failure: failure[0])[1]


def _tsv(data: bytes, wanted: Wanted) -> Part:
    """Reads quotes as CSV has them or, if the file cannot be read so, as parts of the texts."""
    try:
        return _delimited(data, "\t", wanted, quoted=True)
    except UserError as error:
        if b'"' not in data:
            raise
        try:
            part = _delimited(data, "\t", wanted, quoted=False)
        except UserError:
            raise error from None
        # Quotes around a cell and doubled inside: a program that quotes wrote this, and a quote is missing.
        texts = [column for column in part.table.columns if pa.types.is_large_string(column.type)]
        if any(pc.any(pc.match_substring_regex(column, QUOTED)).as_py() for column in texts):
            raise
    return Part(part.table, notes=[*part.notes, "its quotes are part of its texts"])


def _delimited(data: bytes, delimiter: str, wanted: Wanted, quoted: bool) -> Part:
    records = _records(data, delimiter, quoted)
    _, header = next(records, ([], []))
    if not header:
        raise UserError("it has no header")
    chosen = wanted.choose(header)
    places = [header.index(name) for name in chosen]
    spans = _Spans(delimiter, header, wanted.label)
    tables = []
    rows = spans.watch(_of_width(records, header))
    while batch := list(islice(rows, BATCH)):
        columns = list(zip(*batch, strict=True))
        tables.append(
            pa.table({
                name: pa.array(columns[place], pa.large_string())
                for name, place in zip(chosen, places, strict=True)
            })
        )  # fmt: skip
    if not tables:
        raise UserError("it has a header and no rows")
    table = pa.concat_tables(tables)
    if wanted.inside and not set(wanted.inside) & set(chosen):
        # One column, of cells such as {"de": "...", "en": "..."}.
        (name,) = chosen
        cells = [_mapping(cell, number) for number, cell in enumerate(table[name].to_pylist())]
        mapped = [(f"row {number}", _Row({name: cell})) for number, cell in enumerate(cells)]
        table = pa.table({name: _mappings(name, mapped, cells, wanted.inside)})
    return Part(table, notes=spans.judge())


def _records(data: bytes, delimiter: str, quoted: bool) -> Iterator[tuple[_Lines, list[str]]]:
    """Yields each record with the lines that it stands in; blank lines are none."""
    csv.field_size_limit(sys.maxsize)  # texts may be longer than the module's own limit of 128 KiB
    text = io.TextIOWrapper(io.BytesIO(data), _encoding(data), newline="")
    lines = _Lines(0, [])

    def read() -> Iterator[str]:
        for line in _lines(text, data):
            lines.texts.append(line)
            yield line

    records = csv.reader(
        read(),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    try:
        for record in records:
            if record and not (len(record) == 1 and not record[0].strip()):
                yield lines, record
            lines.before += len(lines.texts)
            lines.texts.clear()
    except csv.Error as error:
        unclosed = str(error) == "unexpected end of data"
        what = "a quote that is never closed opens here" if unclosed else error
        raise UserError(
            f"the row at line {lines.before + 1}: {what}; a quote inside a quoted text is written twice"
        ) from error


def _of_width(
    records: Iterator[tuple[_Lines, list[str]]], header: list[str]
) -> Iterator[tuple[_Lines, list[str]]]:
    """Yields the records, which must have as many fields as the header; all may end in one delimiter more."""
    width = len(header)
    first = next(records, None)
    if first is None:
        return
    # Some programs end every line with a delimiter, others every line but the header, or the header alone.
    if len(first[1]) == width + 1 and not first[1][-1]:
        width += 1
    elif not header[-1] and len(first[1]) == width - 1:
        width -= 1
    for lines, record in chain([first], records):
        if len(record) != width:
            raise UserError(
                f"line {lines.before + len(lines.texts)} has {len(record)} fields and the header "
                f"{len(header)} ({', '.join(map(repr, header))}): {', '.join(record)[:60]!r}; "
                "a text with a delimiter or a line break in it stands in quotes"
            )
        yield lines, record


class _Spans:
    """Watches records of several lines: a text may have line breaks, but a forgotten quote swallows rows."""

    def __init__(self, delimiter: str, header: list[str], label: str | None) -> None:
        self.delimiter, self.width = delimiter, len(header)
        self.place = header.index(label) if label in header else None
        self.lines = self.records = 0
        self.labels: set[str] = set()  # of the records of one line, which are above suspicion
        # First line -> the lines of a record read as rows: those behind its first one, for a quote that was
        # opened in it and never closed, and all of them, for quotes that are signs like any other.
        self.suspects: list[tuple[int, list[list[str]]]] = []
        self.literal: list[tuple[int, list[list[str]]]] = []
        self.longest = (0, 0)  # lines, first line

    def watch(self, records: Iterable[tuple[_Lines, list[str]]]) -> Iterator[list[str]]:
        """Yields the records, and keeps of those of several lines what ``judge`` needs."""
        for lines, record in records:
            self.records += 1
            self.lines += len(lines.texts)
            if len(lines.texts) > 1:
                self._look(lines.before + 1, lines.texts, record)
            elif self.place is not None and len(self.labels) < 10_000:
                self.labels.add(record[self.place])
            yield record

    def _look(self, start: int, lines: list[str], record: list[str]) -> None:
        self.longest = max(self.longest, (len(lines), start))
        inner = [line for cell in record for line in re.split("\r\n|\r|\n", cell)[1:]]
        rows = self._fields(inner, quoted=True)
        if any(len(fields) == self.width for fields in rows):
            self.suspects.append((start, rows))
        rows = self._fields(lines, quoted=False)
        if all(len(fields) == self.width and all(fields) for fields in rows):
            self.literal.append((start, rows))

    def _fields(self, lines: list[str], *, quoted: bool) -> list[list[str]]:
        """Lines read as rows; one more delimiter at their ends does not count."""
        rows = csv.reader(
            lines, delimiter=self.delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        )
        return [row[:-1] if len(row) == self.width + 1 and not row[-1] else row for row in rows if row]

    def judge(self) -> list[str]:
        """Notes on long texts; ``UserError`` where the lines of a text are rows themselves."""
        for start, rows in self.suspects:
            whole = [row for row in rows if len(row) == self.width and self._labelled(row)]
            # The last line may hold the end of the text, and is a row of its own only where it looks so.
            body = rows if whole and rows[-1] is whole[-1] else rows[:-1]
            many = len(whole) >= 2 and 2 * len(whole) >= len(body)
            if many if self.place is not None else len(whole) >= 3 and len(whole) == len(body):
                raise UserError(
                    f"a text that begins near line {start} runs over {len(rows) + 1} lines, "
                    f"and {len(whole)} of them are rows by themselves: a quote is missing or stray there"
                )
        notes = []
        for start, rows in self.literal:
            if not all(map(self._labelled, rows)):
                continue
            swallowed = f"each of the {len(rows)} lines from line {start} on is a row by itself"
            # Without labels two lines of a text may look so by chance, but for tabs, which are in no text.
            if self.place is not None or self.delimiter == "\t":
                raise UserError(f"{swallowed}: a quote is missing or stray there")
            notes.append(f"{swallowed}, and they are read as one: is a quote missing or stray there?")
        lines, start = self.longest
        if lines >= LONG_TEXT or 2 * self.records < self.lines:
            notes.append(
                f"{self.records} rows in {self.lines} lines: "
                f"the longest text takes {lines} lines, near line {start}"
            )
        return notes[:5]

    def _labelled(self, row: list[str]) -> bool:
        """Whether a line that reads as a row has a label of the others in the place of the label."""
        return self.place is None or row[self.place].strip('"') in self.labels


def _mapping(cell: str, number: int) -> _Row:
    """A cell such as {"de": "...", "en": "..."}, in JSON or Python; ``UserError`` for any other."""
    try:
        content = _loads(cell)
    except ValueError:
        try:
            shown = ast.parse(cell.strip(), mode="eval").body
            keys = [ast.literal_eval(key) for key in shown.keys if key] if isinstance(shown, ast.Dict) else []
            # In pairs, since Python's own dict would keep the last of two equal keys without a word.
            pairs = list(zip(keys, ast.literal_eval(shown).values(), strict=True)) if keys else None
            content = None if pairs is None else _mapped(pairs)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            content = None
    if not isinstance(content, _Row):
        raise UserError(f"row {number} (counted from 0) is {cell[:40]!r}, not {{language: text}}")
    return content


# Text


def _plain(data: bytes, name: str, wanted: Wanted) -> Part:
    """A text file as one row; line ends of Windows become those of Unix."""
    if len(wanted.plain) != 1:
        raise UserError(f"a text file has one text, and the task reads {' and '.join(wanted.plain)}")
    encoding = _encoding(data)
    if encoding == "utf-8" and b"\0" in data:
        raise UserError("it holds bytes of zero, which no text has: it is binary, or damaged")
    text = io.TextIOWrapper(io.BytesIO(data), encoding)
    return Part(pa.table({wanted.plain[0]: [_decoded(text.read, text, data)], wanted.document: [name]}))


def _encoding(data: bytes) -> str:
    """The encoding by the mark at the beginning; UTF-8 without one."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:4]:
        raise UserError(
            "it begins with bytes of zero, as UTF-16 without its mark does: save the file as UTF-8, e.g. "
            "iconv -f UTF-16LE -t UTF-8"
        )
    return encoding


def _lines(text: io.TextIOWrapper, data: bytes) -> Iterator[str]:
    while line := _decoded(text.readline, text, data):
        yield line


def _decoded(read: Callable[..., str], text: io.TextIOWrapper, data: bytes, *size: int) -> str:
    """Calls ``read`` of ``text``. Raises ``UserError`` with the first line that is not in its encoding."""
    try:
        return read(*size)
    except UnicodeError as error:
        if not text.encoding.startswith("utf-8"):
            raise UserError(
                f"it begins as {text.encoding.upper()} and does not go on so: it is cut off or damaged; "
                "save the file as UTF-8"
            ) from error
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as first:
                raise UserError(
                    f"line {number} is not UTF-8 (byte 0x{line[first.start]:02x}); "
                    "save the file as UTF-8, e.g. "
                    "iconv -f WINDOWS-1252 -t UTF-8"
                ) from error
        raise
