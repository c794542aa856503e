"""Rows of cells, the first one their heads: scores and differences, effects, cost, starts, origins."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from finetune.comparison.churn import Churn, Share
from finetune.comparison.claims import Difference
from finetune.comparison.compare import Comparison
from finetune.comparison.sentence import MOST_SEEDS
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.report import words
from finetune.system.text import minus

Cells = list[list[str]]
"""Rows, the heads first, without columns that would be empty; no row at all where all would be."""


def scores(table: ResultTable, *, whole: bool = True) -> Cells:
    """Lists scores and differences by variant; not ``whole``: without what ``cost`` and ``starts`` show."""
    metric, variants, compared = table.primary, table.variants, partial(_compared, table)
    names = dict.fromkeys(name for result in variants for name in [table.metric, *result.metrics])
    # Those of one context length and those of probabilities have tables of their own.
    known = [registry.get(name) for name in names if registry.length_of(name) is None]
    metrics = [each for each in known if not each.of_probabilities]

    def interval(field: str) -> list[str]:
        return compared(lambda difference: words.interval(metric, getattr(difference, field)))

    return _filled(
        [
            ["attention", *map(words.variant_name, variants)],
            ["runs", *(str(result.finished) for result in variants)],
            *(
                [each.label, *(words.score(each, result.metrics.get(each.name)) for result in variants)]
                for each in metrics
            ),
            ["untrained", *(words.score(metric, result.untrained) for result in variants)],
            ["difference", *compared(lambda difference: metric.signed(difference.mean))],
            ["95%", *interval("interval")],
            ["95% rows", *interval("interval_rows")],
            ["95% seeds", *interval("interval_seeds")],
            ["p", *compared(lambda difference: words.p_value(difference.p))],
            ["p (Holm)", *compared(lambda difference: words.p_value(difference.p_adjusted))],
            ["train", *(words.duration(result.train_s) for result in variants)],
            ["memory", *(words.memory(result.peak_memory_mib) for result in variants)],
        ],
        without=() if whole else ("untrained", "train", "memory"),
    )


def _compared(table: ResultTable, show: Callable[[Difference], str]) -> list[str]:
    """A cell for each variant, empty where it has no difference."""
    return [show(result.difference) if result.difference else "" for result in table.variants]


def least(table: ResultTable) -> list[str]:
    """Heads of ``scores`` in the order in which they can be spared where there is no room for all."""
    others = (registry.get(name) for result in table.variants for name in result.metrics)
    secondary = dict.fromkeys(metric.label for metric in others if metric.name != table.metric)
    return ["95% rows", "95% seeds", "memory", "train", "untrained", *secondary, "p", "runs"]


def main(table: ResultTable) -> Cells:
    """Lists what is asked of a table first: the primary score, and the difference with its verdict."""
    metric, variants, compared = table.primary, table.variants, partial(_compared, table)
    return _filled(
        [
            ["attention", *map(words.variant_name, variants)],
            ["runs", *(str(result.finished) for result in variants)],
            [metric.label, *(words.score(metric, result.metrics.get(metric.name)) for result in variants)],
            ["difference", *compared(lambda difference: metric.signed(difference.mean))],
            ["95%", *compared(lambda difference: words.known_interval(metric, difference))],
            ["p (Holm)", *compared(lambda difference: words.p_value(difference.p_adjusted))],
            ["verdict", *compared(lambda difference: words.marked(difference, sample=table.sample))],
        ]
    )


def effects(table: ResultTable) -> Cells:
    """Lists effect sizes: the relative error reduction, how often the variant is better, seed by seed."""
    pairs = [(result, result.difference) for result in table.variants if result.difference]

    def percent(value: float | None) -> str:
        return "" if value is None else f"{minus(f'{value:+.1f}')}%"

    def seeds(difference: Difference) -> str:
        counts = (difference.wins, difference.ties, difference.losses)
        return "" if None in counts else " / ".join(map(str, counts))

    rows = _filled(
        [
            ["attention", *(words.variant_name(result) for result, _ in pairs)],
            ["errors less", *(percent(difference.error_reduction) for _, difference in pairs)],
            ["P(better)", *(words.probability(difference.improvement) for _, difference in pairs)],
            ["seeds better / equal / worse", *(seeds(difference) for _, difference in pairs)],
            ["margin", *("" if d.margin is None else f"±{table.primary.size(d.margin)}" for _, d in pairs)],
        ]
    )
    return _unless_names_alone(rows)


def below(table: ResultTable) -> Cells:
    """Lists how far a swap and a seed move what is below the mean, and what the probabilities are worth."""
    moved, variants = table.primary.moved, table.variants
    if moved is None:
        return []

    def share(show: Callable[[Churn], Share | None]) -> list[str]:
        found = [show(result.churn) if result.churn else None for result in variants]
        return [
            f"{moved.text(each.value)} ({moved.interval(each.interval)})" if each else "" for each in found
        ]

    def change(each: Churn | None) -> str:
        if each is None or each.difference is None or each.difference_interval is None:
            return ""
        low, high = map(moved.signed, each.difference_interval)
        return f"{moved.signed(each.difference)} ({low} to {high})"

    names = dict.fromkeys(name for result in variants for name in result.metrics)
    metrics = [registry.get(name) for name in names if registry.get(name).of_probabilities]
    return _filled(
        [
            ["attention", *map(words.variant_name, variants)],
            ["moved by the swap", *share(lambda each: each.swap)],
            ["by another seed", *share(lambda each: each.reseed)],
            ["of softmax", *share(lambda each: each.reseed_baseline)],
            ["of the variant", *share(lambda each: each.reseed_variant)],
            ["swap minus seed", *(change(result.churn) for result in variants)],
            *(
                [each.label, *(words.score(each, result.metrics.get(each.name)) for result in variants)]
                for each in metrics
            ),
        ]
    )


def classes(table: ResultTable) -> Cells:
    """Lists F1 of each class by variant, and how far each is from the baseline's; points of percent."""
    known = [result for result in table.variants if result.per_class]
    if not known or known[0].name != BASELINE:
        return []
    first, *others = known

    def f1(result: VariantResult, label: str) -> float | None:
        found = result.per_class.get(label)
        return None if found is None else 100 * found["f1"]

    def apart(result: VariantResult, label: str) -> str:
        one, two = f1(first, label), f1(result, label)
        return minus(f"{two - one:+.2f}") if one is not None and two is not None else ""

    labels = list(first.per_class)
    return _filled(
        [
            ["class", *labels],
            ["rows", *(f"{first.per_class[label]['support']:,.0f}" for label in labels)],
            [f"F1 (%), {first.name}", *(f"{f1(first, label):.2f}" for label in labels)],
            *(
                column
                for result in others
                for column in (
                    [f"F1 (%), {result.name}", *(f"{f1(result, label) or 0:.2f}" for label in labels)],
                    ["difference", *(apart(result, label) for label in labels)],
                )
            ),
        ]
    )


