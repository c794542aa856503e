"""Real rows, in the folder of data sets that ``FINETUNE_TEST_ROWS`` names: every task reads them."""

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from finetune.data import dataset, sources, windows
from finetune.tasks import TASKS
from finetune.tasks.base import ClassificationTask
from tests.support.configurations import data_config

ROWS = os.environ.get("FINETUNE_TEST_ROWS", "")
SIZES = {
    ("agnews", None): (26_284, 7_600),
    ("dbpedia", None): (7_756, 2_996),
    ("yelp", None): (3_900, 1_000),
    ("amazon", None): (8_500, 2_500),
    ("yahoo", None): (3_070, 800),
    ("iwslt2017", "de-en"): (9_397, 1_080),
    ("iwslt2017", "en-fr"): (6_031, 1_210),
    ("multi30k", "en-de"): (28_993, 1_000),
}
CONFIG = data_config(source="local", validation_rows=100, split_seed=0, max_length=64, max_target_length=64)


@pytest.mark.slow
@pytest.mark.skipif(not ROWS, reason="FINETUNE_TEST_ROWS names no folder of data sets")
@pytest.mark.parametrize(("name", "pair"), SIZES)
def test_every_real_row_passes_the_checks(
    name: str, pair: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    folder = name if pair is None else f"{name}-{'-'.join(sorted(pair.split('-')))}"
    task = TASKS[name]
    loaded = dataset.load(task, pair, sources.resolve(task, pair, str(Path(ROWS, folder))), CONFIG)
    splits: dict[str, Any] = loaded.splits
    held_out = 0 if "iwslt" in name or "multi30k" in name else 100
    assert (len(splits["train"]) + held_out, len(splits["test"])) == SIZES[name, pair]
    assert set(loaded.info["dropped_empty"].values()) == {0}
    if isinstance(task, ClassificationTask):
        assert set(splits["test"]["label"]) == set(range(len(task.labels)))
    else:
        german = {"de-en": "source", "en-de": "target"}.get(str(pair), "")
        assert not german or any("ü" in text for text in splits["test"][german])


TEXTS = {"books": (27, 6, 12), "papers": (82, 11, 14), "stacks": (53, 5, 7)}
"""Documents of each split."""


@pytest.mark.slow
@pytest.mark.skipif(not Path(ROWS, "text").is_dir(), reason="FINETUNE_TEST_ROWS has no folder of texts")
@pytest.mark.parametrize("name", TEXTS)
def test_real_texts_come_out_of_windows_as_they_went_in(name: str) -> None:
    task, config = TASKS["books"], data_config(validation_rows=10_000, test_share=0.2)
    loaded = dataset.load(task, None, sources.resolve(task, None, str(Path(ROWS, "text", name))), config)
    test = loaded.splits["test"]
    documents = {split: len(set(rows["document"])) for split, rows in loaded.splits.items()}
    assert tuple(documents.values()) == TEXTS[name]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(test["text"][:30], vocab_size=2000, special_tokens=["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<end>")
    each = windows.documents(test, tokenizer)
    rows = windows.test(each, 0, 512, lengths=[512, 2048], scored=256, most=40)
    found: dict[int, list[int]] = {}
    blocks: dict[int, list[tuple[int, list[int]]]] = {512: [], 2048: []}
    for row in rows:
        scored = [label for label in row["labels"] if label >= 0]
        if row["length"]:
            blocks[row["length"]].append((row["document"], scored))
        else:
            found.setdefault(row["document"], []).extend(scored)
    texts = ["".join(parts) for _, _, parts in windows.texts(test)]
    assert [tokenizer.decode(found[index]) for index in range(len(each))] == texts
    assert blocks[512] == blocks[2048]
    assert len(blocks[512]) == 40
    stream = windows.train(each, 0, 512, seed=0)
    read = np.concatenate([np.asarray(row) for row in stream["input_ids"]])
    assert len(read) == windows.counts(stream)["trained_tokens"] > len(each.tokens) - 512
