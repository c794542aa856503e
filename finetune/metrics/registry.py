"""Declares every metric once: its name and units, which way is better, its range, and its statistics.

To add a metric, add an entry to ``METRICS``. ``NAME@LENGTH`` is a metric of one context length, declared by
the rule in ``get``. A record holds values as they were computed (accuracy as a
fraction); everything read through ``finetune.records.run`` is in *reported* units (accuracy in percent), in
which all fields here are. Light to import: what needs numpy or sacrebleu is named and loaded when used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.errors import UserError
from finetune.metrics.margin import Margin
from finetune.system.text import minus

if TYPE_CHECKING:
    from finetune.metrics.rows import RowScorer

LEAST = 1e-9  # of a difference that is shown: less is noise of the arithmetic
AT = "@"  # perplexity@1024: between the name of a metric and a context length


@dataclass(frozen=True)
class Moved:
    """How far the answers of two runs to a row are apart, in words: ``changes 17.2% of predictions``.

    A share of rows (``percent``), or a distance in a unit of its own.
    """

    verb: str
    of: str  # after the number, with what it is of
    unit: str  # of a difference
    percent: bool = False
    decimals: int = 1
    texts: bool = False  # the answers are texts, which are more or less alike

    @property
    def scale(self) -> float:
        """A distance as it is computed times this is a reported one."""
        return 100.0 if self.percent else 1.0

    def text(self, value: float) -> str:
        """Formats a reported distance: ``17.2%``."""
        return f"{value:.{self.decimals}f}{'%' if self.percent else ''}"

    def interval(self, bounds: Sequence[float]) -> str:
        """Formats an interval of a distance: ``16.1 to 18.3``."""
        return " to ".join(self.text(end).removesuffix("%") for end in bounds)

    def signed(self, difference: float) -> str:
        """Formats a difference of two distances, without its unit: ``+1.3``."""
        return minus(f"{difference:+.{self.decimals}f}")


OF_DOCUMENTS = Moved("moves the loss of a document by", " nats a token", " nats a token", decimals=4)


@dataclass(frozen=True)
class Metric:
    """The declaration of a metric, for all that reads, compares, draws or publishes it.

    The defaults are those of a metric that nobody declared, such as a further one from ``evaluate``: it is
    shown as it is and never tested.
    """

    name: str  # in a record's "metrics"
    title: str  # in a table, without its unit
    unit: str  # of a difference: "points of accuracy"
    hub_id: str = ""  # on a model card, where the Hub calls it otherwise than ``name``
    scale: float = 1.0  # a recorded value times this is a reported one
    percent: bool = False
    by_length: bool = False  # computed at context lengths of their own too, each as NAME@LENGTH
    of_probabilities: bool = False  # of the predicted classes: shown below the mean, not beside the scores
    row: str = "test row"  # what a row of predictions.jsonl is
    decimals: int | None = 2  # None: four significant digits
    higher_is_better: bool = True
    lowest: float = -math.inf
    highest: float = math.inf

    primary_of: str | None = None  # the kind of task whose comparisons test it; None: only described
    truth: str = ""  # the column of predictions.jsonl that holds the right answer
    rows: str | RowScorer = ""  # "module:NAME" of one that is not light to import
    answers: str = ""  # what a row of predictions.jsonl answers: "class", "text", or "sums" of a document
    moved: Moved | None = None  # what two runs of the kind of task are apart by; None: nothing is computed
    signature_must_match: bool = False  # values under other signatures are not comparable
    wanted: tuple[str, ...] = ("0.25", "0.5", "1")  # differences worth knowing the number of seeds for
    margin: Margin | None = None  # differences below it do not matter, where the user says nothing else
    # The metric in which the differences of two settings are compared, and how a reported value becomes one
    # of it: one whose differences do not grow with the level, as settings differ in that. None: they are not.
    interaction_scale: str | None = None
    on_interaction_scale: Callable[[float], float] = float

    # When a run counts as one that has not learned: within 5% of the way from guessing to the best value, or,
    # for a metric that guessing does not define, this far from the median of the runs beside it.
    chance: Callable[[Mapping[str, Any]], float | None] | None = None  # from a record's "task"
    share_of_median: float | None = None
    is_share_of_rows: bool = False  # its noise under guessing is binomial: it can be far *below* chance

    @property
    def label(self) -> str:
        """The head of a column: ``accuracy (%)``, ``perplexity (lower is better)``."""
        direction = "" if self.higher_is_better else " (lower is better)"
        return f"{self.title}{' (%)' if self.percent else ''}{direction}"

    @property
    def largest_difference(self) -> float:
        """The largest difference that two values can have; infinite for an unbounded metric."""
        return self.highest - self.lowest

    @property
    def best(self) -> float:
        return self.highest if self.higher_is_better else self.lowest

    def reported(self, recorded: float) -> float:
        """Converts a recorded value to reported units."""
        return self.scale * recorded

    def is_better(self, difference: float) -> bool:
        """Whether a value minus another is the better one's, as the metric has it."""
        return difference > 0 if self.higher_is_better else difference < 0

    def text(self, value: float) -> str:
        """Formats a reported value.

        >>> METRICS["accuracy"].text(89.38), METRICS["bleu"].text(33.0), get("wer").text(0.123456)
        ('89.38%', '33.00', '0.1235')
        """
        digits = f"{value:.4g}" if self.decimals is None else f"{value:.{self.decimals}f}"
        return f"{digits}%" if self.percent else digits

    def signed(self, difference: float) -> str:
        """Formats a difference with its sign, without its unit: ``+0.24``.

        Where the values have no highest one, which says what a small difference is, one that would be rounded
        to nothing has its first digit.

        >>> METRICS["perplexity"].signed(-0.0034), METRICS["accuracy"].signed(-0.0034)
        ('−0.003', '−0.00')
        """
        decimals = self.decimals
        if decimals is None:
            return minus(f"{difference:+.4g}")
        if self.highest == math.inf and not round(difference, decimals) and abs(difference) >= LEAST:
            decimals = -math.floor(math.log10(abs(difference)))
        return minus(f"{difference:+.{decimals}f}")

    def size(self, difference: float) -> str:
        """Formats how large a difference is, without its sign and unit: ``0.24``."""
        return self.signed(abs(difference)).removeprefix("+")

    def interval(self, bounds: Sequence[float]) -> str:
        """Formats the interval of a difference: ``−0.17 to +0.66``."""
        low, high = bounds
        return f"{self.signed(low)} to {self.signed(high)}"

    def row_scorer(self) -> RowScorer:
        """Loads how it scores and compares single test rows; only a primary metric has this."""
        if not isinstance(self.rows, str):
            return self.rows
        module, _, name = self.rows.partition(":")
        scorer: RowScorer = getattr(import_module(module), name)
        return scorer


