"""Trackers by transformers' own names: TensorBoard's files hold the curves, and no tracker moves a number."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finetune.errors import UserError
from finetune.records import store
from finetune.training import trackers
from finetune.training.arguments import training_arguments
from tests.support.records import run_config
from tests.support.small_runs import folder, run

SMALL = ["--attention", "softmax,sa-softmax", "--train.max_steps", "4", "--attention.kernel", "reference"]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracked")
    assert run("classify", root, *SMALL, "--train.report_to", "tensorboard") == 0
    return root


def events(where: Path) -> EventAccumulator:
    """What TensorBoard reads of the one event file below a run's folder."""
    (file,) = where.rglob("events.out.tfevents.*")
    return EventAccumulator(str(file)).Reload()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_each_run_keeps_its_own_curves(tracked: Path, variant: str) -> None:
    where = folder("classify", tracked, variant)
    read, curve = events(where), store.read(where)["curve"]
    for scalar, key in (
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("eval/loss", "eval_loss"),
        ("eval/accuracy", "eval_accuracy"),
    ):
        expected = [(point["step"], pytest.approx(point[key])) for point in curve if key in point]
        assert expected and [(point.step, point.value) for point in read.Scalars(scalar)] == expected


@pytest.mark.slow
def test_a_tracker_moves_no_number(tracked: Path, tmp_path: Path) -> None:
    assert run("classify", tmp_path, *SMALL, "--attention", "sa-softmax") == 0
    one, two = folder("classify", tracked, "sa-softmax"), folder("classify", tmp_path, "sa-softmax")
    weights = [load_file(where / "model.safetensors") for where in (one, two)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0].keys() | weights[1].keys())
    assert store.read_predictions(one) == store.read_predictions(two)
    assert store.read(one)["metrics"] == store.read(two)["metrics"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("tensorbord", "unknown tracker in train.report_to 'tensorbord': did you mean 'tensorboard'?"),
        ("null", "unknown tracker in train.report_to 'None': did you mean 'none'?"),
        ("wandb", "train.report_to wandb cannot be used: WandbCallback requires wandb to be installed"),
        ("[tensorboard, mlflow]", "train.report_to mlflow cannot be used: pip install mlflow"),
        ("[tensorboard, none]", "train.report_to none stands alone"),
    ],
)
def test_a_tracker_that_cannot_be_used_stops_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str, said: str
) -> None:
    assert run("classify", tmp_path / "runs", *SMALL, "--train.report_to", wanted) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_without_tensorboard_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "transformers.integrations.integration_utils.is_tensorboard_available"
    monkeypatch.setattr(module, lambda: False)
    with pytest.raises(UserError, match=r"pip install 'softmax-finetune\[tensorboard\]'"):
        trackers.check(["tensorboard"])


def test_one_folder_for_the_curves_of_all_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "curves")
    with pytest.raises(UserError, match="TENSORBOARD_LOGGING_DIR would put the curves of all runs into one"):
        trackers.check(["tensorboard"])
    trackers.check([])


def test_a_run_is_listed_under_a_name_of_its_own() -> None:
    name = training_arguments(run_config("sa-softmax", 3), Path("runs/here")).run_name
    assert name == "agnews/scratch-tiny/sa-softmax/seed-3"
    own = run_config(train={"run_name": "mine"})
    assert training_arguments(own, Path("runs/here")).run_name == "mine"


class Tracker(types.ModuleType):
    """A tracker's package with an open run, as far as transformers and ``close`` look at it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.open: Any = object()
        self.ended = 0
        self.context_vars = types.SimpleNamespace(current_run=types.SimpleNamespace(get=lambda: self.open))

    @property
    def run(self) -> Any:
        return self.open

    def get_run(self) -> Any:
        return self.open

    def finish(self) -> None:
        assert self.open is not None, "trackio and swanlab raise where nothing is open"
        self.open, self.ended = None, self.ended + 1

    active_run = get_run
    end_run = end = finish


@pytest.mark.parametrize("name", list(trackers.CLOSE))
def test_a_run_left_open_is_ended_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Else the next run of a grid would go on in it."""
    tracker = Tracker(name)
    monkeypatch.setitem(sys.modules, name, tracker)
    trackers.close()
    assert tracker.ended == 1
    if name != "comet_ml":  # whose end() does nothing where nothing is open
        trackers.close()
        assert tracker.ended == 1
