"""Numbers, names and choices that no run could go by: each is one line before any training, in every verb."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.config import limits
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.studies import file as study
from finetune.tasks import TASKS, check_pair
from tests.support.records import run_config

GENERATION = {"num_beams": 4, "length_penalty": 1.0, "max_new_tokens": 8}
LANGUAGE = {"documents": "cross", "train_tokens": None, "tokens_per_step": 64, "eval_lengths": [],
            "scored_tokens": 8, "test_windows": None, "stride": None, "masked_share": None}  # fmt: skip


TUNING = {"keys": {"train.learning_rate": [0.1, 0.2]}, "search": "grid", "trials": 2, "seeds": [9],
          "metric": "bleu"}  # fmt: skip


def fields_of(holder: Any = RunConfig, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value of a configuration: its key, and its type."""
    for field in dataclasses.fields(holder):
        kinds = typing.get_args(field.type) or (field.type,)
        inner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if inner is None:
            yield (*above, field.name), field.type
        else:
            yield from fields_of(inner, (*above, field.name))


FIELDS = {".".join(key): str(kind) for key, kind in fields_of()}
NUMBERS = [key for key, kind in FIELDS.items() if "int" in kind or ("float" in kind and "dict" not in kind)]
TEXTS = [key for key, kind in FIELDS.items() if "min_length" in kind]
# Rows are as many as there are; a float may be large.
ENDLESS = {"data.train_rows", "data.validation_rows", "data.test_rows", "model.lora.alpha",
           "early_stopping_patience", "generation.length_penalty", "language.train_tokens",
           "language.test_windows", "until.margin", "until.step"}  # fmt: skip


def built(key: str, value: Any) -> RunConfig:
    first, *rest = key.split(".")
    for part in reversed(rest):
        value = {part: value}
    others = {"generation": GENERATION, "attention": {"start": "annealed"}, "language": LANGUAGE}
    others |= {"tuning": TUNING, "until": {"margin": 0.5, "first": 3, "step": 2, "most": 7}}
    beside = others.get(first)
    given = {first: value if beside is None else {**beside, **value}}
    return run_config(**{"kind": "translation", "generation": GENERATION, **given})


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_of_a_configuration_has_its_limits(key: str) -> None:
    """``train.*`` apart, which is transformers'."""
    wrong = ["x", "1", True, [1], {"a": 1}, float("nan"), float("inf"), -float("inf")]
    if key != "generation.length_penalty":
        wrong += [-1, -(2**62)]
    if key == "tuning.seeds":
        wrong.remove([1])
    if key not in ENDLESS:
        wrong += [2**62, 10**400]
    for value in wrong:
        with pytest.raises(UserError) as error:
            built(key, value)
        said = str(error.value)
        assert key.rpartition(".")[2] in said and "\n" not in said and len(said) < 400, value


@pytest.mark.parametrize("key", TEXTS)
def test_no_name_is_empty_or_endless(key: str) -> None:
    for value in ("", "x" * 5000):
        with pytest.raises(UserError, match=key):
            built(key, value)


def test_a_single_hypothesis_has_no_length_penalty() -> None:
    with pytest.raises(UserError, match=r"length_penalty 0\.6 has no effect"):
        built("generation", {"num_beams": 1, "length_penalty": 0.6})
    assert built("generation", {"length_penalty": 0.6})


@pytest.mark.parametrize("name", sorted({*limits.SMALLEST, *limits.LARGEST}))
def test_the_plan_of_a_study_knows_the_limits_of_training_arguments(tmp_path: Path, name: str) -> None:
    beyond = [limits.SMALLEST.get(name, 0) - 1]
    beyond += [limits.LARGEST[name] * 10] if name in limits.LARGEST else []
    for value in beyond:
        grid = f"{{task: agnews, variants: [softmax], train.{name}: {value!r}}}"
        (tmp_path / "s.yaml").write_text(f"name: s\nseeds: [0]\ngrids: {{g: {grid}}}\n")
        with pytest.raises(UserError, match=f"train.{name} must be at"):
            study.load(str(tmp_path / "s.yaml"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("workers: 100000000", "too many for a machine"),
        (f"name: {'s' * 300}", "name must be a word"),
        (f"seeds: [{'x' * 900}]", "seeds must be a list"),
        (
            f"grids: {{g: {{task: agnews, variants: [softmax], train: {'x' * 900}}}}}",
            "train must be a mapping",
        ),
    ],
)
def test_a_study_is_named_what_no_machine_or_disk_takes(tmp_path: Path, line: str, words: str) -> None:
    good = {"name": "s", "seeds": "[0]", "grids": "{g: {task: agnews, variants: [softmax]}}"}
    key, _, value = line.partition(": ")
    (tmp_path / "s.yaml").write_text("".join(f"{k}: {v}\n" for k, v in (good | {key: value}).items()))
    with pytest.raises(UserError, match=words) as error:
        study.load(str(tmp_path / "s.yaml"))
    assert len(str(error.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("word", ["1" * 5000, "-1", "٣", "1e3", "0x1", "1.0", "--", "²"])
@pytest.mark.parametrize(
    "options", [["classify", "--seeds"], ["study", "quick", "--workers"], ["bench", "--lengths"],
                ["diagnose", "x", "--rows"], ["diagnose", "x", "--length"]], ids=lambda options: options[0],
)  # fmt: skip
def test_a_number_that_is_none_is_one_line(
    capsys: pytest.CaptureFixture[str], options: Any, word: str
) -> None:
    assert main([*options[:-1], f"{options[-1]}={word}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert options[-1] in line and len(line) < 300


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "--output="],
        ["translate", "--config="],
        ["study", "quick", "--output="],
        ["compare", ""],
        ["compare", "--from="],
        ["summary", ""],
        ["push", " ", "--to", "a/b"],
        ["diagnose", ""],
        ["bench", "--output="],
        ["bench", "--only="],
        ["classify", "--data="],
        ["classify", "--model="],
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_working_folder(tmp_path, monkeypatch, capsys, words):
    """As of a variable that a script has not set."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_name_that_no_disk_takes_is_a_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "x" * 5000]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 300


@pytest.mark.parametrize(
    ("pair", "meant"),
    [
        ("DE-EN", "de-en"),
        ("deu-eng", "de-en"),
        ("ger-eng", "de-en"),
        ("de_DE-en_XX", "de-en"),
        ("eng_Latn-deu_Latn", "en-de"),
        ("en-zh-CN", "en-zh"),
        ("en-zh_TW", "en-zh"),
    ],
)
def test_a_pair_of_the_same_languages_is_what_was_meant(pair: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        check_pair(TASKS["iwslt2017"], pair)
