"""Masks and the windows that they are for: which tokens are asked for, and what alone decides it."""

import pickle
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from finetune.data import masking, windows
from finetune.data.collate import IGNORED, Collator
from finetune.data.masking import EpochMasks, Masking
from finetune.data.windows import Documents, Frame
from finetune.errors import UserError

CLS, SEP, MASK, UNKNOWN = 1, 2, 3, 4
FRAME = Frame(CLS, SEP, SEP, special=(0, CLS, SEP, MASK, UNKNOWN))
RULE = Masking(0.15, MASK, np.arange(5, 50))


def documents(*sizes: int) -> Documents:
    """Documents of so many tokens, each another one."""
    firsts = np.cumsum([5, *sizes])
    return Documents.of([range(first, first + size) for first, size in zip(firsts, sizes, strict=False)])


def window(size: int) -> tuple[np.ndarray, np.ndarray]:
    return FRAME.around(np.arange(5, 5 + size, dtype=np.int32))


# Which tokens


@pytest.mark.parametrize(("size", "asked"), [(1, 1), (3, 1), (10, 2), (126, 19)])
def test_a_share_is_asked_for_and_one_at_least(size: int, asked: int) -> None:
    inputs, labels = window(size)
    masked, wanted = RULE(inputs, labels, (0, 0), 7)
    places = wanted != IGNORED
    assert places.sum() == asked and (wanted[places] == inputs[places]).all()
    assert (masked[~places] == inputs[~places]).all()
    assert masked[0] == CLS and masked[-1] == SEP and wanted[0] == wanted[-1] == IGNORED


def test_marks_are_never_asked_for_and_never_drawn() -> None:
    tokens = np.array([5, SEP, 6, UNKNOWN, 7, SEP] * 20, np.int32)
    inputs, labels = FRAME.around(tokens)
    for row in range(200):
        masked, wanted = RULE(inputs, labels, (0, 0), row)
        assert (wanted[np.isin(inputs, FRAME.special)] == IGNORED).all()
        changed = masked != inputs
        assert set(masked[changed]) <= {MASK, *RULE.words.tolist()}
    marks = FRAME.around(np.array([SEP, UNKNOWN], np.int32))
    assert (RULE(*marks, (0, 0), 0)[1] == IGNORED).all()


def test_eight_of_ten_are_masked_and_one_is_another() -> None:
    kept = hidden = other = 0
    asked = np.zeros(128)
    inputs, labels = window(126)
    for row in range(2000):
        masked, wanted = RULE(inputs, labels, (3, 1), row)
        places = wanted != IGNORED
        asked += places
        hidden += int((masked[places] == MASK).sum())
        kept += int((masked[places] == inputs[places]).sum())
        other += int(((masked != MASK) & (masked != inputs))[places].sum())
    total = 19 * 2000
    # Of 45 words one is the token itself; three standard deviations are .006.
    for found, share in ((hidden, 0.8), (kept, 0.1), (other, 0.1)):
        assert found / total == pytest.approx(share, abs=0.01)
    assert asked[1:-1].min() > 0.7 * asked[1:-1].mean()  # no place is favored


# What decides them


def test_the_masks_of_a_row_are_these_on_every_machine() -> None:
    masked, wanted = RULE(*window(40), (5, 2), 11)
    places = np.flatnonzero(wanted != IGNORED)
    assert places.tolist() == [5, 12, 19, 20, 33, 34]
    assert masked[places].tolist() == [29, 16, MASK, MASK, MASK, MASK]


def test_seed_row_and_epoch_each_make_other_masks() -> None:
    inputs, labels = window(60)
    found = [
        tuple(RULE(inputs, labels, (seed, epoch), row)[1])
        for seed in (0, 1, 2**40) for epoch in (0, 1, 2) for row in (0, 1, 2**33)
    ]  # fmt: skip
    assert len(set(found)) == 27
    assert tuple(RULE(inputs, labels, (1, 0), 2)[1]) == tuple(RULE(inputs, labels, (1, 0), 2)[1])


def rows(count: int) -> list[dict[str, Any]]:
    inputs, labels = (each.tolist() for each in window(30))
    return [{"row": row, "input_ids": inputs, "labels": labels} for row in range(count)]


def test_neither_order_nor_batch_nor_what_was_drawn_before_moves_a_mask() -> None:
    masks = EpochMasks(RULE, 4)
    masks.set_epoch(1)
    first = [masks(row) for row in rows(6)]
    np.random.seed(1)
    masks.set_epoch(0)
    other = [masks(row) for row in rows(6)]
    masks.set_epoch(1)
    assert [masks(row) for row in reversed(rows(6))] == first[::-1]
    assert all(one != two for one, two in zip(first, other, strict=True))
    assert pickle.loads(pickle.dumps(masks))(rows(3)[2]) == first[2]


