"""Trials of a tuning, trained: scored on validation rows, and without a look at a test row."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.config.build import build
from finetune.config.loading import read_yaml
from finetune.data.dataset import Data
from finetune.records import store
from finetune.records.run import find_runs
from finetune.studies.tuning import SEEDS
from tests.support.small_runs import COMMON

FEW = [*COMMON, "--train.num_train_epochs", "1"]
GOOD = "0.003"


class Watched(dict[str, Any]):
    """Splits that tell of each look at the test rows, beyond which splits there are."""

    looked = 0

    def __getitem__(self, name: str) -> Any:
        type(self).looked += name == "test"
        return super().__getitem__(name)

    def values(self) -> Any:
        type(self).looked += "test" in self
        return super().values()

    def items(self) -> Any:
        for name in self:
            yield name, self[name]


def tune(root: Path, *options: str) -> int:
    words = ["classify", "--output", str(root), *FEW, "--attention", "softmax", "--seeds", "0"]
    return main([*words, "--tune", f"lr=1e30,{GOOD}", *options])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("tuned")
    assert tune(root) == 0
    yield root


def trial(root: Path, rate: str) -> Path:
    return root / f"tune/learning_rate-{rate}/agnews/scratch-tiny/softmax/seed-{SEEDS[0]}"


def test_a_trial_keeps_its_score_on_validation_rows_and_nothing_of_test_rows(
    tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = store.read(trial(tuned, GOOD))
    assert record["status"] == "finished" and record["config"]["trial"] is True
    assert record["predictions"] is None and record["probabilities"] is None
    assert record["data"] and {*record["data"]["tokens"]} == {"train", "validation"}
    last = record["curve"][-1]["eval_accuracy"]
    assert record["metrics"] and record["metrics"]["accuracy"]["value"] == pytest.approx(last)
    names = {path.name for path in trial(tuned, GOOD).iterdir()}
    left_out = ("model", "checkpoint", "predictions", "probabilities", "README")
    assert not any(name.startswith(left_out) for name in names)
    assert main(["push", str(trial(tuned, GOOD)), "--to", "org/name"]) == 2, "there is no model to publish"
    assert main(["diagnose", str(trial(tuned, GOOD))]) == 2
    assert "is a trial of a tuning, which keeps no model" in capsys.readouterr().err
    assert main(["show", str(trial(tuned, GOOD))]) == 0
    assert "on validation rows: a trial" in (shown := capsys.readouterr().out) and "next" not in shown
    config = build(read_yaml(trial(tuned, GOOD) / "finetune.yaml"))
    assert config.trial and pickle.loads(pickle.dumps(config)) == config, "processes hand it each other"


def test_a_diverged_trial_is_spent_and_the_runs_with_chosen_values_are_results(
    tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.read(trial(tuned, "1e+30"))["status"] == "failed"
    runs, problems = find_runs(tuned)
    assert not problems and [run.seed for run in runs] == [0, 0]
    (chosen,) = [run for run in runs if run.tuning]
    assert chosen.config["train"]["learning_rate"] == float(GOOD)
    assert chosen.folder.is_relative_to(tuned / "tuned")
    assert tune(tuned) == 0, "and again nothing is run"
    said = capsys.readouterr().out
    assert said.count("finished already, skipped") == 3 and said.count("failed, and is spent, skipped") == 1
    assert f"softmax: train.learning_rate {GOOD}, by" in said
    assert "the best of 2 trials, of which 1 failed" in said


def test_no_test_row_is_read_for_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the rehearsal nor in the run: with them it would be seen."""
    given = Data.given

    def watched(self: Data, config: Any) -> Data:
        data = given(self, config)
        return Data(Watched(data.splits), data.info, data.task)

    monkeypatch.setattr(Data, "given", watched)
    words = ["classify", "--output", str(tmp_path), *FEW, "--attention", "softmax", "--seeds", "0"]
    assert main(words) == 0 and Watched.looked
    Watched.looked = 0
    file = tmp_path / "trial.yaml"
    kept = (tmp_path / "agnews/scratch-tiny/softmax/seed-0/finetune.yaml").read_text()
    file.write_text(f"{kept}trial: true\n")
    assert main(["run", str(file), "--output", str(tmp_path / "tune")]) == 0
    assert not Watched.looked


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--tune", "train.learning_rate"], "--tune takes a key and its values"),
        (["--tune", "lr=0.1,0.2", "--tune", "train.learning_rate=0.3,0.4"], "is there twice"),
        (["--tune", "learning-rate=0.1,0.2"], "did you mean 'train.learning_rate'"),
        (["--tune", "lr=0.1,0.2", "--tune-seeds", "0"], "seed 0 is one of the comparison"),
        (["--tune-seeds", "5"], "--tune-seeds is of trials"),
        (["--tuning.trials", "5"], "unknown option '--tuning"),
    ],
)
def test_a_mistake_in_a_tuning_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert main(["classify", "--output", str(tmp_path), *FEW, *options]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
