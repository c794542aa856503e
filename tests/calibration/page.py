"""The rates as a page: the simulated studies, tables of rates, and the largest of them in sentences."""

from typing import Any

from tests.calibration.studies import DESIGNS

HEAD = """\
# Error rates of the statistics, in simulated studies

Made by `python -m tests.calibration` ({versions}). {studies:,} simulated studies a line, half as many with a
true difference, a quarter as many for BLEU and perplexity, all from one fixed random seed. Each study has a
baseline, two variants and {rows} test rows (a third of that for BLEU; for perplexity as many documents of
unequal size as are named), and is judged by `finetune.comparison.claims.judge` as a real one is.

The model is in `tests/calibration/studies.py`: the latent score of a run on a row is the sum of the
difficulty of the row for all runs (standard deviation 1.6) and of random effects with these standard
deviations:

| design | by seed | by row, all seeds alike | by seed and row | |
| --- | ---: | ---: | ---: | --- |
"""

ALARMS = """\

## Equal methods: false positives, and intervals that miss

False positives: the share of studies with a significant difference in at least one of the two comparisons
(the family-wise error rate); the nominal rate is 5%. Misses: the share of 95% intervals that do not contain
the true difference, 0; nominally 5%.

- **rule**: the rule of the reports: the interval of the hierarchical bootstrap excludes 0, and its p is below
  .05 after Holm.
- t: Student's t with Hillis' degrees of freedom on the same noise, instead of the bootstrap.
- two intervals: each kind of noise by itself: p over rows (over seeds, where enough of them can reach .05) is
  below .05 after Holm, and the intervals over rows and over seeds both exclude 0.
- rows: the exact test over rows alone, after Holm. seeds: exact sign flips over seeds alone, after Holm.
- plain: the hierarchical bootstrap without its corrections: seeds and rows are resampled.
- detectable: the minimum detectable difference at 80% power, in points: the median of the studies' own, and
  from the mean noise of all studies.

"""
_ALARM_HEADS = (
    *("design", "metric", "seeds", "false positives: **rule**", "t", "two intervals", "rows", "seeds"),
    *("misses: **hierarchical**", "plain", "rows", "seeds (t)", "detectable: one study", "all"),
)

FOUND = """\

## A true difference: power

The first variant is better by the minimum detectable difference of the design (where that is at most 8
points), or by 1 point with the number of seeds that is reported as needed for it with 6 seeds. Both are from
the mean noise of all studies above. False positives are those of the second variant, which equals the
baseline.

| design | seeds | true difference | predicted power | power | significantly worse | false positives |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""

EQUIVALENT = """\

## Equivalence