def test_worker_processes_see_the_epoch() -> None:
    collator = Collator(unpadded, {}, renewal=EpochMasks(RULE, 4))
    data: Any = rows(6)
    loader = DataLoader(data, batch_size=2, collate_fn=collator, num_workers=2)
    alone = EpochMasks(RULE, 4)
    for epoch in (0, 1, 2):
        collator.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert [row for batch in loader for row in batch["rows"]] == [alone(row) for row in rows(6)]


def unpadded(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows}


def test_what_is_scored_depends_on_document_and_window_alone() -> None:
    each = documents(25, 4, 40)
    whole = masking.scored(windows.apart(each, FRAME, 12), ["a", "b", "c"], RULE)
    again = masking.scored(windows.apart(each, FRAME, 12), ["a", "b", "c"], RULE)
    assert whole.to_dict() == again.to_dict()
    fewer = Documents.of([each[2], each[0]])
    part = masking.scored(windows.apart(fewer, FRAME, 12), ["c", "a"], RULE)
    for name, there, here in (("a", 0, 1), ("c", 2, 0)):
        one, two = (
            [(row["input_ids"], row["labels"]) for row in found if row["document"] == index]
            for found, index in ((whole, there), (part, here))
        )
        assert one == two, name
    renamed = masking.scored(windows.apart(each, FRAME, 12), ["x", "b", "c"], RULE)
    assert whole["labels"][:3] != renamed["labels"][:3]
    masks = EpochMasks(RULE, 9)
    for row in whole:
        assert masks(row)["input_ids"] == row["input_ids"] and masks(row)["labels"] == row["labels"]
    assert set(whole["length"]) == {0} and all(any(t != IGNORED for t in row) for row in whole["labels"])


# Windows


def bodies(found: Dataset) -> list[list[int]]:
    for ids, labels in zip(found["input_ids"], found["labels"], strict=True):
        assert ids[0] == CLS and ids[-1] == SEP and len(ids) == len(labels)
        expected = [IGNORED if token in FRAME.special else token for token in ids]
        assert labels == expected
    return [ids[1:-1] for ids in found["input_ids"]]


@pytest.mark.parametrize("most", [None, 30, 6])
def test_packed_windows_follow_each_other_without_a_gap(most: int | None) -> None:
    each = documents(7, 0, 11, 1, 23)
    found = windows.packed(each, FRAME, 8, seed=3, most=most)
    flat = [token for body in bodies(found) for token in body]
    stream: list[int] = []
    for index in np.random.RandomState(3).permutation(5):
        stream += [*each[index].tolist(), SEP] if len(each[index]) else []
    read = len(stream) if most is None else most
    assert flat == stream[: read // 6 * 6]
    assert windows.counts(found)["trained_tokens"] + windows.counts(found)["dropped_tokens"] == read


@pytest.mark.parametrize("length", [8, 9, 25, 400])
def test_windows_apart_hold_every_token_once_and_are_alike_in_size(length: int) -> None:
    sizes = (7, 0, 11, 1, 23)
    each = documents(*sizes)
    found = windows.apart(each, FRAME, length)
    assert [token for body in bodies(found) for token in body] == each.tokens.tolist()
    for index, size in enumerate(sizes):
        parts = [len(body) for body, of in zip(bodies(found), found["document"], strict=True) if of == index]
        assert len(parts) == -(-size // (length - 2)) and sum(parts) == size
        assert not parts or max(parts) - min(parts) <= 1


def test_windows_apart_are_of_so_many_tokens_at_most() -> None:
    each = documents(7, 11, 5)
    found = windows.apart(each, FRAME, 8, order=[2, 0, 1], most=12)
    assert found["document"] == [2, 0, 0] and windows.counts(found)["trained_tokens"] == 12
    with pytest.raises(UserError, match="set it to 6 or more"):
        windows.apart(each, FRAME, 8, most=3)


def test_no_window_is_one_line_with_a_way_out() -> None:
    with pytest.raises(UserError, match=r"has 12 tokens.*--data.max_length 14$"):
        windows.packed(documents(11), FRAME, 40, 0)
    with pytest.raises(UserError, match="which takes 38 of a text: set it to 38 or more"):
        windows.packed(documents(300), FRAME, 40, 0, most=9)
    for make in (windows.apart, lambda *given: windows.packed(*given, 0)):
        with pytest.raises(UserError, match="add text"):
            make(documents(0, 0), FRAME, 40)
