"""One plain sentence under each table: what is significant, and what differences could have been seen."""

from collections.abc import Mapping, Sequence

from finetune.comparison.claims import Difference
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config.schema import BASELINE
from finetune.metrics.registry import Metric
from finetune.statistics.power import ALPHA, POWER

FEW = 2  # comparisons that are told one after the other; more are told together
MOST_SEEDS = 1000  # more are of no use to anyone, and come from the noise of a run that failed


def sentence(table: ResultTable) -> str:
    """What the table shows, in one plain sentence."""
    baseline, *others = table.variants
    others = [result for result in others if result.finished]
    if not others and not baseline.finished:
        text = "no run has finished"
    elif not others:
        text = f"nothing can be compared: only {BASELINE} has a finished run"
    elif not baseline.finished:
        text = f"nothing can be compared: {BASELINE} has no finished run in this setting"
    else:
        found = {result.name: result.difference for result in others if result.difference}
        clauses = _together(found, table.primary) if len(found) > FEW else _singly(found, table.primary)
        clauses += [_unpaired(result, baseline) for result in others if not result.difference]
        text = "; ".join(clauses)
    if table.sample:
        return f"SAMPLE data, which says nothing about any method: {text}."
    named = text.startswith(tuple(result.name for result in others))  # a name is written as it is
    return f"{text if named else text[0].upper() + text[1:]}."


def p_text(p: float) -> str:
    """``p = 0.012``, or ``p < 0.0001``."""
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def range_text(interval: Sequence[float]) -> str:
    """``-0.17 to +0.66``."""
    low, high = interval
    return f"{low:+.2f} to {high:+.2f}"


def _unpaired(result: VariantResult, baseline: VariantResult) -> str:
    if result.seeds & baseline.seeds:
        return f"{result.name} cannot be paired with {BASELINE}: their initial weights differ"
    return f"{result.name} has no finished seed in common with {BASELINE}"


def _singly(differences: Mapping[str, Difference], metric: Metric) -> list[str]:
    """One or two comparisons, each with all that is known of it."""
    clauses = []
    for name, found in differences.items():
        over = f"over {len(found.seeds)} seeds" if len(found.seeds) > 1 else "with one seed"
        if known := _known(found):
            facts = f"95% interval {metric.interval(known[0][0])} {known[0][1]}"
        else:
            facts = "no interval"
        if found.p_adjusted is not None:
            many = f" after Holm for {found.comparisons} comparisons" if found.comparisons > 1 else ""
            facts = f"{facts}; {p_text(found.p_adjusted)}{many}"
        if found.verdict == "none":
            what = "no significant difference" if found.conclusive else "no conclusion on a difference"
            clauses.append(
                f"{what} between {name} and {BASELINE}: {metric.signed(found.mean)} {_unit(metric)} {over} "
                f"({facts}), {found.why}"
            )
            clauses += _detectable(found, metric)
        else:
            size = metric.signed(abs(found.mean)).removeprefix("+")
            clauses.append(
                f"{name} is significantly {found.verdict} than {BASELINE} by {size} {_unit(metric)} {over} "
                f"({facts})"
            )
    return clauses


def _together(differences: Mapping[str, Difference], metric: Metric) -> list[str]:
    """What is better, what is worse, what is neither, and how far to trust that; each p is in the table."""
    heads = {
        f"significantly better than {BASELINE}": lambda found: found.verdict == "better",
        f"significantly worse than {BASELINE}": lambda found: found.verdict == "worse",
        f"no significant difference from {BASELINE}": lambda found: (
            found.verdict == "none" and found.conclusive
        ),
        "no conclusion": lambda found: found.verdict == "none" and not found.conclusive,
    }
    clauses = []
    for head, belongs in heads.items():
        names = [f"{name} ({_size(found, metric)})" for name, found in differences.items() if belongs(found)]
        clauses += [f"{head}: {', '.join(names)}"] if names else []
    kinds = dict.fromkeys(known[0][1] for found in differences.values() if (known := _known(found)))
    intervals = f"95% intervals {' or '.join(kinds)}" if kinds else "no intervals"
    counts = sorted({len(found.seeds) for found in differences.values()})
    if counts == [1]:
        over = "with one seed, which never allows a conclusion"
    else:
        over = f"over {' to '.join(str(count) for count in sorted({counts[0], counts[-1]}))} seeds"
    tested = max(found.comparisons for found in differences.values())
    holm = f", tested at {ALPHA:g} after Holm for {tested} comparisons" if tested > 1 else ""
    clauses.append(f"in {_unit(metric)} with {intervals}, {over}{holm}")
    neither = [found for found in differences.values() if found.verdict == "none" and found.detectable]
    if neither:
        widest = max(neither, key=lambda found: found.detectable or 0.0)
        clauses += [
            f"for the least certain comparison without significance, {text}"
            for text in _detectable(widest, metric)
        ]
    return clauses


def _unit(metric: Metric) -> str:
    """``points of accuracy``; says where less is better, since the signs of differences are shown."""
    return metric.unit if metric.higher_is_better else f"{metric.unit} (lower is better)"


def _size(found: Difference, metric: Metric) -> str:
    known = _known(found)
    mean = metric.signed(found.mean)
    return f"{mean}, {metric.interval(known[0][0])}" if known else mean


def _detectable(found: Difference, metric: Metric) -> list[str]:
    """What this design would have detected, and what the next smaller difference would take; nothing where
    that is not known."""
    if not found.detectable:
        return []
    if found.detectable > metric.largest_difference:
        return [f"no true difference would be detected with a power of {POWER:.0%}"]
    size = metric.signed(found.detectable).removeprefix("+")
    text = f"the minimum detectable difference is about {size} (power {POWER:.0%})"
    needed = found.seeds_needed or {}
    smaller = [wanted for wanted in needed if float(wanted) < found.detectable]
    if not smaller:
        return [text]
    wanted = max(smaller, key=float)
    seeds = needed[wanted]
    if seeds is None:
        means = "only more test rows"
    else:
        means = f"about {seeds} seeds" if seeds <= MOST_SEEDS else f"more than {MOST_SEEDS:,} seeds"
    return [f"{text}, and {wanted} would take {means}"]


def _known(found: Difference) -> list[tuple[list[float], str]]:
    """The intervals there are, the one to trust first, and what each is over."""
    intervals = (
        (found.interval, "over seeds and test rows"),
        (found.interval_rows, "over test rows"),
        (found.interval_seeds, "over seeds"),
    )
    return [(interval, noise) for interval, noise in intervals if interval]
