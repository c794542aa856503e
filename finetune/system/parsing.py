"""Reads files of users and other programs: bytes -> text -> values of YAML or JSON, within limits.

What does not fit raises ``UnreadableError``, whose text continues "FILE is ...". Values are those of JSON:
``None``, bool, int, float, str, list, and dict with text for keys.
"""

import codecs
import json
import math
import os
import re
import select
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from finetune.errors import UserError
from finetune.system.text import LONGEST, one_line

YAML_BYTES = 2**20
"""Largest YAML file; the parser takes about five seconds for it."""
JSON_BYTES = 2**28
"""Largest JSON file: a record of a million logged steps, and room to spare."""
VALUES = 200_000
"""Most values in a YAML file, counting those that its aliases repeat."""
DEPTH = 60
"""Deepest nesting of mappings and lists in YAML."""
TOO_DEEP = f"nested too deeply: no more than {DEPTH} levels are read"
LARGEST = 2**63
"""Bound of whole numbers in YAML: those of 64 bits."""
PATIENCE_S = 10
"""Longest wait for a pipe, such as the shell's ``<(...)``."""

MARKS = (  # of UTF-32 first: its mark begins as the one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
TAG = "tag:yaml.org,2002:"
BOOL, INT, FLOAT = TAG + "bool", TAG + "int", TAG + "float"
PLAIN = {TAG + name for name in ("map", "seq", "str", "null", "bool", "int", "float", "merge")}
KEYS = (TAG + "str", TAG + "merge")


class UnreadableError(ValueError):
    """A file that cannot be read; the text continues "FILE is ..."."""


def read_text(file: Path, limit: int) -> str:
    """Reads the text of ``file``, of at most ``limit`` bytes: UTF-8, or what its byte order mark says.

    Raises ``OSError``, and ``UnreadableError`` for what is neither a file nor a pipe, or no text.
    """
    # Without O_NONBLOCK, open() would already wait for a pipe that nobody writes to.
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode
        if stat.S_ISFIFO(mode):
            content = _drain(handle, limit)
        elif stat.S_ISREG(mode):
            content = stream.read(limit + 1)
        else:
            raise UnreadableError("a device, not a file")
    if len(content) > limit:
        raise UnreadableError(f"larger than {limit / 2**20:g} MiB, which no such file is")
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError("not UTF-8 text") from error
    if "\0" in text:
        raise UnreadableError("binary, not UTF-8 text")
    return text


def read_json(file: Path, what: str, advice: str) -> Any:
    """Reads the value of a JSON file, as ``json_value`` does.

    Raises ``UserError``, in which ``what`` ("the record", or nothing) stands before the file's name, and
    ``advice`` at the end where its content is at fault.
    """
    name = f"{what} {file}".strip()
    try:
        return json_value(read_text(file, JSON_BYTES))
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from error
    except UnreadableError as error:
        raise UserError(f"{name} is {error}: {advice}") from error


def json_value(text: str) -> Any:
    """Reads the value of a JSON text. NaN and infinity pass: ``fitted`` refuses them."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            twice = repeated(pairs)[0][:80]
            raise UnreadableError(f"no JSON that can be relied on: the key {twice!r} is there twice")
        return value

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"truncated or no JSON (line {error.lineno})") from error
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error
    except UnreadableError:
        raise
    except ValueError as error:
        raise UnreadableError("no JSON that can be read: a number in it has thousands of digits") from error


def repeated(pairs: Sequence[tuple[str, Any]]) -> list[str]:
    """Lists keys that stand more than once in a mapping, of which ``dict`` would keep the last silently."""
    return [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]


def yaml_value(text: str) -> Any:
    """Reads the value of a YAML text. Numbers and booleans are those of YAML 1.2; a date is text."""

    def value(loader: _Loader, node: yaml.Node) -> Any:
        _measure(node, KEYS, {}, frozenset())
        return loader.construct_document(node)

    return _yaml(text, value)


def yaml_parts(text: str, names: Collection[str]) -> dict[str, Any]:
    """Reads the values of the keys ``names`` of a YAML mapping; inside them, keys may also be whole numbers.

    The values of other keys are neither checked nor built. A text that is no mapping has no values.
    """
    if len(text) > YAML_BYTES:
        raise UnreadableError(f"larger than {YAML_BYTES / 2**20:g} MiB")

    def parts(loader: _Loader, node: yaml.Node) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, part in node.value if isinstance(node, yaml.MappingNode) else []:
            if key.value in names and key.value in values:
                raise UnreadableError(f"not valid YAML: the key '{key.value}' is there twice")
            if key.value in names:
                _measure(part, {*KEYS, INT}, {}, frozenset())
                values[key.value] = loader.construct_document(part)
        return values

    return _yaml(text, parts) or {}


def _yaml(text: str, build: Callable[[Any, yaml.Node], Any]) -> Any:
    """Builds a value from the root of a YAML text by ``build``; None from an empty one."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else build(loader, node)
    except RecursionError as error:
        raise UnreadableError(TOO_DEEP) from error
    except yaml.YAMLError as error:
        tabs = " (indent with blanks, not with tabs)" if "'\\t'" in str(error) else ""
        raise UnreadableError(f"not valid YAML: {_one_line(error)}{tabs}") from error
    except UnreadableError:
        raise
    except (ValueError, KeyError, IndexError) as error:  # of a value that its tag does not fit, as in !!int x
        raise UnreadableError(f"not valid YAML: a value does not fit its tag ({_one_line(error)})") from error


def fitted(shape: TypeAdapter[Any], content: Any) -> Any:
    """Validates the content of a JSON file as ``shape``; raises ``UnreadableError`` where it does not fit.

    Goes by way of text, since pydantic's strict rules for JSON take 1 for 1.0, but not "1". Numbers must be
    finite, and far enough from the largest float to be added.
    """
    try:
        if not _is_finite(content):
            raise ValueError
        return shape.validate_json(json.dumps(content, ensure_ascii=False, allow_nan=False), strict=True)
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        raise UnreadableError(f"damaged ({complaint(error)})") from error


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, int | float) or abs(value) < 1e300


