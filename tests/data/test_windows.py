"""Windows over documents: what is in them, what of it is scored, that nothing is lost or counted twice."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from finetune.data import windows
from finetune.data.collate import IGNORED
from finetune.data.windows import Documents
from finetune.errors import UserError

END = 0
SIZES = {
    "odd": (7, 1, 23, 12, 4),
    "one token": (1,),
    "one giant": (331,),
    "a whole number of windows": (10, 20, 5),
    "with an empty one": (9, 0, 6),
}


def of(*sizes: int) -> Documents:
    """Documents of so many tokens, each token with a number of its own, from 1."""
    bounds = np.cumsum([0, *sizes])
    return Documents(np.arange(1, bounds[-1] + 1, dtype=np.int32), bounds)


def scored(row: dict[str, Any]) -> list[int]:
    return [label for label in row["labels"] if label != IGNORED]


def check(rows: Dataset, each: Documents) -> None:
    """Every label follows its input, in its own document."""
    for row in rows:
        whole = [END, *each[row["document"]].tolist()]
        assert len(row["input_ids"]) == len(row["labels"]) >= 1
        start = whole.index(row["input_ids"][0])
        assert row["input_ids"] == whole[start : start + len(row["input_ids"])]
        wanted = whole[start + 1 : start + 1 + len(row["labels"])]
        new = len(scored(row))
        assert row["labels"] == [IGNORED] * (len(wanted) - new) + wanted[len(wanted) - new :]


# Training


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("length", [1, 4, 5])
def test_training_windows_follow_each_other_without_a_gap(sizes: tuple[int, ...], length: int) -> None:
    each = of(*sizes)
    if sum(sizes) + len(sizes) - 1 < length:
        return
    rows = windows.train(each, END, length, seed=3)
    assert rows["row"][:] == list(range(len(rows)))
    inputs = [token for row in rows["input_ids"] for token in row]
    labels = [token for row in rows["labels"] for token in row]
    assert inputs[1:] == labels[:-1]
    stream = [*inputs, labels[-1]]
    order = np.random.RandomState(3).permutation(len(each))
    expected = [token for index in order for token in (END, *each[index].tolist())]
    assert stream == expected[: len(stream)]
    assert {len(row) for row in rows["input_ids"]} == {length}
    counts = windows.counts(rows)
    assert counts["windows"] * length == counts["trained_tokens"] == len(labels)
    assert counts["trained_tokens"] + counts["dropped_tokens"] == counts["document_tokens"]
    assert counts["document_tokens"] == len(expected) - 1
    assert 0 <= counts["dropped_tokens"] < length
    assert counts["documents"] == len(sizes)


def test_the_order_of_documents_is_that_of_the_seed() -> None:
    each = of(*SIZES["odd"])
    rows = [windows.train(each, END, 5, seed)["input_ids"][:] for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_no_more_is_trained_on_than_asked_for() -> None:
    each = of(*SIZES["odd"])
    everything = windows.train(each, END, 5, 1)
    first = windows.train(each, END, 5, 1, most=23)
    assert first["input_ids"][:] == everything["input_ids"][:4]
    assert windows.counts(first)["dropped_tokens"] == 3
    assert len(windows.train(each, END, 5, 1, most=10**6)) == len(everything)


@pytest.mark.parametrize(
    ("most", "message"),
    [
        (None, r"train split has 11 tokens, less than one window of 12 .* take --data.max_length 11$"),
        (4, r"language.train_tokens 4 is less than one window of 12 tokens .*: set it to 12 or more"),
    ],
)
def test_a_corpus_smaller_than_a_window(most: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        windows.train(of(2, 8), END, 12, 0, most)


def test_a_few_words_are_no_corpus_and_no_shorter_window_is_advised() -> None:
    with pytest.raises(UserError, match=r"has 5 tokens, less than one window of 12 .*: add text$"):
        windows.train(of(2, 2), END, 12, 0)
    with pytest.raises(UserError, match=r"has 4 tokens, less than one window of 12 .*: add text$"):
        windows.packed(of(1, 1), FRAME, 12, 0)


def test_every_document_begins_after_the_mark_by_which_it_is_isolated() -> None:
    each = of(7, 1, 23, 12, 4)
    rows = windows.train(each, END, 4, 3)
    tokens = [token for row in rows["input_ids"] for token in row]
    firsts = {int(each[index][0]) for index in range(len(each))}
    assert {after for before, after in pairwise(tokens) if before == END} <= firsts
    assert all(before == END for before, after in pairwise(tokens) if after in firsts)


# Scoring


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("length", "stride"), [(5, None), (5, 5), (5, 2), (5, 1), (1, None), (40, 3)])
def test_every_token_is_scored_once(sizes: tuple[int, ...], length: int, stride: int | None) -> None:
    each = of(*sizes)
    rows = windows.test(each, END, length, stride=stride)
    check(rows, each)
    assert Counter(token for row in rows for token in scored(row)) == Counter(each.tokens.tolist())
    assert set(rows["length"]) == {0}
    assert max(map(len, rows["input_ids"])) <= length
    least = 0 if stride is None else length - stride
    for row in rows:
        new, context = len(scored(row)), len(row["labels"]) - len(scored(row))
        assert new <= (stride or length) or row["input_ids"][0] == END
        assert context >= least or row["input_ids"][0] == END


def rolling(tokens: list[int], length: int, context: int) -> list[tuple[list[int], list[int]]]:
    """The inputs and scored tokens that lm-evaluation-harness documents for its rolling windows.

    The first window predicts all that it holds, from the end-of-text token on; each further one predicts
    ``length`` - ``context`` + 1 tokens, or what is left, with all the context that fits before them.
    """
    new = length - context + 1
    found = [([END, *tokens][: min(length, len(tokens))], tokens[:length])]
    for done in range(length, len(tokens), new):
        stop = min(done + new, len(tokens))
        found.append((tokens[stop - length - 1 : stop - 1], tokens[done:stop]))
    return found


@pytest.mark.parametrize("size", [1, 4, 5, 6, 10, 23])
@pytest.mark.parametrize("stride", [None, 2])
def test_windows_are_those_of_lm_evaluation_harness(size: int, stride: int | None) -> None:
    each = of(size)
    rows = windows.test(each, END, 5, stride=stride)
    expected = rolling(each.tokens.tolist(), 5, 1 if stride is None else 5 - stride + 1)
    assert [(row["input_ids"], scored(row)) for row in rows] == expected


@pytest.mark.parametrize("scored_tokens", [1, 2, 4])
def test_the_same_tokens_are_scored_at_every_length(scored_tokens: int) -> None:
    each, lengths = of(7, 1, 23, 8, 12, 40), [8, 4, 16]
    rows = windows.test(each, END, 6, lengths=lengths, scored=scored_tokens)
    check(rows, each)
    by_length = {
        length: [(row["document"], scored(row)) for row in rows if row["length"] == length]
        for length in lengths
    }
    assert by_length[4] == by_length[8] == by_length[16] != []
    tokens = [token for _, block in by_length[4] for token in block]
    assert len(tokens) == len(set(tokens))
    assert {len(block) for _, block in by_length[4]} == {scored_tokens}
    for row in rows:
        if row["length"]:
            assert len(row["input_ids"]) == row["length"]
    before = {int(token): place for index in range(len(each)) for place, token in enumerate(each[index])}
    firsts = {before[block[0]] for _, block in by_length[4]}
    assert min(firsts) >= 16 - scored_tokens  # even the first of them has a whole context in its document
    assert windows.counts(rows)["too_short_documents"] == 4  # 7, 1, 8 and 12
    assert windows.counts(rows)["windows_by_length"] == len(by_length[4])


def test_a_document_that_is_just_long_enough_and_one_that_is_not() -> None:
    blocks, short = windows.targets(of(8, 7), 8, 3)
    assert (blocks, short) == ([(0, 8)], 1)
    assert windows.targets(of(8, 7), 0, 3) == ([], 0)


@pytest.mark.parametrize("most", [1, 3, 100])
def test_of_many_blocks_some_are_taken_at_even_distances(most: int) -> None:
    each = of(40, 40, 40)
    everything, _ = windows.targets(each, 8, 4)
    chosen, _ = windows.targets(each, 8, 4, most)
    assert len(chosen) == min(most, len(everything))
    assert set(chosen) <= set(everything)
    if most == 3:
        assert {index for index, _ in chosen} == {0, 1, 2}


def test_a_document_there_twice_is_scored_twice_and_apart() -> None:
    tokens = list(range(1, 12))
    each = Documents.of([tokens, tokens])
    rows = windows.test(each, END, 4, lengths=[6], scored=2)
    halves = [
        [(row["input_ids"], row["labels"], row["length"]) for row in rows if row["document"] == index]
        for index in (0, 1)
    ]
    assert halves[0] == halves[1]


def test_documents_without_a_token() -> None:
    with pytest.raises(UserError, match="have no tokens"):
        windows.test(of(0, 0), END, 5)


# An encoder's


FRAME = windows.Frame(first=901, last=902, between=902, special=(901, 902))


@pytest.mark.parametrize("made", ["packed", "apart"])
def test_counts_of_framed_windows_name_documents_and_leave_the_rows_alone(made: str) -> None:
    """A record adds them to the rows and tokens of the windows themselves, which they must not replace."""
    each = of(7, 1, 23, 12, 4)
    rows = windows.packed(each, FRAME, 8, seed=0) if made == "packed" else windows.apart(each, FRAME, 8)
    counts = windows.counts(rows)
    assert not {"rows", "tokens"} & set(counts)
    marks = 5 if made == "packed" else 0  # one after each document
    assert counts["document_tokens"] == 47 + marks
    assert counts["trained_tokens"] + counts["dropped_tokens"] == counts["document_tokens"]


# Documents


class Letters:
    """A tokenizer whose tokens are the letters."""

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        assert options["add_special_tokens"] is False
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def test_rows_of_one_name_are_one_document_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("b", "xy"), ("a", "1"), ("b", "z"), ("c", ""), ("a", "23")]
    split = Dataset.from_dict({
        "row": [3, 5, 6, 8, 9], "text": [text for _, text in rows], "document": [name for name, _ in rows],
    })  # fmt: skip
    expected = ["xyz", "123", ""]
    for size in (1, 2, 10**6):
        monkeypatch.setattr(windows, "BATCH_CHARACTERS", size)
        each = windows.documents(split, Letters())
        assert ["".join(map(chr, each[index])) for index in range(len(each))] == expected
    assert windows.texts(split) == [("b", 3, ["xy", "z"]), ("a", 5, ["1", "23"]), ("c", 8, [""])]


def test_without_names_each_row_is_a_document() -> None:
    split = Dataset.from_dict({"row": [3, 5], "text": ["xy", "z"]})
    each = windows.documents(split, Letters())
    assert [each[index].tolist() for index in range(len(each))] == [[120, 121], [122]]
    assert windows.texts(split) == [("3", 3, ["xy"]), ("5", 5, ["z"])]


def test_lists_of_more_tokens_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    each = of(*SIZES["odd"])
    whole = [windows.train(each, END, 5, 1), windows.test(each, END, 5, stride=2, lengths=[8], scored=2)]
    monkeypatch.setattr(windows, "CHUNK_TOKENS", 7)
    parts = [windows.train(each, END, 5, 1), windows.test(each, END, 5, stride=2, lengths=[8], scored=2)]
    for one, other in zip(whole, parts, strict=True):
        assert one.to_dict() == other.to_dict()
        assert other.data.table["input_ids"].num_chunks > 1


@pytest.mark.parametrize("characters", [1, 4, 9, 10, 99])
def test_few_rows_hold_text_enough_or_are_all(characters: int) -> None:
    texts, names = ["", "ab", "abc", "", "abcde", "a"], ["a", "b", "a", "a", "b", "c"]
    split = Dataset.from_dict({"row": range(10, 16), "text": texts, "document": names})
    first = windows.few(split, characters, of_one=False)
    assert first["row"][:] == list(range(10, 10 + len(first)))
    read = [len(text) for text in first["text"]]
    assert sum(read[:-1]) < characters and (sum(read) >= characters or len(first) == len(split))
    longest = windows.few(split, characters, of_one=True)
    assert longest["row"][:] == ([11] if characters < 3 else [11, 14])
    assert not len(windows.few(split.select([]), characters, of_one=True))
