"""The answer first: one verdict a variant over all tables, in a line each."""

from finetune.comparison.compare import Comparison
from finetune.comparison.verdicts import VariantVerdict, compared, verdicts
from finetune.config.schema import BASELINE
from finetune.report import facts, words


def answer(comparison: Comparison) -> list[str]:
    """States what each variant came to, a line each, those of the paper first; and what limits all of it."""
    return [*map(line, judged(comparison)), *remarks(comparison)]


def judged(comparison: Comparison) -> list[VariantVerdict]:
    """One verdict a variant; none at all where nothing can be compared."""
    return verdicts(comparison.tables) if compared(comparison.tables) else []


def line(verdict: VariantVerdict) -> str:
    """The verdict on a variant, which is named as the tables name it."""
    name = words.named(verdict.variant, control=verdict.control)
    return f"{name}: {verdict.outcome.value}: {verdict.counts}."


def remarks(comparison: Comparison) -> list[str]:
    """Says why there is no verdict, or how many comparisons can never come to one."""
    if not comparison.tables:
        return ["No run was found."]
    if all(table.sample for table in comparison.tables):
        return ["No conclusion: every run is on the synthetic sample, which says nothing about any method."]
    differences = compared(comparison.tables)
    if not differences:
        return [f"No conclusion: no variant has a finished run that can be paired with {BASELINE}."]
    single = sum(len(each.difference.seeds) == 1 for each in differences)
    if not single:
        return []
    some = f"{single} of {len(differences)} comparisons have"
    which = "Every comparison has" if single == len(differences) else some
    return [f"{which} one seed, and one seed never allows a conclusion."]


def state(comparison: Comparison) -> str:
    """Counts what was run: ``12 finished runs in 3 tables; 2 runs failed, missing or unfinished.``"""
    finished = sum(result.finished for table in comparison.tables for result in table.variants)
    missing = sum(len(table.missing) for table in comparison.tables)
    unlearned = sum(bool(facts.unlearned(table)) for table in comparison.tables)
    counted = f"{words.plural(finished, 'finished run')} in {words.plural(len(comparison.tables), 'table')}"
    gaps = f"{words.plural(missing, 'run')} failed, missing or unfinished" if missing else "none is missing"
    named = f" The notes of {words.plural(unlearned, 'table')} name runs that did not learn."
    return f"{counted}; {gaps}.{named if unlearned else ''}"
