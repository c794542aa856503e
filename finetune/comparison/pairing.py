"""Which runs may be compared: those equal in everything but attention and seed. All others are named."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.attention import PAPER
from finetune.config.folders import arm_label, model_slug
from finetune.config.identity import differing_keys, flatten
from finetune.config.schema import BASELINE, NEUTRAL, AttentionConfig, ModelConfig
from finetune.errors import UserError
from finetune.metrics.scorers import PRIMARY
from finetune.records.store import Record, find
from finetune.system.text import one_line

FROM_THE_PAPER = frozenset(PAPER)  # all others are controls
COMPUTED = "computed"  # how the facts of ``record["computed"]`` begin
PRECISION = frozenset({"train.bf16", "train.fp16", "train.tf32"})  # the keys that ask for another


@dataclass(frozen=True)
class Run:
    """One record, where it lies, and what names it in a report."""

    folder: Path
    record: Record
    arm: str  # variant, with its scope and parameters where they are not the default
    model: str

    @property
    def seed(self) -> int:
        return int(self.record["config"]["seed"])

    @property
    def finished(self) -> bool:
        return self.record["status"] == "finished"

    @property
    def sample(self) -> bool:
        data = self.record["data"]  # None: it failed before it had any
        return bool(data["sample"]) if data else self.record["config"]["data"].get("source") == "sample"

    @property
    def value(self) -> float:
        """The primary metric, as recorded; only for a finished run."""
        metrics = self.record["metrics"] or {}
        return float(metrics[PRIMARY[self.record["task"]["kind"]]]["value"])

    @property
    def kernel(self) -> str | None:
        """The kernel that computed its attention; the configuration says which one was asked for."""
        return (self.record["attention"] or {}).get("kernel")

    @property
    def control(self) -> bool:
        """Its variant is not from the paper, but here to compare with."""
        return self.record["config"]["attention"]["variant"] not in FROM_THE_PAPER

    @property
    def start(self) -> dict[str, Any] | None:
        """How the swapped model started, with cosines; ``None`` for softmax and where it was not recorded."""
        return (self.record["attention"] or {}).get("start")

    @property
    def initial_weights(self) -> str | None:
        """Fingerprint of the weights before training; ``None`` where it was not recorded."""
        return (self.record["model"] or {}).get("initial_weights")

    def settings(self) -> dict[str, Any]:
        """Everything that must be equal for a fair pair, by dotted names: configuration and facts."""
        return self.configured() | self._facts()

    def configured(self) -> dict[str, Any]:
        """The configuration without what a comparison varies: the attention (but for its kernel) and seed.

        Nor does it say where the rows came from: their fingerprints tell whether they are equal; nor whether
        tokens were kept, which moves no number.
        """
        config = self.record["config"]
        kept = {key: value for key, value in config.items() if key != "seed"}
        kept["attention"] = {"kernel": config["attention"].get("kernel")}
        kept["data"] = {key: value for key, value in config["data"].items() if key != "source"}
        return {key: value for key, value in flatten(kept).items() if key not in NEUTRAL}

    def _facts(self) -> dict[str, Any]:
        """What the same configuration can turn into on another day or machine."""
        record = self.record
        splits = (record["data"] or {}).get("splits", {})
        facts = {f"{name} rows (fingerprint)": split.get("fingerprint") for name, split in splits.items()}
        facts["devices"] = record["hardware"].get("devices")  # with the batch of one, the global batch
        facts["model revision"] = (record["model"] or {}).get("revision")
        facts["tokenizer (fingerprint)"] = (record["model"] or {}).get("tokenizer")
        facts["attention dropout"] = (record["attention"] or {}).get("dropout")
        facts |= _computed(record)
        if record["task"]["kind"] == "translation":
            facts["BLEU signature"] = (record["metrics"] or {}).get("bleu", {}).get("signature")
        return facts


@dataclass(frozen=True)
class Setting:
    """Runs that may be compared with each other, one for each arm and seed."""

    runs: tuple[Run, ...]
    spare: tuple[Run, ...]  # further runs of an arm and seed that is there already

    @property
    def sample(self) -> bool:
        return any(run.sample for run in self.runs)

    @property
    def arms(self) -> list[str]:
        """Their names; the baseline comes first even where it was not run."""
        return [BASELINE, *sorted({run.arm for run in self.runs} - {BASELINE})]

    def find(self, arm: str, seed: int) -> Run | None:
        return next((run for run in self.runs if (run.arm, run.seed) == (arm, seed)), None)

    def finished(self, arm: str) -> dict[int, Run]:
        return {run.seed: run for run in self.runs if run.arm == arm and run.finished}

    def unlike_starts(self, arm: str) -> dict[int, str]:
        """Seeds of ``arm`` that may not be paired with the baseline, having begun elsewhere, and why."""
        baseline, reasons = self.finished(BASELINE), {}
        for seed, run in self.finished(arm).items():
            mine, other = run.initial_weights, seed in baseline and baseline[seed].initial_weights
            if mine and other and mine != other:
                reasons[seed] = f"their initial weights differ ({_short(mine)} against {_short(other)})"
        return reasons


def collect(roots: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Every readable run below ``roots``, each once, and one line about each record that is not usable.

    Raises ``UserError`` where a root is no folder.
    """
    runs: dict[Path, Run] = {}
    problems: list[str] = []
    for root in roots:
        found, unreadable = find(root)
        problems += [line for line in unreadable if line not in problems]
        for folder, record in found:
            try:
                runs.setdefault(folder.resolve(), _run(folder, record))
            except UserError as error:
                problems.append(str(error))
    return list(runs.values()), problems


