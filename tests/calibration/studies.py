"""Simulated studies with known true differences.

A run of method a with seed s has row r right where a latent score is above 0:

    level + hard_r + shared_s + seed_as + taste_ar + each_asr + shift_a,    every term normal,

so rows are equally hard for all, runs of one seed have the seed in common, and each method has noise of its
own by seed, by row, and by both. The true difference of methods with the same shift is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from finetune.comparison.claims import Paired
from finetune.metrics.rows import PERPLEXITY
from finetune.statistics.bleu import bleu, compare_bleu
from finetune.statistics.over_rows import Floats, compare_accuracy
from finetune.statistics.over_seeds import Interval

COLLAPSE = 1.5  # what a run that collapses loses of its latent level
WORD = 0.5  # the latent score of a word in a translation


def _normal(deviation: float) -> tuple[Floats, Floats]:
    """Points of a normal distribution around 0 and their weights (Gauss-Hermite quadrature)."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    return deviation * points, weights / weights.sum()


@dataclass(frozen=True)
class Design:
    """Standard deviations of the latent score; about 90% of rows are right."""

    name: str
    what: str
    seed: float  # of a run as a whole
    taste: float  # of a method on a row, the same for all seeds: rows on which it is systematically better
    each: float  # of a run on a row
    collapses: float = 0.0  # share of runs that lose 1.5 of their level
    level: float = 2.2
    hard: float = 1.6
    shared: float = 0.05

    @property
    def deviation(self) -> float:
        return math.hypot(self.hard, self.shared, self.seed, self.taste, self.each)

    def accuracy(self, shift: float) -> float:
        """The true accuracy of a method (of 1): over rows, seeds and what collapses."""
        whole, fallen = (
            special.ndtr((self.level + shift - lost) / self.deviation) for lost in (0.0, COLLAPSE)
        )
        return float((1 - self.collapses) * whole + self.collapses * fallen)

    def shift_for(self, difference: float) -> float:
        """The shift that raises a method's true accuracy by ``difference`` (of 1)."""
        if self.collapses:
            wanted = self.accuracy(0.0) + difference
            return float(optimize.brentq(lambda shift: self.accuracy(shift) - wanted, -10.0, 10.0))
        accuracy = special.ndtr(self.level / self.deviation) + difference
        return float(special.ndtri(accuracy)) * self.deviation - self.level

    def bleu(self, shift: float) -> float:
        """The true BLEU of a method in ``translate``: of endless rows, the mean over seeds.

        Lengths differ from the references' by chance alone, so there is no brevity penalty, and the precision
        of n-grams is the mean of the n-th power of the probability that a word is right.
        """
        apart = math.hypot(0.5 * self.hard, self.taste, self.each)
        seeds, share = _normal(math.hypot(self.shared, self.seed))
        rows, weight = _normal(apart)
        right = special.expit(WORD + shift + seeds[:, None] + rows)
        precisions = [right**n @ weight for n in (1, 2, 3, 4)]
        return float(100 * np.exp(np.log(precisions).mean(axis=0)) @ share)

    def shift_for_bleu(self, difference: float) -> float:
        """The shift that raises a method's true BLEU by ``difference``."""
        wanted = self.bleu(0.0) + difference
        return float(optimize.brentq(lambda shift: self.bleu(shift) - wanted, -10.0, 10.0))


DESIGNS = (
    Design("errors", "each run errs on rows of its own", seed=0.03, taste=0.0, each=0.5),
    Design("seeds", "the luck of a seed moves a whole run", seed=0.2, taste=0.0, each=0.4),
    Design(
        "tastes",
        "each method is better on rows of its own, whatever the seed",
        seed=0.02,
        taste=0.6,
        each=0.3,
    ),
    Design("mixed", "all three", seed=0.06, taste=0.4, each=0.4),
    Design(
        "collapse", "all three, and one run in ten collapses", seed=0.06, taste=0.4, each=0.4, collapses=0.1
    ),
)


def classify(
    design: Design, rng: np.random.Generator, seeds: int, rows: int, shifts: Sequence[float]
) -> list[NDArray[np.bool_]]:
    """Correctness, (seeds, rows), of one method for each of ``shifts``."""
    common = design.level + rng.normal(0, design.hard, (1, rows)) + rng.normal(0, design.shared, (seeds, 1))
    methods = []
    for shift in shifts:
        own = rng.normal(shift, design.seed, (seeds, 1)) + rng.normal(0, design.taste, (1, rows))
        own = own - COLLAPSE * (rng.random((seeds, 1)) < design.collapses)
        methods.append(common + own + rng.normal(0, design.each, (seeds, rows)) > 0)
    return methods


