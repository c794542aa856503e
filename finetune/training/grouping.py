"""Runs in an experiment tracker, grouped by the comparison that they are in, and its result beside them.

Of the trackers in ``ADAPTERS`` every run bears the name of its group, its variant and its seed, and after a
comparison one more run of the group, ``comparison``, holds the paired differences. What a tracker cannot do
is said in a line, and stops neither a run nor a comparison.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune.comparison.compare import Comparison
from finetune.comparison.tables import ResultTable
from finetune.config.folders import run_folder
from finetune.config.schema import RunConfig
from finetune.records import store
from finetune.records.run import Run
from finetune.system import world
from finetune.system.text import reason, say
from finetune.training import trackers

COMPARISON = "comparison"
"""The type of the run of a group that holds the result, and its name where names need not be unique."""
GROUP = "finetune.group"
UNSAFE = re.compile(r"[^A-Za-z0-9._/ -]+")  # what the name of a group, or a search for it, may not take
Summary = Mapping[str, float | str]


@dataclass(frozen=True)
class Label:
    """What a tracker is told of a run."""

    group: str  # alike for all runs that are compared with each other
    variant: str  # or ``comparison``
    name: str
    train: Mapping[str, Any]  # ``train`` of the configuration, with the settings of some trackers
    seed: int | None = None
    sample: bool = False

    @property
    def tags(self) -> dict[str, str]:
        """Key -> value, for trackers that have no groups."""
        tags = {GROUP: self.group, "finetune.variant": self.variant}
        tags |= {} if self.seed is None else {"finetune.seed": str(self.seed)}
        return tags | ({"finetune.sample": "SAMPLE"} if self.sample else {})


@dataclass(frozen=True)
class Adapter:
    """How one tracker takes a group; each function gets the tracker's package first."""

    begin: Callable[[Any, Label], Any]
    """Before transformers' callback begins a run of its own, or takes the one that is open."""
    mark: Callable[[Any, Label], Any]
    """Once the run is open."""
    summarize: Callable[[Any, Label, Summary], None]
    """Writes the result of a comparison as a run of the group, over that of an earlier comparison."""


def _begin_wandb(wandb: Any, label: Label, **options: Any) -> Any:
    tags = [label.variant, *(["SAMPLE"] if label.sample else [])]
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "huggingface"),  # as transformers has it
        name=label.name,
        group=os.environ.get("WANDB_RUN_GROUP") or label.group,
        job_type=label.variant,
        tags=tags,
        **options,
    )


def _summarize_wandb(wandb: Any, label: Label, summary: Summary) -> None:
    run = _begin_wandb(wandb, label, id=f"{COMPARISON}-{_digest(label.group)}", resume="allow")
    run.summary.update(dict(summary))
    wandb.finish()


def _summarize_mlflow(mlflow: Any, label: Label, summary: Summary) -> None:
    if experiment := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        mlflow.set_experiment(experiment)
    wanted = f"tags.`{GROUP}` = '{label.group}' and tags.`finetune.variant` = '{COMPARISON}'"
    earlier = mlflow.search_runs(filter_string=wanted, output_format="list")
    mlflow.start_run(run_id=earlier[0].info.run_id if earlier else None, run_name=label.name)
    mlflow.set_tags(label.tags | {key: value for key, value in summary.items() if isinstance(value, str)})
    mlflow.log_metrics({key: value for key, value in summary.items() if not isinstance(value, str)})
    mlflow.end_run()


def _summarize_trackio(trackio: Any, label: Label, summary: Summary) -> None:
    words = {key: value for key, value in summary.items() if isinstance(value, str)}
    trackio.init(
        project=label.train.get("project", "huggingface"),
        name=label.name,
        space_id=label.train.get("trackio_space_id"),
        resume="allow",
        config=label.tags | words,
    )
    trackio.log({key: value for key, value in summary.items() if not isinstance(value, str)})
    trackio.finish()


