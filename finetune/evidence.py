"""What a pair of arms says: the difference, its intervals, p, and whether a difference may be claimed.

The rule: a difference is claimed only where it stands out from both kinds of noise. The adjusted p must be
below 0.05, and the 95% intervals over test rows and over seeds must both leave out 0. So one seed is never
enough (nothing is known of the other kind of noise), and two seldom are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from finetune import stats
from finetune.errors import UserError
from finetune.pairing import Run
from finetune.record import read_predictions
from finetune.scorers import PRIMARY, bleu_scorer, tokenizer_of

ALPHA = 0.05
TOKENIZERS = ("13a", "intl", "none", "char", "zh", "ja-mecab", "ko-mecab")  # sacrebleu fetches the others
SCALE = {"accuracy": 100.0, "macro_f1": 100.0}  # recorded as fractions, reported in percent
Verdict = Literal["better", "worse", "none"]


@dataclass(frozen=True)
class Paired:
    """Two arms over the seeds that both finished, before any p is chosen; in reported units."""

    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]  # variant minus baseline
    rows: stats.RowResult | None
    no_rows: str | None  # why there is no comparison over rows


@dataclass(frozen=True)
class Difference:
    """Variant minus baseline, in points of the metric; intervals are 95%, p two-sided."""

    seeds: list[int]
    per_seed: list[float]
    mean: float
    interval_rows: list[float] | None  # over test rows, these seeds taken as given
    interval_seeds: list[float] | None  # over seeds, these test rows taken as given; two seeds or more
    test: str | None
    p: float | None
    p_adjusted: float | None  # Holm, over `comparisons`
    comparisons: int
    detectable: float | None  # the true difference seen 4 times in 5, about; one seed can show none
    verdict: Verdict
    why: str  # of the verdict


class _Test(NamedTuple):
    p: float
    name: str
    over: str  # whose noise it looks at: "the seeds" or "the test rows"


class Predictions:
    """Reads each run's predictions once, and checks that they give the value in its record."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[list[Any], Any]] = {}

    def pair(self, baseline: Sequence[Run], variant: Sequence[Run]) -> stats.RowResult:
        """Compare over rows, one run a seed on each side; raise ``UserError`` where they do not match."""
        first, second = [self._of(run) for run in baseline], [self._of(run) for run in variant]
        wanted = first[0][0]
        for run, (rows, _) in zip([*baseline, *variant], [*first, *second], strict=True):
            if rows != wanted:
                raise UserError(
                    f"the predictions in {run.folder} are of other rows than {baseline[0].folder}"
                )
        scored_first, scored_second = [s for _, s in first], [s for _, s in second]
        if baseline[0].record["task"]["kind"] == "classification":
            return stats.compare_accuracy(np.stack(scored_first), np.stack(scored_second))
        return stats.compare_bleu(_scorer(baseline[0]), scored_first, scored_second)

    def _of(self, run: Run) -> tuple[list[Any], Any]:
        if run.folder not in self._known:
            self._known[run.folder] = _scored(run)
        return self._known[run.folder]


def pair(baseline: Mapping[int, Run], variant: Mapping[int, Run], predictions: Predictions) -> Paired | None:
    """The seeds that both arms finished; ``None`` where there is none. ``predictions`` is a cache."""
    seeds = tuple(sorted(baseline.keys() & variant.keys()))
    if not seeds:
        return None
    scale = scale_of(baseline[seeds[0]])
    per_seed = tuple(scale * (variant[seed].value - baseline[seed].value) for seed in seeds)
    try:
        rows = predictions.pair([baseline[s] for s in seeds], [variant[s] for s in seeds])
    except UserError as error:
        return Paired(seeds, per_seed, None, str(error))
    low, high = rows.interval
    scaled = (scale * rows.difference, (scale * low, scale * high), scale * rows.standard_error)
    return Paired(seeds, per_seed, stats.RowResult(*scaled, rows.p, rows.test), None)


def judge(pairs: Sequence[Paired]) -> list[Difference]:
    """One family of comparisons: choose each one's test, adjust p (Holm), and say what may be claimed."""
    tests = [_test(paired, len(pairs)) for paired in pairs]
    known = [test.p for test in tests if test]
    adjusted = iter(stats.holm(known))
    return [
        _difference(paired, test, next(adjusted) if test else None, len(known))
        for paired, test in zip(pairs, tests, strict=True)
    ]


def scale_of(run: Run) -> float:
    """From the recorded unit of a run's primary metric to the reported one."""
    return SCALE.get(PRIMARY[run.record["task"]["kind"]], 1.0)


