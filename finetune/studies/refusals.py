"""What is refused of runs before rows and model are read, by a plan as by the runs.

Imports no torch, but to check a value of ``train`` that is like none of a preset.
"""

from collections.abc import Mapping
from pathlib import Path

from finetune import objectives
from finetune.config import limits
from finetune.config.lineage import SCRATCH
from finetune.config.loading import preset_names
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.models import place
from finetune.records import pretraining
from finetune.studies.grid import Cell, is_like, preset_of
from finetune.studies.state import TO_RUN, Status


def check(statuses: Mapping[Cell, Status]) -> None:
    """Raises ``UserError`` for the first cell that is to run and would be refused.

    The model of one that begins from another run of its study may still be to make, and is not looked at.
    """
    for cell, status in statuses.items():
        if status.state not in TO_RUN:
            continue
        _check_train(cell.config)
        objectives.get(cell.config.kind).settled(cell.config)
        if cell.origin is None and pretraining.resolve(cell.config) is None:
            check_model_name(cell.config)


def check_model_name(config: RunConfig) -> None:
    """Raises ``UserError`` for adapters of random weights, and for a folder that is not there."""
    name = config.model.name
    if name.startswith(SCRATCH):
        if config.model.lora.rank:
            raise UserError("model.lora adapts a pretrained model: with a scratch model leave its rank at 0")
    elif place.is_folder(name) and not Path(name).is_dir():
        raise UserError(f"there is no model folder '{name}'; give a folder, a Hub id or scratch:SIZE")


def _check_train(config: RunConfig) -> None:
    presets = [preset_of(config.kind, name)["train"] for name in preset_names(config.kind)]
    doubtful = {
        key: value
        for key, value in config.train.items()
        if not any(is_like(value, preset.get(key)) for preset in presets)
    }
    if doubtful:  # transformers takes seconds to import, and accepts what is like a preset's
        from finetune.training.arguments import check_train, resolve_bf16

        check_train(config.kind, resolve_bf16(doubtful))
    limits.check(config.train)