def _nothing(package: Any, label: Label) -> None:
    """What a tracker need not be told."""


ADAPTERS: Mapping[str, Adapter] = {
    "wandb": Adapter(_begin_wandb, _nothing, _summarize_wandb),
    "mlflow": Adapter(_nothing, lambda mlflow, label: mlflow.set_tags(label.tags), _summarize_mlflow),
    "trackio": Adapter(
        _nothing, lambda trackio, label: trackio.config.update(label.tags), _summarize_trackio
    ),
}
"""Name in ``train.report_to`` -> adapter."""


def named(train: Mapping[str, Any]) -> list[str]:
    """The trackers of ``train.report_to`` that take groups."""
    given = train.get("report_to")
    return [name for name in ([given] if isinstance(given, str) else given or []) if name in ADAPTERS]


def group_of(run: Run) -> str:
    """The group of a run: its task, its model, and a hash of what it shares with all it is compared with.

    Trials of a tuning, which are no results, have groups of their own.
    """
    prints = {name: split.get("fingerprint") for name, split in run.splits.items()}
    kind = ["trial"] if run.trial else []
    text = json.dumps([run.configured(), prints, run.sample, *kind], sort_keys=True, default=str)
    return "/".join([UNSAFE.sub("-", f"{run.title}/{run.model}")[:100], *kind, _digest(text)])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def label_of(run: Run, config: RunConfig) -> Label:
    """The label of a run that is about to train; its record has its data already."""
    name = config.train.get("run_name") or run_folder(Path(), config).as_posix()
    return Label(group_of(run), run.variant, name, config.train, run.seed, run.sample)


class Grouped(TrainerCallback):
    """Puts a run into its group in every tracker that it reports to."""

    def __init__(self, label: Label) -> None:
        self.label = label

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._each(lambda adapter, package: adapter.begin(package, self.label))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._each(lambda adapter, package: adapter.mark(package, self.label))

    def _each(self, tell: Callable[[Adapter, Any], Any]) -> None:
        if world.is_main():
            for name in named(self.label.train):
                _tried(name, partial(tell, ADAPTERS[name]))


def summarize(comparison: Comparison) -> None:
    """Writes each table of a comparison into the trackers that its runs have reported to."""
    for table in comparison.tables:
        summary = summary_of(table)
        runs = [Path(line.folder) for result in table.variants for line in result.runs]
        if not summary or not runs:
            continue
        first = Run(runs[0], store.read(runs[0]))
        group = group_of(first)
        label = Label(group, COMPARISON, f"{group}/{COMPARISON}", first.config["train"], sample=table.sample)
        for name in named(label.train):
            _tried(name, partial(_summarize, ADAPTERS[name], label, summary))
    trackers.close()  # what a failure has left open


def _summarize(adapter: Adapter, label: Label, summary: Summary, package: Any) -> None:
    adapter.summarize(package, label, summary)


def summary_of(table: ResultTable) -> dict[str, float | str]:
    """The paired result of each variant of a table, by ``VARIANT/WHAT``, in reported units."""
    found: dict[str, float | str] = {}
    for result in table.variants:
        if (difference := result.difference) is None:
            continue
        low, high = difference.interval or (None, None)
        facts = {
            f"{table.metric}_difference": difference.mean,
            "low": low,
            "high": high,
            "p": difference.p,
            "p_adjusted": difference.p_adjusted,
            "margin": difference.margin,
            "seeds": len(difference.seeds),
            "verdict": "SAMPLE" if table.sample else str(difference.verdict),
        }
        found |= {f"{result.name}/{key}": value for key, value in facts.items() if value is not None}
    return found


def _tried(name: str, act: Callable[[Any], Any]) -> None:
    """Has a tracker do something; a failure of its own is said, and ends nothing."""
    try:
        act(import_module(name))
    except Exception as error:  # of packages of several makers, and of what they talk to
        say(f"note: {name} could not be told of the comparison: {reason(error, typed=True)}")
