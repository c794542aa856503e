"""Notes on what may explain a difference and forbids no comparison: chance, kernels, hardware, versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from finetune.comparison import lengths
from finetune.comparison.claims import FEWEST, Paired
from finetune.comparison.pairing import RunGroup
from finetune.config.lineage import source_of
from finetune.config.schema import HALF
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.records.run import Run

FEW = 30  # documents; with fewer, how unequal they are decides the width of the intervals
GUESSING = 0.05  # of the way from guessing to the best value
REVERSED = 0.5  # of the accuracy of guessing: no guess comes as low on a test set of some size
FAR_BELOW = "far below chance: are labels in another order?"
HALF_KERNELS = ("sdpa", "triton")  # they multiply half precision as it is, and take softmax in float32


class NoteKind(StrEnum):
    """What a note is about."""

    NO_ROWS = "no rows"  # two variants cannot be compared over test rows
    FEW_ROWS = "few rows"  # the test set has too few independent parts
    LENGTHS = "lengths"  # a context length at which a run could not be scored
    PRETRAINED = "pretrained"  # what the runs began from, where that is a run
    LEFT_OUT = "left out"  # an older run of the same variant and seed
    TUNED = "tuned"  # how the values of a variant were chosen, by its trials
    UNLEARNED = "unlearned"  # runs at chance, or far from all others
    KERNELS = "kernels"  # variants had different kernels: time and memory are not comparable
    MIXED_KERNELS = "mixed kernels"  # runs of one variant had
    PRECISION = "precision"  # inside attention
    UNRECORDED = "unrecorded"  # what was computed is not in the records
    HARDWARE = "hardware"
    VERSIONS = "versions"
    COMMIT = "commit"
    OTHER = "other"  # of a kept report that another version wrote


@dataclass(frozen=True)
class Note:
    """One line under a table, and what it is about."""

    kind: NoteKind
    text: str


def reservations(
    pairs: Mapping[str, Paired], metric: Metric, at_tested: Mapping[str, Paired], tested: str | None
) -> list[Note]:
    """Lists what the comparisons over rows lack, by variant: predictions, or enough documents.

    ``at_tested`` holds those of the metric ``tested``, which is of one length: fewer documents may have it.
    """
    lines = [
        Note(NoteKind.NO_ROWS, f"{name}: no comparison over rows: {paired.no_rows}")
        for name, paired in pairs.items()
        if paired.no_rows
    ]
    counts = {
        "the test set has {} documents": [paired.rows.rows for paired in pairs.values() if paired.rows],
        f"{{}} documents are long enough for {tested and registry.get(tested).title}": [
            paired.rows.rows for paired in at_tested.values() if paired.rows
        ],
    }
    least = {text: min(rows) for text, rows in counts.items() if rows}
    if metric.row == "document" and least and min(least.values()) < FEW:
        text = (
            f"{', '.join(text.format(rows) for text, rows in least.items())}, and a difference is judged by "
            "document, as the tokens of one are not independent: more seeds do not narrow the intervals "
            "below what so few allow, more documents do"
        )
        if min(least.values()) < FEWEST:
            text += f"; with fewer than {FEWEST} no difference can be significant, and nothing is concluded"
        lines.append(Note(NoteKind.FEW_ROWS, text))
    return lines


def notes(group: RunGroup) -> list[Note]:
    """Lists what may explain a difference within ``group``, and does not forbid comparing its runs."""
    runs = [run for run in group.runs if run.finished]
    lines = [
        Note(NoteKind.LEFT_OUT, f"{run.folder} is left out: a newer run of this variant and seed is there")
        for run in group.spare
    ]
    lines += _pretrained(group)
    lines += _unlearned(group, runs)
    lines += [Note(NoteKind.LENGTHS, text) for text in lengths.unscored(group)]
    lines += _kernels(group, runs)
    if runs and all(run.record["computed"] is None for run in runs):
        text = (
            "what was computed (precision, optimizer, schedule, batch) is not in these records, which an "
            "earlier version wrote: the runs are paired by what was asked for"
        )
        lines.append(Note(NoteKind.UNRECORDED, text))
    lines += _differing(NoteKind.HARDWARE, "hardware", [{"": run.hardware} for run in runs])
    lines += _differing(NoteKind.VERSIONS, "package versions", [dict(run.record["versions"]) for run in runs])
    lines += _differing(NoteKind.COMMIT, "the project's commit", [{"": run.commit} for run in runs])
    return lines


def _pretrained(group: RunGroup) -> list[Note]:
    """Says of runs that began from others what the difference between variants then is of."""
    run = group.first
    source, began = source_of(run.config["model"]["name"]), run.pretrained
    if source is None or began is None:
        return []
    of = f"{began['task']}, {began['model']}"
    text = (
        f"every variant began from its own pretraining ({of}): a difference is that of pretraining and "
        "fine-tuning together"
    )
    if source.variant:
        text = (
            f"every variant began from the checkpoint of {source.variant} of its seed ({of}) and was swapped "
            "then: a difference is that of the swap and fine-tuning"
        )
    return [Note(NoteKind.PRETRAINED, text)]


def _unlearned(group: RunGroup, runs: list[Run]) -> list[Note]:
    """Names the variants with runs that failed to learn: a mean over those and others describes neither."""
    metric = group.first.metric
    # Of all variants: where every run of one fails, its own median would call that normal.
    middle = median([run.value for run in runs]) if runs else 0.0
    lines = []
    for name in group.variants:
        mine = [run for run in runs if run.variant == name]
        failed = [(run, reason) for run in mine if (reason := _failure(metric, run, middle))]
        if failed:
            values = ", ".join(f"seed {run.seed}: {run.score_text}" for run, _ in failed)
            reasons = [reason for _, reason in failed]
            reason = FAR_BELOW if FAR_BELOW in reasons else reasons[0]
            text = f"{name} did not learn in {len(failed)} of {len(mine)} runs ({values}; {reason})"
            lines.append(Note(NoteKind.UNLEARNED, text))
    return lines


def _failure(metric: Metric, run: Run, middle: float) -> str | None:
    """Gives the reason why a run counts as not having learned; ``None`` where none is known."""
    if metric.chance:
        chance = metric.chance(run.record["task"])
        if chance is None:  # the labels of a damaged record are not known
            return None
        limit = chance + GUESSING * (metric.best - chance)
        if run.value > limit if metric.higher_is_better else run.value < limit:
            return None
        rows = run.splits.get("test", {}).get("rows")
        if not (metric.is_share_of_rows and rows):
            return "at or near chance"
        error = (chance * (metric.highest - chance) / rows) ** 0.5  # binomial, of the share in percent
        # On a small test set guessing alone comes far below chance, but not by four standard errors.
        far_below = run.value <= min(REVERSED * chance, chance - 4 * error)
        return FAR_BELOW if far_below else "at or near chance"
    # A metric without a chance level, such as BLEU: a run far from all others is taken to have failed.
    reason, share = None, metric.share_of_median
    if share and metric.higher_is_better and run.value < share * middle:
        part = "a quarter" if share == 0.25 else f"{share:g}"
        reason = f"less than {part} of the median of these runs"
    elif share and not metric.higher_is_better and run.value > middle / share:
        reason = f"more than {1 / share:g} times the median of these runs"
    return reason


def _kernels(group: RunGroup, runs: list[Run]) -> list[Note]:
    """Names variants, or runs of one variant, that had different attention kernels."""
    if len({run.kernel for run in runs}) < 2:
        return []
    kernels = {
        name: sorted({str(run.kernel) for run in runs if run.variant == name}) for name in group.variants
    }
    listed = ", ".join(f"{name} {' / '.join(used)}" for name, used in kernels.items() if used)
    text = f"training time and memory are not comparable: attention kernels were {listed}"
    lines = [Note(NoteKind.KERNELS, text)]
    for name, used in kernels.items():
        if len(used) > 1:
            lines.append(Note(NoteKind.MIXED_KERNELS, f"{name}: its runs differ in attention kernel"))
    # The half precision of matrix products, one for all runs of a group: as computed or, in a record that
    # does not give it, as asked for.
    computed, train = runs[0].record["computed"], runs[0].config["train"]
    half = computed["precision"]["products"] if computed is not None else None
    if computed is None:
        half = next((name for option, name in HALF.items() if train.get(option) is True), None)
    in_half = {part in HALF_KERNELS for run in runs for part in str(run.kernel).split("+")}
    if half in HALF.values() and len(in_half) > 1:
        text = (
            f"precision inside attention differs: in {half} the kernels {' and '.join(HALF_KERNELS)} "
            "multiply in half precision, native on processors that have bfloat16 products, the others in "
            "float32; --attention.kernel reference makes them one"
        )
        lines.append(Note(NoteKind.PRECISION, text))
    return lines


def _differing(kind: NoteKind, what: str, facts: list[dict[str, str | None]]) -> list[Note]:
    """Makes a note of the values in which the ``facts`` of runs differ; none where they are equal."""
    keys = sorted({key for fact in facts for key in fact})
    values = {key: sorted({str(fact.get(key)) for fact in facts}) for key in keys}
    parts = [f"{key} {' / '.join(seen)}".strip() for key, seen in values.items() if len(seen) > 1]
    return [Note(kind, f"the runs differ in {what}: {', '.join(parts)}")] if parts else []


def ran_on(run: Run) -> str:
    """Formats hardware, packages and commit of a run in one line."""
    versions = run.record["versions"]
    packages = ", ".join(f"{name} {versions.get(name)}" for name in ("torch", "transformers"))
    return f"{run.hardware}; {packages}; commit {run.commit}"
