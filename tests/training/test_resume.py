"""Damaged checkpoints, the state of callbacks in them, and finished runs whose files are not whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from finetune.config.build import build
from finetune.records import manifest, store
from finetune.studies.grid import Cell
from finetune.studies.state import look
from finetune.training import resume
from finetune.training.trainer import comparable
from tests.support.resumed import kept_at, same_end
from tests.support.small_runs import folder, run
from tests.support.tiny_models import FAMILIES

ROOT = Path(__file__).parents[2]
STEPS = ["--attention", "sa-softmax", "--train.save_strategy", "steps", "--train.save_steps", "7"]
STEPS += ["--train.save_total_limit", "3"]
LATER = [
    "--train.eval_strategy",
    "steps",
    "--train.eval_steps",
    "7",
    "--train.load_best_model_at_end",
    "true",
]
STOPPED = [*STEPS, *LATER, "--early_stopping_patience", "1", "--train.num_train_epochs", "6"]
STOPPED += ["--train.learning_rate", "1e-9", "--train.logging_steps", "4"]  # nothing improves


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that stopped early: after the second evaluation, since the first one was the best."""
    root = tmp_path_factory.mktemp("stopped")
    assert run("classify", root, "--diagnose", *STOPPED) == 0
    where = folder("classify", root, "sa-softmax")
    assert [path.name for path in resume._checkpoints(where)] == ["checkpoint-14", "checkpoint-7"]
    return where


@pytest.fixture
def killed(tmp_path: Path, stopped: Path) -> Path:
    """The same, killed before it finished."""
    where = folder("classify", tmp_path, "sa-softmax")
    shutil.copytree(stopped, where)
    store.write(where, {**store.read(where), "status": "running", "diagnostics": None})
    return where


def identity(where: Path) -> str:
    """Of the run, as its own manifest has it."""
    found = json.loads((where / manifest.FILE).read_text())["run"]
    assert isinstance(found, str)
    return found


