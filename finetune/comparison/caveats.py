"""What forbids no comparison, but may explain one: runs at chance, kernels, hardware, versions, commit."""

from statistics import median

from finetune.comparison.pairing import Run, Setting
from finetune.metrics.scorers import PRIMARY, score_text

GUESSING = 0.05  # of the way from guessing among equally frequent labels to no error at all
FAR_BELOW = 0.25  # of the median BLEU of all runs of a table; seeds of one method do not differ by so much

REVERSED = 0.5  # of the accuracy of guessing: no guess comes as low on a test set of some size

UNLEARNED = "did not learn"
WHY = {
    "classification": "at or near chance",
    "translation": "less than a quarter of the median of these runs",
}
UNREAD = (
    "what was computed (precision, optimizer, schedule, batch) is not in these records, which an earlier "
    "version wrote: the runs are paired by what was asked for"
)
HALF = {"bf16": "bfloat16", "fp16": "float16"}  # by the name of the option


def notes(setting: Setting) -> list[str]:
    """What does not forbid a comparison, but may explain one."""
    runs = [run for run in setting.runs if run.finished]
    lines = [f"{run.folder} is left out: a newer run of this arm and seed is there" for run in setting.spare]
    lines += _unlearned(setting, runs)
    lines += _kernel_notes(setting, runs)
    if runs and all(run.record["computed"] is None for run in runs):
        lines.append(UNREAD)
    lines += _differing("hardware", [{"": _hardware(run)} for run in runs])
    lines += _differing("package versions", [dict(run.record["versions"]) for run in runs])
    lines += _differing("the project's commit", [{"": _commit(run)} for run in runs])
    return lines


def _unlearned(setting: Setting, runs: list[Run]) -> list[str]:
    """Arms with runs that failed to learn: a mean over those and others is of neither."""
    middle = median([run.value for run in runs]) if runs else 0.0
    lines = []
    for name in setting.arms:
        mine = [run for run in runs if run.arm == name]
        failed = [run for run in mine if _failed(run, middle)]
        if failed:
            told = ", ".join(f"seed {run.seed}: {_score(run)}" for run in failed)
            why = WHY[failed[0].record["task"]["kind"]]
            if any(_far_below_chance(run) for run in failed):
                why = "far below chance: are labels in another order?"
            lines.append(f"{name} {UNLEARNED} in {len(failed)} of {len(mine)} runs ({told}; {why})")
    return lines


def _failed(run: Run, middle: float) -> bool:
    if run.record["task"]["kind"] == "translation":
        return run.value < FAR_BELOW * middle
    labels = run.record["task"].get("labels")
    if not isinstance(labels, list | tuple) or not labels:  # a damaged record
        return False
    chance = 1 / len(labels)
    return run.value <= chance + GUESSING * (1 - chance)


def _far_below_chance(run: Run) -> bool:
    """At most half of what guessing reaches, and four standard errors below it."""
    record = run.record
    labels = record["task"].get("labels") or ()
    rows = ((record["data"] or {}).get("splits") or {}).get("test", {}).get("rows")
    if record["task"]["kind"] == "translation" or not labels or not rows:
        return False
    chance = 1 / len(labels)
    return bool(run.value <= min(REVERSED * chance, chance - 4 * (chance * (1 - chance) / rows) ** 0.5))


def _score(run: Run) -> str:
    name = PRIMARY[run.record["task"]["kind"]]
    return f"{name} {score_text(name, run.value)}"


_HALF = ("sdpa", "triton")  # they multiply half-precision inputs as they are, and take softmax in float32


def _kernel_notes(setting: Setting, runs: list[Run]) -> list[str]:
    """What follows from arms, or runs of one arm, whose attention was computed by different kernels."""
    kernels = {name: sorted({str(run.kernel) for run in runs if run.arm == name}) for name in setting.arms}
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


def _hardware(run: Run) -> str:
    hardware = run.record["hardware"]
    device = str(hardware.get("device"))
    if device != "cpu":
        return device
    threads = f", {hardware['threads']} threads" if hardware.get("threads") else ""
    return f"CPU, {hardware.get('cpu')}, {hardware.get('cores')} cores{threads}"


def ran_on(run: Run) -> str:
    """Hardware, packages and commit of a run, in a line."""
    versions = run.record["versions"]
    packages = ", ".join(f"{name} {versions.get(name)}" for name in ("torch", "transformers"))
    return f"{_hardware(run)}; {packages}; commit {_commit(run)}"


def _commit(run: Run) -> str:
    git = run.record["git"]
    return f"{str(git['commit'])[:10]}{' with changes' if git['dirty'] else ''}" if git else "unknown"
