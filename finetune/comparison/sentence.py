"""One plain sentence under each table: what is significant, and what differences could have been seen."""

from collections.abc import Mapping

from finetune.comparison.claims import Difference
from finetune.comparison.tables import ResultTable
from finetune.comparison.verdicts import TITLES
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.statistics.power import ALPHA, POWER

FEW = 2  # comparisons that get a clause each; more share one
NEITHER = {"none": "no significant difference", "unknown": "it cannot be told whether there is a difference"}
MOST_SEEDS = 1000  # more are of no use to anyone, and come from the noise of a run that failed


def sentence(table: ResultTable) -> str:
    """Writes one plain sentence on what the table shows."""
    baseline, *others = table.variants
    others = [result for result in others if result.finished]
    if not others and not baseline.finished:
        text = "no run has finished"
    elif not others:
        text = f"nothing can be compared: only {BASELINE} has a finished run"
    elif not baseline.finished:
        text = f"nothing can be compared: {BASELINE} has no finished run in this setting"
    else:
        paired = {result.name: result.difference for result in others if result.difference}
        clauses = (_together if len(paired) > FEW else _singly)(paired, table.primary)
        for result in others:
            if result.difference is None and result.seeds & baseline.seeds:
                clauses.append(
                    f"{result.name} cannot be paired with {BASELINE}: their initial weights differ"
                )
            elif result.difference is None:
                clauses.append(f"{result.name} has no finished seed in common with {BASELINE}")
        text = "; ".join([*clauses, *_at_length(table)])
    if table.sample:
        return f"SAMPLE data, which says nothing about any method: {text}."
    named = text.startswith(tuple(result.name for result in others))  # a name is written as it is
    return f"{text if named else text[0].upper() + text[1:]}."


def _at_length(table: ResultTable) -> list[str]:
    """Names the one length beyond the training's that is tested: what is better, worse and neither there."""
    name, trained = table.tested_length, table.trained_length
    tested = {each.name: each.at_lengths[name] for each in table.variants if name in each.at_lengths}
    if name is None or not tested or not trained:
        return []
    metric, length = registry.get(name), registry.length_of(name) or 0
    heads = {"better": "significantly better", "worse": "significantly worse"}
    found: dict[str, list[str]] = {}
    for variant, difference in tested.items():
        head = heads.get(difference.verdict, TITLES[difference.verdict])
        found.setdefault(head, []).append(f"{variant} ({_size(difference, metric)})")
    results = ", ".join(f"{head}: {', '.join(each)}" for head, each in found.items())
    return [f"at {length:,} tokens, {length / trained:g} times the training length, {results}"]


def p_text(p: float) -> str:
    """``p = 0.012``, or ``p < 0.0001``."""
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _singly(differences: Mapping[str, Difference], metric: Metric) -> list[str]:
    """Writes a clause or two on each of one or two comparisons, with all that is known of it."""
    clauses = []
    for name, difference in differences.items():
        size, unit = metric.signed(difference.mean), _unit(metric)
        over = f"over {len(difference.seeds)} seeds" if len(difference.seeds) > 1 else "with one seed"
        facts = "no interval"
        if known := _known(difference):
            facts = f"95% interval {metric.interval(known[0][0])} {known[0][1]}"
        if difference.p_adjusted is not None:
            family = difference.comparisons
            many = f" after Holm for {family} comparisons" if family > 1 else ""
            facts = f"{facts}; {p_text(difference.p_adjusted)}{many}"
        if difference.significant:
            by = f"{metric.size(difference.mean)} {unit}"
            how = f"significantly {difference.verdict} than {BASELINE} by {by}"
            clauses.append(f"{name} is {how} {over} ({facts}){_within(difference, metric)}")
        elif difference.verdict == "equivalent":
            how = f"equivalent to {BASELINE} within the margin of {metric.size(difference.margin or 0.0)}"
            clauses.append(f"{name} is {how}: {size} {unit} {over} ({facts})")
        else:
            what = NEITHER[difference.verdict]
            clauses.append(
                f"{what} between {name} and {BASELINE}: {size} {unit} {over} ({facts}), {difference.why}"
            )
            clauses += _detectable(difference, metric)
    return clauses