def same(first: Path, second: Path) -> None:
    """Weights, predictions, diagnostics and what the record says but for times."""
    weights = [load_file(where / "model.safetensors") for where in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name in ("predictions.jsonl", "diagnostics.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    told = [store.read(where) for where in (first, second)]
    assert told[0]["metrics"] == told[1]["metrics"] and told[1]["status"] == "finished"
    losses = [[(p["step"], p.get("loss"), p.get("eval_loss")) for p in each["curve"]] for each in told]
    assert losses[0] == losses[1]


FILES = (
    "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "config.json", manifest.FILE,
)  # fmt: skip
DAMAGES = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size * 2 // 3),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "swapped": lambda file: shutil.copy(file.parents[1] / "checkpoint-7" / other(file.name), file),
}


def other(name: str) -> str:
    return FILES[(FILES.index(name) + 1) % len(FILES)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(killed: Path, name: str, damage: str) -> None:
    DAMAGES[damage](killed / "checkpoint-14" / name)
    found = resume.newest(killed, identity(killed))
    assert found.checkpoint == killed / "checkpoint-7"
    (reason,) = found.passed
    assert reason.startswith("checkpoint-14 is passed over: it")


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_whose_best_model_is_damaged_is_passed_over(killed: Path, name: str) -> None:
    (killed / "checkpoint-7" / name).unlink()
    found = resume.newest(killed, identity(killed))
    assert found.checkpoint is None and len(found.passed) == 2


def test_notes_beside_a_checkpoint_spoil_nothing(killed: Path) -> None:
    (killed / "checkpoint-14/notes.txt").write_text("the good one", encoding="utf-8")
    assert resume.newest(killed, identity(killed)).checkpoint == killed / "checkpoint-14"
    (killed / "checkpoint-14/pytorch_model.bin").write_bytes(b"")
    found = resume.newest(killed, identity(killed))
    assert found.passed == ["checkpoint-14 is passed over: pytorch_model.bin was not written with it"]


CHANGING = {  # what changes the settings of an optimizer or a schedule while it trains
    "plateau": ["--train.lr_scheduler_type", "reduce_lr_on_plateau", "--train.metric_for_best_model", "loss",
                "--train.lr_scheduler_kwargs.patience", "0", "--train.lr_scheduler_kwargs.threshold", "0.9"],
    "greedy": ["--train.lr_scheduler_type", "greedy", "--train.metric_for_best_model", "loss",
               "--train.lr_scheduler_kwargs.patience", "0", "--train.lr_scheduler_kwargs.factor", "0.5",
               "--train.lr_scheduler_kwargs.min_lr", "1e-9"],
    "adafactor": ["--train.optim", "adafactor", "--train.lr_scheduler_type", "cosine_with_restarts"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", CHANGING.values(), ids=CHANGING)
def test_a_resumed_run_is_held_to_what_it_was_built_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """And not to the rate that it had come to: reduce_lr_on_plateau failed at every try."""
    evaluated = ["--train.eval_strategy", "steps", "--train.eval_steps", "4", "--attention", "softmax"]
    saved = ["--train.save_strategy", "steps", "--train.save_steps", "8", "--train.max_steps", "12"]
    words = ["--seeds", "0", *evaluated, *saved, *options]
    whole, copy = (folder("classify", tmp_path / name) for name in ("whole", "killed"))
    kept_at(8, whole, copy, monkeypatch)
    assert run("classify", tmp_path / "whole", *words) == 0
    assert run("classify", tmp_path / "killed", *words) == 0
    same_end(whole, copy)
    assert store.read(whole)["computed"] == store.read(copy)["computed"]


def test_a_checkpoint_of_another_run_is_passed_over(killed: Path) -> None:
    found = resume.newest(killed, "another")
    assert found.checkpoint is None
    assert all("of another run or base model" in reason for reason in found.passed)


def test_names_that_are_no_checkpoint_s_are_left_alone(killed: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-", "checkpoint-07", "checkpoint-1e3", "checkpoint-²"):
        (killed / name).mkdir()
    run_identity = identity(killed)
    found = resume.newest(killed, run_identity)
    resume.discard(killed, found, run_identity)
    assert found.checkpoint == killed / "checkpoint-14" and (killed / "checkpoint-best").is_dir()


@pytest.mark.slow
def test_patience_and_samples_go_on_from_the_checkpoint(
    killed: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From step 7, before the evaluation that ends the run; then from the last step."""
    shutil.rmtree(killed / "checkpoint-14")
    for _ in range(2):
        (killed / "diagnostics.json").unlink()
        assert run("classify", tmp_path, "--diagnose", *STOPPED) == 0
        assert "resumes from its checkpoint" in capsys.readouterr().out
        same(stopped, killed)
        assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-14", "checkpoint-7"]
        store.write(killed, {**store.read(killed), "status": "running"})


@pytest.mark.slow
def test_without_a_whole_checkpoint_the_run_starts_anew_and_says_so(
    killed: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (killed / "checkpoint-7/scheduler.pt").unlink()
    (killed / "checkpoint-14/optimizer.pt").write_bytes(b"")
    (killed / "record.json").replace(killed / ".record.json.x1.tmp")  # and a kill between two renames
    shutil.copy(killed / ".record.json.x1.tmp", killed / "record.json")
    assert run("classify", tmp_path, "--diagnose", *STOPPED) == 0
    told = capsys.readouterr().out
    assert told.count("checkpoint-14 is passed over: its optimizer.pt has 0 bytes") == 1
    assert told.count("checkpoint-7 is passed over: its scheduler.pt is missing") == 1
    assert told.count("no whole checkpoint is left: the run starts anew") == 1
    same(stopped, killed)
    assert [path.name for path in killed.glob(".*")] == [".lock"]


@pytest.mark.parametrize(
    "name",
    [
        "predictions.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "origin.yaml",
        "finetune.yaml",
    ],
)
def test_a_finished_run_whose_file_is_missing_or_cut_is_not_finished(killed: Path, name: str) -> None:
    assert manifest.finished_fault(killed) is None
    os.truncate(killed / name, (killed / name).stat().st_size - 1)
    assert name in str(manifest.finished_fault(killed))
    (killed / name).unlink()
    assert manifest.finished_fault(killed) == f"its {name} is missing"


def test_a_study_takes_such_a_run_for_unfinished(killed: Path, stopped: Path) -> None:
    done = store.read(stopped)
    store.write(killed, done)
    cell = Cell("agnews", build(done["config"]), killed.parents[3], killed)
    assert look(cell).state == "done"
    (killed / "origin.yaml").unlink()
    assert look(cell).state == "unfinished"


@pytest.mark.slow
def test_what_a_finished_run_lacks_is_mended(
    killed: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(killed, store.read(stopped))
    (killed / "README.md").unlink()
    (killed / ".README.md.x1.tmp").write_text("half a c")
    assert run("classify", tmp_path, "--diagnose", *STOPPED) == 0
    assert "finished already" in capsys.readouterr().out
    assert (killed / "README.md").is_file() and not (killed / ".README.md.x1.tmp").exists()
    (killed / "predictions.jsonl").unlink()
    assert run("classify", tmp_path, "--diagnose", *STOPPED) == 0
    assert "was finished, but its predictions.jsonl is missing: it is made again" in capsys.readouterr().out
    same(stopped, killed)


@pytest.mark.slow
def test_random_kills_change_nothing() -> None:
    """The script in its smallest form."""
    words = [sys.executable, "-m", "tests.kills", "--kills", "3", "--seed", "219"]
    words += ["--case", "ends of epochs"]
    told = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert told.returncode == 0 and "0 ended otherwise" in told.stdout, told.stdout + told.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_names_its_weights_as_the_model_does(family: str, tmp_path: Path) -> None:
    """And ``from_pretrained`` reads it all the same."""
    model = FAMILIES[family].build()
    with resume.own_names(model):
        model.save_pretrained(tmp_path)
    there = model.state_dict()
    result = model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    kept = {there[name].data_ptr() for name in there.keys() - {*result.missing_keys}}
    lost = {name for name in result.missing_keys if there[name].data_ptr() not in kept}
    assert not result.unexpected_keys and lost <= {*(model._keys_to_ignore_on_save or ())}
    again = type(model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weights, again[name]) for name, weights in there.items())


def test_a_checkpoint_of_other_weights_is_not_gone_on_from(tmp_path: Path) -> None:
    model = FAMILIES["gpt_neox"].build()
    trainer = comparable(Trainer)(
        model=model, args=TrainingArguments(output_dir=str(tmp_path), report_to="none")
    )
    model.save_pretrained(tmp_path / "checkpoint-1")  # by the names of its first checkpoints
    with pytest.raises(RuntimeError, match=r"other weights than its model .*embed_out"):
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    with resume.own_names(model):
        model.save_pretrained(tmp_path / "checkpoint-2")
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-2"))


def test_each_process_goes_on_with_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as many as there were not, with their mean: Trainer logs the mean over processes."""

    def loss(rank: int, processes: int) -> float:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        return resume._own_loss([1.5, 2.5])

    assert [loss(rank, 2) for rank in (0, 1)] == [1.5, 2.5]
    assert [loss(rank, 3) for rank in (0, 1, 2)] == [2.0] * 3 and loss(0, 1) == 2.0
