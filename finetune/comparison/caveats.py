"""What forbids no comparison, but may explain one: runs at chance, kernels, hardware, versions, commit."""

from statistics import median

from finetune.comparison.pairing import RunGroup
from finetune.metrics.registry import Metric
from finetune.records.run import Run

GUESSING = 0.05  # of the way from guessing to the best value
REVERSED = 0.5  # of the accuracy of guessing: no guess comes as low on a test set of some size

UNLEARNED = "did not learn"
UNREAD = (
    "what was computed (precision, optimizer, schedule, batch) is not in these records, which an earlier "
    "version wrote: the runs are paired by what was asked for"
)
HALF = {"bf16": "bfloat16", "fp16": "float16"}  # by the name of the option


def notes(group: RunGroup) -> list[str]:
    """What does not forbid a comparison, but may explain one."""
    runs = [run for run in group.runs if run.finished]
    lines = [
        f"{run.folder} is left out: a newer run of this variant and seed is there" for run in group.spare
    ]
    lines += _unlearned(group, runs)
    lines += _kernel_notes(group, runs)
    if runs and all(run.record["computed"] is None for run in runs):
        lines.append(UNREAD)
    lines += _differing("hardware", [{"": run.hardware} for run in runs])
    lines += _differing("package versions", [dict(run.record["versions"]) for run in runs])
    lines += _differing("the project's commit", [{"": run.commit} for run in runs])
    return lines


def _unlearned(group: RunGroup, runs: list[Run]) -> list[str]:
    """Variants with runs that failed to learn: a mean over those and others is of neither."""
    metric = group.first.metric
    middle = median([run.value for run in runs]) if runs else 0.0
    lines = []
    for name in group.variants:
        mine = [run for run in runs if run.variant == name]
        failed = [run for run in mine if _failed(metric, run, middle)]
        if failed:
            values = ", ".join(f"seed {run.seed}: {metric.name} {metric.text(run.value)}" for run in failed)
            if any(_far_below_chance(metric, run) for run in failed):
                why = "far below chance: are labels in another order?"
            elif metric.chance:
                why = "at or near chance"
            else:
                why = f"{_beyond_median(metric)} the median of these runs"
            lines.append(f"{name} {UNLEARNED} in {len(failed)} of {len(mine)} runs ({values}; {why})")
    return lines


def _failed(metric: Metric, run: Run, middle: float) -> bool:
    if metric.chance:
        chance = metric.chance(run.record["task"])
        if chance is None:  # the labels are not known: a damaged record
            return False
        limit = chance + GUESSING * (metric.best - chance)
        return run.value <= limit if metric.higher_is_better else run.value >= limit
    if metric.share_of_median is None:
        return False
    if metric.higher_is_better:
        return run.value < metric.share_of_median * middle
    return run.value > middle / metric.share_of_median


def _beyond_median(metric: Metric) -> str:
    """``less than a quarter of``; ``more than 4 times`` for a metric of which less is better."""
    share = metric.share_of_median or 1.0
    if not metric.higher_is_better:
        return f"more than {1 / share:g} times"
    return f"less than {'a quarter' if share == 0.25 else f'{share:g}'} of"


def _far_below_chance(metric: Metric, run: Run) -> bool:
    """At most half of what guessing reaches, and four standard errors below it."""
    chance = metric.chance(run.record["task"]) if metric.chance else None
    rows = run.splits.get("test", {}).get("rows")
    if not metric.is_share_of_rows or chance is None or not rows:
        return False
    error = (chance * (metric.highest - chance) / rows) ** 0.5
    return bool(run.value <= min(REVERSED * chance, chance - 4 * error))


_HALF = ("sdpa", "triton")  # they multiply half-precision inputs as they are, and take softmax in float32


def _kernel_notes(group: RunGroup, runs: list[Run]) -> list[str]:
    """What follows where variants, or runs of one variant, had different attention kernels."""
    kernels = {
        name: sorted({str(run.kernel) for run in runs if run.variant == name}) for name in group.variants
    }
    if len({run.kernel for run in runs}) < 2:
        return []
    text = ", ".join(f"{name} {' / '.join(used)}" for name, used in kernels.items() if used)
    lines = [f"training time and memory are not like for like: attention kernels were {text}"]
    lines += [
        f"{name}: its runs differ in attention kernel" for name, used in kernels.items() if len(used) > 1
    ]
    half = _half(runs[0])  # the same for all
    in_half = {part in _HALF for run in runs for part in str(run.kernel).split("+")}
    if half and len(in_half) > 1:
        lines.append(
            f"precision inside attention is not like for like: in {half} the kernels "
            f"{' and '.join(_HALF)} multiply in half precision, the others in float32; "
            "--attention.kernel reference makes them one"
        )
    return lines


def _half(run: Run) -> str | None:
    """The half precision that matrix products were computed in, or, of an earlier record, were to be."""
    computed, train = run.record["computed"], run.record["config"]["train"]
    if computed is None:
        return next((name for option, name in HALF.items() if train.get(option) is True), None)
    products = computed["precision"]["products"]
    return products if products in HALF.values() else None


def _differing(what: str, facts: list[dict[str, str | None]]) -> list[str]:
    keys = sorted({key for fact in facts for key in fact})
    values = {key: sorted({str(fact.get(key)) for fact in facts}) for key in keys}
    parts = [f"{key} {' / '.join(seen)}".strip() for key, seen in values.items() if len(seen) > 1]
    return [f"the runs differ in {what}: {', '.join(parts)}"] if parts else []


def ran_on(run: Run) -> str:
    """Hardware, packages and commit of a run, in a line."""
    versions = run.record["versions"]
    packages = ", ".join(f"{name} {versions.get(name)}" for name in ("torch", "transformers"))
    return f"{run.hardware}; {packages}; commit {run.commit}"
