"""The answer first: which differences are significant over all tables, in one or two sentences."""

from collections.abc import Sequence
from typing import NamedTuple

from finetune.comparison.claims import Difference
from finetune.comparison.compare import Comparison
from finetune.comparison.sentence import p_text
from finetune.comparison.tables import ResultTable
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.report import facts, words
from finetune.statistics.over_seeds import holm
from finetune.statistics.power import ALPHA

MOST = 3  # places that are named; more are counted


class _Compared(NamedTuple):
    table: ResultTable
    name: str  # of the variant
    difference: Difference

    @property
    def significant(self) -> bool:
        return self.difference.verdict != "none"


def answer(comparison: Comparison) -> str:
    """States which differences are significant, "none" included; the numbers are in the tables' sentences."""
    real = [table for table in comparison.tables if not table.sample]
    if not comparison.tables:
        return "No run was found."
    if not real:
        return "No conclusion: every run is on the synthetic sample, which says nothing about any method."
    compared = []
    for table in real:
        for result in table.variants:
            name, at = words.variant_name(result), table.tested_length
            if result.difference:
                compared.append(_Compared(table, name, result.difference))
            if at is not None and at in result.at_lengths:
                name = f"{name} at {registry.length_of(at):,} tokens"
                compared.append(_Compared(table, name, result.at_lengths[at]))
    if not compared:
        return f"No conclusion: no variant has a finished run that can be paired with {BASELINE}."
    significant = [each for each in compared if each.significant]
    count, rule = len(compared), f"significant at {ALPHA:g} after Holm"
    if count == 1:
        head = f"The one comparison with {BASELINE} is {'' if significant else 'not '}{rule}"
    elif not significant:
        head = f"None of the {count} comparisons with {BASELINE} is {rule}"
    else:
        are = "is" if len(significant) == 1 else "are"
        head = f"{len(significant)} of {count} comparisons with {BASELINE} {are} {rule}"
    places = f": {'; '.join(_by_variant(significant, real))}" if significant else ""
    parts = [f"{head}{places}.", _over_tables(compared, real)]
    single = sum(len(each.difference.seeds) == 1 for each in compared)
    if single == count:
        each_has = "It has" if count == 1 else "Each has"
        parts.append(f"{each_has} one seed, and one seed never allows a conclusion.")
    elif single:
        parts.append(f"{words.plural(single, 'comparison')} with one seed never allow a conclusion.")
    return " ".join(part for part in parts if part)


def state(comparison: Comparison) -> str:
    """Counts what was run: ``12 finished runs in 3 tables; 2 runs failed, missing or unfinished.``"""
    finished = sum(result.finished for table in comparison.tables for result in table.variants)
    missing = sum(len(table.missing) for table in comparison.tables)
    unlearned = sum(bool(facts.unlearned(table)) for table in comparison.tables)
    counted = f"{words.plural(finished, 'finished run')} in {words.plural(len(comparison.tables), 'table')}"
    gaps = f"{words.plural(missing, 'run')} failed, missing or unfinished" if missing else "none is missing"
    named = f" The notes of {words.plural(unlearned, 'table')} name runs that did not learn."
    return f"{counted}; {gaps}.{named if unlearned else ''}"


def _by_variant(significant: Sequence[_Compared], tables: Sequence[ResultTable]) -> list[str]:
    """One clause a variant: ``sa-softmax is better on agnews (+0.68 points) and worse on yelp (...)``."""
    places: dict[str, dict[str, list[str]]] = {}
    for table, name, difference in significant:
        size = f"{table.primary.signed(difference.mean)} {table.primary.unit}"
        by_verdict = places.setdefault(name, {})
        by_verdict.setdefault(difference.verdict, []).append(f"{words.short(table, tables)} ({size})")
    return [
        f"{name} is "
        + " and ".join(
            f"{verdict} on {', '.join(where)}" if len(where) <= MOST else f"{verdict} in {len(where)} tables"
            for verdict, where in by_verdict.items()
        )
        for name, by_verdict in places.items()
    ]


def _over_tables(compared: Sequence[_Compared], tables: Sequence[ResultTable]) -> str:
    """Says what remains significant if all comparisons of the report are one family, and not each table.

    Those that are never significant, for want of seeds or predictions, do not belong to the family.
    """
    family = [(each, each.difference.p) for each in compared if each.difference.interval]
    tested = [(each, p) for each, p in family if p is not None]
    several = any(each.table is not tested[0][0].table for each, _ in tested)
    if not several or not any(each.significant for each, _ in tested):
        return ""
    adjusted = holm([p for _, p in tested])
    lost = [
        f"{each.name} on {words.short(each.table, tables)} ({p_text(p)})"
        for (each, _), p in zip(tested, adjusted, strict=True)
        if each.significant and p >= ALPHA
    ]
    which = "" if len(tested) == len(compared) else " that have several seeds and predictions"
    rest = "every one of these remains significant"
    if lost:
        names = f": {', '.join(lost)}" if len(lost) <= MOST else ""
        rest = f"{len(lost)} {'is' if len(lost) == 1 else 'are'} no longer significant{names}"
    return f"With Holm over all {len(tested)} comparisons{which}, and not within each table, {rest}."