def complaint(error: Exception) -> str:
    """Words the first fault that an error names, with the dotted name of the key, on one line."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, ValidationError):
        return "a number that is none, or beyond all measure"
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    fault = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return one_line(f"{key}: {fault}") if key else fault


def _drain(handle: int, limit: int) -> bytes:
    """Reads a pipe until its writer closes it, or until ``limit`` bytes are passed."""
    content, end = b"", time.monotonic() + PATIENCE_S
    while len(content) <= limit:
        try:
            piece = os.read(handle, 2**16)
        except BlockingIOError as error:
            if not select.select([handle], [], [], max(0.0, end - time.monotonic()))[0]:
                raise UnreadableError(f"a pipe that is still open after {PATIENCE_S} seconds") from error
            continue
        if not piece:
            break
        content += piece
    return content


class _Loader(yaml.SafeLoader):
    """SafeLoader by the rules of YAML 1.2: ``3e-5`` is a number; ``no``, ``017``, ``1:30``, dates are text.

    YAML 1.1, which PyYAML follows, reads the first as text, and the others as false, 15, 90 and a date.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  declared by the parent
        start: [(tag, rule) for tag, rule in rules if tag in PLAIN - {BOOL, INT, FLOAT}]
        for start, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def whole_number(self, node: yaml.ScalarNode) -> int:
        digits = str(self.construct_scalar(node)).replace("_", "")
        if len(digits) > 20 or not -LARGEST <= (number := int(digits)) < LARGEST:
            raise self._refused(node, f"the number {node.value[:20]}... is too large")
        return number

    def number(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node)).lower().replace("_", "")
        number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(number):
            raise self._refused(node, f"'{node.value[:80]}' is no finite number")
        return number

    def text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        try:  # JSON writes a character beyond 16 bits as a pair of escapes
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise self._refused(node, "a text holds half of a surrogate pair") from error

    @staticmethod
    def _refused(node: yaml.Node, reason: str) -> yaml.YAMLError:
        return yaml.constructor.ConstructorError(None, None, reason, node.start_mark)


for _tag, _rule, _starts in (
    (BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (INT, r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    (FLOAT, r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?", "-+.0123456789"),
    (FLOAT, r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_rule})$", re.ASCII), list(_starts))
_Loader.add_constructor(INT, _Loader.whole_number)
_Loader.add_constructor(FLOAT, _Loader.number)
_Loader.add_constructor(TAG + "str", _Loader.text)


def _measure(
    node: yaml.Node, keys: Collection[str], known: dict[int, tuple[int, int]], above: frozenset[int]
) -> tuple[int, int]:
    """Counts the values below a node, with aliases written out, and their depth.

    Raises ``UnreadableError`` where either is too large, before PyYAML builds the values, and for a tag that
    is not plain. ``keys`` are the tags that a key may have, ``known`` the measures of nodes seen before, and
    ``above`` the nodes that hold this one.
    """
    if id(node) in above:
        raise UnreadableError(
            "no tree of values: an alias in it stands for a part that holds the alias itself"
        )
    if id(node) in known:
        return known[id(node)]
    if node.tag not in PLAIN:
        raise UnreadableError(f"not valid YAML here: the tag {node.tag.replace(TAG, '!!')[:80]} is not read")
    parts = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, keys)  # PyYAML takes the second of two equal keys silently
        parts = [part for pair in node.value for part in pair]
    measures = [_measure(part, keys, known, above | {id(node)}) for part in parts]
    size, depth = 1 + sum(size for size, _ in measures), 1 + max((depth for _, depth in measures), default=0)
    if size > VALUES:
        raise UnreadableError(f"too much: with its aliases written out it holds more than {VALUES:,} values")
    if depth > DEPTH:
        raise UnreadableError(TOO_DEEP)
    known[id(node)] = size, depth
    return size, depth


def _check_keys(node: yaml.MappingNode, tags: Collection[str]) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        where = f"line {key.start_mark.line + 1}"
        if key.tag not in tags:
            shown = f"'{key.value[:80]}'" if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise UnreadableError(f"not valid YAML here: a key must be a name, not {shown}, {where}")
        if key.value in seen:
            raise UnreadableError(f"not valid YAML: the key '{key.value[:80]}' is there twice, {where}")
        seen.add(key.value)


def _one_line(error: BaseException) -> str:
    return one_line(str(error).replace('in "<unicode string>", ', "at "))[:LONGEST]
