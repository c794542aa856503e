"""Configurations for what is built without a run."""

from typing import Any

from finetune.config.build import build
from finetune.config.loading import merge, read_preset
from finetune.config.schema import DataConfig, RunConfig


def configuration(kind: str = "classification", **overrides: Any) -> RunConfig:
    """One run of the preset ``quick`` with sa-softmax; ``overrides`` are nested values."""
    values = read_preset(kind, "quick")
    values = {key: value for key, value in values.items() if key not in ("variants", "seeds")}
    pair = "de-en" if kind == "translation" else None
    values |= {"kind": kind, "task": "any", "pair": pair, "seed": 0}
    values["attention"] = {**values["attention"], "variant": "sa-softmax"}
    return build(merge(values, overrides))


def data_config(**changes: Any) -> DataConfig:
    """Rows of a folder, all of them, with short texts."""
    values: dict[str, Any] = {
        "source": "x", "train_rows": None, "validation_rows": 3, "test_rows": None, "split_seed": 5,
        "drop_empty": False, "prefix": None, "max_length": 7, "max_target_length": 5,
    }  # fmt: skip
    return DataConfig(**values | changes)
