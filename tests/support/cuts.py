"""A model, its rows and the program's own Trainer: what must come out the same however the rows are cut."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from datasets import Dataset

from finetune import objectives
from finetune.config.loading import merge
from finetune.config.schema import RunConfig
from finetune.models.builder import Built, build_model
from finetune.models.scratch import train_tokenizer
from finetune.training.loop import build_trainer
from tests.support.pretrained_models import change_json
from tests.support.records import run_config
from tests.support.tiny_models import FAMILIES

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
# A plain step, from which a loss or a gradient that is too large by a factor comes out as other weights.
TRAIN = {
    "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "warmup_steps": 0,
    "max_grad_norm": 1e9, "num_train_epochs": 1, "train_sampling_strategy": "random", "logging_steps": 1,
    "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True,
}  # fmt: skip


def texts(rows: int) -> list[str]:
    """As many texts, of 1 to 12 words."""
    return [" ".join(WORDS[i % 3 : i % 3 + 1 + 5 * i % 12]) for i in range(rows)]


@cache
def tokenizer_of(kind: str) -> Any:
    return train_tokenizer(objectives.get(kind).scratch.recipe, iter(texts(12)), 300)


def save_base(kind: str, name: str, folder: Path) -> None:
    """A base model as a user may have it: padding on the left, and another padding id in a decoder's file."""
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
    change_json(folder / "tokenizer_config.json", padding_side="left")


@dataclass(frozen=True)
class Trained:
    """A short training: the loss and the gradient's norm of each step, and how far the weights moved."""

    losses: list[float]
    norms: list[float]
    moved: torch.Tensor  # (all weights,)


def assert_the_same(actual: Trained, expected: Trained, tolerance: float = 1e-3) -> None:
    """Asserts, within float error, each loss and norm, and all weights relative to how far they moved."""
    np.testing.assert_allclose(actual.losses, expected.losses, rtol=tolerance)
    np.testing.assert_allclose(actual.norms, expected.norms, rtol=10 * tolerance)
    length = expected.moved.norm()
    assert length > 0
    assert (actual.moved - expected.moved).norm() < 10 * tolerance * length


@dataclass
class Base:
    """A model as the program builds it, and the weights that it starts from.

    ``over`` lays nested values on its configuration.
    """

    kind: str
    folder: Path
    over: dict[str, Any] = field(default_factory=dict)
    built: Built = field(init=False)
    start: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        labels = LABELS if self.kind == "classification" else None
        self.built = build_model(self.config(), self.objective, iter(()), labels)
        self.start = {name: weight.clone() for name, weight in self.built.model.state_dict().items()}

    @property
    def objective(self) -> objectives.Objective:
        return objectives.get(self.kind)

    def config(self, **train: Any) -> RunConfig:
        generation = (
            {"generation": {"max_new_tokens": 6, "num_beams": 2}} if self.kind == "translation" else {}
        )
        plain = {
            "kind": self.kind,
            "model": {"name": str(self.folder), "dropout": None, "attention_dropout": None},
            "data": {"max_length": 24},
            **generation,
            "train": TRAIN,
        }
        return run_config(**merge(merge(plain, self.over), {"train": train}))

    def rows(self, written: Sequence[str]) -> Dataset:
        """Token rows of texts, of classes or translations that follow from their number."""
        columns: dict[str, Any] = {"text": written, "label": [i % 5 for i in range(len(written))]}
        if self.kind == "translation":
            columns = {"source": written, "target": written[::-1]}
        split = Dataset.from_dict({"row": list(range(len(written))), **columns})
        return self.objective.tokenize(split, "rows", self.built.tokenizer, self.config())

    def trainer(self, rows: Dataset, **train: Any) -> Any:
        """A trainer of the untrained model, as no other trainer has left it."""
        self.built.model.activation_checkpointing_disable()
        self.built.model.load_state_dict(self.start)
        splits = {"train": rows, "validation": rows}
        return build_trainer(self.config(**train), self.objective, self.built, splits, self.folder / "out")

    def trained(self, rows: Dataset, per_batch: int, accumulated: int = 1, **train: Any) -> Trained:
        """Trains on ``rows``, so many at once and so many times before each step."""
        trainer = self.trainer(
            rows, per_device_train_batch_size=per_batch, gradient_accumulation_steps=accumulated, **train
        )
        torch.manual_seed(0)  # of dropout, where there is any
        trainer.train()
        steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        weights = {name: w.detach() - self.start[name] for name, w in self.built.model.named_parameters()}
        return Trained(
            [entry["loss"] for entry in steps],
            [entry["grad_norm"] for entry in steps],
            torch.cat([difference.flatten() for difference in weights.values()]),
        )

    def answers(self, rows: Dataset, **train: Any) -> tuple[float, Any]:
        """The mean loss, and logits (rows, classes) or translations, in the order of the rows' numbers."""
        trainer = self.trainer(rows, **train)
        loss = trainer.evaluate()["eval_loss"]
        if self.kind == "translation":
            config, tokenizer = self.config(**train), self.built.tokenizer
            found = self.objective.predict(config, trainer, tokenizer, rows, "test")
            return loss, [found[number] for number in sorted(found)]
        trainer.preprocess_logits_for_metrics = trainer.compute_metrics = None
        logits = trainer.predict(rows).predictions
        return loss, (logits[0] if isinstance(logits, tuple) else logits)[np.argsort(rows["row"])]


def assert_same_answers(actual: tuple[float, Any], expected: tuple[float, Any]) -> None:
    """Asserts within float error: losses and logits; translations to the letter."""
    assert np.isfinite(expected[0])
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4)
    if isinstance(expected[1], list):
        assert actual[1] == expected[1]
    else:
        np.testing.assert_allclose(actual[1], expected[1], rtol=1e-3, atol=1e-4)