def groups(runs: Iterable[Run]) -> list[list[Setting]]:
    """Runs of one task, language pair, model and data kind (real or sample), each group by its settings.

    In a group the setting with the most finished runs comes first.
    """
    by_name: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        task = run.record["task"]
        name = (task["name"], task["pair"] or "", run.model, run.sample)
        by_name.setdefault(name, []).append(run)
    return [_settings(by_name[key]) for key in sorted(by_name, key=lambda key: (key[-1], key[:-1]))]


def differences(first: Run, second: Run) -> list[str]:
    """In words, what keeps two runs from being compared: ``train.learning_rate (0.1 against 0.2)``."""
    one, two = first.settings(), second.settings()
    keys = differing_settings(one, two)
    return [f"{key} ({_short(one.get(key))} against {_short(two.get(key))})" for key in keys]


def differing_settings(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """The keys in which two ``Run.settings`` differ, without what was computed as another key asked for."""
    keys = differing_keys(one, two)
    asked = [key for key in keys if not key.startswith(f"{COMPUTED}.")]
    if COMPUTED in asked:  # one of them does not tell: no fact of the other's is known to be unlike it
        return asked
    halved = any(key in PRECISION for key in asked)
    explained = (f"{COMPUTED}.",) if halved else (f"{COMPUTED}.optimizer", f"{COMPUTED}.scheduler")
    return [key for key in keys if key in asked or not (asked and key.startswith(explained))]


def _computed(record: Record) -> dict[str, Any]:
    """What a run computed with, but for its device and its attention's kernels, which differ between arms.

    A record of an earlier version does not tell, and goes with others of its kind only.
    """
    found = record["computed"]
    if found is None:
        return {COMPUTED: "not recorded"}
    kept = {key: value for key, value in found.items() if key not in ("device", "attention")}
    return {COMPUTED: "recorded"} | flatten(kept, f"{COMPUTED}.")


def _run(folder: Path, record: Record) -> Run:
    config, task = record["config"], record["task"]
    try:
        attention, model = AttentionConfig(**config["attention"]), ModelConfig(**config["model"])
        arm, name = arm_label(attention), _model_name(model)
    except (ValidationError, TypeError, ValueError, OSError, RuntimeError) as error:  # or no such path
        raise UserError(f"the record in {folder} does not fit this version: {_short(error)}") from error
    if record["status"] == "finished":
        kind = PRIMARY[task["kind"]]
        value = (record["metrics"] or {}).get(kind, {}).get("value")
        if record["data"] is None or record["attention"] is None or value is None:
            raise UserError(f"the record in {folder} says finished but lacks its data, attention or {kind}")
    proven = (record["attention"] or {}).get("variant", attention.variant)
    if proven != attention.variant:
        raise UserError(
            f"the record in {folder} asked for {attention.variant} but ran {proven}: run it again"
        )
    return Run(folder, record, arm, name)


def _model_name(model: ModelConfig) -> str:
    """As the user named it, but a local folder by its base name: where it lies says nothing to a reader."""
    if Path(model.name).is_absolute():
        return model_slug(model)
    return f"{model.name}, LoRA rank {model.lora.rank}" if model.lora.rank else model.name


def _settings(runs: list[Run]) -> list[Setting]:
    by_text: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: not run.finished):
        by_text.setdefault(_setting_of(run, by_text), []).append(run)
    # The name breaks ties, so that the order does not hang on the file system.
    ordered = sorted(by_text.items(), key=lambda item: (-sum(r.finished for r in item[1]), item[0]))
    return [_setting(members) for _, members in ordered]


def _setting(members: list[Run]) -> Setting:
    """The newest of several runs of one arm and seed counts, a finished one before any other."""
    newest = sorted(members, key=lambda run: (run.finished, run.record["started"]), reverse=True)
    chosen: dict[tuple[str, int], Run] = {}
    for run in newest:
        chosen.setdefault((run.arm, run.seed), run)
    spare = tuple(run for run in newest if chosen[run.arm, run.seed] is not run)
    return Setting(tuple(chosen[key] for key in sorted(chosen)), spare)


def _setting_of(run: Run, known: dict[str, list[Run]]) -> str:
    if not run.finished:  # it lacks facts, so its configuration decides
        for text, members in known.items():
            if run.configured() == members[0].configured():
                return text
    return json.dumps(run.settings(), sort_keys=True, default=str)


def _short(value: object) -> str:
    text = one_line(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