def cost(table: ResultTable) -> Cells:
    """Lists time and memory of each variant, and their ratio to the baseline's."""
    baseline = table.variants[0]
    finished = [result for result in table.variants if result.finished]

    def ratio(value: float | None, to: float | None) -> str:
        return f"{value / to:.2f}" if value is not None and to else ""

    return _filled(
        [
            ["attention", *map(words.variant_name, finished)],
            ["kernel", *(str((result.attention or {}).get("kernel") or "") for result in finished)],
            ["train", *(words.duration(result.train_s) for result in finished)],
            ["train, ratio", *(ratio(result.train_s, baseline.train_s) for result in finished)],
            ["memory", *(words.memory(result.peak_memory_mib) for result in finished)],
            [
                "memory, ratio",
                *(ratio(result.peak_memory_mib, baseline.peak_memory_mib) for result in finished),
            ],
            ["tokens/s", *(words.speed(result.tokens_per_s) for result in finished)],
            ["MFU", *(words.share(result.mfu) for result in finished)],
        ]
    )


def starts(table: ResultTable) -> Cells:
    """Lists what the swap alone does, before training: the score, and how similar to softmax the model is."""

    def cosine(result: VariantResult, key: str) -> str:
        value = (result.start or {}).get(key)
        return f"{value:.4f}" if isinstance(value, (int, float)) else ""

    swapped = [result for result in table.variants if result.untrained or cosine(result, "cosine")]
    return _filled(
        [
            ["attention", *map(words.variant_name, swapped)],
            [table.primary.label, *(words.score(table.primary, result.untrained) for result in swapped)],
            ["start", *(str((result.start or {}).get("kind") or "") for result in swapped)],
            ["cosine, cold", *(cosine(result, "cosine_cold") for result in swapped)],
            ["cosine", *(cosine(result, "cosine") for result in swapped)],
        ]
    )


