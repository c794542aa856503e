"""The rows of the benchmarks of training: a folder's, or the built-in sample's brought to real lengths."""

from itertools import cycle, islice
from typing import Any

import numpy as np
from datasets import Dataset

from finetune import objectives
from finetune.config.schema import RunConfig
from finetune.data import dataset, sources, token_cache
from finetune.data.collate import lengths, longest_first
from finetune.tasks import get_task

TASK = "agnews"
MAX_LENGTH = 128  # tokens; what the stock recipe pads to
# Tokens of AG News' 7,600 test rows under BERT's uncased WordPiece with both ends: percentile and length
# (mean 53). The sample's own texts are half as long, which would make dynamic padding look better.
AG_NEWS_LENGTHS = {
    0: 18, 1: 25, 5: 31, 10: 36, 25: 43, 50: 50, 75: 59, 90: 69, 95: 79, 98: 108, 99: 122, 99.5: 136, 100: 277
}  # fmt: skip


def load(where: str, config: RunConfig) -> dataset.Data:
    """The splits of a run's task from ``where``, "sample" or a folder; ``UserError`` as in a run."""
    task, objective = get_task(config.task), objectives.get(config.kind)
    source = sources.resolve(task, None, where)
    most = objective.train_bytes(config)
    return dataset.load(task, None, source, config.data, objective.sample, train_bytes=most)


def tokenize(loaded: dataset.Data, tokenizer: Any, config: RunConfig) -> dict[str, Dataset]:
    """Token rows as a run has them; those of the sample with AG News' lengths."""
    splits = token_cache.prepare(loaded, tokenizer, objectives.get(config.kind), config)
    if not loaded.info["sample"]:
        return splits
    lengthened = {name: _lengthen(split, config.seed) for name, split in splits.items()}
    return {name: rows if name == "train" else longest_first(rows) for name, rows in lengthened.items()}


def _lengthen(split: Dataset, seed: int) -> Dataset:
    """The same rows, their tokens joined and cut anew to AG News' lengths, at most MAX_LENGTH."""
    ids = split["input_ids"]
    begin, end = ids[0][0], ids[0][-1]
    stream = cycle([token for row in ids for token in row[1:-1]])
    places = np.random.RandomState(seed).permutation(np.linspace(0, 100, len(split)))
    wanted = np.interp(places, [*AG_NEWS_LENGTHS], [*AG_NEWS_LENGTHS.values()]).round().astype(int)
    cut = [[begin, *islice(stream, int(size) - 2), end] for size in np.minimum(wanted, MAX_LENGTH)]
    return Dataset.from_dict({
        "row": split["row"], "input_ids": cut, "attention_mask": [[1] * len(row) for row in cut],
        "labels": split["labels"],
    })  # fmt: skip


def padded(split: Dataset, pad: int) -> Dataset:
    """Every row filled up to MAX_LENGTH tokens, as many recipes do when they tokenize."""

    def fill(rows: list[list[int]], filler: int) -> list[list[int]]:
        return [[*row, *[filler] * (MAX_LENGTH - len(row))] for row in rows]

    return Dataset.from_dict({
        "input_ids": fill(split["input_ids"], pad), "attention_mask": fill(split["attention_mask"], 0),
        "labels": split["labels"],
    })  # fmt: skip


def facts(split: Dataset) -> dict[str, Any]:
    """Number of rows and their tokens, for the result."""
    counts = lengths(split)
    quartiles = np.percentile(counts, (25, 50, 75)).tolist()
    return {"rows": len(split), "tokens_mean": float(counts.mean()), "tokens_quartiles": quartiles,
            "tokens_longest": int(counts.max())}  # fmt: skip
