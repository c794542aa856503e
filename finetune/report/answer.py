"""The answer first: what all tables together allow to claim, in one or two plain sentences."""

from finetune.comparison.compare import Comparison
from finetune.comparison.sentence import p_text
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.report import facts, words
from finetune.statistics.over_seeds import holm
from finetune.statistics.power import ALPHA

MOST = 3  # tables of one arm and verdict, or claims that would be lost, that are named


def answer(comparison: Comparison) -> str:
    """What may be claimed, "nothing" included; the tables' own sentences tell the numbers."""
    real = [table for table in comparison.tables if not table.sample]
    if not comparison.tables:
        return "No run was found."
    if not real:
        return (
            "Nothing may be claimed: every run is on the synthetic sample, which tells nothing of any method."
        )
    made = [(table, arm) for table in real for arm in table.variants if arm.difference]
    if not made:
        return f"Nothing may be claimed: no variant has a finished run that can be paired with {BASELINE}."
    claims = [(table, arm) for table, arm in made if arm.difference and arm.difference.verdict != "none"]
    parts = (_claimed(claims, len(made), real), _over_tables(made, real), _unvaried(made))
    return " ".join(part for part in parts if part)


def state(comparison: Comparison) -> str:
    """How much was run: ``12 finished runs in 3 tables; 2 runs failed, missing or still running.``"""
    finished = sum(arm.finished for table in comparison.tables for arm in table.variants)
    missing = sum(len(table.missing) for table in comparison.tables)
    tables = words.plural(len(comparison.tables), "table")
    gone = (
        f"{words.plural(missing, 'run')} failed, missing or still running" if missing else "none is missing"
    )
    failed = sum(bool(facts.unlearned(table)) for table in comparison.tables)
    told = (
        f" Runs that did not learn are named in the notes of {words.plural(failed, 'table')}."
        if failed
        else ""
    )
    return f"{words.plural(finished, 'finished run')} in {tables}; {gone}.{told}"


def _claimed(claims: list[tuple[ResultTable, VariantResult]], made: int, tables: list[ResultTable]) -> str:
    if made == 1:
        lead = f"The one comparison with {BASELINE} allows a claim"
        none = f"the one comparison with {BASELINE} does not stand out from the noise"
    else:
        allow = "one allows a claim" if len(claims) == 1 else f"{len(claims)} allow a claim"
        lead = f"Of {made} comparisons with {BASELINE}, {allow}"
        none = f"none of the {made} comparisons with {BASELINE} stands out from the noise"
    if not claims:
        return f"Nothing may be claimed: {none}."
    return f"{lead}: {'; '.join(_by_arm(claims, tables))}."


def _by_arm(claims: list[tuple[ResultTable, VariantResult]], tables: list[ResultTable]) -> list[str]:
    """``sa-softmax is better on agnews (+0.68) and worse on yelp (-0.50)``, one an arm."""
    found: dict[str, dict[str, list[str]]] = {}
    for table, arm in claims:
        assert arm.difference
        size = f"{words.signed(arm.difference.mean)} {registry.get(table.metric).unit}"
        told = f"{words.short(table, tables)} ({size})"
        found.setdefault(words.variant_name(arm), {}).setdefault(arm.difference.verdict, []).append(told)
    return [
        f"{name} is " + " and ".join(f"{verdict} {_where(places)}" for verdict, places in verdicts.items())
        for name, verdicts in found.items()
    ]


def _over_tables(made: list[tuple[ResultTable, VariantResult]], tables: list[ResultTable]) -> str:
    """Holm is by table: say which claims would be lost if all comparisons of the report were one family.

    Those that never claim, for want of seeds or predictions, are not of the family: they can lose nothing.
    """
    known = [
        (table, arm, found.verdict != "none", found.p)
        for table, arm in made
        if (found := arm.difference) and found.interval and found.p is not None
    ]
    if not any(claimed for _, _, claimed, _ in known) or all(table is known[0][0] for table, *_ in known):
        return ""
    lost = [
        f"{words.variant_name(arm)} on {words.short(table, tables)} ({p_text(p)})"
        for (table, arm, claimed, _), p in zip(known, holm([p for *_, p in known]), strict=True)
        if claimed and p >= ALPHA
    ]
    which = "" if len(known) == len(made) else " that could make a claim"
    family = f"With p adjusted for all {len(known)} comparisons{which} at once, and not by table"
    names = f": {', '.join(lost)}" if 0 < len(lost) <= MOST else ""
    return f"{family}, {words.plural(len(lost), 'claim') if lost else 'no claim'} would be lost{names}."


def _where(places: list[str]) -> str:
    return f"on {', '.join(places)}" if len(places) <= MOST else f"in {len(places)} tables"


def _unvaried(made: list[tuple[ResultTable, VariantResult]]) -> str:
    """One seed can never claim anything; say where that, not the noise, is why."""
    single = sum(len(arm.difference.seeds) == 1 for _, arm in made if arm.difference)
    if not single:
        return ""
    if single == len(made):
        return "No comparison has more than one seed, and one seed never allows a claim."
    return f"{words.plural(single, 'comparison')} had one seed only, which never allows a claim."
