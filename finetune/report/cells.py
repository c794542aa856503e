"""Rows of cells, the first one their heads: scores and differences, cost, starts, all tables at a glance."""

from collections.abc import Callable, Collection, Sequence

from finetune.comparison.claims import Difference
from finetune.comparison.compare import Comparison
from finetune.comparison.sentence import MOST_SEEDS
from finetune.comparison.tables import ResultTable, VariantResult
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.report import words

Cells = list[list[str]]
"""Rows, the heads first, without columns that would be empty; no row at all where all would be."""


def scores(table: ResultTable, *, whole: bool = True) -> Cells:
    """Scores and differences, one row an arm; not ``whole``: without what ``cost`` and ``starts`` show."""
    names = list(dict.fromkeys(name for arm in table.variants for name in [table.metric, *arm.metrics]))
    elsewhere = () if whole else ("untrained", "train", "memory")
    return _filled(
        [
            ["attention", *(words.variant_name(arm) for arm in table.variants)],
            ["runs", *(str(arm.finished) for arm in table.variants)],
            *(
                [registry.get(name).label, *(words.score(arm.metrics.get(name)) for arm in table.variants)]
                for name in names
            ),
            ["untrained", *(words.score(arm.untrained) for arm in table.variants)],
            ["difference", *_of(table, lambda found: words.signed(found.mean))],
            ["95%", *_of(table, lambda found: words.interval(found.interval))],
            ["95% rows", *_of(table, lambda found: words.interval(found.interval_rows))],
            ["95% seeds", *_of(table, lambda found: words.interval(found.interval_seeds))],
            ["p", *_of(table, lambda found: words.p_value(found.p))],
            ["p (Holm)", *_of(table, lambda found: words.p_value(found.p_adjusted))],
            ["train", *(words.duration(arm.train_s) for arm in table.variants)],
            ["memory", *(words.memory(arm.peak_memory_mib) for arm in table.variants)],
        ],
        elsewhere,
    )


def cost(table: ResultTable) -> Cells:
    """Time and memory of each arm, and their ratio to the baseline's."""
    baseline = table.variants[0]
    arms = [arm for arm in table.variants if arm.finished]
    return _filled(
        [
            ["attention", *(words.variant_name(arm) for arm in arms)],
            ["kernel", *(str((arm.attention or {}).get("kernel") or "") for arm in arms)],
            ["train", *(words.duration(arm.train_s) for arm in arms)],
            ["train, ratio", *(_ratio(arm.train_s, baseline.train_s) for arm in arms)],
            ["memory", *(words.memory(arm.peak_memory_mib) for arm in arms)],
            ["memory, ratio", *(_ratio(arm.peak_memory_mib, baseline.peak_memory_mib) for arm in arms)],
        ]
    )


def starts(table: ResultTable) -> Cells:
    """What the swap alone does, before training: the score, and how near the model is to softmax's."""
    arms = [arm for arm in table.variants if arm.untrained or _near(arm, "cosine")]
    return _filled(
        [
            ["attention", *(words.variant_name(arm) for arm in arms)],
            [registry.get(table.metric).label, *(words.score(arm.untrained) for arm in arms)],
            ["start", *(str((arm.start or {}).get("kind") or "") for arm in arms)],
            ["cosine, cold", *(_near(arm, "cosine_cold") for arm in arms)],
            ["cosine", *(_near(arm, "cosine") for arm in arms)],
        ]
    )


def power(table: ResultTable) -> Cells:
    """What each kind of noise says alone, what these runs would show, and how many seeds would do."""
    arms = [(arm, arm.difference) for arm in table.variants if arm.difference]
    largest = registry.get(table.metric).largest_difference
    wanted = dict.fromkeys(size for _, found in arms for size in found.seeds_needed or {})
    rows = _filled(
        [
            ["attention", *(words.variant_name(arm) for arm, _ in arms)],
            ["p, seeds alone", *(words.p_value(found.p_seeds) for _, found in arms)],
            ["p, rows alone", *(words.p_value(found.p_rows) for _, found in arms)],
            ["p, bootstrap of rows", *(words.p_value(found.p_bootstrap) for _, found in arms)],
            ["would be claimed", *(_size(found.detectable, largest) for _, found in arms)],
            *([f"seeds for {size}", *(_seeds(found, size) for _, found in arms)] for size in wanted),
        ]
    )
    return rows if rows and len(rows[0]) > 1 else []


