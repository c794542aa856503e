"""Real rows, in the folder of data sets that ``FINETUNE_TEST_ROWS`` names: every task reads them."""

import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from finetune.data import dataset, sources
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
