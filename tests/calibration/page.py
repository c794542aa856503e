"""The rates as a page: what was simulated, what came of it, in tables and in the sentences they support."""

from typing import Any

from tests.calibration.studies import DESIGNS

HEAD = """\
# Do the statistics keep what they promise?

Made by `python -m tests.calibration` ({versions}).
{studies:,} simulated studies a line, half as many with a true difference, a quarter as many for BLEU; every
random number from one fixed seed. Each study has a baseline and two variants and {rows} test rows (a third of
that for BLEU), and goes through `finetune.comparison.claims.judge` as a real one does.

The model is in `tests/calibration/studies.py`: a run's latent score of a row is the sum of how hard the
row is for all (standard deviation 1.6), of its seed, and of noise of its own, with these standard deviations:

| design | by seed | by row, all seeds alike | by seed and row | |
| --- | ---: | ---: | ---: | --- |
"""

ALARMS = """\

## Equal methods: how often a difference is claimed, how often an interval misses

Claims are shares of studies in which at least one of the two comparisons is claimed: at most 5% is promised.
Misses are shares of 95% intervals that do not hold the true difference, 0: at most 5% again.

- **rule**: what the reports claim: the interval of the hierarchical bootstrap leaves out 0, and its p after
  Holm is below .05.
- t: Student's t with Hillis' degrees of freedom on the same noise, in the place of the bootstrap.
- two intervals: p over rows (over seeds where they are enough to reach .05) after Holm is below .05, and two
  intervals, over rows and over seeds, both leave out 0: each kind of noise by itself.
- rows: the exact test over rows alone, after Holm. seeds: exact sign flips over seeds alone, after Holm.
- plain: the hierarchical bootstrap without its corrections, seeds and rows resampled.
- detectable: the difference, in points, that is said to be claimed 4 times in 5: as one study says it (the
  median over the studies), and from the mean noise of all studies.

"""
_ALARM_HEADS = (
    *("design", "metric", "seeds", "claims: **rule**", "t", "two intervals", "rows", "seeds"),
    *("misses: **hierarchical**", "plain", "rows", "seeds (t)", "detectable: one study", "all"),
)

FOUND = """\

## A true difference: how often it is found

The first variant is truly better by the difference that the design is said to claim 4 times in 5 (where that
is at most 8 points); or by 1 point, with the seeds that 6 seeds say are needed for it. Both are from the mean
noise of all studies above. The second variant equals the baseline.

| design | seeds | true difference | predicted | claimed better | claimed worse | claims about the equal one |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""

MIDDLE = """\

## Interquartile means over tasks

Paired differences of equal methods on tasks of unlike noise; shares of 95% intervals without 0.

| tasks | seeds | with the corrections for few seeds | plain percentiles |
| ---: | ---: | ---: | ---: |
"""


def markdown(result: dict[str, Any]) -> str:
    """``calibration.md`` of what ``__main__.measure`` gives."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [HEAD.format(versions=versions, studies=result["studies"], rows=result["rows"])]
    parts += [_row(d.name, f"{d.seed:g}", f"{d.taste:g}", f"{d.each:g}", d.what) for d in DESIGNS]
    parts += ["\n", *_sentences(result), ALARMS]
    parts += [_row(*_ALARM_HEADS), _row("---", "---", *["---:"] * (len(_ALARM_HEADS) - 2))]
    parts += [_alarm(line) for line in result["alarms"]]
    parts += [FOUND, *(_found(line) for line in result["found"])]
    parts += [
        MIDDLE,
        *(_middle(line) for line in result["middle"]),
    ]
    return "".join(parts)


def _sentences(result: dict[str, Any]) -> list[str]:
    """The most that each way of deciding went wrong."""
    alarms = result["alarms"]
    error = (result["alpha"] * (1 - result["alpha"]) / result["studies"]) ** 0.5
    several = [line for line in alarms if line["seeds"] > 1]

    def worst(key: str) -> str:
        known = [line for line in several if line[key] is not None]
        line = max(known, key=lambda line: line[key])
        return f"{_share(line[key])} ({line['design']}, {line['metric']}, {line['seeds']} seeds)"

    single = max(line["claims"] for line in alarms if line["seeds"] == 1)
    return [
        f"The highest rates, where 5% is promised (a rate of 5% is known to ± {_share(2 * error)}):\n\n",
        f"- claims by the rule: {worst('claims')}; with one seed {_share(single)}\n",
        f"- claims by Student's t: {worst('claims_t')}; by two intervals: {worst('claims_two')}\n",
        f"- claims by rows alone: {worst('claims_rows')}; by seeds alone: {worst('claims_seeds')}\n",
        f"- misses of the hierarchical interval: {worst('misses')}; "
        f"of the plain one: {worst('misses_plain')}\n",
        f"- misses of the interval over rows alone: {worst('misses_rows')}; over seeds alone: "
        f"{worst('misses_seeds')}\n",
    ]


def _alarm(line: dict[str, Any]) -> str:
    shares = ["claims", "claims_t", "claims_two", "claims_rows", "claims_seeds"]
    shares += ["misses", "misses_plain", "misses_rows", "misses_seeds"]
    sizes = [line[key] for key in ("detectable_median", "detectable")]
    return _row(
        *(line[key] for key in ("design", "metric", "seeds")),
        *(_share(line[key]) for key in shares),
        *("" if size is None else f"{size:.2f}" for size in sizes),
    )


def _found(line: dict[str, Any]) -> str:
    shares = [_share(line[key]) for key in ("predicted", "claims", "wrong", "others")]
    return _row(line["design"], line["seeds"], f"{line['difference']:.2f}", *shares)


def _middle(line: dict[str, Any]) -> str:
    return _row(line["tasks"], line["seeds"], _share(line["misses"]), _share(line["misses_plain"]))


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"
