"""One plain sentence under each table: what it allows to claim, and what it could have shown."""

from collections.abc import Mapping, Sequence

from finetune.comparison.claims import Difference
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.metrics.registry import Metric

FEW = 2  # comparisons that are told one after the other; more are told together
MOST_SEEDS = 1000  # more are of no use to anyone, and come from the noise of a run that failed


def sentence(table: ResultTable) -> str:
    """What the table shows, in one plain sentence."""
    others = [arm for arm in table.arms[1:] if arm.finished]
    if not any(arm.finished for arm in table.arms):
        text = "no run has finished"
    elif not others:
        text = f"nothing can be compared: only {BASELINE} has a finished run"
    elif not table.arms[0].finished:
        text = f"nothing can be compared: {BASELINE} has no finished run in this setting"
    else:
        text = "; ".join(_clauses(others, table.arms[0], registry.get(table.metric)))
    if table.sample:
        return f"SAMPLE data, which says nothing about any method: {text}."
    named = text.startswith(tuple(arm.name for arm in others))  # a name is written as it is
    return f"{text if named else text[0].upper() + text[1:]}."


def p_text(p: float) -> str:
    """``p = 0.012``, or ``p < 0.0001``."""
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _clauses(arms: Sequence[VariantResult], baseline: VariantResult, metric: Metric) -> list[str]:
    found = {arm.name: arm.difference for arm in arms if arm.difference}
    alone = [_unpaired(arm, baseline) for arm in arms if not arm.difference]
    if len(found) > FEW:
        return [*_together(found, metric), *alone]
    return [*(_one(name, each, metric) for name, each in found.items()), *alone]


def _unpaired(arm: VariantResult, baseline: VariantResult) -> str:
    if arm.seeds & baseline.seeds:
        return f"{arm.name} cannot be paired with {BASELINE}: their initial weights differ"
    return f"{arm.name} has no finished seed in common with {BASELINE}"


def _one(name: str, found: Difference, metric: Metric) -> str:
    unit = _unit(metric)
    over = f"over {len(found.seeds)} seeds" if len(found.seeds) > 1 else "with one seed"
    facts = f"({_intervals(found)})"
    if found.verdict != "none":
        return f"{name} is {found.verdict} than {BASELINE} by {abs(found.mean):.2f} {unit} {over} {facts}"
    claim = f"no difference between {name} and {BASELINE} can be claimed"
    shown = f"{claim}: {found.mean:+.2f} {unit} {over} {facts}, {found.why}"
    return "; ".join([shown, *_could(found, metric)])


def _together(found: Mapping[str, Difference], metric: Metric) -> list[str]:
    """What is better, what is worse, what is neither, and how far to trust that; each p is in the table."""
    clauses = []
    for verdict in ("better", "worse"):
        told = [f"{name} ({_size(each)})" for name, each in found.items() if each.verdict == verdict]
        clauses += [f"{verdict} than {BASELINE}: {', '.join(told)}"] if told else []
    neither = {name: each for name, each in found.items() if each.verdict == "none"}
    told = [f"{name} ({_size(each)})" for name, each in neither.items()]
    clauses += [f"no difference from {BASELINE} can be claimed for {', '.join(told)}"] if told else []
    tested = max(each.comparisons for each in found.values())
    holm = f", claims after Holm for {tested} comparisons" if tested > 1 else ""
    clauses.append(f"in {_unit(metric)} with {_noise(found)}, {_over(found)}{holm}")
    return clauses + _reach(list(neither.values()), metric)


def _reach(neither: Sequence[Difference], metric: Metric) -> list[str]:
    """What the least certain of them would have shown."""
    widest = max(neither, key=lambda each: each.detectable or 0.0, default=None)
    could = _could(widest, metric) if widest else []
    several = "" if all(len(each.seeds) > 1 for each in neither) else " and with several seeds"
    return [f"for the least certain of those without a claim{several} {text}" for text in could]


def _unit(metric: Metric) -> str:
    """``points of accuracy``; says where less is better, since the signs of differences are shown."""
    return metric.unit if metric.higher_is_better else f"{metric.unit} (lower is better)"


def _size(found: Difference) -> str:
    known = _known(found)
    mean = f"{found.mean:+.2f}"
    return f"{mean}, {range_text(known[0][0])}" if known else mean


def range_text(interval: Sequence[float]) -> str:
    """``-0.17 to +0.66``."""
    low, high = interval
    return f"{low:+.2f} to {high:+.2f}"


def _over(found: Mapping[str, Difference]) -> str:
    """``over 6 seeds``, ``over 1 to 3 seeds``, or what one seed means."""
    counts = sorted({len(each.seeds) for each in found.values()})
    if counts == [1]:
        return "with one seed, which never allows a claim"
    return f"over {' to '.join(str(count) for count in sorted({counts[0], counts[-1]}))} seeds"


def _noise(found: Mapping[str, Difference]) -> str:
    """What the intervals are over: ``95% intervals over seeds and test rows``."""
    kinds = dict.fromkeys(known[0][1] for each in found.values() if (known := _known(each)))
    return f"95% intervals {' or '.join(kinds)}" if kinds else "no intervals"


def _could(found: Difference, metric: Metric) -> list[str]:
    """What this design would have shown, and what the next smaller difference would take (none: unknown)."""
    if not found.detectable:
        return []
    if found.detectable > metric.largest_difference:
        return ["no true difference would be claimed 4 times in 5"]
    text = f"a true difference of about {found.detectable:.2f} would be claimed 4 times in 5"
    needed = found.seeds_needed or {}
    smaller = [wanted for wanted in needed if float(wanted) < found.detectable]
    if not smaller:
        return [text]
    wanted = max(smaller, key=float)
    return [f"{text}, one of {wanted} {_with(needed[wanted])}"]


def _with(seeds: int | None) -> str:
    if seeds is None:
        return "only with more test rows"
    return f"with about {seeds} seeds" if seeds <= MOST_SEEDS else f"with more than {MOST_SEEDS:,} seeds"


def _intervals(found: Difference) -> str:
    """The interval over both kinds of noise; over one of them where the other is not known."""
    known = _known(found)
    text = f"95% interval {range_text(known[0][0])} {known[0][1]}" if known else "no interval"
    if found.p_adjusted is None:
        return text
    many = f" after Holm for {found.comparisons} comparisons" if found.comparisons > 1 else ""
    return f"{text}; {p_text(found.p_adjusted)}{many}"


def _known(found: Difference) -> list[tuple[list[float], str]]:
    """The intervals there are, the one to trust first, and what each is over."""
    intervals = (
        (found.interval, "over seeds and test rows"),
        (found.interval_rows, "over test rows"),
        (found.interval_seeds, "over seeds"),
    )
    return [(interval, noise) for interval, noise in intervals if interval]
