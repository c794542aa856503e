"""Tags each token of a text: whether it begins with a vowel. Copied into ``finetune/objectives/``."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from finetune.data.synthetic import Sample
from finetune.errors import UserError
from finetune.objectives.base import Answers, Objective, Rows

IGNORED = -100


def _sample(task: Any, pair: str | None, split: str, n: int) -> Rows:
    random, words = Random(split), ("apple", "bear", "echo", "fox", "ink", "goat", "oak", "lion")
    return [{task.text: " ".join(random.choices(words, k=random.randint(2, 4)))} for _ in range(n)]


class Tagging(Objective):
    """See ``Objective``."""

    kind = "tagging"
    pipeline_tag = "token-classification"
    sample = Sample({"train": 300, "test": 60}, _sample)
    text_columns = ("text",)
    adapter_task = "TOKEN_CLS"
    trains_head = True

    def check(self, values: Mapping[str, Any]) -> None:
        if values.get("generation") is not None:
            raise UserError("generation.* is not for tags")

    def references(self, split: Any) -> Sequence[Any]:
        raise UserError("a row of tags has no single answer: take out 'metrics'")

    def encode(self, batch: Mapping[str, list[Any]], tokenizer: Any, data: Any) -> dict[str, Any]:
        from finetune.data.encoding import inputs

        encoded = inputs(batch["text"], tokenizer, data)
        special = set(tokenizer.all_special_ids)

        def tag(token: int) -> int:
            return IGNORED if token in special else int(tokenizer.decode([token]).strip()[:1] in "aeiou")

        return {**encoded, "labels": [[tag(token) for token in ids] for ids in encoded["input_ids"]]}

    def target_length(self, data: Any) -> int | None:
        return int(data.max_length)

    def collator(self, tokenizer: Any, model: Any, config: Any) -> Any:
        from transformers import DataCollatorForTokenClassification

        from finetune.data.collate import collator

        pad = DataCollatorForTokenClassification(tokenizer)
        return collator(pad, tokenizer, config, target_length=self.target_length(config.data))

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    @property
    def scratch(self) -> Any:
        from finetune.models.scratch import BERT

        return BERT

    def settle(self, model: Any, tokenizer: Any, config: Any) -> None:
        """Nothing: an encoder is as it is."""

    def check_model(self, config: Any, built: Any, splits: Any) -> None:
        """Nothing beyond what every model is asked."""

    @property
    def arguments(self) -> Any:
        from transformers import TrainingArguments

        return TrainingArguments

    @property
    def trainer(self) -> Any:
        from transformers import Trainer

        return Trainer

    def predict(self, config: Any, trainer: Any, tokenizer: Any, rows: Any, prefix: str) -> dict[int, Any]:
        return self.answer(config, trainer, tokenizer, rows, prefix).predictions

    def answer(self, config: Any, trainer: Any, tokenizer: Any, rows: Any, prefix: str) -> Answers:
        found = trainer.predict(rows, metric_key_prefix=prefix)
        tags = [
            [row.tolist() for row in (labels[labels != IGNORED], logits.argmax(-1)[labels != IGNORED])]
            for labels, logits in zip(found.label_ids, found.predictions, strict=True)
        ]
        return Answers(float(found.metrics[f"{prefix}_loss"]), dict(zip(rows["row"], tags, strict=True)))

    def rows(self, split: Any, predictions: Mapping[int, Any]) -> Rows:
        return [
            {"row": row, "label": predictions[row][0], "prediction": predictions[row][1]}
            for row in split["row"]
            if row in predictions
        ]

    def score(self, rows: Rows, config: Any, **task: Any) -> dict[str, Any]:
        right = [row["label"] == row["prediction"] for row in rows]
        return {"exact": {"value": sum(right) / len(right), "signature": "exact|texts"}}

    def snippet(self, config: Mapping[str, Any]) -> str:
        return 'print(model(**tokenizer("a text", return_tensors="pt")).logits.argmax(-1))'


OBJECTIVE = Tagging()
