"""Masked tokens for an encoder to find again: which ones, and what stands in their place.

Devlin et al., 2019 (arXiv 1810.04805, section 3.1): a share of the tokens is asked for; of these, 80% are
replaced by the mask token, 10% by a token drawn from all, and 10% stay as they are. Marks are not asked for.

What is drawn is a hash of a key and a counter (Philox: Salmon et al., 2011, doi 10.1145/2063384.2063405) and
of nothing else: neither what was drawn before nor the other rows of a batch move it. In training the key is
the seed and the epoch, the counter the row: masks are new in every epoch, and the same for every variant and
in a resumed run. To be scored, the key is the document and the counter its window, whatever the seed.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.data.collate import IGNORED
from finetune.data.windows import as_dataset, counts, token_lists

MASKED, REPLACED = 0.8, 0.1
"""Shares of the tokens asked for that the mask token stands for, and that another one does."""
SCORED = 2**64 - 1
"""Second half of the key of windows to be scored, where those of training have the epoch."""


@dataclass(frozen=True)
class Masking:
    """The rule by which tokens are masked."""

    share: float  # of a window's tokens
    mask: int  # token
    words: np.ndarray  # token numbers that can replace one: every one that is no mark, (entries,)

    def __call__(
        self, inputs: np.ndarray, labels: np.ndarray, key: tuple[int, int], counter: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """``input_ids`` with masks, and ``labels`` that are ``IGNORED`` but for what is asked for.

        All are (tokens,). The ``labels`` given are ``IGNORED`` at tokens that may not be asked for. As many
        are as their share makes, rounded, and one at least, as BERT's code has it.
        """
        places = np.flatnonzero(labels != IGNORED)
        count = min(len(places), max(1, round(self.share * len(places))))
        first, second, third = _uniform(key, counter, (3, len(places)))
        chosen = np.argsort(first, kind="stable")[:count]
        places, fate, drawn = places[chosen], second[chosen], third[chosen]
        masked, wanted = inputs.copy(), np.full_like(labels, IGNORED)
        wanted[places] = labels[places]
        masked[places[fate < MASKED]] = self.mask
        other = (fate >= MASKED) & (fate < MASKED + REPLACED)
        masked[places[other]] = self.words[(drawn[other] * len(self.words)).astype(np.int64)]
        return masked, wanted


def scored(rows: Dataset, names: list[str], masking: Masking) -> Dataset:
    """Windows to be scored, masked once and for all; ``names`` are those of their documents, by index."""
    keys = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names]
    counters = [0] * len(names)
    inputs, labels = [], []
    for row in rows:
        document = row["document"]
        ids, wanted = (np.asarray(row[column], np.int32) for column in ("input_ids", "labels"))
        masked, asked = masking(ids, wanted, (keys[document], SCORED), counters[document])
        counters[document] += 1
        inputs.append(masked)
        labels.append(asked)
    columns = {"input_ids": token_lists(inputs), "labels": token_lists(labels)}
    about = {"document": np.array(rows["document"]), "length": np.zeros(len(rows), int)}
    return as_dataset({"row": np.array(rows["row"]), **columns, **about}, counts(rows))


@dataclass
class EpochMasks:
    """Masks the rows of training anew in every epoch, and leaves those with a ``document``, which are scored.

    Worker processes take it along as it is when an epoch begins, and end with the epoch.
    """

    masking: Masking
    seed: int
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Takes note of the epoch of the rows to come."""
        self.epoch = epoch

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A token row with its masks, and an ``attention_mask`` of ones."""
        inputs, labels = row["input_ids"], row["labels"]
        if "document" not in row:
            arrays = np.asarray(inputs, np.int32), np.asarray(labels, np.int32)
            masked, wanted = self.masking(*arrays, (self.seed, self.epoch), row["row"])
            inputs, labels = masked.tolist(), wanted.tolist()
        return {"input_ids": inputs, "attention_mask": [1] * len(inputs), "labels": labels}


def _uniform(key: tuple[int, int], counter: int, shape: tuple[int, int]) -> np.ndarray:
    """Numbers in [0, 1) that ``key`` and ``counter`` alone decide, on every platform and in every version."""
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([0, counter, 0, 0], np.uint64))
    bits = philox.random_raw(shape[0] * shape[1])
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)