def _within(difference: Difference, metric: Metric) -> str:
    """Says of a significant difference that it is smaller than what matters; empty where it may not be."""
    if not difference.is_within_margin:
        return ""
    return f", by less than the margin of {metric.size(difference.margin or 0.0)}"


def _size(difference: Difference, metric: Metric) -> str:
    """``+0.24, −0.17 to +0.66``, and whether it is smaller than what matters."""
    interval = [metric.interval(bounds) for bounds, _ in _known(difference)[:1]]
    less = ["less than the margin"] if difference.significant and difference.is_within_margin else []
    return ", ".join([metric.signed(difference.mean), *interval, *less])


def _together(differences: Mapping[str, Difference], metric: Metric) -> list[str]:
    """Sums up three or more comparisons: better, worse and neither, and how certain; p is in the table."""
    heads = {
        "better": f"significantly better than {BASELINE}",
        "worse": f"significantly worse than {BASELINE}",
        "equivalent": f"equivalent to {BASELINE}",
        "none": f"no significant difference from {BASELINE}",
        "unknown": "cannot tell",
    }
    names: dict[str, list[str]] = {verdict: [] for verdict in heads}
    for name, difference in differences.items():
        names[difference.verdict].append(f"{name} ({_size(difference, metric)})")
    every = list(differences.values())
    if margin := next((each.margin for each in every if each.margin is not None), None):
        heads["equivalent"] += f" within the margin of {metric.size(margin)}"
    clauses = [f"{heads[verdict]}: {', '.join(each)}" for verdict, each in names.items() if each]

    kinds = dict.fromkeys(known[0][1] for difference in every if (known := _known(difference)))
    intervals = f"95% intervals {' or '.join(kinds)}" if kinds else "no intervals"
    counts = sorted({len(difference.seeds) for difference in every})
    if counts == [1]:
        over = "with one seed, which never allows a conclusion"
    else:
        over = f"over {' to '.join(str(count) for count in sorted({counts[0], counts[-1]}))} seeds"
    tested = max(difference.comparisons for difference in every)
    holm = f", tested at {ALPHA:g} after Holm for {tested} comparisons" if tested > 1 else ""
    clauses.append(f"in {_unit(metric)} with {intervals}, {over}{holm}")

    neither = [each for each in every if each.verdict in NEITHER and each.detectable and each.conclusive]
    if neither:
        widest = max(neither, key=lambda difference: difference.detectable or 0.0)
        lead = "for the least certain comparison without significance"
        clauses += [f"{lead}, {text}" for text in _detectable(widest, metric)]
    return clauses


def _unit(metric: Metric) -> str:
    """``points of accuracy``, marked where less is better, since the signs of differences are shown."""
    return metric.unit if metric.higher_is_better else f"{metric.unit} (lower is better)"


def _detectable(difference: Difference, metric: Metric) -> list[str]:
    """The minimum detectable difference, and the seeds that the next smaller one needs; empty if unknown."""
    if not difference.detectable or not difference.conclusive:  # no seeds make up for too few test rows
        return []
    if difference.detectable > metric.largest_difference:
        return [f"no true difference would be detected with a power of {POWER:.0%}"]
    size = metric.size(difference.detectable)
    text = f"the minimum detectable difference is about {size} (power {POWER:.0%})"
    needed = difference.seeds_needed or {}
    smaller = [wanted for wanted in needed if float(wanted) < difference.detectable]
    if not smaller:
        return [text]
    wanted = max(smaller, key=float)
    seeds = needed[wanted]
    if seeds is None:
        means = "only more test rows"
    else:
        means = f"about {seeds} seeds" if seeds <= MOST_SEEDS else f"more than {MOST_SEEDS:,} seeds"
    return [f"{text}, and {wanted} would take {means}"]


def _known(difference: Difference) -> list[tuple[list[float], str]]:
    """The known intervals, the most comprehensive first, and what each is over."""
    intervals = (
        (difference.interval, "over seeds and test rows"),
        (difference.interval_rows, "over test rows"),
        (difference.interval_seeds, "over seeds"),
    )
    return [(interval, noise) for interval, noise in intervals if interval]
