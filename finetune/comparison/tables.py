"""Groups of runs -> tables: what was run, what it scored, what is missing and what may not be paired.

Numbers are in reported units (``finetune.metrics.registry``): accuracy and F1 in percent, BLEU and chrF from
0 to 100, differences in points of these; times in seconds, memory in MiB.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.comparison import lengths
from finetune.comparison.caveats import Note, notes, ran_on
from finetune.comparison.churn import Churn
from finetune.comparison.claims import Difference
from finetune.comparison.pairing import RunGroup, differences, differing_settings, is_control
from finetune.config.schema import BASELINE
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.records.run import Run, is_number
from finetune.statistics import over_seeds


@dataclass(frozen=True)
class Summary:
    """One metric of one variant over its finished seeds."""

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
class VariantResult:
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
    at_lengths: dict[str, Difference] = field(default_factory=dict)  # of metrics of one context length
    # Of language models, means over finished seeds; a report of another kind of task lacks both.
    tokens_per_s: float | None = None  # trained on in a second
    mfu: float | None = None  # the share of the device's peak
    churn: Churn | None = None  # None for the baseline, and where predictions are missing
    # Class -> precision, recall, f1 (0 to 1) and support: means over finished seeds; empty without classes.
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        return len(self.seeds)

    @property
    def seeds(self) -> set[int]:
        """Seeds with a result."""
        return {run.seed for run in self.runs if run.status == "finished"}


@dataclass(frozen=True)
class ResultTable:
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
    variants: list[VariantResult]  # the baseline first
    missing: list[str]  # runs that are not there, failed or unfinished
    refused: list[str]  # pairs that are not fair, and why
    notes: list[Note]
    sentence: str = ""
    base_model: str = ""  # the model without its positional encoding, which ``model`` names too
    position: str = ""  # the positional encoding; empty for the model's own
    trained_length: int | None = None  # tokens of a training window, where other lengths were scored
    tested_length: str | None = None  # the metric of one length that is tested; the others are described
    tuning: dict[str, Any] | None = None  # how each variant's values were chosen (``comparison.tuning.of``)
    until: dict[str, Any] | None = None  # the plan by which seeds were added, where there was one
    margin: float | None = (
        None  # of equivalence, in reported units; that of another length is in its difference
    )

    @property
    def title(self) -> str:
        """The task, and its language pair: ``iwslt2017 de-en``."""
        return f"{self.task} {self.pair}" if self.pair else self.task

    @property
    def primary(self) -> Metric:
        """The declaration of its metric."""
        return registry.get(self.metric)

    @property
    def apart(self) -> str:
        """Its ``setting`` in words: ``train.learning_rate = 0.0003``."""
        return apart(self.setting)

    @property
    def subject(self) -> str:
        """The model, and what sets the table apart."""
        return ", ".join(part for part in (self.model, self.apart) if part)


def build(
    siblings: list[RunGroup],
    group: RunGroup,
    differences_by_variant: Mapping[str, Difference],
    at_lengths: Mapping[str, dict[str, Difference]],
    reservations: list[Note],
) -> ResultTable:
    """Builds the table of one ``group`` of runs, one of its ``siblings`` of the same task and model.

    ``differences_by_variant`` holds each variant that could be paired, ``at_lengths`` the same by metric of
    one context length; ``reservations`` are notes on how they were compared.
    """
    run = group.first
    refused: list[str] = []
    elsewhere = (other.finished(BASELINE) for other in siblings if other is not group)
    baseline = next((run for runs in elsewhere for run in runs.values()), None)
    if baseline and not group.finished(BASELINE):  # it has results in another setting only
        keys = _listed(differences(run, baseline))
        refused = [
            f"{name} cannot be compared with {baseline.folder}: they differ in {keys}"
            for name in group.variants[1:]
            if group.finished(name)
        ]
    unlike = [
        f"{name}, seed {seed} is not paired with {BASELINE}, seed {seed}: {why}"
        for name in group.variants[1:]
        for seed, why in group.unlike_starts(name).items()
    ]
    return ResultTable(
        task=run.task,
        pair=run.pair,
        kind=run.kind,
        model=run.model,
        sample=group.sample,
        setting=setting(siblings, run),
        metric=run.metric.name,
        signature=run.signature,
        generation=run.config.get("generation"),
        data=run.record["data"],
        ran_on=sorted({ran_on(run) for run in group.runs if run.finished}),
        variants=[
            _variant(group, name, differences_by_variant.get(name), at_lengths.get(name, {}))
            for name in group.variants
        ],
        missing=_missing(siblings, group, skip_baseline=bool(refused)),
        refused=refused + unlike,
        notes=reservations + notes(group),
        until=run.config.get("until"),
        margin=run.config["until"]["margin"] if run.config.get("until") else None,
        base_model=run.base_model,
        position=run.position,
        trained_length=lengths.trained(group),
        tested_length=lengths.tested(group),
    )


def apart(values: Mapping[str, Any]) -> str:
    """A setting in words."""
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def setting(siblings: Sequence[RunGroup], run: Run) -> dict[str, Any]:
    """Takes the settings of ``run`` in the keys in which those of the ``siblings`` differ.

    A run that is not finished lacks facts; there its configuration is all that can differ.
    """
    runs = [group.first for group in siblings]
    facts = [each.settings() for each in runs if each.finished]
    configured = [each.configured() for each in runs]
    pairs = [(side[0], other) for side in (facts, configured) for other in side[1:]]
    keys = dict.fromkeys(key for one, other in pairs for key in differing_settings(one, other))
    mine = run.settings() if run.finished else run.configured()
    return {key: mine[key] for key in keys if key in mine}


def _variant(
    group: RunGroup, name: str, difference: Difference | None, at_lengths: dict[str, Difference]
) -> VariantResult:
    """Builds one row of the table: every number is over the variant's finished seeds."""
    runs = [run for run in group.runs if run.variant == name]
    finished = group.finished(name)
    times = [run.train_s for run in finished.values() if run.train_s is not None]
    speeds = [run.tokens_per_s for run in finished.values() if run.tokens_per_s is not None]
    shares = [run.mfu for run in finished.values() if run.mfu is not None]
    memory = [run.peak_memory_mib for run in finished.values() if run.peak_memory_mib is not None]
    untrained = {seed: run.untrained for seed, run in finished.items() if run.untrained is not None}
    values: dict[str, dict[int, float]] = {group.first.metric.name: {}}  # the primary metric comes first
    for seed, run in finished.items():
        for metric, value in run.metrics.items():
            values.setdefault(metric, {})[seed] = value
    start: dict[str, Any] | None = None
    if begun := [run.start for run in finished.values() if run.start]:
        start = {"kind": begun[0].get("kind")}
        for key in ("cosine_cold", "cosine"):  # with the softmax model's last hidden states
            known = [each[key] for each in begun if is_number(each.get(key))]
            start[key] = over_seeds.mean_sd(known)[0] if known else None
    return VariantResult(
        name=name,
        attention=next((run.record["attention"] for run in runs if run.attention), None),
        metrics={metric: _summary(per_seed) for metric, per_seed in values.items() if per_seed},
        train_s=over_seeds.mean_sd(times)[0] if times else None,
        peak_memory_mib=max(memory, default=None),
        runs=[
            RunLine(
                seed=run.seed,
                status=run.status,
                reason=run.reason,
                value=run.value if run.finished else None,
                folder=str(run.folder),
                command=run.record["command"],
                device=run.device,
            )
            for run in runs
        ],
        difference=difference,
        control=any(is_control(run) for run in runs),
        untrained=_summary(untrained) if untrained else None,
        start=start,
        at_lengths=at_lengths,
        tokens_per_s=over_seeds.mean_sd(speeds)[0] if speeds else None,
        mfu=over_seeds.mean_sd(shares)[0] if shares else None,
        per_class=_per_class([run.per_class for run in finished.values()]),
    )


