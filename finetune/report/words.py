"""How a report names things and writes numbers, and what it says about its method; the same in every form."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune.comparison.aggregate import Overall
from finetune.comparison.claims import Difference, Verdict
from finetune.comparison.sentence import p_text
from finetune.comparison.tables import ResultTable, Summary, VariantResult
from finetune.comparison.verdicts import TITLES, Outcome
from finetune.config.lineage import SCRATCH, source_of
from finetune.config.schema import BASELINE
from finetune.metrics.registry import Metric

HEADING = "Does replacing the softmax inside attention help?"
CELLS: Mapping[Verdict, str] = {"equivalent": "equivalent"}  # verdicts that a cell puts shorter
# A sign for each verdict: color says nothing alone.
MARKS: Mapping[Verdict, str] = {"better": "✓", "worse": "✗", "equivalent": "=", "none": "○", "unknown": "?"}
# The verdict of single comparisons that an outcome of all is shown like.
LIKE: Mapping[Outcome, Verdict] = {
    Outcome.BENEFIT: "better",
    Outcome.HARM: "worse",
    Outcome.MIXED: "worse",
    Outcome.NO_BENEFIT: "none",
    Outcome.EQUIVALENT: "equivalent",
    Outcome.UNKNOWN: "unknown",
    Outcome.UNCOMPARED: "unknown",
}
SAMPLE_MARK = "–"
COMPARISONS = f"Every comparison with {BASELINE}"
ON_MATRIX = f"Score of {BASELINE}; for each variant the verdict, the difference and its 95% interval"
READING = "How to read it"
SCORES = "All scores and intervals"
EFFECTS = "Effect sizes"
ON_EFFECTS = (
    f"Errors less: by how much of the errors of {BASELINE} the mean errors less. P(better): the probability "
    f"that a run is better than one of {BASELINE}, over all pairs of runs. Seeds: those in which it is "
    f"better than {BASELINE} at the same seed, and so on. Described, not tested."
)
CLASSES = "F1 by class"
PROTOCOL = "Data, models, hardware and statistics"
RUNS = "Every run, with the command that reproduces it"
OVER_TASKS = (
    "Interquartile means over tasks and seeds: the mean of the middle half of all scores, and of all paired "
    "differences, which is not the difference of the two means. Intervals are stratified bootstrap over the "
    "seeds of each task. P(better) is the probability of improvement (Agarwal et al. 2021): that a run of "
    "the variant is better than one of softmax on the same task, the mean over tasks. Nothing is tested, and "
    "nothing is said about other tasks. "
    "Of a task with several settings the one with the most runs counts."
)
INTERACTIONS = "Interactions with the positional encoding"
ON_INTERACTIONS = (
    "Does a variant gain more under one positional encoding than under another? The difference from softmax "
    "under the one minus that under the other, over the same seeds and test rows, judged as every difference "
    "is. That of perplexity is in nats a token, its logarithm: where encodings differ in their level, equal "
    "gains in nats are unequal ones in perplexity. The interactions of one task and model are one family for "
    "Holm, apart from those of the tables."
)
ORIGINS_HEADING = "Own pretraining, swapped and from scratch, beside each other"
POWER = "Each source of noise alone, and the power of more seeds"
METHOD = """\
Runs are compared only where their configuration, rows, devices, model revision and attention dropout are
equal, and a seed only where both runs started from the same weights: they differ in attention and seed
alone. Values are means over seeds ± sample standard deviation.

Differences are variant minus softmax over the seeds that both finished, in points of the metric. "95%"
and p come from a hierarchical bootstrap over seeds and test rows at once; this interval is never narrower,
and this p never smaller, than over test rows alone. With few seeds of which one failed, the interval may
reach beyond what the score of softmax leaves room for: such seeds say next to nothing. Where only one
source of noise is known, p is over test rows (one seed) or over seeds (no predictions), and no difference
is called significant. "95% rows" is a percentile bootstrap over test rows with the trained models fixed;
"95% seeds" is Student's t interval over seeds with the test rows fixed. All p are two-sided. p (Holm) is
adjusted for the comparisons of one table (one task, model and setting), each table being a question of its
own: it does not adjust for the number of tables. Where several tables could have significant differences,
the summary at the top says how many remain significant with Holm over all of them.

