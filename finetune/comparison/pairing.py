"""Groups the runs that may be compared: those equal in everything but attention and seed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.attention import PAPER
from finetune.config.identity import differing_keys
from finetune.config.lineage import Source, source_of
from finetune.config.schema import BASELINE
from finetune.records.pretraining import label
from finetune.records.run import COMPUTED, Run
from finetune.records.schema import Link
from finetune.statistics.over_seeds import ALPHA
from finetune.statistics.sequential import looks_of
from finetune.system.text import short

FROM_THE_PAPER = frozenset(PAPER)  # all others are controls
PRECISION = frozenset({"train.bf16", "train.fp16", "train.tf32"})  # the keys that ask for another


@dataclass(frozen=True)
class RunGroup:
    """Runs that may be compared with each other, one for each variant and seed."""

    runs: tuple[Run, ...]
    spare: tuple[Run, ...]  # further runs of a variant and seed that is there already

    @property
    def sample(self) -> bool:
        return any(run.sample for run in self.runs)

    @property
    def variants(self) -> list[str]:
        """Names of the variants; the baseline comes first even where it was not run."""
        return [BASELINE, *sorted({run.variant for run in self.runs} - {BASELINE})]

    @property
    def first(self) -> Run:
        """The run that speaks for all: a finished one where there is one."""
        return next((run for run in self.runs if run.finished), self.runs[0])

    def find(self, variant: str, seed: int) -> Run | None:
        return next((run for run in self.runs if (run.variant, run.seed) == (variant, seed)), None)

    def finished(self, variant: str) -> dict[int, Run]:
        return {run.seed: run for run in self.runs if run.variant == variant and run.finished}

    def level(self, variant: str) -> float:
        """The level of tests of ``variant``: 5%, or that of the look at which a plan for seeds is."""
        plan = self.first.config.get("until")
        if plan is None:
            return ALPHA
        return looks_of(plan).level(len({run.seed for run in self.runs if run.variant == variant}))

    def unlike_starts(self, variant: str) -> dict[int, str]:
        """Seeds of ``variant`` that are no pairs, since the baseline began otherwise, and why."""
        baseline, reasons = self.finished(BASELINE), {}
        for seed, run in self.finished(variant).items():
            if seed in baseline and (reason := unlike_start(run, baseline[seed])):
                reasons[seed] = reason
        return reasons


def unlike_start(run: Run, baseline: Run) -> str | None:
    """Gives the reason why two runs of one setting and seed did not begin alike; ``None`` where they did.

    They did where their initial weights are equal. Those of variants that were pretrained each by itself
    cannot be: they began alike where their pretraining runs are a pair by the same rules, and what their
    checkpoints lack, a new head, was drawn alike.
    """
    source = source_of(run.config["model"]["name"])
    if source is None or source.variant is not None:
        return _unlike_weights(run.initial_weights, baseline.initial_weights)
    for each in (run, baseline):
        own = label(each.config["attention"])
        if each.pretrained is None:
            return f"the record in {each.folder} does not say which run it began from"
        if each.pretrained["variant"] != own:
            began = each.pretrained
            return (
                f"{each.folder} began from a checkpoint of {began['variant']} ({began['folder']}), not from "
                f"its own; where that is meant, name it: {Source(source.folder, began['variant']).name}"
            )
    assert run.pretrained is not None and baseline.pretrained is not None
    return _unlike_links(run.pretrained, baseline.pretrained)


def _unlike_links(mine: Link, other: Link) -> str | None:
    """Gives the reason why two pretraining runs of equal settings (a group's are) are no pair, or what was
    added to them is unlike."""
    places = f"({mine['folder']} and {other['folder']})"
    if mine["seed"] != other["seed"]:
        return f"the runs they began from have other seeds {places}"
    if mine["new_weights"] != other["new_weights"]:
        return (
            "the weights that are not in their checkpoints differ from the start, such as those of a new head"
        )
    if mine["pretrained"] and other["pretrained"]:
        return _unlike_links(mine["pretrained"], other["pretrained"])
    if reason := _unlike_weights(mine["initial_weights"], other["initial_weights"]):
        return f"of the runs they began from {places} {reason}"
    return None


def _unlike_weights(mine: str | None, other: str | None) -> str | None:
    if mine and other and mine != other:
        return f"their initial weights differ ({short(mine)} against {short(other)})"
    return None


def is_control(run: Run) -> bool:
    """Whether its variant is not from the paper, but here to compare with."""
    return run.config["attention"]["variant"] not in FROM_THE_PAPER


def groups(runs: Iterable[Run]) -> list[list[RunGroup]]:
    """Groups runs by task, language pair, model and data kind (real or sample), and within these by settings.

    Of the groups of one task and model, that with the most finished runs comes first.
    """
    by_name: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        by_name.setdefault((run.task, run.pair or "", run.model, run.sample), []).append(run)
    return [_by_settings(by_name[key]) for key in sorted(by_name, key=lambda key: (key[-1], key[:-1]))]


def _by_settings(runs: list[Run]) -> list[RunGroup]:
    """Groups runs of one task and model by settings; of each variant and seed one run counts, the newest."""
    by_text: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: not run.finished):
        text = json.dumps(run.settings(), sort_keys=True, default=str)
        if not run.finished:  # it lacks facts, so its configuration decides
            configured = run.configured()
            alike = (known for known, (first, *_) in by_text.items() if first.configured() == configured)
            text = next(alike, text)
        by_text.setdefault(text, []).append(run)
    # The name breaks ties, so that the order does not hang on the file system.
    ordered = sorted(by_text.items(), key=lambda item: (-sum(r.finished for r in item[1]), item[0]))
    formed = []
    for _, members in ordered:
        # A finished run comes before any newer one without a result.
        newest = sorted(members, key=lambda run: (run.finished, run.record["started"]), reverse=True)
        chosen: dict[tuple[str, int], Run] = {}
        for run in newest:
            chosen.setdefault((run.variant, run.seed), run)
        spare = tuple(run for run in newest if chosen[run.variant, run.seed] is not run)
        formed.append(RunGroup(tuple(chosen[key] for key in sorted(chosen)), spare))
    return formed


def differences(first: Run, second: Run) -> list[str]:
    """Lists the settings in which two runs differ: ``train.learning_rate (0.1 against 0.2)``."""
    one, two = first.settings(), second.settings()
    keys = differing_settings(one, two)
    return [f"{key} ({short(one.get(key))} against {short(two.get(key))})" for key in keys]


def differing_settings(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Lists the keys in which two ``Run.settings`` differ, without what only follows from another of them."""
    keys = differing_keys(one, two)
    asked = [key for key in keys if not key.startswith(f"{COMPUTED}.")]
    if COMPUTED in asked:  # one of them does not tell: no fact of the other's is known to be unlike it
        return asked
    # Another precision changes everything that is computed; other keys, optimizer and schedule alone.
    halved = any(key in PRECISION for key in asked)
    explained = (f"{COMPUTED}.",) if halved else (f"{COMPUTED}.optimizer", f"{COMPUTED}.scheduler")
    return [key for key in keys if key in asked or not (asked and key.startswith(explained))]
