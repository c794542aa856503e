"""What ``train.fsdp`` may say."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from finetune.config.identity import unlike
from finetune.errors import UserError
from finetune.models import sharding
from finetune.training import sharded
from finetune.training.arguments import check_train, training_arguments
from finetune.training.trainer import comparable
from tests.support.configurations import configuration
from tests.support.small_runs import run
from tests.support.tiny_models import FAMILIES


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"fsdp": "full_shard auto_wrap"}, "takes true or false"),
        ({"fsdp_config": {"version": 2}}, "--train.fsdp true"),
        ({"fsdp": False, "fsdp_config": {"version": 2}}, "--train.fsdp true"),
        ({"fsdp": True, "fsdp_config": "fsdp.json"}, "names and values"),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, "is 2 here"),
        ({"fsdp": True, "fsdp_config": {"fsdp_version": 2}}, "train.fsdp_config.version"),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": "FULL_SHARD"}}, "true or false"),
        ({"fsdp": True, "fsdp_config": {"cpu_offload": True}}, "leave it out"),
        (
            {"fsdp": True, "fsdp_config": {"activation_checkpointing": True}},
            "--train.activation_checkpointing",
        ),
        ({"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["BertLayer"]}}, "every family"),
        ({"fsdp": True, "fsdp_config": {"reshard_after": True}}, "reshard_after_forward"),
    ],
)
def test_what_cannot_be_had_says_what_to_type(train: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        check_train("classification", train)
        sharded.wanted(train)
    assert "\n" not in str(raised.value)


def test_layers_are_let_go_of_unless_asked_to_stay() -> None:
    assert sharded.wanted({}) is None and sharded.wanted({"fsdp": False}) is None
    assert sharded.wanted({"fsdp": True}) == sharded.Sharding(reshard=True)
    config = {"version": 2, "reshard_after_forward": False}
    assert sharded.wanted({"fsdp": True, "fsdp_config": config}) == sharded.Sharding(reshard=False)


def test_a_run_without_a_launcher_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("classify", tmp_path, "--train.fsdp", "true") == 2
    assert "torchrun --nproc-per-node" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("train", "said"),
    [({"optim": "adafactor"}, "adamw_torch"), ({"optim": "lion_32bit"}, "adamw_torch")],
)
def test_an_optimizer_that_reads_whole_weights_is_refused(
    train: dict[str, Any], said: str, tmp_path: Path
) -> None:
    arguments = training_arguments(configuration(train=train), tmp_path)
    with pytest.raises(UserError, match=said):
        sharded.check(arguments)


def test_a_run_is_the_same_shared_out_or_not() -> None:
    settings = {"version": 2, "reshard_after_forward": False}
    plain: dict[str, Any] = {"train": {"learning_rate": 1e-3}}
    shared = {"train": {**plain["train"], "fsdp": True, "fsdp_config": settings}}
    assert unlike(plain, shared) == []


@pytest.mark.parametrize("strategy", ["steps", "best"])
def test_a_new_best_checkpoint_is_known_at_once(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only with the next one, which there may never be."""
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        save_strategy=strategy,
        save_steps=2,
        metric_for_best_model="loss",
    )
    trainer = comparable(Trainer)(model=FAMILIES["bert"].build(), args=arguments)
    trainer.create_optimizer_and_scheduler(3)
    monkeypatch.setattr(sharding, "is_sharded", lambda _: True)
    monkeypatch.setattr(sharded.distributed, "save", lambda *_, **__: None)
    trainer._tr_loss, trainer._globalstep_last_logged = torch.tensor(0.0), 0
    for step, best in ((2, 2), (4, 2), (6, 6)):
        trainer.state.global_step, trainer.state.best_global_step = step, best
        trainer._save_checkpoint(trainer.model, None)
        assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
