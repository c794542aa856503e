"""Runs and studies from a notebook: the same runs as the command's, returned as what they are."""

import json
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.errors import RunFailedError, UserError

SMALL = {"source": "sample", "train_rows": 24, "validation_rows": 8, "test_rows": 12, "max_length": 16}


def small(**train: Any) -> dict[str, Any]:
    """The values of the quick preset, with fewer rows."""
    values = finetune.preset("classify", "quick")
    values["data"] |= SMALL
    values["model"]["vocab_size"] = 300
    values["train"] |= {"num_train_epochs": 1, "per_device_train_batch_size": 8} | train
    return values


def test_a_preset_is_found_by_its_kind_and_by_its_verb() -> None:
    assert finetune.preset("classify", "quick") == finetune.preset("classification", "quick")
    kinds = {name: finetune.preset(name)["kind"] for name in ("pretrain", "masked")}
    assert kinds == {"pretrain": "causal", "masked": "masked"}  # one verb for two kinds
    with pytest.raises(UserError, match="did you mean 'quick'"):
        finetune.preset("translate", "quik")
    with pytest.raises(UserError, match="did you mean 'classify'"):
        finetune.preset("clasify")


def test_a_run_returns_its_record_and_is_not_made_twice(tmp_path: Path) -> None:
    made = finetune.run(small(), task="agnews", variant="sa-softmax", seed=0, output=tmp_path)
    assert made.finished and (made.variant, made.seed, made.task) == ("sa-softmax", 0, "agnews")
    assert made.folder == tmp_path / "agnews/scratch-tiny/sa-softmax/seed-0"
    started = made.record["started"]
    again = finetune.run(made.folder / "finetune.yaml", output=tmp_path)
    assert again.record["started"] == started
    assert made.record["command"] == f"finetune run {made.folder}/finetune.yaml --output {tmp_path}"


def test_a_run_that_fails_raises_its_reason(tmp_path: Path) -> None:
    values = small(learning_rate=1e30)
    with pytest.raises(RunFailedError, match="the loss became"):
        finetune.run(values, task="agnews", variant="softmax", seed=0, output=tmp_path)


@pytest.mark.parametrize(
    ("given", "telling"),
    [
        ({"task": "agnews"}, "one run has one variant: give variant="),
        ({"variant": "softmax"}, "task must be a name"),
        ({"task": "agnews", "variant": "sa-sofmax"}, "did you mean 'sa-softmax'"),
        ({"task": "agnews", "variant": "softmax", "seed": -1}, "seed: input should be greater"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, given: dict[str, Any], telling: str) -> None:
    with pytest.raises(UserError, match=telling):
        finetune.run(small(), output=tmp_path, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_study_returns_its_comparison(tmp_path: Path) -> None:
    values = {f"data.{key}": value for key, value in SMALL.items()}
    grid = {
        "task": "agnews",
        "variants": ["softmax"],
        "train.max_steps": 1,
        "model.vocab_size": 300,
        **values,
    }
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"name": "mine", "seeds": [0], "grids": {"a": grid}}))
    comparison = finetune.study(file, output=tmp_path / "runs", workers=1)
    (table,) = comparison.tables
    assert (table.task, table.sample, len(table.variants)) == ("agnews", True, 1)
    with pytest.raises(UserError, match="workers must be"):
        finetune.study(file, workers=0)
