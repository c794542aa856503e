"""The read view of a record: a run's names, numbers in reported units, curve and files.

A record is written for keeping: nested, with ``None`` wherever something was not known yet, values in the
units they were computed in. ``Run`` is for reading: names, numbers in reported units (accuracy in percent;
see ``finetune.metrics.registry``), and ``None`` or an empty mapping where the record says nothing.

    for run in read_runs("runs"):
        print(run.task, run.variant, run.seed, run.metrics)
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from pydantic import ValidationError

from finetune.config import tuned
from finetune.config.folders import model_slug, position_label, variant_slug
from finetune.config.identity import flatten
from finetune.config.lineage import source_of
from finetune.config.schema import NEUTRAL, OWN, AttentionConfig, ModelConfig
from finetune.errors import UserError
from finetune.metrics import registry
from finetune.metrics.registry import Metric
from finetune.records import diagnostics, store
from finetune.records.schema import Link
from finetune.records.store import Record
from finetune.system.text import short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOCAL = ("rows", "accumulated")  # of the batch of one process; ``total`` is of all
COMPUTED = "computed"  # the prefix of the facts of ``record["computed"]``
Roots = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Run:
    """A run: its record and its folder. ``Run.checked`` takes a record that may not fit this version."""

    folder: Path
    record: Record

    # What was asked for

    @property
    def config(self) -> dict[str, Any]:
        return self.record["config"]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def task(self) -> str:
        return str(self.record["task"]["name"])

    @property
    def pair(self) -> str | None:
        """The language pair of a translation: ``de-en``."""
        pair: str | None = self.record["task"]["pair"]
        return pair

    @property
    def title(self) -> str:
        """The task with its language pair: ``iwslt2017 de-en``."""
        return f"{self.task} {self.pair}" if self.pair else self.task

    @property
    def kind(self) -> str:
        return str(self.record["task"]["kind"])

    @cached_property
    def variant(self) -> str:
        """The attention variant, with its scope, start and parameters where they are not the default."""
        return variant_slug(AttentionConfig(**self.config["attention"]))

    @cached_property
    def model(self) -> str:
        """The model as the user named it; a local folder by its base name, as others have no such path."""
        return f"{self.base_model}, {self.position} positions" if self.position else self.base_model

    @cached_property
    def base_model(self) -> str:
        """The model without its positional encoding."""
        model = replace(ModelConfig(**self.config["model"]), position=OWN, position_parameters={})
        name, source = model.name, source_of(model.name)
        if source and source.folder.is_absolute():
            name = source.short
        elif Path(name).is_absolute():
            return model_slug(model)
        return f"{name}, LoRA rank {model.lora.rank}" if model.lora.rank else name

    @cached_property
    def position(self) -> str:
        """The positional encoding with its parameters: ``kerple``; empty for the model's own."""
        return position_label(ModelConfig(**self.config["model"]))

    @cached_property
    def encoding(self) -> str:
        """The positional encoding by name, also one that came with the checkpoint that the run began from."""
        name, link = str(self.config["model"].get("position", OWN)), self.pretrained
        while name == OWN and link:
            name, link = link["position"], link.get("pretrained")
        return name

    @property
    def trial(self) -> bool:
        """Whether it is a trial of a tuning: its metrics are of validation rows, and it is no result."""
        return bool(self.config.get("trial"))

    @property
    def tuning(self) -> dict[str, Any] | None:
        """How values of its configuration were chosen by trials (``TuningConfig``); ``None`` elsewhere."""
        tuning: dict[str, Any] | None = self.config.get("tuning")
        return tuning

    # What became of it

    @property
    def status(self) -> str:
        return self.record["status"]

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def reason(self) -> str | None:
        """The reason of a failure."""
        return self.record["reason"]

    @property
    def sample(self) -> bool:
        """Whether it, or the run that it began from, was trained on the built-in synthetic sample, which says
        nothing about any method."""
        if self.pretrained and self.pretrained["sample"]:
            return True
        if self.record["data"]:
            return bool(self.record["data"]["sample"])
        return self.config["data"].get("source") == "sample"  # it failed before it had any data

    @property
    def data(self) -> dict[str, Any]:
        return self.record["data"] or {}

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Name -> rows, fingerprint."""
        splits: dict[str, dict[str, Any]] = self.data.get("splits") or {}
        return splits

    @property
    def attention(self) -> dict[str, Any]:
        """The attention, as proven: variant, parameters, scope, kernel, layers, total, dropout."""
        return self.record["attention"] or {}

    @property
    def kernel(self) -> str | None:
        """The kernel that computed its attention; the configuration says which one was asked for."""
        return self.attention.get("kernel")

    @property
    def start(self) -> dict[str, Any] | None:
        """How the swapped model started, with cosines; ``None`` for softmax and where it was not recorded."""
        return self.attention.get("start")

    @property
    def initial_weights(self) -> str | None:
        """Fingerprint of the weights before training; ``None`` where it was not recorded."""
        return (self.record["model"] or {}).get("initial_weights")

    @property
    def pretrained(self) -> Link | None:
        """The run whose checkpoint it began from (``records.pretraining``); ``None`` for another model."""
        link: Link | None = (self.record["model"] or {}).get("pretrained")
        return link

    # Numbers, in reported units

    @property
    def metric(self) -> Metric:
        """The primary metric of its kind of task."""
        return registry.primary(self.kind)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Every metric on the test split that has a value, on validation rows for a trial; empty for a run
        that has not finished."""
        return {
            name: registry.get(name).reported(score["value"])
            for name, score in self.scores.items()
            if score.get("value") is not None
        }

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Metric -> value *as recorded*, and signature; the primary one first."""
        metrics = self.record["metrics"] or {}
        return {name: score for name, score in metrics.items() if name != "per_class"}

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Class -> precision, recall, f1 (0 to 1), support; empty without classes."""
        found = (self.record["metrics"] or {}).get("per_class")
        kept = found.items() if isinstance(found, dict) else ()  # which no schema has checked
        names = ("precision", "recall", "f1", "support")
        return {
            label: {name: float(values[name]) for name in names}
            for label, values in kept
            if isinstance(values, dict) and all(is_number(values.get(name)) for name in names)
        }

    @property
    def value(self) -> float:
        """The primary metric of a finished run."""
        return self.metrics[self.metric.name]

    @property
    def score_text(self) -> str | None:
        """``accuracy 89.38%``; ``None`` before it has finished."""
        value = self.metrics.get(self.metric.name)
        return None if value is None else f"{self.metric.name} {self.metric.text(value)}"

    @property
    def signature(self) -> str | None:
        """Signature of the primary metric."""
        signature: str | None = self.scores.get(self.metric.name, {}).get("signature")
        return signature

    @property
    def untrained(self) -> float | None:
        """The primary metric on validation rows of the swapped model before training."""
        value = (self.record["untrained"] or {}).get(self.metric.name)
        return self.metric.reported(value) if is_number(value) else None

    def curve(self, key: str) -> dict[int, float]:
        """One quantity of Trainer's log by step ("loss", "eval_loss", "eval_accuracy"); the last where a step
        was logged twice."""
        metric = registry.get(key.removeprefix("eval_"))
        values: dict[int, float] = {}
        for entry in self.record["curve"]:
            step, value = entry.get("step"), entry.get(key)
            if is_number(step) and is_number(value):
                values[int(step)] = metric.reported(float(value))
        return dict(sorted(values.items()))

    @property
    def train_s(self) -> float | None:
        """Seconds of training; ``None`` also for a resumed run, which does not know its first part."""
        return (self.record["times"] or {}).get("train_s")

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens trained on in a second; ``None`` but for a language model."""
        return (self.record["times"] or {}).get("tokens_per_s")

    @property
    def mfu(self) -> float | None:
        """The share of the device's peak that was used; ``None`` where that is not known."""
        return (self.record["times"] or {}).get("mfu")

    @property
    def total_s(self) -> float | None:
        return (self.record["times"] or {}).get("total_s")

    @property
    def peak_memory_mib(self) -> float | None:
        return self.record["peak_memory_mib"]

    # Files beside the record

    def predictions(self) -> list[dict[str, Any]]:
        """Reads the rows of predictions.jsonl; raises ``UserError`` where it is missing or damaged."""
        return store.read_predictions(self.folder)

    def probabilities(self) -> "tuple[NDArray[np.int64], NDArray[np.float32]] | None":
        """Reads row ids and log probabilities (rows, classes) of the test rows; ``None`` where none are kept.

        Raises ``UserError`` where the file is missing or damaged.
        """
        return None if self.record["probabilities"] is None else store.read_probabilities(self.folder)

    def diagnostics(self) -> diagnostics.Diagnostics | None:
        """Reads the diagnostics of its attention; ``None`` where there are none."""
        name = self.record["diagnostics"]
        # Beside the record, wherever the name points to.
        return None if name is None else diagnostics.read(self.folder / Path(name).name)

    # Where it ran

    @property
    def device(self) -> str | None:
        return self.record["hardware"].get("device")

    @property
    def hardware(self) -> str:
        """The GPU, or ``CPU, NAME, 8 cores, 2 threads``; of several processes their number is named too."""
        hardware = self.record["hardware"]
        if self.device != "cpu":
            return str(self.device)
        threads = f", {hardware['threads']} threads" if hardware.get("threads") else ""
        processes = hardware.get("devices") or 1
        together = f", {processes} processes" if processes > 1 else ""
        return f"CPU, {hardware.get('cpu')}, {hardware.get('cores')} cores{threads}{together}"

    @property
    def commit(self) -> str:
        """Of this project's checkout: ``0123456789 with changes``."""
        git = self.record["git"]
        return f"{str(git['commit'])[:10]}{' with changes' if git['dirty'] else ''}" if git else "unknown"

    # What must be equal for a fair pair

    def settings(self) -> dict[str, Any]:
        """Everything that must be equal for a fair pair, by dotted names: configuration and facts."""
        return self.configured() | self.facts()

    def configured(self) -> dict[str, Any]:
        """The configuration without what a comparison varies: the attention (but for its kernel) and seed.

        Nor does it say where the rows came from: their fingerprints tell whether they are equal; nor whether
        tokens were kept, which moves no number. Of a run whose values were chosen by trials it says how, and
        not which they are: variants that had the same choice are a pair.
        """
        kept = {key: value for key, value in self.config.items() if key not in ("seed", "trial", "tuning")}
        kept["attention"] = {"kernel": self.config["attention"].get("kernel")}
        kept["data"] = {key: value for key, value in self.config["data"].items() if key != "source"}
        settings = {key: value for key, value in flatten(kept).items() if key not in NEUTRAL}
        if self.tuning:
            settings = tuned.without(settings, self.tuning["keys"]) | {tuned.SETTING: tuned.text(self.tuning)}
        return settings

    def facts(self) -> dict[str, Any]:
        """Facts in which runs of one configuration can differ: rows, revisions, what was computed; and what
        they began from, but for its attention and seed."""
        model = self.record["model"] or {}
        facts = {f"{name} rows (fingerprint)": rows.get("fingerprint") for name, rows in self.splits.items()}
        facts["model revision"] = model.get("revision")
        facts["tokenizer (fingerprint)"] = model.get("tokenizer")
        facts["attention dropout"] = self.attention.get("dropout")
        if self.pretrained:
            # The folder of a pretraining can hold unlike ones for each seed, as its content changes.
            facts["pretraining (hash of its settings)"] = _settings_of(self.pretrained)
        computed = self.record["computed"]
        if computed is None:  # a record of an earlier version, which goes with others of its kind only
            facts[COMPUTED] = "not recorded"
            facts["devices"] = self.record["hardware"].get("devices")  # its batches were those of one device
        else:
            # Device and attention kernels differ between variants; what computes layers is in the settings.
            # How many processes shared the rows of a step moves no more than rounding does: the batch that is
            # one is that of all of them.
            free = ("device", "attention", "layers", "batch", "parallelism")
            kept = {key: value for key, value in computed.items() if key not in free}
            kept["batch"] = {key: value for key, value in computed["batch"].items() if key not in LOCAL}
            facts |= {COMPUTED: "recorded"} | flatten(kept, f"{COMPUTED}.")
        if self.metric.signature_must_match:
            facts[f"{self.metric.title} signature"] = self.signature
        return tuned.without(facts, self.tuning["keys"]) if self.tuning else facts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, one a column of a data frame; every metric is a column of its own name."""
        return {
            "folder": str(self.folder),
            "task": self.task,
            "pair": self.pair,
            "kind": self.kind,
            "model": self.model,
            "variant": self.variant,
            "seed": self.seed,
            "status": self.status,
            "reason": self.reason,
            "sample": self.sample,
            "metric": self.metric.name,
            **self.metrics,
            "untrained": self.untrained,
            "kernel": self.kernel,
            "hardware": self.hardware,
            "train_s": self.train_s,
            "total_s": self.total_s,
            "peak_memory_mib": self.peak_memory_mib,
            "started": self.record["started"],
            "finished": self.record["finished"],
        }

    @classmethod
    def checked(cls, folder: Path, record: Record) -> "Run":
        """Makes the run of a record; raises ``UserError`` where the record does not fit this version or
        contradicts itself."""
        run = cls(folder, record)
        try:
            _ = run.variant, run.model
        except (ValidationError, TypeError, ValueError, OSError, RuntimeError) as error:  # or no such path
            raise UserError(f"the record in {folder} does not fit this version: {short(error)}") from error
        if run.finished and not (run.data and run.attention and run.metric.name in run.metrics):
            name = run.metric.name
            raise UserError(f"the record in {folder} says finished but lacks its data, attention or {name}")
        asked = run.config["attention"]["variant"]
        ran = run.attention.get("variant", asked)
        if ran != asked:
            raise UserError(f"the record in {folder} asked for {asked} but ran {ran}: run it again")
        return run


def _settings_of(link: Link) -> str:
    """The hashes of the settings of the runs that a run began from, the last one first."""
    before = link["pretrained"]
    return f"{link['settings']}, {_settings_of(before)}" if before else link["settings"]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number of usable size; a diverged training or a damaged file has others."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12


def find_runs(roots: Roots) -> tuple[list[Run], list[str]]:
    """Finds every readable run below ``roots``, each once, and says what is wrong with each other record.

    Without the trials of tunings, which are no results. Raises ``UserError`` where a root is no folder.
    """
    runs, problems = find_all(roots)
    return [run for run in runs if not run.trial], problems


def find_all(roots: Roots) -> tuple[list[Run], list[str]]:
    """Finds runs as ``find_runs`` does, with the trials of tunings among them."""
    runs: dict[Path, Run] = {}
    problems: list[str] = []
    for root in [roots] if isinstance(roots, str | os.PathLike) else roots:
        records, unreadable = store.find(Path(root))
        problems += [line for line in unreadable if line not in problems]
        for folder, record in records:
            try:
                runs.setdefault(folder.resolve(), Run.checked(folder, record))
            except UserError as error:
                problems.append(str(error))
    return list(runs.values()), problems


def read_runs(roots: Roots) -> list[Run]:
    """Reads every run below one folder or several, in the order of their paths.

    A record that cannot be used is left out with a warning; trials of tunings, which are no results, are left
    out. Raises ``UserError`` where a root is no folder.
    """
    runs, problems = find_runs(roots)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return runs
