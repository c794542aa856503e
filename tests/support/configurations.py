"""Configurations for what is built without a run."""

from typing import Any

from finetune.config.schema import DataConfig, RunConfig
from tests.support.records import run_config


def configuration(kind: str = "classification", **overrides: Any) -> RunConfig:
    """One run of the preset ``quick`` with sa-softmax; ``overrides`` are nested values."""
    return run_config("sa-softmax", kind=kind, task="any", **overrides)


def data_config(**changes: Any) -> DataConfig:
    """Rows of a folder, all of them, with short texts."""
    values: dict[str, Any] = {
        "source": "x", "train_rows": None, "validation_rows": 3, "test_rows": None, "split_seed": 5,
        "drop_empty": False, "prefix": None, "max_length": 7, "max_target_length": 5,
    }  # fmt: skip
    return DataConfig(**values | changes)
