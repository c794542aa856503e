"""Runs in W&B, MLflow and Trackio: one group for what is compared, and the result of the comparison in it."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.compare import compare
from finetune.records.run import Run
from finetune.training import grouping
from finetune.training.grouping import ADAPTERS, GROUP, Grouped, label_of
from tests.support.records import run_config, save_accuracies, started

ACCURACIES = {"softmax": (0.80, 0.81, 0.79), "sa-softmax": (0.90, 0.91, 0.92)}


class Standin(types.ModuleType):
    """A tracker's package that keeps what it is told, as far as the adapters and ``trackers.close`` go."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[str, Any]] = []
        self.run: Any = None
        self.summary, self.config = _Told(self, "summary"), _Told(self, "config")
        self.context_vars = types.SimpleNamespace(current_run=types.SimpleNamespace(get=lambda: self.run))

    def init(self, **options: Any) -> Any:
        assert self.run is None, "the run before was left open"
        self.told.append(("init", options))
        self.run = self
        return self

    def finish(self) -> None:
        self.run = None

    def start_run(self, **options: Any) -> Any:
        return self.init(**options)

    def active_run(self) -> Any:
        return self.run

    def search_runs(self, **options: Any) -> list[Any]:
        self.told.append(("search", options))
        runs = [each for what, each in self.told if what == "init"]
        return [types.SimpleNamespace(info=types.SimpleNamespace(run_id="earlier"))] if runs else []

    def set_tags(self, tags: Any) -> None:
        self.told.append(("tags", tags))

    def log_metrics(self, metrics: Any) -> None:
        self.told.append(("metrics", metrics))

    log, end_run = log_metrics, finish


class _Told:
    def __init__(self, package: Standin, what: str) -> None:
        self.package, self.what = package, what

    def update(self, values: Any) -> None:
        self.package.told.append((self.what, values))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Standin]:
    found = {name: Standin(name) for name in ADAPTERS}
    for name, package in found.items():
        monkeypatch.setitem(sys.modules, name, package)
    return found


def told(package: Standin, *what: str) -> dict[str, Any]:
    return {key: value for kind, values in package.told if kind in what for key, value in values.items()}


def group(variant: str, seed: int, **over: Any) -> str:
    entry = started(variant, seed, **over)
    return label_of(Run(Path("run"), entry), run_config(variant, seed)).group


def test_a_group_holds_what_is_compared_and_nothing_else() -> None:
    mine = group("softmax", 0)
    assert mine.startswith("agnews/scratch-tiny/") and len(mine) < 128
    tracked = {"train": {"report_to": ["wandb"], "run_name": "x"}}
    assert mine == group("sa-softmax", 5) == group("softmax", 1, attention={"start": "calibrated"})
    assert mine == group("softmax", 0, **tracked)
    others = [
        group("softmax", 0, train={"learning_rate": 0.5}),
        group("softmax", 0, fingerprint="0" * 16),
        group("softmax", 0, sample=True),
        group("softmax", 0, model={"name": "org/it's a model"}),
    ]
    assert len({mine, *others}) == 5 and "'" not in others[-1]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_run_bears_its_group_variant_and_seed(packages: dict[str, Standin], name: str) -> None:
    config = run_config("sa-softmax", 3, train={"report_to": [name, "tensorboard"]})
    label = label_of(Run(Path("run"), started("sa-softmax", 3)), config)
    callback = Grouped(label)
    callback.on_init_end(None, None, None)
    callback.on_train_begin(None, None, None)
    said = told(packages[name], "init", "tags", "config")
    if name == "wandb":
        assert (said["group"], said["job_type"], said["tags"]) == (label.group, "sa-softmax", ["sa-softmax"])
        assert said["name"] == "agnews/scratch-tiny/sa-softmax/seed-3"
    else:
        assert said == {GROUP: label.group, "finetune.variant": "sa-softmax", "finetune.seed": "3"}
    assert not any(other.told for key, other in packages.items() if key != name)


