"""Names that other versions of transformers have: each is refused with its present one."""

import dataclasses

import pytest
from transformers import Seq2SeqTrainingArguments

from finetune.errors import UserError
from finetune.training.arguments import SET_ELSEWHERE, check_train
from finetune.training.renamed import INSTEAD, WHOLE

FIELDS = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}


@pytest.mark.parametrize("name", INSTEAD)
def test_a_former_name_is_refused_with_its_present_one(name: str) -> None:
    assert name not in FIELDS
    with pytest.raises(UserError, match=f"train.{name} is no training argument") as error:
        check_train("translation", {name: True})
    if not INSTEAD[name].startswith(WHOLE):
        present = INSTEAD[name].replace(",", "").split()[0]
        assert present in FIELDS - SET_ELSEWHERE.keys() and f"--train.{present}" in str(error.value)


def test_each_objective_refuses_what_it_decides_itself() -> None:
    with pytest.raises(UserError, match=r"is set by the run; use --generation.num_beams"):
        check_train("translation", {"generation_num_beams": 2})
    with pytest.raises(UserError, match=r"unknown key 'train.generation_num_beams'"):
        check_train("classification", {"generation_num_beams": 2})


def test_what_is_advised_is_taken() -> None:
    check_train("classification", {"train_sampling_strategy": "group_by_length", "warmup_steps": 0.06})
    check_train("classification", {"optim": "adafactor", "max_steps": -1, "logging_steps": 0.1})
