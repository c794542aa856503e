"""Configurations of the preset ``quick``, for what is built without a run."""

from typing import Any

from finetune.config.build import build
from finetune.config.loading import merge, read_preset
from finetune.config.schema import RunConfig


def configuration(kind: str = "classification", **overrides: Any) -> RunConfig:
    """One run with sa-softmax; ``overrides`` are nested values."""
    values = read_preset(kind, "quick")
    values = {key: value for key, value in values.items() if key not in ("variants", "seeds")}
    pair = "de-en" if kind == "translation" else None
    values |= {"kind": kind, "task": "any", "pair": pair, "seed": 0}
    values["attention"] = {**values["attention"], "variant": "sa-softmax"}
    return build(merge(values, overrides))