def overall(comparison: Comparison) -> Cells:
    """Interquartile means over tasks and seeds."""
    found = comparison.overall
    return _filled(
        [
            ["model", *(each.model + (" · SAMPLE" if each.sample else "") for each in found)],
            ["metric", *(registry.get(each.metric).label for each in found)],
            ["attention", *(each.variant for each in found)],
            ["tasks", *(str(len(each.tasks)) for each in found)],
            ["IQM", *(f"{each.iqm:.2f}" for each in found)],
            ["95% IQM", *(_unsigned(each.interval) for each in found)],
            [
                "difference",
                *("" if each.variant == BASELINE else words.signed(each.difference) for each in found),
            ],
            [
                "95%",
                *(
                    "" if each.variant == BASELINE else words.interval(each.difference_interval)
                    for each in found
                ),
            ],
        ]
    )


def glance(comparison: Comparison) -> Cells:
    """Every difference of every table, one a row."""
    rows = [
        (table, arm, arm.difference)
        for table in comparison.tables
        for arm in table.variants
        if arm.difference
    ]
    return _filled(
        [
            ["task and model", *(words.title(table) for table, _, _ in rows)],
            ["attention", *(words.variant_name(arm) for _, arm, _ in rows)],
            ["metric", *(registry.get(table.metric).label for table, _, _ in rows)],
            ["seeds", *(str(len(found.seeds)) for _, _, found in rows)],
            ["difference", *(words.signed(found.mean) for _, _, found in rows)],
            ["95%", *(_widest(found) for _, _, found in rows)],
            ["p (Holm)", *(words.p_value(found.p_adjusted) for _, _, found in rows)],
            ["may be claimed", *(_claim(table, found) for table, _, found in rows)],
        ]
    )


def _widest(found: Difference) -> str:
    if found.interval is None and found.interval_rows:  # one seed
        return f"{words.interval(found.interval_rows)}, rows only"
    return words.interval(found.interval)


def _claim(table: ResultTable, found: Difference) -> str:
    if table.sample:
        return "nothing: sample"
    return "nothing" if found.verdict == "none" else found.verdict


def _of(table: ResultTable, show: Callable[[Difference], str]) -> list[str]:
    return [show(arm.difference) if arm.difference else "" for arm in table.variants]


def _ratio(value: float | None, baseline: float | None) -> str:
    return f"{value / baseline:.2f}" if value is not None and baseline else ""


def _size(difference: float | None, largest: float) -> str:
    """A dash where no difference that the metric can have is large enough."""
    if difference is None:
        return ""
    return f"{difference:.2f}" if difference <= largest else "–"


def _seeds(found: Difference, size: str) -> str:
    """How many seeds a true difference of this size needs; a dash where no number is enough."""
    if found.seeds_needed is None or size not in found.seeds_needed:
        return ""
    number = found.seeds_needed[size]
    if number is None:
        return "–"
    return str(number) if number <= MOST_SEEDS else f"> {MOST_SEEDS:,}"


def _near(arm: VariantResult, key: str) -> str:
    cosine = (arm.start or {}).get(key)
    return f"{cosine:.4f}" if isinstance(cosine, (int, float)) else ""


def _unsigned(bounds: list[float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _filled(columns: Sequence[Sequence[str]], without: Collection[str] = ()) -> Cells:
    kept = [column for column in columns if any(column[1:]) and column[0] not in without]
    return [list(row) for row in zip(*kept, strict=True)]