def test_a_trial_is_in_no_group_of_results() -> None:
    result, trial = started("softmax", 0), started("softmax", 1000)
    trial["config"]["trial"] = True
    groups = [label_of(Run(Path("run"), entry), run_config()).group for entry in (result, trial)]
    assert groups[0] != groups[1] and "/trial/" in groups[1]


def test_a_group_of_the_user_s_own_is_kept(
    packages: dict[str, Standin], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    config = run_config(train={"report_to": "wandb"})
    Grouped(label_of(Run(Path("run"), started("softmax", 0)), config)).on_init_end(None, None, None)
    assert told(packages["wandb"], "init")["group"] == "mine"


def recorded(root: Path, *trackers: str, sample: bool = False) -> Path:
    for variant, accuracies in ACCURACIES.items():
        save_accuracies(root, variant, accuracies, train={"report_to": list(trackers)}, sample=sample)
    return root


def test_a_comparison_is_a_run_of_the_group_in_each_tracker(
    packages: dict[str, Standin], tmp_path: Path
) -> None:
    comparison = compare([recorded(tmp_path, *ADAPTERS)])
    grouping.summarize(comparison)
    (table,) = comparison.tables
    difference = table.variants[1].difference
    assert difference is not None and difference.interval is not None
    for name, package in packages.items():
        said = told(package, "init", "summary", "tags", "metrics", "config") | told(package, "init").get(
            "config", {}
        )
        assert said["sa-softmax/accuracy_difference"] == pytest.approx(difference.mean) == 11.0
        assert [said["sa-softmax/low"], said["sa-softmax/high"]] == difference.interval
        assert (said["sa-softmax/p"], said["sa-softmax/seeds"]) == (difference.p, 3)
        assert (said["sa-softmax/verdict"], said["sa-softmax/margin"]) == ("better", difference.margin)
        mine = group("softmax", 0)
        assert mine in (said.get("group"), said.get(GROUP)) and package.run is None, name
    assert told(packages["wandb"], "init")["job_type"] == "comparison"


def test_a_later_comparison_takes_the_place_of_the_earlier(
    packages: dict[str, Standin], tmp_path: Path
) -> None:
    comparison = compare([recorded(tmp_path, *ADAPTERS)])
    grouping.summarize(comparison)
    grouping.summarize(comparison)
    begun = {
        name: [each for what, each in package.told if what == "init"] for name, package in packages.items()
    }
    assert begun["wandb"][0]["id"] == begun["wandb"][1]["id"] and begun["wandb"][1]["resume"] == "allow"
    assert [each["run_id"] for each in begun["mlflow"]] == [None, "earlier"]
    assert begun["trackio"][0]["name"] == begun["trackio"][1]["name"]


def test_the_sample_has_no_verdict(packages: dict[str, Standin], tmp_path: Path) -> None:
    grouping.summarize(compare([recorded(tmp_path, "mlflow", sample=True)]))
    said = told(packages["mlflow"], "tags")
    assert said["sa-softmax/verdict"] == said["finetune.sample"] == "SAMPLE"


def test_runs_without_such_a_tracker_reach_none(packages: dict[str, Standin], tmp_path: Path) -> None:
    grouping.summarize(compare([recorded(tmp_path, "tensorboard")]))
    assert not any(package.told for package in packages.values())


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_tracker_that_fails_is_said_and_stops_nothing(
    packages: dict[str, Standin],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no way\nto the server")

    for method in ("init", "set_tags"):
        monkeypatch.setattr(packages[name], method, fail)
    monkeypatch.setattr(packages[name].config, "update", fail)
    callback = Grouped(
        label_of(Run(Path("run"), started("softmax", 0)), run_config(train={"report_to": [name]}))
    )
    callback.on_init_end(None, None, None)
    callback.on_train_begin(None, None, None)
    grouping.summarize(compare([recorded(tmp_path, name)]))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and packages[name].run is None
    assert (
        said[0] == f"note: {name} could not be told of the comparison: ConnectionError: no way to the server"
    )