A difference is significant, better or worse, only where p (Holm) is below .05 and all three intervals
exclude 0, so never with one seed. Otherwise it is equivalent where "95%" lies inside the margin on both sides
of 0 (two one-sided tests at 2.5%), and cannot be told where it was not tested or where the minimum detectable
difference is above the margin. The margin is what its user holds for too small to matter; "finetune compare
--from report.json --margin SIZE" takes another. Exact tests of one source of noise alone (sign flips over
seeds; McNemar's test, approximate randomization and the paired bootstrap over rows) are reported with the
data and decide nothing.

The minimum detectable difference is the true difference that runs like these would find significant 4 times
in 5, a power of 80% (where some runs failed it may exceed what is possible). "Seeds for" a difference is the
number of seeds that finds a true difference of that many points as often; a dash: no number of seeds is
enough, for there are too few test rows.

Means over tasks are described, not tested. Training time is the mean over seeds, memory the highest. Failed
and missing runs are counted as such.
"""
DOCUMENTS = """\
Of a language model a test row is a document: the value is computed from sums over documents, and the tokens
of one document never count as independent. Its intervals allow for few documents of unequal size, and where
the documents are few they, and not the seeds or the tokens, limit what can be seen. With fewer than 6 no
difference can be significant, and nothing is concluded.
"""


def method(tables: Sequence[ResultTable]) -> str:
    """How the numbers of ``tables`` came about, in paragraphs."""
    documents = any(table.primary.row == "document" for table in tables)
    return f"{METHOD}\n{DOCUMENTS}" if documents else METHOD


def reading(tables: Sequence[ResultTable]) -> list[str]:
    """How to read the comparisons of ``tables``, in four lines: numbers, then claims, then the rest."""
    margins: dict[Metric, list[float]] = {}
    for table in tables:
        if table.margin is not None:
            margins.setdefault(table.primary, []).append(table.margin)
    sizes = [
        f"±{' to '.join(dict.fromkeys(map(metric.size, (min(found), max(found)))))} {metric.unit}"
        for metric, found in margins.items()
    ]
    inside = " or ".join(sizes) or "the margin"
    lower = dict.fromkeys(table.primary.title for table in tables if not table.primary.higher_is_better)
    less = f" Of {' and '.join(lower)} less is better, and so a difference below 0." if lower else ""
    return [
        f"A difference is variant minus {BASELINE}, a mean over paired seeds; its 95% interval allows for "
        f"both seeds and test rows.{less}",
        f"{MARKS['better']} better, {MARKS['worse']} worse: the interval excludes 0, and p is below .05 "
        "after correction (Holm) over the comparisons of its table.",
        f"{MARKS['equivalent']} equivalent: the whole interval lies within {inside}, and so any difference "
        "is smaller than that.",
        f"{MARKS['none']} no significant difference: none was found, which is no proof that there is none. "
        f"{MARKS['unknown']} cannot tell: too few seeds, rows or predictions to find one of that size.",
    ]


def value(metric: Metric, number: float) -> str:
    """``89.33``: a reported value without its unit, which stands in the head of its column."""
    return metric.text(number).removesuffix("%")


def score(metric: Metric, summary: Summary | None) -> str:
    """``89.33 ± 0.07``: mean and sample standard deviation over seeds; empty for none."""
    if summary is None:
        return ""
    spread = "" if summary.sd is None else f" ± {value(metric, summary.sd)}"
    return f"{value(metric, summary.mean)}{spread}"


def interval(metric: Metric, bounds: Sequence[float] | None) -> str:
    """``−0.17 to +0.66``; empty for none."""
    return "" if bounds is None else metric.interval(bounds)


def known_interval(metric: Metric, difference: Difference) -> str:
    """The interval over seeds and rows or, of one seed, over rows: ``−0.17 to +0.66, rows only``."""
    if difference.interval is None and difference.interval_rows:
        return f"{metric.interval(difference.interval_rows)}, rows only"
    return interval(metric, difference.interval)


SAMPLE = "no verdict: sample"
"""In the place of a verdict: no method is better or worse on made-up rows."""


def verdict(difference: Difference, *, sample: bool = False) -> str:
    """``better``, ``equivalent``, ``cannot tell``: the verdict as a cell of a table has it."""
    return SAMPLE if sample else CELLS.get(difference.verdict, TITLES[difference.verdict])


def mark(outcome: Outcome) -> str:
    """``✗``: the sign of the verdict that an outcome of several is shown like."""
    return MARKS[LIKE[outcome]]


def marked(difference: Difference, *, sample: bool = False) -> str:
    """``✗ worse``: the verdict with its sign."""
    return f"{SAMPLE_MARK if sample else MARKS[difference.verdict]} {verdict(difference, sample=sample)}"


def interaction(difference: Difference, *, sample: bool = False) -> str:
    """``gains more`` or ``gains less``, of one positional encoding against another; else as ``verdict``."""
    gains = {"better": "gains more", "worse": "gains less"}
    return (not sample and gains.get(difference.verdict)) or verdict(difference, sample=sample)


def improvement(line: Overall) -> str:
    """``0.62 (0.40 to 0.81)``: a probability of improvement over tasks; empty for none."""
    if line.improvement is None or line.improvement_interval is None:
        return ""
    low, high = line.improvement_interval
    return f"{line.improvement:.2f} ({low:.2f} to {high:.2f})"


def p_value(p: float | None) -> str:
    """``0.027``, or ``< 0.0001``; empty for none."""
    return "" if p is None else p_text(p).removeprefix("p ").removeprefix("= ")


def probability(value: float | None) -> str:
    """``0.72``; empty for none."""
    return "" if value is None else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """Seconds up to 100, then minutes, then hours; empty for none."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def memory(mib: float | None) -> str:
    """MiB up to 1000, then GiB; empty for none."""
    if mib is None:
        return ""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def speed(per_second: float | None) -> str:
    """``12,345``; empty for none."""
    return "" if per_second is None else f"{per_second:,.0f}"


