"""Pretrained models on paper: as they are when they are built, for every family and with adapters."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from finetune import objectives
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.models import traced
from finetune.models.adapters import adapted_model
from finetune.models.builder import head_options
from finetune.models.workload import Workload
from finetune.objectives.base import located_at
from tests.support.on_paper import config_of, count, kept_bytes
from tests.support.pretrained_models import change_json, kind_of, save
from tests.support.tiny_models import all_but_few_slow, names

LABELS = ("one", "two", "three")
SOURCE, TARGET = 16, 12
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}


def config(kind: str, folder: Path, **train: Any) -> RunConfig:
    data = {"max_length": SOURCE, "max_target_length": TARGET if kind == "translation" else None}
    made = config_of(kind, {"data": data, "train": train}, name=str(folder))
    return replace(made, model=replace(made.model, dropout=None, attention_dropout=None))


def planned(made: RunConfig) -> Workload:
    found = objectives.get(made.kind).workload(made, LABELS if made.kind == "classification" else ())
    assert found is not None
    return found


def built(made: RunConfig) -> tuple[Any, Any]:
    """The stock model that the plan is about, and what of it is trained."""
    objective = objectives.get(made.kind)
    labels = LABELS if made.kind == "classification" else None
    dropouts = dict.fromkeys(("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop"), 0.0)
    options = {**head_options(labels), **dropouts, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    stock = traced._stock(made.model.name, None)
    for name, value in options.items():
        if name in stock.to_dict() or name in ("id2label", "label2id"):
            setattr(stock, name, value)
    model = objective.auto_model.from_config(stock, attn_implementation="sdpa")
    kept = {"task_type": objective.adapter_task, "head": objective.trains_head}
    return model, adapted_model(model, made.model.lora, [], **kept).train()


def rows(made: RunConfig) -> dict[str, torch.Tensor]:
    given = {"input_ids": torch.full((traced.ROWS, SOURCE), 5)}
    return given | (
        {"decoder_input_ids": torch.full((traced.ROWS, TARGET), 5)} if made.kind == "translation" else {}
    )


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft's note on a GPT-2
@pytest.mark.parametrize("rank", [0, 4], ids=["whole", "lora"])
@pytest.mark.parametrize("family", all_but_few_slow())
def test_a_plan_has_the_numbers_of_the_model_that_is_built(family: str, rank: int, tmp_path: Path) -> None:
    made = config(kind_of(family), save(family, tmp_path))
    made = replace(made, model=replace(made.model, lora=replace(made.model.lora, **{**LORA, "rank": rank})))
    found = planned(made).model
    model, adapted = built(made)
    assert (found.parameters, found.trained) == (count(adapted), count(adapted, trained=True))
    assert (found.trained < found.parameters / 3) == bool(rank) or family == "marian"

    whole = model.base_model is model or made.kind == "translation"  # with its output layer
    kept = kept_bytes(model if whole else model.base_model, False, **rows(made)) / traced.ROWS
    output = 12 * TARGET * model.config.vocab_size if made.kind == "translation" else 0
    assert math.isclose(kept + output, found.row_bytes, rel_tol=0.15), (kept + output) / found.row_bytes
    with FlopCounterMode(display=False) as counter:
        result = (model if whole else model.base_model)(**rows(made), use_cache=False)[0]
        result.sum().backward()
    assert math.isclose(counter.get_total_flops() / traced.ROWS, found.row_flops, rel_tol=0.02)


@pytest.mark.parametrize("family", names("encoder")[:2] + names("seq2seq")[:1])
def test_precision_checkpoints_and_definitions_change_what_is_kept(family: str, tmp_path: Path) -> None:
    folder, kind = save(family, tmp_path), kind_of(family)
    whole = planned(config(kind, folder)).model
    half = planned(config(kind, folder, bf16=True)).model
    assert half.row_bytes < 0.95 * whole.row_bytes and half.parameters == whole.parameters
    assert whole.row_bytes_again < 0.7 * whole.row_bytes
    made = config(kind, folder)
    definition = planned(replace(made, attention=replace(made.attention, kernel="reference"))).model
    assert definition.row_bytes > whole.row_bytes and definition.row_flops == whole.row_flops


def test_a_position_is_counted_with_what_it_learns(tmp_path: Path) -> None:
    made = config("causal", save("gpt_neox", tmp_path))
    own = planned(made).model
    kerple = planned(replace(made, model=replace(made.model, position="kerple"))).model
    assert kerple.parameters == own.parameters + 3 * 2 * 3 == kerple.trained  # 2 a head of 3 in 3 layers
    assert kerple.row_flops == own.row_flops and kerple.batch_bytes >= own.batch_bytes


def test_what_is_not_here_is_not_on_paper(tmp_path: Path) -> None:
    for name in ("org/nothing", "./nowhere", "not a name", f"pretrained:{tmp_path}"):
        made = config("classification", tmp_path)
        made = replace(made, model=replace(made.model, name=name))
        assert located_at(made) is None
        assert objectives.get("classification").workload(made, LABELS) is None


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = save("bert", tmp_path)
    change_json(folder / "config.json", model_type="nothing")
    with pytest.raises(UserError, match="cannot load the model"):
        planned(config("classification", folder))


def test_a_way_that_depends_on_the_rows_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    forward = BertModel.forward

    def looking(self: Any, input_ids: torch.Tensor, **options: Any) -> Any:
        return forward(self, input_ids, **options) if input_ids.sum() > 0 else None

    monkeypatch.setattr(BertModel, "forward", looking)
    monkeypatch.setattr(traced, "_traces", {})
    assert objectives.get("classification").workload(config("classification", save("bert", tmp_path))) is None
