"""Every token of a text from those before it: a decoder, scored by perplexity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.attention.variants import find_variant
from finetune.config.schema import OWN
from finetune.errors import UserError
from finetune.models.sizes import DECODERS
from finetune.objectives.base import Answers, Rows
from finetune.objectives.language import Language, keys, mean_loss, scored, section
from finetune.positions import POSITIONS, get_encoding
from finetune.system import world

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finetune.config.schema import RunConfig
    from finetune.data.collate import Collator
    from finetune.models.builder import Built
    from finetune.models.scratch import Scratch

COPIES = 3
"""Of the logits of a batch, in float32, that an evaluation holds at most at once."""
PEAK = 2
"""Times what an encoding's network keeps for a backward pass, at most, that a forward pass holds at once."""
READ_ROWS, READ_CHARACTERS = 100, 2000
"""Training rows, and characters of each, that are read to see whether a tokenizer keeps all of them."""


class Causal(Language):
    """See ``Objective`` and ``Language``."""

    kind = "causal"
    pipeline_tag = "text-generation"
    adapter_task = "CAUSAL_LM"
    sizes = DECODERS

    def check(self, values: Mapping[str, Any]) -> None:
        super().check(values)
        if keys(values["language"]).get("masked_share") is not None:
            raise UserError("language.masked_share is for --objective masked: set it to null")

    def settled(self, config: RunConfig) -> dict[str, Any]:
        language = section(config)
        if language.eval_lengths and language.scored_tokens is None:
            raise UserError(
                "language.scored_tokens says how many tokens are scored at each of language.eval_lengths: "
                "set it, e.g. to 256"
            )
        if language.eval_lengths and (language.scored_tokens or 1) > min(language.eval_lengths):
            raise UserError(
                f"language.scored_tokens {language.scored_tokens} is more than the shortest of "
                f"language.eval_lengths holds: set it to {min(language.eval_lengths)} at most"
            )
        if language.stride is not None and language.stride > config.data.max_length:
            raise UserError(
                f"language.stride {language.stride} would pass over tokens: set it to data.max_length, "
                f"{config.data.max_length}, at most, or to null"
            )
        return super().settled(config)

    def tokenize(
        self, split: Dataset, name: str, tokenizer: PreTrainedTokenizerBase, config: RunConfig
    ) -> Dataset:
        from finetune.data import windows

        language, length = section(config), config.data.max_length
        end = tokenizer.eos_token_id
        documents = windows.documents(split, tokenizer)
        if name == "train":
            return windows.train(documents, end, length, config.data.split_seed, language.train_tokens)
        lengths = language.eval_lengths if name == "test" else []
        return windows.test(
            documents,
            end,
            length,
            stride=language.stride,
            lengths=lengths,
            scored=language.scored_tokens or 1,  # without lengths it is asked for nothing
            most=language.test_windows,
        )

    def fitting(self, rows: Dataset) -> Dataset:
        import numpy as np

        if "length" not in rows.column_names:
            return rows
        return rows.select(np.flatnonzero(np.asarray(rows["length"]) == 0))

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: Any, config: RunConfig) -> Collator:
        from finetune.attention.position_bias import PositionBias
        from finetune.data.collate import collator
        from finetune.data.packing import WindowPadding

        isolate = section(config).documents == "isolate"
        if isolate and not all(each.generates for each in model.modules() if isinstance(each, PositionBias)):
            raise UserError(
                f"the positional encoding {config.model.position} reads keys that are masked, so it cannot "
                "isolate documents: set language.documents to cross, or take its consistent form"
            )
        pad = WindowPadding(tokenizer.pad_token_id, tokenizer.eos_token_id, isolate)
        return collator(pad, tokenizer, config, target_length=self.target_length(config.data))

    @property
    def auto_model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    @property
    def scratch(self) -> Scratch:
        from finetune.models.scratch import NEOX

        return NEOX

    def settle(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of '{config.model.name}' has no end-of-text token, which stands before every "
                "document: choose another model"
            )
        # A cache of keys is of use in generation alone, which has a setting of its own; it takes memory, and
        # with one transformers does not isolate documents.
        model.config.use_cache = False

    def check_model(self, config: RunConfig, built: Built, splits: Mapping[str, Dataset]) -> None:
        from finetune.models import causality

        causality.check(config.model.name, built.base)
        if section(config).documents == "isolate":
            causality.check_isolated(config.model.name, built.base)

    def notes(self, config: RunConfig, built: Built, train: Dataset) -> list[str]:
        from finetune.data.tokenizing import unlike

        lost = unlike(built.tokenizer, [text[:READ_CHARACTERS] for text in train[:READ_ROWS]["text"]])
        if lost is None:
            return []
        text, read = lost
        return [
            f"note: the tokenizer of '{config.model.name}' reads {read!r} for {text!r}: what it leaves out "
            "costs no nats, so that bits_per_byte and word_perplexity cannot be compared with those of "
            "another tokenizer"
        ]

    def answer(
        self,
        config: RunConfig,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        prefix: str,
    ) -> Answers:
        import numpy as np

        lengths = np.asarray(rows["length"])
        predictions: dict[int, Any] = {}
        for length in np.unique(lengths).tolist():
            windows = rows.select(np.flatnonzero(lengths == length))
            if not length:
                predictions |= scored(trainer, windows, prefix)
            else:
                predictions |= self._at_length(config, trainer, windows, length, f"{prefix}_{length}")
        return Answers(mean_loss(predictions), predictions)

    def _at_length(
        self, config: RunConfig, trainer: Any, rows: Dataset, length: int, prefix: str
    ) -> dict[int, Any]:
        """Predictions of windows of one of ``language.eval_lengths``; why there are none, if they do not fit.

        A batch holds about as many tokens as one of ``data.max_length``.
        """
        from finetune.models.admission import positions
        from finetune.system.allocation import out_of_memory
        from finetune.system.memory import available_bytes, release_memory

        args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
        limit, usual = positions(model).read, args.per_device_eval_batch_size
        batch = max(1, usual * config.data.max_length // length)
        if limit is not None and length > limit:
            return _missing(rows, f"the model has positions for {limit} tokens")
        if args.device.type == "cpu":  # which may end the process rather than refuse
            each, shared = _window_bytes(config, model, length)
            room = available_bytes() - shared
            if each > room:
                size = (each + shared) / 2**30  # without what is free, which the next moment changes
                return _missing(rows, f"a window takes {size:.1f} GiB, and less memory is free")
            batch = min(batch, room // each)
        args.per_device_eval_batch_size = batch
        try:
            if world.size() == 1 or _fits_everywhere(trainer, rows.select(range(min(batch, len(rows))))):
                return scored(trainer, rows, prefix)
        except (MemoryError, RuntimeError) as error:
            if world.size() > 1 or not out_of_memory(error):
                raise
        finally:
            args.per_device_eval_batch_size = usual
        release_memory()
        reason = f"windows of {length} tokens do not fit into the memory of the {args.device.type}"
        return _missing(rows, reason)

    def rows(self, split: Dataset, predictions: Mapping[int, Any]) -> Rows:
        from finetune.data import windows
        from finetune.metrics.perplexity import count_bytes, count_words

        found: list[dict[str, Any]] = []
        for name, row, texts in windows.texts(split):
            text = "".join(texts)  # joined, as white space at the end of a row would count as a word more
            found.append({
                "row": row, "document": name, "nats": 0.0, "tokens": 0,
                "bytes": count_bytes(text), "words": count_words(text),
                "by_length": {},
            })  # fmt: skip
        for each in predictions.values():
            row, length = found[each["document"]], str(each["length"])
            if each["nats"] is None:
                row.setdefault("missing", {})[length] = each["missing"]
            elif not each["length"]:
                row["nats"], row["tokens"] = row["nats"] + each["nats"], row["tokens"] + each["tokens"]
            else:
                nats, tokens = row["by_length"].get(length, (0.0, 0))
                row["by_length"][length] = [nats + each["nats"], tokens + each["tokens"]]
        return [row for row in found if row["tokens"]]

    def score(
        self,
        rows: Rows,
        config: RunConfig,
        *,
        labels: Sequence[str] | None,
        tokenizer: str,
        generation: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        from finetune.metrics.perplexity import perplexity_metrics
        from finetune.metrics.registry import at_length

        language = section(config)
        scores = perplexity_metrics(
            rows,
            tokenizer=tokenizer,
            length=config.data.max_length,
            stride=language.stride,
            scored_tokens=language.scored_tokens,
            eval_lengths=language.eval_lengths,
            test_windows=language.test_windows,
        )
        for length in language.eval_lengths:
            name = at_length("perplexity", length)
            if name not in scores:
                reasons = (row.get("missing", {}).get(str(length)) for row in rows)
                short = f"no document has {max(language.eval_lengths)} tokens, which the longest length takes"
                why = next(filter(None, reasons), short)
                scores[name] = {"value": None, "missing": why}
        return scores

    def snippet(self, config: Mapping[str, Any]) -> str:
        text = json.dumps("The beginning of a text", ensure_ascii=False)
        encoding = POSITIONS[config["model"].get("position", OWN)]
        cached = not encoding.module or encoding.bias.generates
        how = "max_new_tokens=50, do_sample=True" + ("" if cached else ", use_cache=False")
        return f"""\
inputs = tokenizer({text}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, {how})[0]))"""


def _fits_everywhere(trainer: Any, rows: Dataset) -> bool:
    """Whether a batch of ``rows`` fits into the memory of every process of the run.

    Asked before they work together: one that stopped half-way would leave the others waiting.
    """
    from finetune.system.allocation import out_of_memory

    columns = rows.remove_columns("length")
    fits = True
    try:
        trainer.model.eval()
        trainer.prediction_step(trainer.model, trainer.data_collator(list(columns)), False)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        fits = False
    return not world.any_of(not fits)


def _window_bytes(config: RunConfig, model: PreTrainedModel, length: int) -> tuple[int, int]:
    """Bytes that an evaluation takes for each window of ``length`` tokens, and once for a whole batch.

    The logits, and in float32 a positional encoding's bias at each pair of tokens, unless distance alone
    decides it and the kernel takes it so. A network keeps nothing here, but holds up to ``PEAK`` times
    what it keeps in training at once.
    """
    import torch

    from finetune.attention.kernels.dispatch import BY_DISTANCE
    from finetune.attention.position_bias import PositionBias

    each = COPIES * 4 * model.get_output_embeddings().weight.shape[0] * length
    bias = next((module for module in model.modules() if isinstance(module, PositionBias)), None)
    if bias is None:
        return each, 0
    device = model.get_input_embeddings().weight.device
    compact = config.attention.kernel in ("auto", *BY_DISTANCE) and find_variant(config.attention).kernels
    if compact and bias.by_distance(torch.zeros(1, device=device)) is not None:
        return each, 0
    encoding, _ = get_encoding(config.model.position, config.model.position_parameters)
    whole = 4 * (bias.heads + PEAK * encoding.kept(bias.heads)) * length**2
    return (each + whole, 0) if encoding.by_row else (each, whole)


def _missing(rows: Dataset, reason: str) -> dict[int, Any]:
    """Predictions of windows that were not computed."""
    columns = (rows["row"], rows["document"], rows["length"])
    return {
        row: {"document": document, "length": length, "nats": None, "tokens": 0, "missing": reason}
        for row, document, length in zip(*columns, strict=True)
    }


OBJECTIVE = Causal()
