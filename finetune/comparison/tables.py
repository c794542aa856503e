"""Settings -> tables: what was run, what it scored, what is missing and what may not be paired.

Numbers are in reported units: accuracy and F1 in percent, BLEU and chrF from 0 to 100, differences in
points of these, times in seconds, memory in MiB.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.comparison import claims
from finetune.comparison.caveats import notes, ran_on
from finetune.comparison.claims import Difference
from finetune.comparison.pairing import Run, Setting, differences, differing_settings
from finetune.config.schema import BASELINE
from finetune.metrics.scorers import PRIMARY, SCALE
from finetune.statistics import over_seeds


@dataclass(frozen=True)
class Summary:
    """One metric of one arm over its finished seeds."""

    mean: float
    sd: float | None  # n - 1; None for one seed
    per_seed: dict[int, float]


@dataclass(frozen=True)
class RunLine:
    """One run, as listed under a table."""

    seed: int
    status: str
    reason: str | None
    value: float | None  # the primary metric
    folder: str
    command: str
    device: str | None


@dataclass(frozen=True)
class Arm:
    """One variant in one table."""

    name: str
    attention: dict[str, Any] | None  # variant, parameters, scope, kernel, layers, total, dropout
    metrics: dict[str, Summary]  # the primary one first
    train_s: float | None  # mean over finished seeds
    peak_memory_mib: float | None  # highest of the finished seeds
    runs: list[RunLine]
    difference: Difference | None  # None for the baseline, and where nothing could be paired
    control: bool  # its variant is not from the paper
    untrained: Summary | None  # the primary metric of the swapped model before training, on validation
    start: dict[str, Any] | None  # its kind; cosine_cold, cosine: means over finished seeds; None for softmax

    @property
    def finished(self) -> int:
        return len(self.seeds)

    @property
    def seeds(self) -> set[int]:
        """Those with a result."""
        return {run.seed for run in self.runs if run.status == "finished"}


@dataclass(frozen=True)
class Table:
    """Runs that are equal but for attention and seed."""

    task: str
    pair: str | None
    kind: str
    model: str
    sample: bool  # trained on the built-in synthetic sample: says nothing about any method
    setting: dict[str, Any]  # what sets it apart from other tables of the same task and model
    metric: str
    signature: str | None
    generation: dict[str, Any] | None
    data: dict[str, Any] | None
    ran_on: list[str]  # hardware, packages and commit of the finished runs
    arms: list[Arm]  # the baseline first
    missing: list[str]  # runs that are not there, failed or unfinished
    refused: list[str]  # pairs that are not fair, and why
    notes: list[str]
    sentence: str = ""

    @property
    def title(self) -> str:
        """The task, and its language pair: ``iwslt2017 de-en``."""
        return f"{self.task} {self.pair}" if self.pair else self.task

    @property
    def apart(self) -> str:
        """Its ``setting`` in words: ``train.learning_rate = 0.0003``."""
        return ", ".join(f"{key} = {value}" for key, value in self.setting.items())


def first_of(setting: Setting) -> Run:
    """The run that speaks for its setting: a finished one where there is one."""
    return next((run for run in setting.runs if run.finished), setting.runs[0])


def build(
    group: list[Setting], setting: Setting, found: Mapping[str, Difference], no_rows: Mapping[str, str]
) -> Table:
    """The table of one ``setting`` of its ``group``.

    ``found`` holds the difference of each arm that could be paired; ``no_rows`` says why an arm has no
    comparison over rows.
    """
    run = first_of(setting)
    record = run.record
    metric = PRIMARY[record["task"]["kind"]]
    refused = _refused(group, setting)
    lines = [f"{name}: no comparison over rows: {why}" for name, why in no_rows.items()]
    return Table(
        task=record["task"]["name"],
        pair=record["task"]["pair"],
        kind=record["task"]["kind"],
        model=run.model,
        sample=setting.sample,
        setting=_apart(group, run),
        metric=metric,
        signature=((record["metrics"] or {}).get(metric) or {}).get("signature"),
        generation=record["config"].get("generation"),
        data=record["data"],
        ran_on=sorted({ran_on(run) for run in setting.runs if run.finished}),
        arms=[_arm(setting, name, metric, found.get(name)) for name in setting.arms],
        missing=_missing(group, setting, skip_baseline=bool(refused)),
        refused=refused + _unlike(setting),
        notes=lines + notes(setting),
    )


def _apart(group: list[Setting], run: Run) -> dict[str, Any]:
    """What ``run`` has in the keys in which the settings of its group differ.

    A run that is not finished lacks facts; there its configuration is all that can differ.
    """
    runs = [first_of(setting) for setting in group]
    facts = [each.settings() for each in runs if each.finished]
    configured = [each.configured() for each in runs]
    pairs = [(side[0], other) for side in (facts, configured) for other in side[1:]]
    keys = dict.fromkeys(key for one, other in pairs for key in differing_settings(one, other))
    mine = run.settings() if run.finished else run.configured()
    return {key: mine[key] for key in keys if key in mine}


def _arm(setting: Setting, name: str, metric: str, difference: Difference | None) -> Arm:
    finished = setting.finished(name)
    runs = [run for run in setting.runs if run.arm == name]
    times = [(run.record["times"] or {}).get("train_s") for run in finished.values()]
    known = [float(seconds) for seconds in times if seconds is not None]
    memory = [run.record["peak_memory_mib"] for run in finished.values()]
    return Arm(
        name=name,
        attention=next((run.record["attention"] for run in runs if run.record["attention"]), None),
        metrics=_summaries(finished, metric),
        train_s=over_seeds.mean_sd(known)[0] if known else None,
        peak_memory_mib=max((mib for mib in memory if mib is not None), default=None),
        runs=[_line(run) for run in runs],
        difference=difference,
        control=any(run.control for run in runs),
        untrained=_untrained(finished, metric),
        start=_start(list(finished.values())),
    )


def _summaries(finished: Mapping[int, Run], primary: str) -> dict[str, Summary]:
    values: dict[str, dict[int, float]] = {primary: {}}
    for seed, run in finished.items():
        for name, score in (run.record["metrics"] or {}).items():
            if isinstance(score, dict) and isinstance(score.get("value"), (int, float)):
                values.setdefault(name, {})[seed] = SCALE.get(name, 1.0) * score["value"]
    return {name: Summary(*over_seeds.mean_sd(list(v.values())), v) for name, v in values.items() if v}


def _untrained(finished: Mapping[int, Run], metric: str) -> Summary | None:
    scores = {seed: (run.record["untrained"] or {}).get(metric) for seed, run in finished.items()}
    scale = SCALE.get(metric, 1.0)
    known = {seed: scale * value for seed, value in scores.items() if isinstance(value, (int, float))}
    return Summary(*over_seeds.mean_sd(list(known.values())), known) if known else None


def _start(finished: list[Run]) -> dict[str, Any] | None:
    """The kind of start, the same for all runs of an arm, and the mean cosines with softmax's states."""
    starts = [run.start for run in finished if run.start]
    if not starts:
        return None
    found: dict[str, Any] = {"kind": starts[0].get("kind")}
    for key in ("cosine_cold", "cosine"):
        values = [start[key] for start in starts if isinstance(start.get(key), (int, float))]
        found[key] = over_seeds.mean_sd(values)[0] if values else None
    return found