def guessing(task: Mapping[str, Any]) -> float | None:
    """Accuracy of guessing among equally frequent labels, in percent; ``None`` without labels."""
    labels = task.get("labels")
    return 100 / len(labels) if isinstance(labels, list | tuple) and labels else None


_DECLARED = (
    Metric(
        "accuracy",
        title="accuracy",
        unit="points of accuracy",
        scale=100.0,
        percent=True,
        lowest=0.0,
        highest=100.0,
        primary_of="classification",
        truth="label",
        margin=Margin(0.5),
        rows="finetune.metrics.rows:ACCURACY",
        answers="class",
        moved=Moved("changes", " of predictions", " points", percent=True),
        chance=guessing,
        is_share_of_rows=True,
    ),
    Metric(
        "macro_f1",
        title="macro-F1",
        unit="points of macro-F1",
        hub_id="f1",
        scale=100.0,
        percent=True,
        lowest=0.0,
        highest=100.0,
    ),
    Metric(
        "nll",
        title="negative log-likelihood",
        unit="nats",
        decimals=4,
        higher_is_better=False,
        lowest=0.0,
        of_probabilities=True,
    ),
    Metric(
        "ece",
        title="expected calibration error",
        unit="points of calibration error",
        scale=100.0,
        percent=True,
        higher_is_better=False,
        lowest=0.0,
        highest=100.0,
        of_probabilities=True,
    ),
    Metric(
        "bleu",
        title="BLEU",
        unit="BLEU",
        hub_id="sacrebleu",
        lowest=0.0,
        highest=100.0,
        primary_of="translation",
        truth="reference",
        margin=Margin(0.5),
        rows="finetune.metrics.rows:BLEU",
        answers="text",
        moved=Moved("changes", " of translations", " points", percent=True, texts=True),
        signature_must_match=True,
        share_of_median=0.25,  # seeds of one method do not differ by so much
    ),
    Metric("chrf", title="chrF", unit="chrF", lowest=0.0, highest=100.0),
    Metric(
        "perplexity",
        title="perplexity",
        unit="perplexity",
        by_length=True,
        row="document",
        higher_is_better=False,
        lowest=1.0,
        primary_of="causal",
        truth="document",
        rows="finetune.metrics.rows:PERPLEXITY",
        answers="sums",
        moved=OF_DOCUMENTS,
        signature_must_match=True,
        wanted=("0.05", "0.1", "0.25"),
        margin=Margin(0.01, relative=True),
        interaction_scale="log_perplexity",
        on_interaction_scale=math.log,
        share_of_median=0.5,
    ),
    Metric(
        "log_perplexity",
        title="log perplexity",
        unit="nats a token",
        row="document",
        decimals=4,
        higher_is_better=False,
        lowest=0.0,
        wanted=("0.005", "0.01", "0.02"),
    ),
    Metric(
        "bits_per_byte",
        title="bits per byte",
        unit="bits per byte",
        decimals=4,
        higher_is_better=False,
        lowest=0.0,
    ),
    Metric(
        "word_perplexity",
        title="word perplexity",
        unit="word perplexity",
        decimals=None,  # billions in formulas, whose words have dozens of tokens
        higher_is_better=False,
        lowest=1.0,
    ),
    Metric(
        "masked_loss",
        title="masked-token loss",
        unit="nats a masked token",
        row="document",
        decimals=4,
        higher_is_better=False,
        lowest=0.0,
        primary_of="masked",
        truth="document",
        rows="finetune.metrics.rows:MASKED_LOSS",
        answers="sums",
        moved=OF_DOCUMENTS,
        signature_must_match=True,
        wanted=("0.005", "0.01", "0.02"),
        margin=Margin(0.01),  # as that of perplexity, whose logarithm it is
        interaction_scale="masked_loss",
        share_of_median=0.8,
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _DECLARED}


def get(name: str) -> Metric:
    """Looks up a metric; one that is not declared has neutral defaults.

    >>> get("perplexity@1024").title
    'perplexity at 1,024'
    """
    if length := length_of(name):
        metric = METRICS[name.partition(AT)[0]]
        title, unit = (f"{text} at {length:,}" for text in (metric.title, metric.unit))
        return replace(
            metric, name=name, title=title, unit=unit, by_length=False, primary_of=None, moved=None
        )
    return METRICS.get(name) or Metric(name, title=name, unit=name, decimals=None)


def length_of(name: str) -> int | None:
    """The context length of a metric that is of one; ``None`` of every other.

    >>> length_of("perplexity@1024"), length_of("perplexity")
    (1024, None)
    """
    base, _, length = name.partition(AT)
    by_length = base in METRICS and METRICS[base].by_length and re.fullmatch(r"[1-9]\d{0,11}", length)
    return int(length) if by_length else None


def at_length(name: str, length: int) -> str:
    """The name of a metric at one context length: ``perplexity@1024``."""
    return f"{name}{AT}{length}"


def own_margins() -> dict[str, str]:
    """The margins of equivalence that metrics have of themselves, as a user types them.

    >>> own_margins()["perplexity"]
    '1%'
    """
    return {metric.name: metric.margin.text for metric in METRICS.values() if metric.margin}


def primary(kind: str) -> Metric:
    """Looks up the metric that comparisons of a kind of task test; every other one is only described."""
    for metric in METRICS.values():
        if metric.primary_of == kind:
            return metric
    known = ", ".join(str(metric.primary_of) for metric in METRICS.values() if metric.primary_of)
    raise UserError(
        f"no metric of tasks of kind '{kind}' is declared (there are some of {known}): "
        f"add one with primary_of='{kind}' to METRICS in finetune.metrics.registry"
    )
