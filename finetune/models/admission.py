"""Checks that a built model with its tokenizer fits the rows that it is to read and write."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedTokenizerFast

from finetune.config.schema import RunConfig
from finetune.data.collate import IGNORED, lengths, token_values
from finetune.errors import UserError
from finetune.models.builder import Built, ModelObjective
from finetune.models.generation import flat

MOST_UNKNOWN = 0.10
"""Share of unknown tokens in the training rows above which a comparison says nothing about the texts."""
MUCH_UNKNOWN = 0.01
"""Share above which a note says so; that of a fitting tokenizer is far below."""
MOST_ROUNDING = 1e-4
"""Difference of logits, as a share of the largest, above which padding has been read; rounding makes 1e-6."""
MUCH_UNUSED = 0.03
"""Share of an embedding without a token from which on a note says so."""


@dataclass(frozen=True)
class Positions:
    """Most tokens that a model has positions for; ``None`` where there is no limit (rotary, relative)."""

    encoder: int | None
    decoder: int | None

    @property
    def read(self) -> int | None:
        """Those of a text that a model reads; the table of a decoder alone may count as either."""
        return self.decoder if self.encoder is None else self.encoder


def positions(model: nn.Module) -> Positions:
    """The fixed position tables of a model, in tokens.

    RoBERTa's starts after the padding token's row and BART's two rows later; Marian's is computed but of a
    fixed length all the same. Rotary and relative positions, and the tables of M2M100 that grow, are none.
    """
    tables: dict[str, int] = {}
    for name, module in model.named_modules():
        last = name.removesuffix(".base_layer").rpartition(".")[2]  # which LoRA puts its adapters around
        if isinstance(module, nn.Embedding) and last in ("position_embeddings", "embed_positions", "wpe"):
            offset = getattr(module, "offset", 0)  # BART's own
            if module.padding_idx is not None:
                offset += module.padding_idx + 1
            tables["decoder" if ".decoder." in f".{name}" else "encoder"] = module.num_embeddings - offset
    return Positions(tables.get("encoder"), tables.get("decoder"))


def check(
    config: RunConfig, objective: ModelObjective, built: Built, splits: Mapping[str, Dataset]
) -> list[str]:
    """Raises ``UserError`` where a row cannot pass through the model; returns notes for the user.

    ``splits`` hold token rows.
    """
    pad, tokenizer = built.base.config.pad_token_id, built.tokenizer
    if pad is not None and pad != tokenizer.pad_token_id:
        raise UserError(
            f"'{config.model.name}' pads with token {pad} by its config.json and with "
            f"{tokenizer.pad_token_id} ('{tokenizer.pad_token}') by its tokenizer: mend pad_token_id in the "
            "one, or pad_token in the other"
        )
    _check_frame(config, built)
    _check_entries(built, splits)
    _check_lengths(config, built, {name: objective.fitting(rows) for name, rows in splits.items()})
    objective.check_model(config, built, splits)
    _check_padding(config, objective, built, splits["train"])
    notes = []
    entries, known = _entries(built), len(tokenizer)
    if known < (1 - MUCH_UNUSED) * entries:  # sizes that are rounded up leave fewer rows unused
        notes.append(
            f"note: the tokenizer of '{config.model.name}' has {known:,} entries and the model's embedding "
            f"{entries:,}: is it this model's?"
        )
    return notes + _unknown(config, built, splits["train"])


def _check_frame(config: RunConfig, built: Built) -> None:
    """Raises ``UserError`` where a text goes into the model otherwise than in its training.

    An encoder's begins with its first token, and an encoder-decoder's ends with the end token, without which
    nothing that it writes would end.
    """
    tokenizer, model = built.tokenizer, built.base
    ids, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    lost = f"the tokenizer of '{config.model.name}' frames no text"
    mend = "its tokenizer.json has lost its post_processor: fetch the tokenizer's files anew"
    if model.config.is_encoder_decoder:
        # Only a model that writes goes by its generation settings.
        settings: Any = model.config if config.generation is None else model.generation_config
        ends = {tokenizer.eos_token_id, *flat(settings.eos_token_id)} - {None}
        for row in (ids, tokenizer(text_target="a")["input_ids"]):
            if ends and not ends & set(row[-2:]):  # before a language's token, in mBART
                raise UserError(f"{lost} with the end token {tokenizer.eos_token or min(ends)}; {mend}")
    elif type(model.config) in MODEL_FOR_MASKED_LM_MAPPING:
        first = tokenizer.cls_token_id
        if len(ids) == len(plain) or (first is not None and first not in ids):
            raise UserError(f"{lost} with its first token {tokenizer.cls_token or ''}; {mend}")


def _check_entries(built: Built, splits: Mapping[str, Dataset]) -> None:
    """Raises ``UserError`` where a token of a row has no row in the embedding."""
    tokenizer, entries = built.tokenizer, _entries(built)
    numbers = [tokenizer.pad_token_id]
    for rows in splits.values():
        for column in {"input_ids", "labels"} & set(rows.column_names):
            numbers.append(int(token_values(rows, column).max(initial=0)))
    if max(numbers) >= entries:  # on a GPU a bare assertion in the middle of a training
        beyond = tokenizer.convert_ids_to_tokens(max(numbers))
        raise UserError(
            f"the tokenizer's token {max(numbers)} ('{beyond}') has no "
            f"place among the {entries} rows of the model's embedding; the tokenizer has {len(tokenizer)} "
            "entries: it is not this model's, or the model was saved before tokens were added"
        )


def _check_padding(config: RunConfig, objective: ModelObjective, built: Built, rows: Dataset) -> None:
    """Raises ``UserError`` where the shortest row is answered otherwise alone than beside the longest one.

    Some models look at padding whatever the mask is (MobileBERT at the token to the right of each): what they
    predict would depend on the size of a batch.
    """
    by_length = np.argsort(lengths(rows), kind="stable")
    pair = list(rows.select([by_length[0], by_length[-1]]))
    alone, beside = (_first_logits(config, objective, built, batch) for batch in (pair[:1], pair))
    difference = float((alone - beside).abs().max())
    if difference > MOST_ROUNDING * float(alone.abs().max()):
        raise UserError(
            f"'{config.model.name}' answers a row otherwise where it is padded to the length of a longer one "
            f"(by {difference:.2g}, of {float(alone.abs().max()):.2g}): what it predicts would depend on how "
            "rows are cut into batches; choose another model"
        )


@torch.no_grad()
def _first_logits(
    config: RunConfig, objective: ModelObjective, built: Built, batch: list[dict[str, Any]]
) -> torch.Tensor:
    """The logits for the first row of a batch, in evaluation mode: (targets, words) or (classes,)."""
    # With padding to max_length both batches would be padded alike, and show no difference.
    padded = replace(config, batches=replace(config.batches, padding="longest"))
    inputs = objective.collator(built.tokenizer, built.model, padded)(batch)
    labels = inputs["labels"][0]
    training = built.model.training
    logits = built.model.eval()(**inputs)["logits"][0]
    built.model.train(training)
    return logits[labels != IGNORED] if labels.dim() else logits  # a target a token, or one a row


def _entries(built: Built) -> int:
    """Number of rows of the model's embedding."""
    rows: int = built.base.get_input_embeddings().weight.shape[0]
    return rows


