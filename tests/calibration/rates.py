"""Simulated studies through ``claims.judge``, as a real one goes, and how often what it said was wrong.

A study has a baseline and two variants, so two comparisons a family, on 750 test rows (250 for BLEU).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from finetune.comparison import claims
from finetune.comparison.claims import Difference, Paired
from finetune.metrics.margin import Margin
from finetune.metrics.registry import METRICS
from finetune.metrics.rows import PERPLEXITY
from finetune.statistics.bootstrap import (
    Noise,
    improvement_draws,
    improvement_over,
    noise,
    stratified,
    stratified_draws,
)
from finetune.statistics.over_seeds import SEED, Interval, holm
from finetune.statistics.power import ALPHA, detectable, seeds_needed
from tests.calibration import studies as made
from tests.calibration.studies import DESIGNS, Design

ROWS = 750
SEEDS = (1, 2, 3, 6, 7)
WANTED = 1.0  # point, of which the seeds that are needed are told
DOCUMENTS = (12, 30, 250)  # of the test set of a language model
EQUAL = (0.0, 0.0, 0.0)  # shifts of the baseline and two variants that are as good
TASKS = (2, 3, 5)  # of the interquartile mean


@dataclass(frozen=True)
class Family:
    """One simulated study: its verdicts, and the interval of the plain bootstrap for the first of them."""

    found: list[Difference]
    noises: list[Noise]  # one a comparison; none with one seed
    plain: Interval | None = None


@dataclass(frozen=True)
class Alarms:
    """Studies of equal methods. Claims: shares of studies with any; misses: shares of intervals without 0."""

    design: str
    metric: str
    seeds: int
    studies: int
    claims: float  # by the rule of ``claims``
    claims_t: float  # by Student's t with Hillis' degrees of freedom on the same noise
    claims_two: float  # by p of rows (of seeds where they are enough) and two intervals, rows and seeds
    claims_rows: float  # by the test over rows alone, after Holm
    claims_seeds: float  # by exact sign flips over seeds alone, after Holm
    misses: float | None  # of the hierarchical bootstrap
    misses_plain: float | None  # of the plain one
    misses_rows: float
    misses_seeds: float | None
    detectable_median: float | None  # points, as the studies say it
    detectable: float | None  # from the mean noise of all studies
    needed: int | None  # seeds for a difference of 1 point, from the same; None where none suffice


@dataclass(frozen=True)
class Found:
    """Studies in which the first variant is truly better, the second equal to the baseline."""

    design: str
    seeds: int
    studies: int
    difference: float  # the true one, points
    predicted: float  # how often it should be claimed
    claims: float  # how often it was
    wrong: float  # claimed to be worse
    others: float  # claims about the equal variant


@dataclass(frozen=True)
class Middle:
    """Interquartile means over tasks whose true value is 0: shares of intervals without it."""

    tasks: int
    seeds: int
    studies: int
    misses: float
    misses_plain: float  # Agarwal et al.'s percentile interval


@dataclass(frozen=True)
class Equivalence:
    """How often a difference is said to lie inside a margin: where it does not, and of equal methods."""

    design: str
    metric: str
    seeds: int
    studies: int  # in which both variants truly differ from the baseline by the margin
    margin: float  # points; of perplexity, percent of the baseline's score
    false: float  # share of their comparisons that are said to be inside
    false_any: float  # share of these studies with such a comparison
    studies_equal: int
    found: float  # share of the comparisons of equal methods that are said to be inside


@dataclass(frozen=True)
class Improvement:
    """Probability of improvement over tasks, of equal methods: shares of intervals without 0.5."""

    tasks: int
    seeds: int
    studies: int
    misses: float
    misses_plain: float  # Agarwal et al.'s percentile interval


def classification(
    design: Design, seeds: int, studies: int, difference: float = 0.0, *, plain: bool = False
) -> Iterator[Family]:
    """Families of accuracy, the first variant truly better by ``difference`` (points), half of it up and half
    of it down from the design's level; ``plain`` adds its plain bootstrap."""
    rng = np.random.default_rng([SEED, seeds, DESIGNS.index(design)])
    low, high = (design.shift_for(share * difference / 100) for share in (-0.5, 0.5))
    for _ in range(studies):
        baseline, *variants = made.classify(design, rng, seeds, ROWS, (low, high, low))
        family = _family([made.pair_accuracy(baseline, variant) for variant in variants], "accuracy")
        resampled = made.plain_bootstrap(baseline, variants[0], rng) if plain and seeds > 1 else None
        yield replace(family, plain=resampled)