def power(table: ResultTable) -> Cells:
    """Lists p over each source of noise alone, the minimum detectable difference, and the seeds for less."""
    pairs = [(result, result.difference) for result in table.variants if result.difference]
    largest = table.primary.largest_difference
    wanted = dict.fromkeys(size for _, difference in pairs for size in difference.seeds_needed or {})

    def detectable(difference: Difference) -> str:
        if difference.detectable is None:
            return ""
        # A dash where no difference that the metric can have is large enough.
        return table.primary.size(difference.detectable) if difference.detectable <= largest else "–"

    def seeds(difference: Difference, size: str) -> str:
        if difference.seeds_needed is None or size not in difference.seeds_needed:
            return ""
        number = difference.seeds_needed[size]
        if number is None:  # the test rows are too few for any number of seeds
            return "–"
        return str(number) if number <= MOST_SEEDS else f"> {MOST_SEEDS:,}"

    rows = _filled(
        [
            ["attention", *(words.variant_name(result) for result, _ in pairs)],
            ["p, seeds alone", *(words.p_value(difference.p_seeds) for _, difference in pairs)],
            ["p, rows alone", *(words.p_value(difference.p_rows) for _, difference in pairs)],
            ["p, bootstrap of rows", *(words.p_value(difference.p_bootstrap) for _, difference in pairs)],
            ["minimum detectable", *(detectable(difference) for _, difference in pairs)],
            *(
                [f"seeds for {size}", *(seeds(difference, size) for _, difference in pairs)]
                for size in wanted
            ),
        ]
    )
    return _unless_names_alone(rows)


def overall(comparison: Comparison) -> Cells:
    """Lists interquartile means over tasks and seeds; the baseline has no difference from itself."""
    lines = [(each, registry.get(each.metric)) for each in comparison.overall]
    return _filled(
        [
            ["model", *(each.model + (" · SAMPLE" if each.sample else "") for each, _ in lines)],
            ["metric", *(metric.label for _, metric in lines)],
            ["attention", *(each.variant for each, _ in lines)],
            ["tasks", *(str(len(each.tasks)) for each, _ in lines)],
            ["IQM", *(words.value(metric, each.iqm) for each, metric in lines)],
            [
                "95% IQM",
                *(" to ".join(words.value(metric, end) for end in each.interval) for each, metric in lines),
            ],
            [
                "difference",
                *(
                    "" if each.variant == BASELINE else metric.signed(each.difference)
                    for each, metric in lines
                ),
            ],
            [
                "95%",
                *(
                    "" if each.variant == BASELINE else metric.interval(each.difference_interval)
                    for each, metric in lines
                ),
            ],
            ["P(better)", *(words.improvement(each) for each, _ in lines)],
        ]
    )


def beside(comparison: Comparison) -> list[tuple[words.Origin, ResultTable]]:
    """Pairs tables with what their models began from, by task, where models of that task began from runs."""
    found = []
    for task in dict.fromkeys((table.title, table.sample) for table in comparison.tables):
        alike = [table for table in comparison.tables if (table.title, table.sample) == task]
        known = [(origin, table) for table in alike if (origin := words.origin(table))]
        if any(origin.is_run for origin, _ in known):
            found += sorted(known, key=lambda each: each[0].rank)
    return found


def origins(comparison: Comparison) -> Cells:
    """Tasks with models that began from runs: those beside each other, and beside models from random weights.

    One row a variant: from its own pretraining, from one variant's and swapped, from scratch.
    """
    lines = [
        (origin, table, result)
        for origin, table in beside(comparison)
        for result in table.variants
        if result.finished
    ]

    def difference(show: Callable[[ResultTable, Difference], str]) -> list[str]:
        return [show(table, result.difference) if result.difference else "" for _, table, result in lines]

    return _filled(
        [
            ["task", *(table.title + (" · SAMPLE" if table.sample else "") for _, table, _ in lines)],
            ["began from", *(origin.text for origin, _, _ in lines)],
            ["model", *(table.subject for _, table, _ in lines)],
            ["attention", *(words.variant_name(result) for _, _, result in lines)],
            ["seeds", *(str(result.finished) for _, _, result in lines)],
            ["metric", *(table.primary.label for _, table, _ in lines)],
            [
                "score",
                *(words.score(t.primary, result.metrics.get(t.metric)) for _, t, result in lines),
            ],
            ["difference", *difference(lambda table, found: table.primary.signed(found.mean))],
            ["95%", *difference(lambda table, found: words.interval(table.primary, found.interval))],
            ["p (Holm)", *difference(lambda _, found: words.p_value(found.p_adjusted))],
            [
                "verdict",
                *difference(lambda table, found: words.verdict(found, sample=table.sample)),
            ],
        ]
    )


def _unless_names_alone(rows: Cells) -> Cells:
    return rows if rows and len(rows[0]) > 1 else []


def _filled(columns: Sequence[Sequence[str]], without: Collection[str] = ()) -> Cells:
    """Turns columns with their heads into rows, without columns that are empty or named in ``without``."""
    kept = [column for column in columns if any(column[1:]) and column[0] not in without]
    return [list(row) for row in zip(*kept, strict=True)]
