"""Losses, weights and predictions do not depend on how rows are cut into batches; control words are text."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from torch.nn import functional
from transformers.trainer_pt_utils import LabelSmoother

from finetune import data
from finetune.batches import longest_first
from finetune.config import RunConfig
from finetune.model import Built, build_model
from finetune.scratch import train_tokenizer
from finetune.train import _predict, build_trainer
from finetune.trainer import summed_loss
from records import run_config
from tiny_models import FAMILIES

ROWS = 11
WORDS = [
    "a",
    "cat",
    "and",
    "the",
    "dog",
    "sat",
    "under",
    "that",
    "small",
    "red",
    "tree",
    "until",
    "it",
    "rains",
]
TEXTS = [" ".join(WORDS[i % 3 : i % 3 + 1 + 5 * i % 12]) for i in range(ROWS)]
LABELS = [str(number) for number in range(5)]
CLASSIFIERS = {
    **{name: None for name, family in FAMILIES.items() if family.kind != "seq2seq"},
    "bart": hf.BartForSequenceClassification,
    "mbart": hf.MBartForSequenceClassification,
    "t5": hf.T5ForSequenceClassification,
}
CASES = [("classification", name) for name in CLASSIFIERS] + [
    ("translation", name) for name, family in FAMILIES.items() if family.kind == "seq2seq"
]
every_case = pytest.mark.parametrize(("kind", "family"), CASES)


@cache
def tokenizer_of(kind: str) -> Any:
    return train_tokenizer(kind, iter(TEXTS), 300)


def save_base(kind: str, name: str, folder: Path, side: str = "left") -> None:
    """A base model as a user may have it: padding on the left, and another padding id in the model's file."""
    tokenizer, family = tokenizer_of("translation"), FAMILIES[name]
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ("pad", "eos", "bos")}
    tokens = {f"{role}_token_id": number for role, number in ids.items()}
    none = {key: 0.0 for key in family.config_class().to_dict() if "drop" in key}
    model_class = CLASSIFIERS[name] if kind == "classification" else family.model_class
    if kind == "classification" and model_class is None:
        model_class = hf.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[family.config_class]
    over = {**none, **tokens, "vocab_size": len(tokenizer), "num_labels": 5, "max_position_embeddings": 40}
    model = family.build(model_class=model_class, **over)
    if family.kind == "decoder":
        model.config.pad_token_id = len(tokenizer) - 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace("{", f'{{"padding_side": "{side}",', 1))


def settings(kind: str, folder: Path, **over: Any) -> RunConfig:
    train = {
        "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "warmup_steps": 0,
        "max_grad_norm": 1e9, "num_train_epochs": 1, "train_sampling_strategy": "random", "logging_steps": 1,
        "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    generation = {"generation": {"max_new_tokens": 6, "num_beams": 2}} if kind == "translation" else {}
    return run_config(
        kind=kind,
        model={"name": str(folder), "dropout": None, "attention_dropout": None},
        data={"max_length": 24},
        **generation,
        train={**train, **over},
    )


def token_rows(kind: str, tokenizer: Any, config: RunConfig, texts: list[str] = TEXTS) -> Dataset:
    columns = {"text": texts, "label": [i % 5 for i in range(len(texts))]}
    if kind == "translation":
        columns = {"source": texts, "target": texts[::-1]}
    split = Dataset.from_dict({"row": list(range(len(texts))), **columns})
    return data.tokenise({"rows": split}, tokenizer, kind, config.data)["rows"]


@dataclass
class Base:
    """A model as the program builds it, its rows, and the weights that it starts from."""

    kind: str
    folder: Path
    built: Built
    rows: Dataset
    start: dict[str, Any]

    def trainer(self, rows: Dataset | None = None, **train: Any) -> Any:
        """A trainer of the untrained model."""
        self.built.base.load_state_dict(self.start)
        config = settings(self.kind, self.folder, **train)
        splits = {"train": self.rows, "validation": self.rows if rows is None else rows}
        return build_trainer(config, self.built, splits, self.folder)


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Base]:
    @cache
    def make(kind: str, family: str) -> Base:
        folder = tmp_path_factory.mktemp(family)
        save_base(kind, family, folder)
        config = settings(kind, folder)
        found = build_model(config, iter(()), LABELS if kind == "classification" else None)
        start = {name: weight.clone() for name, weight in found.base.state_dict().items()}
        return Base(kind, folder, found, token_rows(kind, found.tokenizer, config), start)

    return make


@every_case
def test_a_step_does_not_depend_on_how_it_is_cut(kind: str, family: str, base_of: Any) -> None:
    """Two steps, the second shorter: its last batch has one row, and targets are of unequal lengths."""
    base = base_of(kind, family)
    for smoothing in (0.0, 0.1):
        found = []
        for rows, steps in ((8, 1), (2, 4) if smoothing else (1, 8)):
            trainer = base.trainer(
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=steps,
                label_smoothing_factor=smoothing,
            )
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            found.append((losses, torch.cat([p.detach().flatten() for p in base.built.model.parameters()])))
        assert len(found[0][0]) == 2
        for losses, weights in found[1:]:
            assert losses == pytest.approx(found[0][0], rel=1e-4)
            torch.testing.assert_close(weights, found[0][1], rtol=1e-3, atol=1e-4)


@every_case
def test_what_is_predicted_does_not_depend_on_the_evaluation(kind: str, family: str, base_of: Any) -> None:
    """Batches of 1, 7 and all rows, in their order and longest first: loss, and logits or translations."""
    base = base_of(kind, family)
    found = []
    for size, rows in ((1, base.rows), (7, base.rows), (7, longest_first(base.rows)), (64, base.rows)):
        trainer = base.trainer(rows, per_device_eval_batch_size=size, label_smoothing_factor=0.1)
        loss = trainer.evaluate()["eval_loss"]
        if kind == "translation":
            answers = _predict(settings(kind, base.folder), trainer, base.built.tokenizer, rows)
            found.append((loss, [answers[i] for i in range(ROWS)]))
        else:
            trainer.preprocess_logits_for_metrics = trainer.compute_metrics = None
            logits = trainer.predict(rows).predictions
            found.append(
                (loss, (logits[0] if isinstance(logits, tuple) else logits)[np.argsort(rows["row"])])
            )
    for loss, answers in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4)
        if kind == "translation":
            assert answers == found[0][1]
        else:
            np.testing.assert_allclose(answers, found[0][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(7,), (3, 5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_one_batch_is_the_library_s(shape: tuple[int, ...], smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(*shape, 9), torch.randint(0, 9, shape)
    labels.view(-1)[1] = -100
    wanted = LabelSmoother(smoothing)({"logits": logits}, labels)
    if not smoothing:
        torch.testing.assert_close(wanted, functional.cross_entropy(logits.view(-1, 9), labels.view(-1)))
    torch.testing.assert_close(summed_loss(logits, labels, smoothing) / (labels.numel() - 1), wanted)