def translation(design: Design, seeds: int, studies: int) -> Iterator[Family]:
    """Families of BLEU."""
    rng = np.random.default_rng([SEED, seeds, DESIGNS.index(design)])
    for _ in range(studies):
        baseline, *variants = made.translate(design, rng, seeds, ROWS // 3, EQUAL)
        yield _family([made.pair_bleu(baseline, variant) for variant in variants], "bleu")


def language_models(design: Design, seeds: int, studies: int, documents: int) -> Iterator[Family]:
    """Families of perplexity over so many documents of unequal size."""
    rng = np.random.default_rng([SEED, seeds, DESIGNS.index(design), documents])
    for _ in range(studies):
        baseline, *variants = made.model_language(design, rng, seeds, documents, EQUAL)
        yield _family([made.pair_perplexity(baseline, variant) for variant in variants], "perplexity")


def _family(pairs: list[Paired], metric: str, margin: float | None = None) -> Family:
    noises = [noise(pair.per_seed, pair.rows) for pair in pairs if pair.rows and len(pair.seeds) > 1]
    judged = claims.judge(pairs, METRICS[metric])
    return Family([claims.weigh(one, METRICS[metric], margin) for one in judged], noises)


def alarms(design: str, metric: str, families: Iterable[Family]) -> Alarms:
    """The rates of false alarms in ``families`` of equal methods."""
    studies = list(families)
    every = [found for study in studies for found in study.found]
    known = [found.detectable for found in every if found.detectable is not None]
    mean = _mean_noise([noise for study in studies for noise in study.noises])

    def share(claims: Callable[[list[Difference]], bool]) -> float:
        return float(np.mean([claims(study.found) for study in studies]))

    return Alarms(
        design=design,
        metric=metric,
        seeds=len(every[0].seeds),
        studies=len(studies),
        claims=share(lambda found: any(one.significant for one in found)),
        claims_t=float(np.mean([_students(study) for study in studies])),
        claims_two=share(_two_intervals),
        claims_rows=share(lambda found: min(holm([one.p_rows or 0.0 for one in found])) < ALPHA),
        claims_seeds=share(lambda found: min(holm([one.p_seeds or 1.0 for one in found])) < ALPHA),
        misses=_misses([one.interval for one in every]),
        misses_plain=_misses([study.plain for study in studies]),
        misses_rows=_misses([one.interval_rows for one in every]) or 0.0,
        misses_seeds=_misses([one.interval_seeds for one in every]),
        detectable_median=float(np.median(known)) if known else None,
        detectable=detectable(mean, 2) if mean else None,
        needed=seeds_needed(WANTED, mean, 2) if mean else None,
    )


def _mean_noise(noises: list[Noise]) -> Noise | None:
    if not noises:
        return None
    seed = math.sqrt(np.mean([part.seed**2 for part in noises]))
    row = math.sqrt(np.mean([part.row**2 for part in noises]))
    return Noise(seed, row, noises[0].seeds)


def _misses(intervals: Sequence[Sequence[float] | None]) -> float | None:
    known = [interval for interval in intervals if interval is not None]
    return float(np.mean([not low <= 0 <= high for low, high in known])) if known else None


def _students(family: Family) -> bool:
    """Hillis 2007, whose noise and degrees of freedom are these; the interval over rows leaves out 0 too."""
    if not family.noises:
        return False
    adjusted = holm(
        [
            2 * float(special.stdtr(min(noise.freedom, 1e6), -abs(one.mean) / noise.total))
            if noise.total
            else 1.0
            for one, noise in zip(family.found, family.noises, strict=True)
        ]
    )
    rows = [_misses([one.interval_rows]) == 1.0 for one in family.found]
    return any(p < ALPHA and out for p, out in zip(adjusted, rows, strict=True))


def _two_intervals(found: list[Difference]) -> bool:
    """A rule that looks at each kind of noise by itself: p and two intervals."""
    enough = 2.0 ** (1 - len(found[0].seeds)) * len(found) <= ALPHA
    adjusted = holm([(one.p_seeds if enough else one.p_rows) or 0.0 for one in found])
    return any(
        p < ALPHA and _misses([one.interval_rows]) == 1.0 and _misses([one.interval_seeds]) == 1.0
        for p, one in zip(adjusted, found, strict=True)
    )


def find(design: Design, seeds: int, studies: int, difference: float, predicted: float) -> Found:
    """How often a true ``difference`` (points) is claimed."""
    families = list(classification(design, seeds, studies, difference))
    verdicts = np.array([[one.verdict for one in family.found] for family in families])
    others = np.mean([family.found[1].significant for family in families])
    return Found(
        design=design.name,
        seeds=seeds,
        studies=studies,
        difference=difference,
        predicted=predicted,
        claims=float((verdicts[:, 0] == "better").mean()),
        wrong=float((verdicts[:, 0] == "worse").mean()),
        others=float(others),
    )


def accuracy_at(design: Design, seeds: int, studies: int, margin: float, share: float) -> Iterator[Family]:
    """Families of accuracy at a margin (points): both variants differ by ``share`` of it,
    up and down in turn."""
    rng = np.random.default_rng([SEED, seeds, DESIGNS.index(design), round(share)])
    half = share * margin / 200
    ends = design.shift_for(-half), design.shift_for(half)
    for study in range(studies):
        low, high = ends if study % 2 else ends[::-1]
        baseline, *variants = made.classify(design, rng, seeds, ROWS, (low, high, high))
        yield _family([made.pair_accuracy(baseline, each) for each in variants], "accuracy", margin)


def bleu_at(design: Design, seeds: int, studies: int, margin: float, share: float) -> Iterator[Family]:
    """Families of BLEU at a margin, as ``accuracy_at``."""
    rng = np.random.default_rng([SEED, seeds, DESIGNS.index(design), round(share)])
    half = share * margin / 2
    ends = design.shift_for_bleu(-half), design.shift_for_bleu(half)
    for study in range(studies):
        low, high = ends if study % 2 else ends[::-1]
        baseline, *variants = made.translate(design, rng, seeds, ROWS // 3, (low, high, high))
        yield _family([made.pair_bleu(baseline, each) for each in variants], "bleu", margin)


def perplexity_at(
    design: Design, seeds: int, studies: int, margin: float, share: float, *, documents: int
) -> Iterator[Family]:
    """Families of perplexity at a margin in percent of the baseline's score, as ``accuracy_at``."""
    rng = np.random.default_rng([SEED, seeds, DESIGNS.index(design), documents, round(share)])
    relative = Margin(margin / 100, relative=True)
    for study in range(studies):
        shift = math.log1p((1 if study % 2 else -1) * share * relative.size)
        baseline, *variants = made.model_language(design, rng, seeds, documents, (0.0, shift, shift))
        score = float(np.mean([PERPLEXITY.value(run) for run in baseline]))
        pairs = [made.pair_perplexity(baseline, each) for each in variants]
        yield _family(pairs, "perplexity", relative.of(score))


def equivalence(
    design: str, metric: str, margin: float, apart: Iterable[Family], equal: Iterable[Family]
) -> Equivalence:
    """The rates of claims of equivalence in families ``apart`` by the margin, and in ``equal`` ones."""
    families = list(equal)
    false, found = (
        np.array([[one.is_within_margin for one in family.found] for family in each])
        for each in (apart, families)
    )
    return Equivalence(
        design=design,
        metric=metric,
        seeds=len(families[0].found[0].seeds),
        studies=len(false),
        margin=margin,
        false=float(false.mean()),
        false_any=float(false.any(axis=1).mean()),
        studies_equal=len(found),
        found=float(found.mean()),
    )


def improvements(tasks: int, seeds: int, studies: int) -> Improvement:
    """Runs of equal methods on tasks: their probability of improvement is 0.5."""
    rng = np.random.default_rng([SEED, seeds, tasks, 1])
    right, plain = [], []
    for _ in range(studies):
        strata = [(one.tolist(), two.tolist()) for one, two in rng.normal(size=(tasks, 2, seeds))]
        right.append(improvement_over(strata)[1])
        low, high = np.percentile(improvement_draws(strata), [2.5, 97.5])
        plain.append((float(low), float(high)))
    misses, misses_plain = (
        float(np.mean([not low <= 0.5 <= high for low, high in each])) for each in (right, plain)
    )
    return Improvement(tasks, seeds, studies, misses, misses_plain)


def middles(tasks: int, seeds: int, studies: int) -> Middle:
    """Paired differences of equal methods on tasks of unlike noise; their true interquartile mean is 0."""
    rng = np.random.default_rng([SEED, seeds, tasks])
    right, plain = [], []
    for _ in range(studies):
        strata = rng.normal(0, np.linspace(0.2, 1.0, tasks)[:, None], (tasks, seeds)).tolist()
        right.append(stratified(strata))
        low, high = np.percentile(stratified_draws(strata), [2.5, 97.5])
        plain.append((float(low), float(high)))
    return Middle(tasks, seeds, studies, _misses(right) or 0.0, _misses(plain) or 0.0)
