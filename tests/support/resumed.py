"""What a run leaves that is killed, and what it ends with when it is resumed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.records import store
from finetune.training.resume import Resumable


def kept_at(step: int, whole: Path, killed: Path, patch: pytest.MonkeyPatch) -> None:
    """Has a run in ``whole`` leave a copy in ``killed``, as a kill after the checkpoint of ``step`` does."""
    save = Resumable._save_checkpoint

    def save_and_copy(trainer: Any, model: Any, trial: Any) -> None:
        save(trainer, model, trial)
        if trainer.args.output_dir == str(whole) and trainer.state.global_step == step:
            shutil.copytree(whole, killed)

    patch.setattr(Resumable, "_save_checkpoint", save_and_copy)


def same_end(whole: Path, resumed: Path) -> None:
    """Asserts that numbers, weights and predictions of both are equal to the last bit."""
    first, second = store.read(whole), store.read(resumed)
    assert second["metrics"] == first["metrics"] and second["untrained"] == first["untrained"]
    assert second["times"] is not None and second["times"]["train_s"] is None
    losses = [[point.get("loss") for point in record["curve"]] for record in (first, second)]
    assert losses[0] == losses[1]
    for name in filter(None, (first["predictions"], first["probabilities"])):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    weights = [load_file(where / "model.safetensors") for where in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