def translate(
    design: Design, rng: np.random.Generator, seeds: int, rows: int, shifts: Sequence[float]
) -> list[list[Floats]]:
    """sacrebleu's counts, one (rows, 10) array a seed, of one method for each of ``shifts``.

    A word is right with the probability sigmoid(latent score - level), n words in a row with its n-th power.
    """
    words = 5 + rng.poisson(12, rows)
    hard, shared = rng.normal(0, 0.5 * design.hard, rows), rng.normal(0, design.shared, seeds)
    found = []
    for shift in shifts:
        tastes, runs = rng.normal(shift, design.taste, rows), []
        for seed in range(seeds):
            own = rng.normal(shared[seed], design.seed) + rng.normal(0, design.each, rows)
            right = special.expit(WORD + hard + tastes + own)
            length = np.maximum(4, words + rng.integers(-2, 3, rows))
            total = length[:, None] - np.arange(4)
            ngrams = rng.binomial(total, right[:, None] ** np.arange(1, 5))
            runs.append(np.column_stack([length, words, ngrams, total]).astype(float))
        found.append(runs)
    return found


def model_language(
    design: Design, rng: np.random.Generator, seeds: int, documents: int, shifts: Sequence[float]
) -> list[list[Floats]]:
    """Nats and tokens, one (documents, 2) array a seed, of one method for each of ``shifts`` (nats a token).

    The nats a token of a document are its difficulty and the design's effects of seed, document and both, a
    twentieth as large as those of a latent score. The largest of 12 is about ten times the smallest.
    """
    tokens = rng.lognormal(8, 0.7, documents).round()
    hard, shared = rng.normal(4, 0.3, documents), rng.normal(0, design.shared, seeds)
    found = []
    for shift in shifts:
        tastes, runs = rng.normal(20 * shift, design.taste, documents), []
        for seed in range(seeds):
            own = rng.normal(shared[seed], design.seed) + rng.normal(0, design.each, documents)
            runs.append(np.column_stack([(hard + (tastes + own) / 20) * tokens, tokens]))
        found.append(runs)
    return found


def pair_perplexity(baseline: Sequence[Floats], variant: Sequence[Floats]) -> Paired:
    """Paired perplexities of two methods, as ``claims.pair`` makes them."""
    values = [[PERPLEXITY.value(run) for run in side] for side in (baseline, variant)]
    per_seed = tuple(after - before for before, after in zip(*values, strict=True))
    return Paired(tuple(range(len(per_seed))), per_seed, PERPLEXITY.compare(baseline, variant), None)


def pair_accuracy(baseline: NDArray[np.bool_], variant: NDArray[np.bool_]) -> Paired:
    """Paired accuracies of two methods, as ``claims.pair`` makes them, in points."""
    per_seed = 100 * (variant.mean(axis=1) - baseline.mean(axis=1))
    rows = compare_accuracy(baseline, variant).scaled(100)
    return Paired(tuple(range(len(per_seed))), tuple(per_seed.tolist()), rows, None)


def pair_bleu(baseline: Sequence[Floats], variant: Sequence[Floats]) -> Paired:
    """Paired BLEU of two methods, as ``claims.pair`` makes it."""
    scores = [[float(bleu(run.sum(axis=0))) for run in side] for side in (baseline, variant)]
    per_seed = tuple(after - before for before, after in zip(*scores, strict=True))
    return Paired(tuple(range(len(per_seed))), per_seed, compare_bleu(baseline, variant), None)


def plain_bootstrap(
    baseline: NDArray[np.bool_], variant: NDArray[np.bool_], rng: np.random.Generator, resamples: int = 400
) -> Interval:
    """The interval of the bootstrap without the corrections of ``bootstrap.hierarchical``, in points.

    Each replicate draws as many seeds and as many rows as there are, with replacement, rows for all seeds at
    once (the pigeonhole bootstrap: Owen 2007, Annals of Applied Statistics 1:386).
    """
    seeds, rows = baseline.shape
    differences = 100 * (variant.astype(float) - baseline)
    drawn = rng.integers(rows, size=(resamples, rows)) + rows * np.arange(resamples)[:, None]
    row_counts = np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    means = (row_counts @ differences.T * seed_counts).sum(axis=1) / rows / seeds
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