Called equivalent: the 95% interval over seeds and rows lies inside the margin, which is here the minimum
detectable difference of the design (8 points where that is larger; of perplexity, a share of the baseline's).

False: both variants truly differ from the baseline by exactly the margin, up in half of the studies and down
in the others; nominally 2.5% of the comparisons, and 5% of the studies with any of the two ({apart} studies a
line of accuracy, {apart_others} of the others). Found: the share of comparisons of equal methods that are
called equivalent ({equal} studies a line). Where runs collapse, the studies in which none did look more
certain than they are: what they have not seen is part of the true difference.

| design | metric | seeds | margin | false: comparisons | false: studies | found |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
"""

IMPROVEMENT = """\

## Probability of improvement over tasks

Runs of equal methods, so that it is 0.5: the share of 95% intervals that do not contain it ({studies} studies
a line).

| tasks | seeds | with the corrections for few seeds | plain percentiles |
| ---: | ---: | ---: | ---: |
"""

MIDDLE = """\

## Interquartile means over tasks

Paired differences of equal methods on tasks of different noise: the share of 95% intervals that exclude 0.

| tasks | seeds | with the corrections for few seeds | plain percentiles |
| ---: | ---: | ---: | ---: |
"""


LOOKS = """\

## Seeds that are added until a difference is known

Two variants with more seeds at each look until the difference of each is known within the margin
(significant, equivalent, or with an interval no wider than ± the margin), as `finetune study --until` adds
them. Naive: the same looks, each at 5%. Where the truth is 0, significant differences are false positives;
where it is the margin, claims of equivalence are false. Misses: intervals at the end that do not hold the
truth.

"""
_LOOK_HEADS = (
    *("design", "looks (seeds)", "margin", "truth", "studies", "significant", "naive"),
    *("misses", "naive", "equivalent", "seeds at the end"),
)


def markdown(result: dict[str, Any]) -> str:
    """The text of ``calibration.md`` for a result of ``__main__.measure``."""
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
    parts += _equivalence(result) if result["equivalent"] else []
    if improvement := result["improvement"]:
        parts += [IMPROVEMENT.format(studies=f"{improvement[0]['studies']:,}"), *map(_middle, improvement)]
    parts += [LOOKS, _row(*_LOOK_HEADS), _row("---", "---", *["---:"] * (len(_LOOK_HEADS) - 2))]
    parts += [*(_looked(line) for line in result["looks"])]
    return "".join(parts)


def _sentences(result: dict[str, Any]) -> list[str]:
    """The highest error rate of each rule and interval, in several seeds."""
    alarms = result["alarms"]
    error = (result["alpha"] * (1 - result["alpha"]) / result["studies"]) ** 0.5
    several = [line for line in alarms if line["seeds"] > 1]

    def worst(key: str) -> str:
        known = [line for line in several if line[key] is not None]
        line = max(known, key=lambda line: line[key])
        return f"{_share(line[key])} ({line['design']}, {line['metric']}, {line['seeds']} seeds)"

    single = max(line["claims"] for line in alarms if line["seeds"] == 1)
    return [
        f"The highest rates, with 5% nominal (a rate of 5% is measured to ± {_share(2 * error)}):\n\n",
        f"- false positives of the rule: {worst('claims')}; with one seed {_share(single)}\n",
        f"- of Student's t: {worst('claims_t')}; of two intervals: {worst('claims_two')}\n",
        f"- of rows alone: {worst('claims_rows')}; of seeds alone: {worst('claims_seeds')}\n",
        f"- misses of the hierarchical interval: {worst('misses')}; "
        f"of the plain one: {worst('misses_plain')}\n",
        f"- misses of the interval over rows alone: {worst('misses_rows')}; over seeds alone: "
        f"{worst('misses_seeds')}\n",
        *_worst_equivalent(result["equivalent"]),
    ]


def _worst_equivalent(lines: list[dict[str, Any]]) -> list[str]:
    """The highest rates of false equivalence, where runs do not collapse and where they do."""
    found = []
    for what, collapses in (("", False), (", where one run in ten collapses", True)):
        chosen = [line for line in lines if (line["design"] == "collapse") is collapses]
        for key, of in (("false", "comparisons"), ("false_any", "studies")) if chosen else ():
            line = max(chosen, key=lambda line: line[key])
            place = f"{line['design']}, {line['metric']}, {line['seeds']} seeds"
            nominal = "2.5%" if key == "false" else "5%"
            found.append(
                f"- {of} that call a difference of exactly the margin equivalent ({nominal} nominal){what}: "
                f"{_share(line[key])} ({place})\n"
            )
    return found


def _equivalence(result: dict[str, Any]) -> list[str]:
    """The rates of claims of equivalence, a row a design, metric and number of seeds."""
    lines = result["equivalent"]
    apart = {line["metric"]: f"{line['studies']:,}" for line in lines}
    others = next((count for metric, count in apart.items() if metric != "accuracy"), "none")
    text = EQUIVALENT.format(
        apart=apart["accuracy"], apart_others=others, equal=f"{lines[0]['studies_equal']:,}"
    )

    def row(line: dict[str, Any]) -> str:
        margin = f"{line['margin']:.2f}" + ("%" if line["metric"] == "perplexity" else "")
        shares = (_share(line[key]) for key in ("false", "false_any", "found"))
        return _row(line["design"], line["metric"], line["seeds"], margin, *shares)

    return [text, *map(row, lines)]


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


def _looked(line: dict[str, Any]) -> str:
    shares = ("claims", "claims_naive", "misses", "misses_naive", "equivalent")
    return _row(
        *(line["design"], ", ".join(map(str, line["looks"])), f"{line['margin']:g}", f"{line['truth']:g}"),
        *(line["studies"], *(_share(line[key]) for key in shares), f"{line['seeds']:.1f}"),
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"
