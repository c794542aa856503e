"""One text in, one of some classes out: a sequence classifier, scored by accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.data.synthetic import CLASSES
from finetune.errors import UserError
from finetune.models.scale import Batch, BertClassifierShape, ModernBertClassifierShape
from finetune.models.sizes import ENCODERS, MODERNBERT, size_of
from finetune.models.workload import Anatomy, of_shape
from finetune.objectives.base import Answers, Objective, Rows, in_half, is_fused

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from finetune.config.schema import DataConfig, RunConfig
    from finetune.data.collate import Collator
    from finetune.models.builder import Built
    from finetune.models.scratch import Scratch
    from finetune.objectives.base import FloatArray


@dataclass(frozen=True)
class Predicted:
    """The class of one row, with the logarithms of the probabilities of all, float32; one is the other where
    the class is the same."""

    index: int
    log_probabilities: FloatArray = field(compare=False)

    def __repr__(self) -> str:
        return f"class {self.index}"


class Classification(Objective):
    """See ``Objective``."""

    kind = "classification"
    pipeline_tag = "text-classification"

    sample = CLASSES
    text_columns = ("text",)

    adapter_task = "SEQ_CLS"
    trains_head = True
    sizes = ENCODERS

    def check(self, values: Mapping[str, Any]) -> None:
        if values.get("generation") is not None:
            raise UserError("generation.* says how translations are decoded; a classification task has none")

    def references(self, split: Dataset) -> Sequence[Any]:
        return list(split["label"])

    def encode(
        self, batch: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, data: DataConfig
    ) -> dict[str, Any]:
        from finetune.data.encoding import inputs

        return {**inputs(batch["text"], tokenizer, data), "labels": batch["label"]}

    def target_length(self, data: DataConfig) -> int | None:
        return None

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: Any, config: RunConfig) -> Collator:
        from transformers import DataCollatorWithPadding

        from finetune.data.collate import collator

        return collator(DataCollatorWithPadding(tokenizer), tokenizer, config, target_length=None)

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    @property
    def scratch(self) -> Scratch:
        from finetune.models.scratch import BERT

        return BERT

    def settle(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
        from finetune.models import heads

        heads.settle(model, tokenizer)

    def check_model(self, config: RunConfig, built: Built, splits: Mapping[str, Dataset]) -> None:
        from finetune.models import heads

        heads.check_ends(config.model.name, built.base, built.tokenizer, splits)

    def anatomy(self, config: RunConfig, size: Mapping[str, Any], labels: Sequence[str]) -> Anatomy:
        length, numbers = config.data.max_length, (*size_of(size), config.model.vocab_size)
        # Where the classes are read off the rows, a few weights for each are missing here.
        classes = max(2, len(labels))
        shape = (
            ModernBertClassifierShape(*numbers, classes=classes)
            if size.get("model_type") == MODERNBERT
            else BertClassifierShape(*numbers, places=max(512, length), classes=classes)
        )
        dropout = config.model.dropout is None or config.model.dropout > 0
        return of_shape(shape, Batch(1, length, in_half(config), dropout, is_fused(config)))

    @property
    def arguments(self) -> type[TrainingArguments]:
        from transformers import TrainingArguments

        return TrainingArguments

    @property
    def trainer(self) -> type[Trainer]:
        from transformers import Trainer

        return Trainer

    def trainer_options(self) -> dict[str, Any]:
        return {"compute_metrics": _accuracy, "preprocess_logits_for_metrics": _class_and_probabilities}

    def predict(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> dict[int, Any]:
        return self.answer(config, trainer, tokenizer, rows, prefix).predictions

    def answer(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> Answers:
        output = trainer.predict(rows, metric_key_prefix=prefix)
        predicted = (Predicted(int(index), logs) for index, logs in zip(*output.predictions, strict=True))
        predictions = dict(zip(rows["row"], predicted, strict=True))
        return Answers(float(output.metrics[f"{prefix}_loss"]), predictions)

    def rows(self, split: Dataset, predictions: Mapping[int, Any]) -> Rows:
        return [
            {"row": row, "label": label, "prediction": predictions[row].index}
            for row, label in zip(split["row"], split["label"], strict=True)
            if row in predictions
        ]

    def score(
        self,
        rows: Rows,
        config: RunConfig,
        *,
        labels: Sequence[str] | None,
        tokenizer: str,
        generation: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        from finetune.metrics.compute import classification_metrics

        assert labels is not None  # every classification task declares them
        predictions = [row["prediction"] for row in rows]
        return classification_metrics(predictions, [row["label"] for row in rows], labels)

    def log_probabilities(self, rows: Rows, predictions: Mapping[int, Any]) -> FloatArray:
        import numpy as np

        return np.stack([predictions[row["row"]].log_probabilities for row in rows])

    def score_probabilities(self, rows: Rows, log_probabilities: FloatArray) -> dict[str, Any]:
        from finetune.metrics.compute import probability_metrics

        predictions, labels = ([row[name] for row in rows] for name in ("prediction", "label"))
        return probability_metrics(log_probabilities, predictions, labels)

    def snippet(self, config: Mapping[str, Any]) -> str:
        text = json.dumps((config["data"].get("prefix") or "") + "a text", ensure_ascii=False)
        limit = config["data"]["max_length"]
        return f"""\
import torch

inputs = tokenizer({text}, return_tensors="pt", truncation=True, max_length={limit})
with torch.no_grad():
    print(model.config.id2label[int(model(**inputs).logits.argmax(-1))])"""


def _class_and_probabilities(logits: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keeps the class index and the log probabilities of each row; the first of a tuple is the logits.

    The class is that of the logits themselves: rounding could make two probabilities equal.
    """
    import torch

    scores: torch.Tensor = logits[0] if isinstance(logits, tuple) else logits
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.argmax(-1), exact.log_softmax(-1)


def _accuracy(evaluation: Any) -> dict[str, float]:
    return {"accuracy": float((evaluation.predictions[0] == evaluation.label_ids).mean())}


OBJECTIVE = Classification()
