"""Two sides, a run or the seeds of a variant each, compared below the mean: which rows changed, and how.

Everything is plain values, ready for JSON; texts are in it only where the reader has the data (``inputs``).
What the runs of a side disagree on among themselves is not the doing of the variant. So a row counts by the
pairs of runs in which it was fixed or broken, and the number of rows that were so in every pair stands beside
that which chance would give: the mean over all other ways to call one run of each pair the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from finetune.comparison.churn import Churn, churn, likeness
from finetune.comparison.pairing import differences
from finetune.comparison.rescoring import Predictions, Scored
from finetune.comparison.single_rows import probabilities, sentences
from finetune.errors import UserError
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.records.run import Run
from finetune.statistics import over_runs
from finetune.statistics.bootstrap import hierarchical
from finetune.statistics.over_rows import Floats
from finetune.statistics.over_seeds import mean_sd

MOST_EXCHANGED = 6  # pairs, of whose 2^6 exchanges all are counted
BUCKETS, FEWEST = 5, 20  # of length, and rows in each
Bounds = list[float]


@dataclass(frozen=True)
class Score:
    """A metric of both sides: means over runs, in reported units."""

    metric: str
    first: float
    second: float
    difference: float
    interval: Bounds | None  # 95% over pairs and rows, of one pair over rows; None where it is not computed


@dataclass(frozen=True)
class ClassLine:
    """One class: rows, and what each side makes of it in percent; means over runs."""

    label: str
    rows: int
    recall: tuple[float, float]
    precision: tuple[float, float]
    f1: tuple[float, float]
    difference: float  # of F1
    interval: Bounds  # 95%, not adjusted for the number of classes


@dataclass(frozen=True)
class Changed:
    """A row that was fixed or broken in some pairs of runs."""

    row: int
    truth: str
    first: list[str]  # what each run of a side answered
    second: list[str]
    fixed: int  # pairs in which it was wrong and is right
    broken: int
    probability: tuple[float, float] | None  # of the right class, means over runs
    text: str | None = None


@dataclass(frozen=True)
class Classes:
    """Confusion matrices (right class by predicted one, mean rows), and what was fixed or broken."""

    labels: list[str]
    first: list[list[float]]
    second: list[list[float]]
    lines: list[ClassLine]
    pairs: int
    fixed: list[int]  # rows that were fixed in 1, 2, ... pairs
    broken: list[int]
    by_chance: list[float]  # rows so fixed, or broken, if the two sides were one; empty for one pair
    examples_fixed: list[Changed]
    examples_broken: list[Changed]


@dataclass(frozen=True)
class Sentence:
    """A sentence on which the sides differ, with the two outputs of the pair of runs that is shown."""

    row: int
    difference: float  # of sentence BLEU, mean over pairs
    chrf: float  # likewise
    better: int  # pairs in which the second side is better
    worse: int
    reference: str
    first: str
    second: str
    source: str | None = None


@dataclass(frozen=True)
class Texts:
    """Translations that differ: how many, and those whose sentence BLEU rose or fell most."""

    pairs: int
    alike: float  # mean chrF between the two outputs
    bleu: tuple[float, float]  # mean sentence BLEU
    chrf: tuple[float, float]
    rose: list[Sentence]
    fell: list[Sentence]


@dataclass(frozen=True)
class Document:
    """A document of a language model, in nats a token; means over runs."""

    row: int
    name: str
    tokens: int
    first: float
    second: float
    difference: float
    better: int  # pairs in which the second side is better, of ``pairs``
    pairs: int


@dataclass(frozen=True)
class Bucket:
    """Rows of like length, scored by themselves."""

    low: int
    high: int
    rows: int
    first: float
    second: float
    difference: float
    interval: Bounds


@dataclass(frozen=True)
class Flips:
    """The comparison of two sides; ``answers`` says which of classes, texts and documents there is."""

    task: str
    model: str
    metric: str
    first: str  # the names of the sides
    second: str
    folders: list[tuple[str, str]]
    rows: int
    scores: list[Score]
    churn: Churn | None
    classes: Classes | None = None
    texts: Texts | None = None
    documents: list[Document] = field(default_factory=list)
    length: str = ""  # what lengths are of: "words of the input"
    buckets: list[Bucket] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sides:
    """Pairs of runs, read: the same rows in all."""

    runs: list[tuple[Run, Run]]
    scored: list[tuple[Scored, Scored]]
    metric: Metric

    @property
    def truth(self) -> list[Any]:
        return [truth for _, truth in self.scored[0][0].rows]

    @property
    def rows(self) -> list[int]:
        return [row for row, _ in self.scored[0][0].rows]

    def outputs(self, side: int) -> list[Any]:
        return [pair[side].outputs for pair in self.scored]


def flips(
    runs: Sequence[tuple[Run, Run]],
    names: tuple[str, str],
    *,
    inputs: Mapping[int, str] | None = None,
    most: int = 10,
    predictions: Predictions | None = None,
) -> Flips:
    """Compares pairs of runs; ``inputs`` are the texts of test rows, ``most`` the examples of each kind.

    Raises ``UserError`` where two runs cannot be paired, saying what differs.
    """
    for one, two in runs:
        check(one, two)
    metric, read = runs[0][0].metric, predictions or Predictions()
    first, second = read.scored([[one for one, _ in runs], [two for _, two in runs]], metric)
    sides = Sides(list(runs), list(zip(first, second, strict=True)), metric)
    found = DETAILS.get(metric.answers, _nothing)(sides, inputs, most)
    one, two = runs[0]
    unlike = [line for line in differences(one, two) if not line.startswith("attention ")]
    notes = [f"the runs also differ in {', '.join(unlike[:5])}"] if unlike else []
    unit, lengths = _lengths(sides, inputs)
    return Flips(
        task=one.title,
        model=one.model,
        metric=metric.name,
        first=names[0],
        second=names[1],
        folders=[(str(one.folder), str(two.folder)) for one, two in runs],
        rows=len(sides.rows),
        scores=_scores(sides),
        churn=churn(_by_number(runs, 0), _by_number(runs, 1), read, metric),
        length=unit,
        buckets=[] if lengths is None else _buckets(sides, lengths),
        notes=notes,
        **found,
    )


def check(one: Run, two: Run) -> None:
    """Raises ``UserError`` where two runs are of another task, or of other rows, or have not finished."""
    for run in (one, two):
        if not run.finished:
            raise UserError(f"the run in {run.folder} is {run.status}: only finished runs have predictions")
    for what, mine, other in (
        ("task", one.title, two.title),
        ("kind of task", one.kind, two.kind),
        ("labels", one.record["task"].get("labels"), two.record["task"].get("labels")),
        ("test rows (fingerprint)", *(run.splits["test"]["fingerprint"] for run in (one, two))),
    ):
        if mine != other:
            raise UserError(
                f"{one.folder} and {two.folder} cannot be paired: they differ in {what} ({mine} against "
                f"{other})"
            )


def _by_number(runs: Sequence[tuple[Run, Run]], side: int) -> dict[int, Run]:
    """The runs of one side by the seed of their pair."""
    return {pair[0].seed: pair[side] for pair in runs}


def interval(values: Floats) -> Bounds:
    """95% of the mean of (pairs, rows) numbers, over both; over rows for one pair."""
    return list(over_runs.interval(values))


def _scores(sides: Sides) -> list[Score]:
    """Every metric that all runs have; the primary one with its interval, and the likelihood."""
    found = []
    names = [name for name in sides.runs[0][0].metrics if registry.length_of(name) is None]
    for name in names:
        pairs = [(one.metrics.get(name), two.metrics.get(name)) for one, two in sides.runs]
        known = [(one, two) for one, two in pairs if one is not None and two is not None]
        if len(known) < len(pairs):
            continue
        first, second = (float(np.mean([pair[side] for pair in known])) for side in (0, 1))
        ends = None
        if name == sides.metric.name:
            ends = _compared(sides, slice(None))[3]
        elif name == "nll":
            ends = _likelihood(sides)
        found.append(Score(name, first, second, second - first, ends))
    return found


def _likelihood(sides: Sides) -> Bounds | None:
    """The interval of the difference of -log p of the right class, from what is kept."""
    kept = [[probabilities(run, sides.rows) for run in pair] for pair in sides.runs]
    if any(each is None for pair in kept for each in pair):
        return None
    places, truth = np.arange(len(sides.rows)), np.array(sides.truth)
    return interval(np.stack([one[places, truth] - two[places, truth] for one, two in kept]).astype(float))


def _compared(sides: Sides, which: Any) -> tuple[float, float, float, Bounds]:
    """The primary metric on some rows: of both sides, the difference and its interval; reported units."""
    scorer, scale = sides.metric.row_scorer(), sides.metric.scale
    first, second = ([pair[side].scores[which] for pair in sides.scored] for side in (0, 1))
    values = [[scorer.value(each) for each in side] for side in (first, second)]
    result = scorer.compare(first, second)
    apart = [two - one for one, two in zip(*values, strict=True)]
    ends = hierarchical(apart, result).interval if len(apart) > 1 else result.interval
    means = [scale * mean_sd(side)[0] for side in values]
    return means[0], means[1], means[1] - means[0], [scale * end for end in ends]


# Lengths


def _lengths(sides: Sides, inputs: Mapping[int, str] | None) -> tuple[str, Floats | None]:
    """The length of each row: words of the input where there are texts; else what the predictions tell."""
    if inputs is not None and all(row in inputs for row in sides.rows):
        return "words of the input", np.array([len(inputs[row].split()) for row in sides.rows])
    if sides.metric.answers == "text":
        return "words of the reference", np.array([len(text.split()) for text in sides.truth])
    if sides.metric.answers == "sums":
        return "tokens", sides.scored[0][0].scores[:, 1]
    return "", None


def _buckets(sides: Sides, lengths: Floats) -> list[Bucket]:
    """About as many rows in each bucket, and at least ``FEWEST``; rows of one length stay together."""
    count = max(1, min(BUCKETS, len(lengths) // FEWEST))
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)[1:-1], method="lower"))
    number = np.searchsorted(edges, lengths, side="left")
    found = []
    for each in np.unique(number):
        which = np.flatnonzero(number == each)
        values = _compared(sides, which)
        low, high = lengths[which].min(), lengths[which].max()
        found.append(Bucket(int(low), int(high), len(which), *values))
    return found


# Classes


def _classes(sides: Sides, inputs: Mapping[int, str] | None, most: int) -> dict[str, Any]:
    labels = [str(label) for label in sides.runs[0][0].record["task"].get("labels") or []]
    truth = np.array(sides.truth)
    answers = [np.stack(sides.outputs(side)).astype(int) for side in (0, 1)]
    labels += [str(number) for number in range(len(labels), int(max(truth.max(), *map(np.max, answers))) + 1)]
    matrices = [_confusion(truth, side, len(labels)) for side in answers]
    right = [side == truth for side in answers]  # (pairs, rows) each
    fixed, broken = (~right[0] & right[1]).sum(axis=0), (right[0] & ~right[1]).sum(axis=0)
    likely = [[probabilities(pair[side], sides.rows) for pair in sides.runs] for side in (0, 1)]
    places = np.arange(len(truth))
    certain = None
    if all(each is not None for side in likely for each in side):
        certain = [np.mean([np.exp(each[places, truth]) for each in side], axis=0) for side in likely]

    def example(place: int) -> Changed:
        row = sides.rows[place]
        return Changed(
            row=row,
            truth=labels[truth[place]],
            first=[labels[each] for each in answers[0][:, place]],
            second=[labels[each] for each in answers[1][:, place]],
            fixed=int(fixed[place]),
            broken=int(broken[place]),
            probability=None if certain is None else (float(certain[0][place]), float(certain[1][place])),
            text=None if inputs is None else inputs.get(row),
        )

    def examples(counts: Any, others: Any) -> list[Changed]:
        change = np.zeros(len(truth)) if certain is None else np.abs(certain[1] - certain[0])
        order = np.lexsort((places, -change, others, -counts))
        return [example(place) for place in order[:most] if counts[place]]

    pairs = len(sides.runs)
    found = Classes(
        labels=labels,
        first=matrices[0].tolist(),
        second=matrices[1].tolist(),
        lines=[
            _class_line(labels[k], truth == k, [side == k for side in answers]) for k in range(len(labels))
        ],
        pairs=pairs,
        fixed=[int((fixed == count).sum()) for count in range(1, pairs + 1)],
        broken=[int((broken == count).sum()) for count in range(1, pairs + 1)],
        by_chance=_by_chance(right[0], right[1]),
        examples_fixed=examples(fixed, broken),
        examples_broken=examples(broken, fixed),
    )
    return {"classes": found}


def _confusion(truth: Any, answers: Any, classes: int) -> Floats:
    """Mean rows over runs, (right class, predicted class)."""
    tables = [
        np.bincount(truth * classes + each, minlength=classes**2).reshape(classes, classes)
        for each in answers
    ]
    return np.mean(tables, axis=0)


def _class_line(label: str, truth: Any, called: Sequence[Any]) -> ClassLine:
    """One class: rows of it (rows,), and which rows each run of a side called so, (pairs, rows) a side.

    F1 is a ratio of sums over rows, 2 hits / (rows of the class + rows called so); to first order it moves
    with a row by (2 hit - F1 (is + called)) over their mean, which makes it a mean over rows.
    """
    means, tables = [], []
    for side in called:
        hits, both = 2.0 * (side & truth), truth.astype(float) + side
        sums = hits.sum(axis=1, keepdims=True), both.sum(axis=1, keepdims=True)
        f1 = sums[0] / np.maximum(sums[1], 1)
        tables.append(f1 + (hits - f1 * both) / np.maximum(both.mean(axis=1, keepdims=True), 1 / len(truth)))
        recall = (side & truth).sum(axis=1) / max(1, truth.sum())
        precision = (side & truth).sum(axis=1) / np.maximum(1, side.sum(axis=1))
        means.append([100 * float(each.mean()) for each in (recall, precision, f1)])
    ends = over_runs.interval(tables[1] - tables[0])
    recall, precision, f1 = ((one, two) for one, two in zip(*means, strict=True))
    apart = f1[1] - f1[0]
    return ClassLine(
        label,
        int(truth.sum()),
        recall,
        precision,
        f1,
        apart,
        [100 * float(np.clip(end, -1, 1)) for end in ends],
    )


def _by_chance(first: Any, second: Any) -> list[float]:
    """Rows that are fixed in 1, 2, ... pairs when the runs of a pair change places: the mean over the ways.

    Without the two ways in which none or all do. What is fixed in one of them is broken in its opposite.
    """
    pairs = len(first)
    if pairs < 2:
        return []
    ways = [way for way in product((False, True), repeat=min(pairs, MOST_EXCHANGED)) if 0 < sum(way) < pairs]
    ways = [(*way, *(False for _ in range(pairs - len(way)))) for way in ways]
    counts = np.zeros(pairs)
    for way in ways:
        exchanged = np.array(way)[:, None]
        one, two = np.where(exchanged, second, first), np.where(exchanged, first, second)
        fixed = (~one & two).sum(axis=0)
        counts += np.bincount(fixed, minlength=pairs + 1)[1 : pairs + 1]
    return (counts / len(ways)).round(1).tolist()


# Texts and documents


def _texts(sides: Sides, inputs: Mapping[int, str] | None, most: int) -> dict[str, Any]:
    by_row = [[sentences(pair[side], sides.truth) for pair in sides.scored] for side in (0, 1)]
    bleu, chrf = (np.array([[each[name] for each in side] for side in by_row]) for name in ("bleu", "chrf"))
    apart = bleu[1] - bleu[0]  # (pairs, rows)
    means = apart.mean(axis=0)

    def sentence(place: int) -> Sentence:
        rises = means[place] > 0
        pair = int(np.argmax(apart[:, place] if rises else -apart[:, place]))  # where it differs most
        row = sides.rows[place]
        return Sentence(
            row=row,
            difference=float(means[place]),
            chrf=float((chrf[1] - chrf[0])[:, place].mean()),
            better=int((apart[:, place] > 0).sum()),
            worse=int((apart[:, place] < 0).sum()),
            reference=sides.truth[place],
            first=str(sides.scored[pair][0].outputs[place]),
            second=str(sides.scored[pair][1].outputs[place]),
            source=None if inputs is None else inputs.get(row),
        )

    def largest(direction: int) -> list[Sentence]:
        # Those that move in every pair first: one of several seeds can be far off by itself.
        agree = (np.sign(apart) == direction).sum(axis=0)
        order = np.lexsort((-direction * means, -agree))
        return [sentence(place) for place in order[:most] if direction * means[place] > 0]

    found = Texts(
        pairs=len(sides.runs),
        alike=likeness([(one.outputs, two.outputs) for one, two in sides.scored]),
        bleu=(float(bleu[0].mean()), float(bleu[1].mean())),
        chrf=(float(chrf[0].mean()), float(chrf[1].mean())),
        rose=largest(1),
        fell=largest(-1),
    )
    return {"texts": found}


def _documents(sides: Sides, inputs: Mapping[int, str] | None, most: int) -> dict[str, Any]:
    nats = [np.stack(sides.outputs(side)) for side in (0, 1)]
    tokens, apart = sides.scored[0][0].scores[:, 1], nats[1] - nats[0]
    means = apart.mean(axis=0)
    order = np.argsort(means, kind="stable")
    chosen = [*order[:most], *[place for place in order[-most:] if place not in order[:most]]]
    found = [
        Document(
            row=sides.rows[place],
            name=str(sides.truth[place]),
            tokens=int(tokens[place]),
            first=float(nats[0][:, place].mean()),
            second=float(nats[1][:, place].mean()),
            difference=float(means[place]),
            better=int((apart[:, place] < 0).sum()),
            pairs=len(apart),
        )
        for place in chosen
    ]
    return {"documents": found}


def _nothing(sides: Sides, inputs: Mapping[int, str] | None, most: int) -> dict[str, Any]:
    return {}


DETAILS: Mapping[str, Callable[[Sides, Mapping[int, str] | None, int], dict[str, Any]]] = {
    "class": _classes,
    "text": _texts,
    "sums": _documents,
}
"""What is shown below the mean of each kind of answer (``Metric.answers``)."""