def _line(run: Run) -> RunLine:
    record = run.record
    return RunLine(
        seed=run.seed,
        status=record["status"],
        reason=record["reason"],
        value=claims.scale_of(run) * run.value if run.finished else None,
        folder=str(run.folder),
        command=record["command"],
        device=record["hardware"].get("device"),
    )


def _missing(group: list[Setting], setting: Setting, *, skip_baseline: bool) -> list[str]:
    """Every arm and seed of this setting without a result."""
    lines = []
    for name in setting.arms[int(skip_baseline) :]:
        for seed in sorted({run.seed for run in setting.runs}):
            run = setting.find(name, seed)
            what = f"{name}, seed {seed}"
            if run is None:
                lines.append(f"{what}: not run{_elsewhere(group, setting, name, seed)}")
            elif run.record["status"] == "failed":
                lines.append(f"{what}: failed: {run.record['reason']} ({run.folder})")
            elif not run.finished:
                lines.append(f"{what}: still running, or broken off ({run.folder})")
    return lines


def _elsewhere(group: list[Setting], setting: Setting, name: str, seed: int) -> str:
    """Where the same task and model has this run in a setting that cannot be paired with this one."""
    others = (other.find(name, seed) for other in group if other is not setting)
    run = next((run for run in others if run), None)
    if run is None:
        return ""
    return f" in this setting ({run.folder} differs in {_listed(differences(first_of(setting), run))})"


def _refused(group: list[Setting], setting: Setting) -> list[str]:
    """Arms with results in this setting, where the baseline has results only in another."""
    mine = [name for name in setting.arms[1:] if setting.finished(name)]
    others = (other.finished(BASELINE) for other in group if other is not setting)
    baseline = next((run for runs in others for run in runs.values()), None)
    if setting.finished(BASELINE) or baseline is None or not mine:
        return []
    keys = _listed(differences(first_of(setting), baseline))
    return [f"{name} cannot be compared with {baseline.folder}: they differ in {keys}" for name in mine]


def _unlike(setting: Setting) -> list[str]:
    """Pairs of one seed that did not begin from the same weights."""
    return [
        f"{name}, seed {seed} is not paired with {BASELINE}, seed {seed}: {why}"
        for name in setting.arms[1:]
        for seed, why in setting.unlike_starts(name).items()
    ]


def _listed(lines: Iterable[str], most: int = 5) -> str:
    items = list(lines)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