def share(part: float | None) -> str:
    """``41.5%``; empty for none."""
    return "" if part is None else f"{100 * part:.1f}%"


def title(table: ResultTable) -> str:
    """Task, language pair, model, and what sets the table apart from others of the same task and model."""
    parts = (table.title, table.model, table.apart, "SAMPLE" if table.sample else "")
    return " · ".join(part for part in parts if part)


def short(table: ResultTable, tables: Sequence[ResultTable]) -> str:
    """The task of a table, with its model and setting where others of ``tables`` have the same task."""
    several = len({each.model for each in tables if each.title == table.title}) > 1
    model = short_model(table, tables) if several else ""
    return ", ".join(part for part in (table.title, model, table.apart) if part)


def short_model(table: ResultTable, tables: Sequence[ResultTable]) -> str:
    """The model of a table by the last part of its name, if that tells those of the same task apart."""
    models = {each.model for each in tables if each.title == table.title}
    alike = len({model.rpartition("/")[2] for model in models}) < len(models)
    return table.model if alike else table.model.rpartition("/")[2]


class Origin(NamedTuple):
    """What the models of a table began from; the smallest ``rank`` is shown first."""

    rank: int
    text: str
    is_run: bool  # and not random weights


def origin(table: ResultTable) -> Origin | None:
    """What the models of a table began from, where that is a run of this program or random weights."""
    if table.model.startswith(SCRATCH):
        return Origin(2, "scratch", is_run=False)
    source = source_of(table.model)
    if source and source.variant:
        return Origin(1, f"pretraining with {source.variant}, swapped", is_run=True)
    return Origin(0, "its own pretraining", is_run=True) if source else None


def variant_name(result: VariantResult) -> str:
    """The name of a variant; one that is not from the paper is called a control."""
    return named(result.name, control=result.control)


def named(variant: str, *, control: bool) -> str:
    """``sa-softmax``, ``uniform (control)``."""
    return f"{variant} (control)" if control else variant


def plural(count: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def counts(number: Mapping[str, int], word: str) -> str:
    """The usual number, and who has another one.

    >>> counts({"softmax": 3, "sa-softmax": 3, "sa-softmax-raw": 2}, "seed")
    '3 seeds each (sa-softmax-raw 2)'
    """
    usual = max(number.values(), key=list(number.values()).count)
    others = ", ".join(f"{name} {count}" for name, count in number.items() if count != usual)
    each = " each" if len(number) > 1 else ""
    return f"{plural(usual, word)}{each}" + (f" ({others})" if others else "")


def listed(values: Mapping[str, Any]) -> str:
    """``eps 1e-06, heads 4``."""
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