def _check_lengths(config: RunConfig, built: Built, splits: Mapping[str, Dataset]) -> None:
    """Raises ``UserError`` for a text without a token, and where the model lacks positions for a length."""
    for split, rows in splits.items():
        empty = np.flatnonzero(lengths(rows) == 0)
        if len(empty):
            raise UserError(
                f"the tokenizer finds no token in {len(empty)} texts of split '{split}', the first is row "
                f"{rows[int(empty[0])]['row']} (counted from 0): leave these rows out, or choose another "
                "model"
            )
    there, data = positions(built.base), config.data
    padded = config.batches.padding == "max_length"
    longest = data.max_length if padded else max(int(lengths(rows).max()) for rows in splits.values())
    # What a decoder writes has its own length; one that writes nothing reads the row as the encoder does.
    tables = [there.encoder] if there.encoder and config.generation is not None else [*astuple(there)]
    limit = min((table for table in tables if table is not None), default=None)
    _check_length("row of tokens", longest, limit, "data.max_length")
    if config.generation is None:
        return
    target = data.max_target_length or data.max_length
    if not padded:
        target = max(max(map(len, rows["labels"])) for rows in splits.values())
    key = "data.max_target_length" if data.max_target_length else "data.max_length"
    _check_length("target", target, there.decoder, key)
    written = config.generation.max_new_tokens
    _check_length("translation", written, there.decoder, "generation.max_new_tokens")


def _check_length(what: str, length: int, there: int | None, key: str) -> None:
    if there is not None and length > there:
        raise UserError(
            f"the longest {what} has {length} tokens and the model has positions for {there}: "
            f"set --{key} {there}"
        )


def _unknown(config: RunConfig, built: Built, rows: Dataset) -> list[str]:
    """A note on the share of the training tokens that is unknown to the tokenizer, where it is high.

    Raises ``UserError`` where it is so high that a run would say nothing about the texts.
    """
    tokenizer = built.tokenizer
    unknown, special = _unknown_token(tokenizer), set(tokenizer.all_special_ids)
    if unknown is None or unknown == tokenizer.eos_token_id:  # GPT-2's, which knows every byte
        return []
    tokens = token_values(rows, "input_ids")
    plain = tokens[~np.isin(tokens, list(special - {unknown}))]
    share = float((plain == unknown).mean()) if len(plain) else 0.0
    fact = (
        f"the tokenizer of '{config.model.name}' does not know {share:.1%} of the tokens of the training rows"
    )
    if share > MOST_UNKNOWN:
        word = tokenizer.convert_ids_to_tokens(unknown)
        raise UserError(
            f"{fact} ('{word}'), and at most {MOST_UNKNOWN:.0%} may be: choose a model of "
            "their language and script, and look whether its tokenizer's files are complete"
        )
    return [f"note: {fact}"] if share > MUCH_UNKNOWN else []


def _unknown_token(tokenizer: Any) -> int | None:
    """The token that a tokenizer writes for what it does not know, whatever its settings call it."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        backend = tokenizer.backend_tokenizer
        word = getattr(backend.model, "unk_token", None)
        if word is not None:
            return backend.token_to_id(word)
    unknown: int | None = tokenizer.unk_token_id
    return unknown