def _per_class(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over runs of what is recorded by class."""
    known = [run for run in runs if run]
    if not known:
        return {}
    return {
        label: {name: over_seeds.mean_sd([run[label][name] for run in known])[0] for name in values}
        for label, values in known[0].items()
        if all(label in run for run in known)
    }


def _summary(per_seed: dict[int, float]) -> Summary:
    return Summary(*over_seeds.mean_sd(list(per_seed.values())), per_seed)


def _missing(siblings: list[RunGroup], group: RunGroup, *, skip_baseline: bool) -> list[str]:
    """Lists every variant and seed of this group without a result, and where another setting has it."""
    lines = []
    for name in group.variants[int(skip_baseline) :]:
        for seed in sorted({run.seed for run in group.runs}):
            run = group.find(name, seed)
            what = f"{name}, seed {seed}"
            if run is None:
                others = (other.find(name, seed) for other in siblings if other is not group)
                where = ""
                if other := next((run for run in others if run), None):
                    keys = _listed(differences(group.first, other))
                    where = f" in this setting ({other.folder} differs in {keys})"
                lines.append(f"{what}: not run{where}")
            elif run.status == "failed":
                lines.append(f"{what}: failed: {run.reason} ({run.folder})")
            elif run.status == "preempted":
                lines.append(f"{what}: preempted, goes on with the same command ({run.folder})")
            elif not run.finished:
                lines.append(f"{what}: still running, or broken off ({run.folder})")
    return lines


def _listed(lines: Iterable[str], most: int = 5) -> str:
    items = list(lines)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
