"""A sentence in one language in, its translation out: an encoder-decoder that generates, scored by BLEU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.data.synthetic import PAIRS
from finetune.errors import UserError
from finetune.models.scale import MarianShape
from finetune.models.sizes import ENCODER_DECODERS
from finetune.models.workload import Anatomy, of_marian
from finetune.objectives.base import Objective, Rows, in_half, is_fused
from finetune.tasks.base import languages

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from finetune.config.schema import DataConfig, RunConfig
    from finetune.data.collate import Collator
    from finetune.models.builder import Built
    from finetune.models.scratch import Scratch

UNTRAINED_ROWS = 100
"""Validation pairs that are translated before training, evenly spaced."""
WRITTEN_ROWS, WRITTEN_TOKENS = 100, 3
"""Reference translations that a tokenizer reads and writes again, and tokens that a model writes on trial."""
LEAST_WRITTEN, WELL_WRITTEN = 50.0, 95.0
"""BLEU of references that went through the tokenizer: below the first nothing can be measured by it, below
the second a note says so."""


class Translation(Objective):
    """See ``Objective``."""

    kind = "translation"
    pipeline_tag = "translation"

    sample = PAIRS
    text_columns = ("source", "target")

    adapter_task = "SEQ_2_SEQ_LM"
    trains_head = False
    sizes = ENCODER_DECODERS

    def check(self, values: Mapping[str, Any]) -> None:
        if values.get("generation") is None:
            raise UserError(
                "a translation task needs generation.num_beams, length_penalty and max_new_tokens"
            )

    def references(self, split: Dataset) -> Sequence[Any]:
        return list(split["target"])

    def encode(
        self, batch: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, data: DataConfig
    ) -> dict[str, Any]:
        from finetune.data.encoding import inputs, targets

        labels = targets(batch["target"], tokenizer, self.target_length(data))
        return {**inputs(batch["source"], tokenizer, data), "labels": labels}

    def target_length(self, data: DataConfig) -> int:
        return data.max_target_length or data.max_length

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: Any, config: RunConfig) -> Collator:
        from transformers import DataCollatorForSeq2Seq

        from finetune.data.collate import IGNORED, collator

        pad = DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=IGNORED)
        return collator(pad, tokenizer, config, target_length=self.target_length(config.data))

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    @property
    def scratch(self) -> Scratch:
        from finetune.models.scratch import MARIAN

        return MARIAN

    def settle(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
        from finetune.models import generation

        generation.settle(model, tokenizer, config)

    def check_model(self, config: RunConfig, built: Built, splits: Mapping[str, Dataset]) -> None:
        from finetune.models import generation

        generation.check(config.model.name, built.base, built.tokenizer)

    def notes(self, config: RunConfig, built: Built, train: Dataset) -> list[str]:
        from finetune.models import generation

        return [*generation.language_notes(config, built.tokenizer), *self._unwritable(config, built, train)]

    def _unwritable(self, config: RunConfig, built: Built, pairs: Dataset) -> list[str]:
        """Has the tokenizer encode and decode references: no model could have a higher score with it."""
        from finetune.data.encoding import targets
        from finetune.metrics.compute import translation_metrics

        tokenizer, references = built.tokenizer, pairs[:WRITTEN_ROWS]["target"]
        # Without a limit: what is cut is no fault of the tokenizer.
        written = _decoded(tokenizer, targets(references, tokenizer, None))
        assert config.pair is not None  # a translation has one
        best = translation_metrics(written, references, languages(config.pair)[1])["bleu"]["value"]
        if best >= WELL_WRITTEN:
            return []
        text, changed = next(pair for pair in zip(references, written, strict=True) if pair[0] != pair[1])
        fault = (
            f"the tokenizer of '{config.model.name}' writes the reference translations otherwise than they "
            f"are ({changed[:60]!r} for {text[:60]!r}): a perfect model would have {best:.1f} BLEU"
        )
        if best < LEAST_WRITTEN:
            raise UserError(
                f"{fault}. Choose a model of the target language, or look at its tokenizer's files"
            )
        return [f"note: {fault}"]

    def generation(self, model: PreTrainedModel) -> dict[str, Any]:
        settings: dict[str, Any] = model.generation_config.to_diff_dict()
        return settings

    def anatomy(self, config: RunConfig, size: Mapping[str, Any], labels: Sequence[str]) -> Anatomy:
        data, written = config.data, config.generation.max_new_tokens if config.generation else 0
        source, target = data.max_length, self.target_length(data)
        names = ("encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim")
        layers, width, heads, feed_forward = (size[name] for name in names)
        places = max(512, source, target, written)
        shape = MarianShape(layers, width, heads, feed_forward, config.model.vocab_size, places)
        return of_marian(shape, source, target, half=in_half(config), fused=is_fused(config))

    @property
    def arguments(self) -> type[TrainingArguments]:
        from transformers import Seq2SeqTrainingArguments

        return Seq2SeqTrainingArguments

    set_elsewhere: Mapping[str, str] = {
        "predict_with_generate": "nothing: translations are always generated",
        "generation_num_beams": "--generation.num_beams",
        "generation_max_length": "--generation.max_new_tokens",
        "generation_config": "--generation.*",
    }

    @property
    def trainer(self) -> type[Trainer]:
        from transformers import Seq2SeqTrainer

        return Seq2SeqTrainer

    def untrained_rows(self, rows: Dataset) -> Dataset:
        from finetune.data.collate import evenly

        # A model that has not learnt to stop writes up to the limit in each.
        return rows.select(evenly(len(rows), UNTRAINED_ROWS))

    def predict(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> dict[int, Any]:
        import numpy as np

        from finetune.data.collate import IGNORED

        trainer.args.predict_with_generate = True
        ids = trainer.predict(rows.remove_columns("labels"), metric_key_prefix=prefix).predictions
        # Back for the validation loss while training, which needs no text.
        trainer.args.predict_with_generate = False
        # Batches of other lengths are filled up with a mark that no tokenizer can decode.
        ids = np.where(ids == IGNORED, tokenizer.pad_token_id, ids)
        return dict(zip(rows["row"], _decoded(tokenizer, ids), strict=True))

    def shorten(self, model: PreTrainedModel) -> None:
        model.generation_config.max_length = WRITTEN_TOKENS + 1

    def rows(self, split: Dataset, predictions: Mapping[int, Any]) -> Rows:
        return [
            {"row": row, "reference": target, "prediction": predictions[row]}
            for row, target in zip(split["row"], split["target"], strict=True)
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
        from finetune.metrics.compute import translation_metrics

        assert config.pair is not None
        predictions, references = ([row[name] for row in rows] for name in ("prediction", "reference"))
        scores = translation_metrics(predictions, references, languages(config.pair)[1])
        scores["bleu"]["generation"] = generation
        return scores

    def snippet(self, config: Mapping[str, Any]) -> str:
        text = json.dumps((config["data"].get("prefix") or "") + "a sentence", ensure_ascii=False)
        limit = config["data"]["max_length"]
        return f"""\
inputs = tokenizer({text}, return_tensors="pt", truncation=True, max_length={limit})
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])"""


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Any) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


OBJECTIVE = Translation()
