"""The built-in synthetic sample: rows of any task from a fixed seed, so that everything runs without data.

Made-up words only, generated here, so under no licence. It shows that the machinery works; it says nothing
about any method, and whatever was trained on it is stamped SAMPLE. ``random.Random(text)`` seeds itself from
the SHA-512 of the text, the same in every process and on every machine.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from finetune.tasks.base import ClassificationTask, LanguageTask, TranslationTask, languages

STAMP = "SAMPLE: synthetic data; these numbers say nothing about any method"
"""On everything that was trained on the sample."""

_SEED = "sample-1"  # raise the number when the generated rows change
_CLASS_WORDS = 16  # words that speak for one class
_COMMON_WORDS = 300  # words that speak for none
_WORDS = (10, 40)  # length of a text
_EVIDENCE = (2, 3)  # words for the true class in a text
_DENIED = (0, 2)  # words for another class, after the word that takes them back
_STRAY = 0.35  # chance of one word for another class, not taken back
_WRONG = 0.08  # share of labels drawn at random, so that no model reaches 100%


@dataclass(frozen=True)
class Sample:
    """The synthetic rows of one kind of task.

    ``rows(task, pair, split, n)`` are the first ``n`` of a split, in the task's own columns; no row of one
    split is in another. ``sizes`` are those of the splits.
    """

    sizes: Mapping[str, int]
    rows: Callable[[Any, str | None, str, int], list[dict[str, Any]]]


def _class_rows(task: ClassificationTask, pair: str | None, split: str, n: int) -> list[dict[str, Any]]:
    """Rows of evidence words among common ones; a denying word makes order matter to the class."""
    words = _words(Random(f"{_SEED}|words"), 1 + _COMMON_WORDS + _CLASS_WORDS * len(task.labels))
    denier, common = words[0], words[1 : 1 + _COMMON_WORDS]
    groups = [words[1 + _COMMON_WORDS + i * _CLASS_WORDS :][:_CLASS_WORDS] for i in range(len(task.labels))]
    rng = Random(f"{_SEED}|{task.name}|{split}")
    rows = []
    for _ in range(n):
        label = rng.randrange(len(groups))
        others = [i for i in range(len(groups)) if i != label]
        phrases = [[rng.choice(groups[label])] for _ in range(rng.randint(*_EVIDENCE))]
        phrases += [[denier, rng.choice(groups[rng.choice(others)])] for _ in range(rng.randint(*_DENIED))]
        if rng.random() < _STRAY:
            phrases.append([rng.choice(groups[rng.choice(others)])])
        filler = rng.randint(*_WORDS) - sum(map(len, phrases))
        phrases += [[common[_rank(rng, len(common))]] for _ in range(max(filler, 0))]
        rng.shuffle(phrases)
        if rng.random() < _WRONG:
            label = rng.randrange(len(groups))
        # A few of the words go into each of the first text columns, the rest into the last.
        text = [word for phrase in phrases for word in phrase]
        starts = [max(len(text) // 5, 1) * i for i in range(len(task.text))]
        parts = zip(task.text, starts, [*starts[1:], len(text)], strict=True)
        rows.append({**{name: " ".join(text[start:end]) for name, start, end in parts}, task.label: label})
    return rows


# A small grammar: each sentence is one tree, expressed in two made-up languages. The first has subject, verb,
# object and the adjective before its noun; the second puts the verb last, the adverb first, and the adjective
# behind the noun that it agrees with in number and gender. The alphabet settles which of a pair's languages
# is the first, so that de-en and en-de hold the same rows.

_NOUNS, _ADJECTIVES, _VERBS, _ADVERBS, _PREPOSITIONS = 30, 12, 16, 8, 4
_SYNONYM = 0.15  # chance of the second word for a verb that has two: no model can reach BLEU 100


def _pair_rows(task: TranslationTask, pair: str | None, split: str, n: int) -> list[dict[str, Any]]:
    """Random trees, each expressed in both languages."""
    first, second = sorted(languages(pair or task.default_pair))
    plain, rich = _lexicon(first), _lexicon(second)
    rows: list[dict[str, Any]] = []
    for tree in _trees(Random(f"{_SEED}|{task.name}|trees|{split}")):
        if len(rows) == n:
            break
        sentence = _in_plain(tree, plain)
        # Each sentence belongs to one split for good, by its text: a tenth each to validation and test.
        digit = hashlib.sha256(sentence.encode()).digest()[0] % 10
        if split == {0: "validation", 1: "test"}.get(digit, "train"):
            rows.append({task.column: {first: sentence, second: _in_rich(tree, rich)}})
    return rows


def _trees(rng: Random) -> Iterator[dict[str, Any]]:
    """Endless sentences as trees of word numbers."""

    def phrase() -> dict[str, Any]:
        adjective = _rank(rng, _ADJECTIVES) if rng.random() < 0.35 else None
        return {"noun": _rank(rng, _NOUNS), "plural": rng.random() < 0.4, "adjective": adjective}

    while True:
        place = (rng.randrange(_PREPOSITIONS), phrase()) if rng.random() < 0.3 else None
        yield {
            "subject": phrase(),
            "object": phrase() if rng.random() < 0.75 else None,
            "place": place,
            "verb": _rank(rng, _VERBS),
            "synonym": rng.random() < _SYNONYM,
            "adverb": rng.randrange(_ADVERBS) if rng.random() < 0.35 else None,
        }


def _in_plain(tree: dict[str, Any], lexicon: dict[str, list[str]]) -> str:
    """Determiner, adjective, noun; verb; object; place; adverb. Plural: an ending on noun and verb."""

    def phrase(part: dict[str, Any]) -> list[str]:
        adjective = [] if part["adjective"] is None else [lexicon["adjective"][part["adjective"]]]
        return [
            lexicon["the"][0],
            *adjective,
            lexicon["noun"][part["noun"]] + ("en" if part["plural"] else ""),
        ]

    verb = lexicon["verb"][tree["verb"]] + ("en" if tree["subject"]["plural"] else "t")
    words = [*phrase(tree["subject"]), verb]
    if tree["object"]:
        words += phrase(tree["object"])
    if tree["place"]:
        words += [lexicon["preposition"][tree["place"][0]], *phrase(tree["place"][1])]
    if tree["adverb"] is not None:
        words.append(lexicon["adverb"][tree["adverb"]])
    return " ".join(words) + "."


def _in_rich(tree: dict[str, Any], lexicon: dict[str, list[str]]) -> str:
    """Adverb; determiner, noun, adjective, all agreeing; place; object; verb last."""

    def phrase(part: dict[str, Any]) -> list[str]:
        gender = part["noun"] % 2  # odd nouns are of the second
        ending = ("a", "o")[gender] + ("s" if part["plural"] else "")
        adjective = [] if part["adjective"] is None else [lexicon["adjective"][part["adjective"]] + ending]
        noun = lexicon["noun"][part["noun"]] + ("s" if part["plural"] else "")
        return [lexicon["the"][gender], noun, *adjective]

    words = [] if tree["adverb"] is None else [lexicon["adverb"][tree["adverb"]]]
    words += phrase(tree["subject"])
    if tree["place"]:
        words += [*phrase(tree["place"][1]), lexicon["preposition"][tree["place"][0]]]
    if tree["object"]:
        words += phrase(tree["object"])
    stem = lexicon["synonym" if tree["synonym"] else "verb"][tree["verb"]]
    return " ".join([*words, stem + ("mu" if tree["subject"]["plural"] else "ri")]) + "."


def _lexicon(language: str) -> dict[str, list[str]]:
    """The words of one made-up language, about 150, fixed by its code."""
    sizes = {
        "the": 2, "noun": _NOUNS, "adjective": _ADJECTIVES, "verb": _VERBS, "synonym": _VERBS,
        "adverb": _ADVERBS, "preposition": _PREPOSITIONS,
    }  # fmt: skip
    words = iter(_words(Random(f"{_SEED}|lexicon|{language}"), sum(sizes.values())))
    return {part: [next(words) for _ in range(size)] for part, size in sizes.items()}


# Stories: some people are introduced, each with a trade and a town of their own, and are asked for later, by
# either. A name can be known from what stands tens to hundreds of words before it, and from nothing else.

_NAMES, _TRADES, _TOWNS, _THINGS, _DEEDS = 60, 24, 24, 80, 40
_CAST = (2, 4)  # people of a story
_SENTENCES = (20, 80)  # of a story, after the introductions
_ASKED = 0.3  # share of sentences that end in a name which the introductions tell


def _story_rows(task: LanguageTask, pair: str | None, split: str, n: int) -> list[dict[str, Any]]:
    """Stories, a document each."""
    sizes = (_NAMES, _TRADES, _TOWNS, _THINGS, _DEEDS, 8)
    words = iter(_words(Random(f"{_SEED}|stories"), sum(sizes)))
    names, trades, towns, things, deeds, (the, isa, of, who, told, then, near, no) = (
        [next(words) for _ in range(size)] for size in sizes
    )
    rng = Random(f"{_SEED}|{task.name}|stories|{split}")
    rows = []
    for number in range(n):
        size = rng.randint(*_CAST)
        people = list(zip(*(rng.sample(kind, size) for kind in (names, trades, towns)), strict=True))
        text = [f"{name} {isa} {the} {trade} {of} {town}." for name, trade, town in people]
        for _ in range(rng.randint(*_SENTENCES)):
            name, trade, town = rng.choice(people)
            deed = deeds[_rank(rng, _DEEDS)]
            if rng.random() < _ASKED:
                asked = rng.choice([f"{the} {trade}", f"{of} {town}"])
                text.append(f"{who} {deed} {asked}? {name}.")
            else:
                thing, other = things[_rank(rng, _THINGS)], things[_rank(rng, _THINGS)]
                place = f" {near} {the} {other}" if rng.random() < 0.5 else ""
                start = rng.choice([then, no, told])
                text.append(f"{start} {name} {deed} {the} {thing}{place}.")
        row = dict.fromkeys(task.text, "") | {task.text[0]: " ".join(text)}
        rows.append(row if task.document is None else row | {task.document: f"{split}-{number}"})
    return rows


def _words(rng: Random, count: int) -> list[str]:
    """``count`` different made-up words of two or three syllables."""
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = (rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))
        words["".join(syllables) + rng.choice(["", "n", "l", "k"])] = None
    return list(words)


def _rank(rng: Random, size: int) -> int:
    """A number below ``size``, with a chance of about ``1 / (number + 1)``, as words have in real text."""
    return int((size + 1) ** rng.random()) - 1


CLASSES = Sample({"train": 4000, "test": 1000}, _class_rows)  # no validation split, as on the Hub
PAIRS = Sample({"train": 6000, "validation": 500, "test": 500}, _pair_rows)
STORIES = Sample({"train": 600, "validation": 40, "test": 100}, _story_rows)
