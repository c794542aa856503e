"""One verdict a variant over all tables of real data: what its comparisons with softmax come to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, get_args

from finetune.comparison.claims import Difference, Verdict
from finetune.comparison.effects import wins_ties_losses
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.statistics.over_seeds import holm
from finetune.statistics.power import ALPHA

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
TITLES: Mapping[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent within the margin",
    "none": "no significant difference",
    "unknown": "cannot tell",
}


class Outcome(StrEnum):
    """What the comparisons of a variant come to, by those that survive correction over all of the report."""

    BENEFIT = "a benefit shown"
    HARM = "no benefit, and harm shown"
    MIXED = "benefit and harm shown"
    NO_BENEFIT = "no benefit shown"
    EQUIVALENT = "equivalent within the margin"
    UNKNOWN = "cannot tell"
    UNCOMPARED = "not compared"


class Compared(NamedTuple):
    """A difference that the verdicts count: of a table, or of the longer context that is tested there."""

    table: ResultTable
    variant: str
    control: bool
    difference: Difference
    at: str | None = None  # the metric of one context length


@dataclass(frozen=True)
class VariantVerdict:
    """The comparisons of one variant with the baseline, over all tables of real data."""

    variant: str
    control: bool  # not from the paper
    better: int
    worse: int
    equivalent: int
    none: int
    unknown: int
    surviving_better: int  # of ``better``: those that stay so with Holm over all comparisons of the report
    surviving_worse: int
    family: int  # comparisons of the report under Holm: all that have several seeds and predictions
    wins: int  # comparisons whose mean is better, significant or not
    ties: int
    losses: int

    @property
    def total(self) -> int:
        """All comparisons of the variant."""
        return sum(getattr(self, verdict) for verdict in VERDICTS)

    @property
    def outcome(self) -> Outcome:
        """What they come to, in one word for programs and a few for people."""
        if not self.total:
            return Outcome.UNCOMPARED
        if self.surviving_better:
            return Outcome.MIXED if self.surviving_worse else Outcome.BENEFIT
        if self.surviving_worse:
            return Outcome.HARM
        only = {verdict for verdict in VERDICTS if getattr(self, verdict)}
        return {"equivalent": Outcome.EQUIVALENT, "unknown": Outcome.UNKNOWN}.get(
            next(iter(only)) if len(only) == 1 else "", Outcome.NO_BENEFIT
        )

    @property
    def text(self) -> str:
        """``sa-softmax: no benefit shown: better in 0, worse in 1 (does not survive ...), ... of 8``."""
        return f"{self.variant}: {self.outcome.value}: {self.counts}"

    @property
    def counts(self) -> str:
        """``better in 0, worse in 1 (does not survive correction over all 16), cannot tell in 7 of 8``."""
        if not self.total:
            return f"no run of it can be paired with one of {BASELINE}"
        parts = [
            f"better in {self.better}{self._survival(self.better, self.surviving_better)}",
            f"worse in {self.worse}{self._survival(self.worse, self.surviving_worse)}",
        ]
        parts += [
            f"{TITLES[verdict]} in {getattr(self, verdict)}"
            for verdict in ("equivalent", "none", "unknown")
            if getattr(self, verdict)
        ]
        return f"{', '.join(parts)} of {self.total}"

    def _survival(self, claimed: int, surviving: int) -> str:
        """What correction over the whole report takes back of so many claims; empty where it is nothing."""
        if surviving == claimed:
            return ""
        over = f"correction over all {self.family}"
        if claimed == 1:
            return f" (does not survive {over})"
        return f" ({surviving or 'none'} of them survive{'s' if surviving < 2 else ''} {over})"


def compared(tables: Sequence[ResultTable]) -> list[Compared]:
    """Lists every tested difference of the tables of real data."""
    found = []
    for table in tables:
        for result in table.variants if not table.sample else ():
            if result.difference:
                found.append(Compared(table, result.name, result.control, result.difference))
            at = table.tested_length
            if at is not None and at in result.at_lengths:
                found.append(Compared(table, result.name, result.control, result.at_lengths[at], at))
    return found


def verdicts(tables: Sequence[ResultTable]) -> list[VariantVerdict]:
    """One verdict for each variant that has a finished run on real data: those of the paper first."""
    differences = compared(tables)
    # Those that are never significant, for want of seeds or predictions, do not belong to the family.
    tested = [each for each in differences if each.difference.interval and each.difference.p is not None]
    adjusted = holm([each.difference.p or 0.0 for each in tested])
    lost = {id(each) for each, p in zip(tested, adjusted, strict=True) if p >= ALPHA}
    names = {
        result.name: result.control
        for table in tables
        if not table.sample
        for result in table.variants[1:]
        if result.finished
    }
    found = []
    for name, control in sorted(names.items(), key=lambda each: each[1]):
        own = [each for each in differences if each.variant == name]
        counts = Counter(each.difference.verdict for each in own)
        surviving = Counter(each.difference.verdict for each in own if id(each) not in lost)
        wins, ties, losses = wins_ties_losses((each.difference.mean, each.table.primary) for each in own)
        found.append(
            VariantVerdict(
                variant=name,
                control=control,
                better=counts["better"],
                worse=counts["worse"],
                equivalent=counts["equivalent"],
                none=counts["none"],
                unknown=counts["unknown"],
                surviving_better=surviving["better"],
                surviving_worse=surviving["worse"],
                family=len(tested),
                wins=wins,
                ties=ties,
                losses=losses,
            )
        )
    return found