def _test(paired: Paired, comparisons: int) -> _Test | None:
    """Over seeds where they are enough for p < 0.05 after Holm, whatever they show; else over rows."""
    count = len(paired.seeds)
    if 2.0 ** (1 - count) * comparisons <= ALPHA and count <= stats.MOST_FLIPS:
        p = stats.sign_flip(paired.per_seed)
        return _Test(p, f"exact sign flips over {count} seeds", "the seeds")
    return _Test(paired.rows.p, paired.rows.test, "the test rows") if paired.rows else None


def _difference(paired: Paired, test: _Test | None, adjusted: float | None, comparisons: int) -> Difference:
    mean = stats.mean_sd(paired.per_seed)[0]
    over_rows = paired.rows.interval if paired.rows else None
    several = len(paired.seeds) > 1
    over_seeds = stats.t_interval(paired.per_seed) if several else None
    verdict, why = _verdict(paired, mean, over_seeds, _unproven(test, adjusted, comparisons))
    seen = [stats.detectable_over_seeds(paired.per_seed)] if several else []
    seen += [stats.detectable_over_rows(paired.rows.standard_error)] if several and paired.rows else []
    return Difference(
        seeds=list(paired.seeds),
        per_seed=list(paired.per_seed),
        mean=mean,
        interval_rows=list(over_rows) if over_rows else None,
        interval_seeds=list(over_seeds) if over_seeds else None,
        test=test.name if test else None,
        p=test.p if test else None,
        p_adjusted=adjusted,
        comparisons=comparisons,
        detectable=max(seen, default=None),
        verdict=verdict,
        why=why,
    )


def _verdict(
    paired: Paired, mean: float, seeds: stats.Interval | None, unproven: str | None
) -> tuple[Verdict, str]:
    """The noise of the test rows first, then p, then the noise of the seeds: each can forbid a claim."""
    unvaried = "" if seeds else ", and the seed was not varied"
    if paired.rows is None:
        return "none", f"there is no comparison over rows: {paired.no_rows}"
    low, high = paired.rows.interval
    if not mean or low <= 0 <= high:
        what = "which is within the noise of the test rows" if mean else "the two score the same"
        return "none", what + unvaried
    if unproven:
        return "none", unproven + unvaried
    if seeds is None:
        return "none", "which is more than the noise of the test rows, but the seed was not varied"
    if seeds[0] <= 0 <= seeds[1]:
        return "none", "which is more than the noise of the test rows, but not more than that of the seeds"
    return (
        "better" if mean > 0 else "worse"
    ), "which is more than the noise of the test rows and of the seeds"


def _unproven(test: _Test | None, adjusted: float | None, comparisons: int) -> str | None:
    """Why p alone forbids a claim where the interval over rows does not, in words that fit its test."""
    if test is None or adjusted is None or adjusted < ALPHA:
        return None
    if test.p < ALPHA:
        return (
            f"which is more than the noise of {test.over}, but not after Holm for {comparisons} comparisons"
        )
    if test.over == "the seeds":
        told = "more than the noise of the test rows, but not more than that of the seeds"
        return f"which is {told} ({test.name})"
    return f"which p does not tell from the noise of the test rows ({test.name})"


def _scored(run: Run) -> tuple[list[Any], Any]:
    """The rows of a run in order of their identity, and what is right about each.

    Rows come with label or reference, so that other data under the same numbers is noticed.
    """
    rows = sorted(read_predictions(run.folder), key=lambda row: row["row"])
    truth = "label" if run.record["task"]["kind"] == "classification" else "reference"
    if not rows or any(truth not in row for row in rows):
        raise UserError(f"the predictions in {run.folder} are empty or lack '{truth}'")
    identity = [(row["row"], row[truth]) for row in rows]
    if len({row for row, _ in identity}) < len(identity):
        raise UserError(f"the predictions in {run.folder} hold a row twice")
    if truth == "label":
        scored: Any = np.array([row["prediction"] == row["label"] for row in rows])
        value = float(scored.mean())
    else:
        texts = [row["prediction"] for row in rows], [row["reference"] for row in rows]
        if not all(isinstance(text, str) for side in texts for text in side):
            raise UserError(f"the predictions in {run.folder} are no texts")
        scored = stats.bleu_counts(_scorer(run), *texts)
        value = stats.bleu(_scorer(run), scored.sum(0))
    if abs(value - run.value) > 1e-6 * max(1.0, abs(value)):
        raise UserError(f"the predictions in {run.folder} give {value:.6g}, its record says {run.value:.6g}")
    return identity, scored


def _scorer(run: Run) -> Any:
    signature = (run.record["metrics"] or {})["bleu"].get("signature") or ""
    try:
        tokenizer = tokenizer_of(signature)
        if tokenizer not in TOKENIZERS:
            raise KeyError(tokenizer)
        return bleu_scorer(tokenizer)
    except (KeyError, RuntimeError) as error:  # a foreign signature; a tokenizer that is not installed
        raise UserError(f"cannot score again as '{signature}': {error}") from error
