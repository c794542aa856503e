"""From token rows to batches: how far they are padded, on which side, and which rows come first."""

import pickle
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from finetune import objectives
from finetune.config.schema import RunConfig
from finetune.data.collate import Collator, lengths, longest_first
from tests.support.records import run_config

PAD = 3


def tokenizer(side: str = "right") -> PreTrainedTokenizerFast:
    """One that is only asked to pad; its padding is no 0, which other fillers are."""
    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2, "<pad>": PAD}, unk_token="a"))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", padding_side=side
    )


def marian() -> MarianMTModel:
    sizes = {"d_model": 4, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    feed_forward = {"encoder_ffn_dim": 5, "decoder_ffn_dim": 5}
    tokens = {"vocab_size": 4, "pad_token_id": PAD, "eos_token_id": 2, "decoder_start_token_id": PAD}
    return MarianMTModel(MarianConfig(**sizes, **heads, **feed_forward, **tokens, forced_eos_token_id=None))


def config(kind: str, padding: str, max_target_length: int | None = 5) -> RunConfig:
    data = {"max_length": 7, "max_target_length": max_target_length}
    return run_config(kind=kind, data=data, batches={"padding": padding})


def token_rows(targets: list[Any]) -> list[dict[str, Any]]:
    ids = [[0, 1, 2], [1, 2]]
    return [
        {"row": 9 - i, "input_ids": ids[i], "attention_mask": [1] * len(ids[i]), "labels": label}
        for i, label in enumerate(targets)
    ]


def collator(tokenizer: Any, model: Any, config: RunConfig) -> Any:
    return objectives.of(config).collator(tokenizer, model, config)


@pytest.mark.parametrize(
    ("padding", "side", "second", "mask"),
    [
        ("longest", "right", [1, 2, PAD], [1, 1, 0]),
        ("longest", "left", [PAD, 1, 2], [0, 1, 1]),
        ("max_length", "right", [1, 2, *[PAD] * 5], [1, 1, 0, 0, 0, 0, 0]),
        ("max_length", "left", [*[PAD] * 5, 1, 2], [0, 0, 0, 0, 0, 1, 1]),
    ],
)
def test_inputs_are_padded_as_far_as_asked(
    padding: str, side: str, second: list[int], mask: list[int]
) -> None:
    batch = collator(tokenizer(side), None, config("classification", padding))(token_rows([1, 0]))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"][1].tolist() == second
    assert batch["attention_mask"][1].tolist() == mask
    assert batch["attention_mask"].sum(1).tolist() == [3, 2]
    assert batch["labels"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("padding", "limit", "shapes"),
    [
        ("longest", 5, (3, 4)),
        ("max_length", 5, (7, 5)),
        ("max_length", 9, (7, 9)),
        ("max_length", None, (7, 7)),
    ],
)
def test_targets_are_padded_apart_from_sources(
    padding: str, limit: int | None, shapes: tuple[int, int]
) -> None:
    collate = collator(tokenizer(), marian(), config("translation", padding, limit))
    rows = token_rows([[0, 0, 1, 2], [1]])
    batch = collate(rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "decoder_input_ids"}
    assert (batch["input_ids"].shape[1], batch["labels"].shape[1]) == shapes
    assert batch["labels"][1].tolist() == [1] + [-100] * (shapes[1] - 1)
    assert batch["decoder_input_ids"][1].tolist() == [PAD, 1] + [PAD] * (shapes[1] - 2)
    unlabelled = [{key: row[key] for key in row if key != "labels"} for row in rows]
    assert set(collate(unlabelled)) == {"input_ids", "attention_mask"}
    assert rows == token_rows([[0, 0, 1, 2], [1]])  # the rows themselves are left as they are


def test_a_collator_can_be_handed_to_worker_processes() -> None:
    found = pickle.loads(pickle.dumps(collator(tokenizer(), None, config("classification", "max_length"))))
    assert isinstance(found, Collator)
    assert found(token_rows([1, 0]))["input_ids"].shape == (2, 7)


def test_longest_first_with_ties_by_row() -> None:
    sizes = [2, 5, 2, 7, 5]
    rows = Dataset.from_dict({"row": [8, 6, 4, 2, 0], "input_ids": [[0] * size for size in sizes]})
    assert lengths(rows).tolist() == sizes
    ordered = longest_first(rows)
    assert list(ordered["row"]) == [2, 0, 6, 4, 8]
    assert lengths(ordered).tolist() == [7, 5, 5, 2, 2]  # the order of the rows, not that of the file
