"""A record's values are data: whatever they are, every verb that reads one is right or says one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.cli.main import main
from finetune.config.identity import as_dict
from finetune.errors import UserError
from finetune.records import store
from finetune.studies.file import load
from tests.support.nested import WRONG, changed, every_place
from tests.support.records import classified, finish, started

ROWS = classified([True, False, True])
STUDY = "name: s\nseeds: [0]\ngrids: {g: {task: agnews, variants: [softmax], data.source: sample}}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and the finished run of its one cell."""
    root = tmp_path_factory.mktemp("study")
    (root / "s.yaml").write_text(STUDY)
    (cell,) = load(str(root / "s.yaml"), root / "runs").cells
    entry = started("softmax", 0, sample=True)
    entry["config"] = as_dict(cell.config)
    assert entry["data"] is not None
    entry["data"]["splits"]["validation"] = dict(entry["data"]["splits"]["test"])
    store.write(cell.folder, finish(entry, ROWS))
    store.write_predictions(cell.folder, ROWS)
    return cell.folder


def verbs(folder: Path) -> list[list[str]]:
    root = folder.parents[5]
    study = ["study", str(root / "s.yaml"), "--output", str(root / "runs")]
    return [
        [*study, "--plan"],
        [*study, "--print"],
        ["push", str(folder), "--to", "a/b"],
        ["diagnose", str(folder)],
    ]


def test_the_verbs_know_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verbs(place)[0]) == 0
    assert "1 done; nothing is left to run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("data", "kind"), "x"),
        (("data", "splits"), {}),
        (("config", "data", "source"), {}),
        (("config", "data", "source"), ["x"]),
        (("config", "train"), {}),
        (("config",), {"a": 1}),
        (("status",), "running"),
        (("reason",), "x" * 5000),
        (("times",), {"train_s": -1.0, "total_s": 1e300}),
        (("task", "pair"), "x"),
        (("model",), None),
        (("attention", "parameters"), {"<b>\x1b[31m": 1}),
    ],
    ids=str,
)
def test_a_wrong_value_is_one_line_in_every_verb(
    place: Path, capsys: pytest.CaptureFixture[str], key: tuple[str, ...], value: object
) -> None:
    file = place / store.FILE
    good = file.read_text(encoding="utf-8")
    try:
        file.write_text(json.dumps(changed(json.loads(good), key, value)), encoding="utf-8")
        for words in verbs(place):
            assert main(words) in (0, 2)
            error = capsys.readouterr().err
            assert error.count("\n") <= 1 and (error == "" or error.startswith("finetune: error: "))
    finally:
        file.write_text(good, encoding="utf-8")


# Fuzz: a record cut, spiced, or with another value at a random place, and its predictions likewise

junk = st.recursive(
    st.sampled_from([*WRONG, 0, -1, 2**63, 1e300, "<&$\\", "\x1b[31m"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
damages = st.tuples(
    st.integers(0, 10**6), junk, st.text(max_size=6), st.sampled_from(["value", "cut", "insert"])
)


def _damaged(text: str, damage: tuple[int, Any, str, str]) -> bytes:
    number, value, spice, way = damage
    if way == "value":
        good = json.loads(text)
        places = every_place(good)
        return json.dumps(changed(good, places[number % len(places)], value)).encode()
    at = number % len(text)
    found = text[:at] if way == "cut" else text[:at] + spice + text[at:]
    return found.encode("utf-8", "surrogatepass")


def _read_or_named(file: Path, damage: tuple[int, Any, str, str], read: Callable[[Path], Any]) -> None:
    good = file.read_text(encoding="utf-8")
    try:
        first, *rest = good.split("\n", 1) if file.name == store.PREDICTIONS else [good]
        file.write_bytes(_damaged(first, damage) + "".join(["\n", *rest]).encode() * bool(rest))
        read(file.parent)
    except UserError as error:
        assert file.name in str(error) and len(" ".join(str(error).split())) < 600
    finally:
        file.write_text(good, encoding="utf-8")


settle = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@settings(settle, max_examples=60)
@given(damages)
def test_any_damage_to_a_record_is_read_or_named(place: Path, damage: tuple[int, Any, str, str]) -> None:
    _read_or_named(place / store.FILE, damage, store.read)
    _read_or_named(place / store.PREDICTIONS, damage, store.read_predictions)


@pytest.mark.exhaustive
@settings(settle, max_examples=2000)
@given(damages)
def test_two_thousand_damages_to_records(place: Path, damage: tuple[int, Any, str, str]) -> None:
    _read_or_named(place / store.FILE, damage, store.read)
    _read_or_named(place / store.PREDICTIONS, damage, store.read_predictions)
