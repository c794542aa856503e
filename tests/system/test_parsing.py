"""Whatever a user's YAML or JSON holds: a value as it is meant, or one line that says what is wrong."""

import json
import math
import os
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.cli.main import main
from finetune.config.loading import parse_value, read_yaml
from finetune.errors import UserError
from finetune.system import parsing as module
from finetune.system.parsing import UnreadableError, json_value, read_text, yaml_value

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip(string.ascii_lowercase, string.ascii_lowercase[1:12], strict=False)
)
CHAIN = "a: &a [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 if n else ''}]\n" for n in range(200))
DAMAGED = {
    "alias bomb": BOMB,
    "merge bomb": BOMB.replace("[x", "[{k: x}").replace("x]", "{k: x}]") + "z:\n  <<: *l\n",
    "deep by aliases": CHAIN,
    "circular list": "a: &a [*a]\n",
    "circular mapping": "a: &a {b: *a}\n",
    "circular merge": "a: &a\n  <<: *a\n",
    "unknown alias": "a: *b\n",
    "merge of a number": "a:\n  <<: 5\n",
    "deep list": "a: " + "[" * 1500 + "]" * 1500,
    "deep mapping": "a: " + "{b: " * 400 + "1" + "}" * 400,
    "deep by indentation": "".join(" " * n + "a:\n" for n in range(300)),
    "long number": "a: " + "7" * 5000,
    "number beyond 64 bits": "a: 9223372036854775808",
    "infinity": "a: .inf",
    "not a number": "a: .NaN",
    "overflow": "a: 1e999",
    "key twice": "a: 1\na: 2\n",
    "key twice, quoted": "a: 1\n'a': 2\n",
    "key of a number": "1: a\n",
    "key of nothing": "~: a\n",
    "key of a list": "? [a]\n: b\n",
    "tab": "a:\n\tb: 1\n",
    "binary tag": "a: !!binary aGk=\n",
    "set": "a: !!set {b, c}\n",
    "python": "a: !!python/object/apply:os.getcwd []\n",
    "own tag": "a: !mine 1\n",
    "tag that does not fit": "a: !!int x\n",
    "float of a list": "a: !!float []\n",
    "float of a mapping": "a: !!float {b: 1}\n",
    "int of a list": "a: !!int []\n",
    "int of a mapping": "a: !!int {b: 1}\n",
    "bool of a list": "a: !!bool []\n",
    "null of a list": "a: !!null []\n",
    "text of a list": "a: !!str []\n",
    "list of a number": "a: !!seq 1\n",
    "mapping of a list": "a: !!map []\n",
    "merge of a list": "a: !!merge []\n",
    "empty tag": "a: !!int ''\n",
    "tag of true": "a: !!bool maybe\n",
    "timestamp": "a: !!timestamp 2024-13-45\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "control": "a: \x07\n",
    "half a pair": 'a: "\\ud800"\n',
    "cut off": "a: [1, 2\n",
    "binary": "\x00\x01\x02",
    "nothing": "",
    "no mapping": "- a\n",
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_short_line_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(error.value) and len(" ".join(str(error.value).split())) < 500


@pytest.mark.parametrize("name", ["alias bomb", "merge bomb", "deep by aliases", "circular merge"])
def test_what_aliases_would_blow_up_is_refused_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(yaml.SafeLoader, "construct_document", lambda *_: pytest.fail("it is built"))
    with pytest.raises(UnreadableError):
        yaml_value(DAMAGED[name])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-13-45", "2024-13-45"),
        ("2024-01-31", "2024-01-31"),
        ("017", "017"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("3e-5", 3e-5),
        ("1.5E+3", 1500.0),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"\\ud83d\\ude00"', "😀"),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
        ("{b: &x [1], c: *x}", {"b": [1], "c": [1]}),
        ("{x: &x {a: 1, b: 2}, y: {<<: *x, b: 3}}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
        ("{o: {m: &x {<<: &y {a: 1}, a: 2}}, n: {<<: *x}}", {"o": {"m": {"a": 2}}, "n": {"a": 2}}),
    ],
)
def test_values_are_read_as_they_are_meant(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]
)
def test_every_encoding_is_read_or_named(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "mine.yaml"
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
    file.write_bytes(marks.get(encoding, b"") + "a: Zürich\r\nb: 東京\r\n".encode(encoding, "replace"))
    if encoding == "latin-1":
        with pytest.raises(UserError, match="not UTF-8"):
            read_yaml(file)
    else:
        assert read_yaml(file) == {"a": "Zürich", "b": "東京"}
    file.write_bytes("a: b".encode("utf-16-le"))  # without its mark
    with pytest.raises(UserError, match="binary, not UTF-8 text"):
        read_yaml(file)


def test_what_is_no_file_is_named_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(2**30)  # without using the disk
    for name, words in (
        ("pipe", "mapping"),
        ("large", "larger than 1 MiB"),
        (".", "directory"),
        ("none", "No such"),
    ):
        with pytest.raises(UserError, match=words):
            read_yaml(tmp_path / name)
    for device in ("/dev/zero", "/dev/random"):
        with pytest.raises(UserError, match="a device"):
            read_yaml(Path(device))
    end = os.open(tmp_path / "pipe", os.O_RDWR)  # a writer that says nothing
    with pytest.raises(UserError, match="still open"):
        read_yaml(tmp_path / "pipe")
    os.write(end, b"a: 1\n")
    reader, writer = os.pipe()
    os.write(writer, b"a: 1\n")
    os.close(writer)
    assert read_yaml(Path(f"/dev/fd/{reader}")) == {"a": 1}  # as a shell's <(...)
    os.close(reader)
    os.close(end)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "truncated"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "thousands of digits"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
    ],
)
def test_damaged_json_is_named(text: str, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        json_value(text)


# Fuzz

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
SPICE = [
    *"[]{}:,&*!|>'\"%@`#?-\t\n \\~<=.0123456789eE", "<<: ", "*a", "&a ", "!!int ", "!!bool ", "!!map ", "- ",
    ": ", "\n  ", "---\n", "...\n", ".inf", "\ufeff", "\\ud800", "2024-13-45", "0o17", "!!str ", "!!seq ",
    "!!merge ", "!<tag:yaml.org,2002:null> ", "!!float ", "? ", "%YAML 1.1\n",
]  # fmt: skip
spiced = st.lists(st.sampled_from(SPICE) | names, max_size=40).map("".join)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return (
        value is None
        or isinstance(value, str | bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    )


def _read_or_named(text: str) -> None:
    try:
        found = yaml_value(text)
    except UnreadableError as error:
        assert 0 < len(str(error)) < 500
    else:
        assert _is_plain(found)
        json.dumps(found, ensure_ascii=False).encode()


def _fuzz_yaml(value: Any, text: str, place: int) -> None:
    written = yaml.safe_dump(value, allow_unicode=True)
    assert yaml_value(json.dumps(value)) == value  # JSON is YAML
    _read_or_named(text)
    place %= len(written) + 1
    for damaged in (
        written[:place],
        written[:place] + text + written[place:],
        written[:place] + written[place + 1 :],
    ):
        _read_or_named(damaged)


settle = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(settle, max_examples=60)
@given(values, spiced, st.integers(0, 10**6))
def test_any_damage_to_yaml_is_read_or_named(value: Any, text: str, place: int) -> None:
    _fuzz_yaml(value, text, place)


@pytest.mark.exhaustive
@settings(settle, max_examples=2000)
@given(values, spiced, st.integers(0, 10**6))
def test_two_thousand_damages_to_yaml(value: Any, text: str, place: int) -> None:
    _fuzz_yaml(value, text, place)


# Through the command


@pytest.mark.parametrize(
    "name", ["alias bomb", "circular mapping", "long number", "key of a number", "infinity"]
)
@pytest.mark.parametrize("verb", ["classify", "translate", "study"])
def test_a_verb_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(DAMAGED[name])
    words = [verb, str(file)] if verb == "study" else [verb, "--config", str(file)]
    assert main([*words, "--output", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("finetune: error: ") and error.count("\n") == 1 and str(file) in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", ["&a [*a]", "9" * 5000, ".nan", "!!binary x", "[" * 1000, "{1: 2}", "\x00"])
def test_an_override_says_it_in_one_line(capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert main(["classify", "--train.learning_rate", value]) == 2
    error = capsys.readouterr().err
    assert error.startswith("finetune: error: cannot read the value") and error.count("\n") == 1
    assert len(error) < 500


def test_text_of_a_file_is_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 100, encoding="utf-8")
    assert read_text(tmp_path / "a", 100) == "x" * 100
    with pytest.raises(UnreadableError, match="larger"):
        read_text(tmp_path / "a", 99)
