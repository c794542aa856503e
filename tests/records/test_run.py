"""A run as it is read: its names, its numbers in reported units, and nothing where nothing is known."""

import json
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.records import store
from finetune.records.run import Run, find_runs, read_runs
from tests.support.records import classified, correctness, save, save_accuracies, started, translations


def test_a_finished_run_in_reported_units(tmp_path: Path) -> None:
    entry = started("sa-softmax", 3, attention={"scope": "encoder"})
    entry["untrained"] = {"split": "validation", "rows": 10, "loss": 1.0, "accuracy": 0.25}
    entry["curve"] = [{"step": 5, "loss": 0.5}, {"step": 5, "eval_loss": 0.4, "eval_accuracy": 0.75}]
    folder = save(tmp_path, entry, classified(correctness(400, 0.9, 0)))
    (run,) = read_runs(tmp_path)
    assert (run.folder, run.seed, run.task, run.pair, run.title) == (folder, 3, "agnews", None, "agnews")
    assert (run.variant, run.model, run.kind) == ("sa-softmax-encoder", "scratch:tiny", "classification")
    assert (run.status, run.finished, run.reason, run.sample) == ("finished", True, None, False)
    assert run.metrics == {"accuracy": pytest.approx(90), "macro_f1": pytest.approx(89)}
    assert (run.value, run.untrained, run.metric.name) == (pytest.approx(90), 25, "accuracy")
    assert run.curve("loss") == {5: 0.5} and run.curve("eval_loss") == {5: 0.4}
    assert run.curve("eval_accuracy") == {5: 75.0}
    assert len(run.predictions()) == 400
    assert (run.diagnostics(), run.start) == (None, None)
    assert (run.kernel, run.train_s, run.total_s) == ("reference", 63.0, 70.0)


def test_a_translation_keeps_its_units_and_its_signature(tmp_path: Path) -> None:
    folder = save(tmp_path, started("softmax", 0, kind="translation"), translations(20, 0.4, 1))
    run = Run(folder, store.read(folder))
    assert (run.title, run.metric.name) == ("toy de-en", "bleu")
    assert run.value == run.record["metrics"]["bleu"]["value"]  # type: ignore[index]
    assert "tok:13a" in str(run.signature)
    assert run.facts()["BLEU signature"] == run.signature


def test_a_run_that_failed_early_knows_little_and_says_so(tmp_path: Path) -> None:
    entry = started("sa-softmax", 0, sample=True)
    entry |= {"status": "failed", "reason": "no memory", "data": None, "model": None, "attention": None}
    save(tmp_path, entry)
    (run,) = read_runs([tmp_path])
    assert (run.finished, run.reason, run.sample) == (False, "no memory", True)
    assert (run.metrics, run.untrained, run.kernel, run.start) == ({}, None, None, None)
    assert (run.initial_weights, run.train_s, run.splits, run.signature) == (None, None, {}, None)
    assert "accuracy" not in run.to_dict()


def test_plain_values_for_a_data_frame(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    (run,) = read_runs(str(tmp_path))
    row = json.loads(json.dumps(run.to_dict()))
    assert (row["variant"], row["seed"], row["accuracy"]) == ("softmax", 0, 80)
    assert row["folder"] == str(run.folder)


def test_what_cannot_be_used_is_a_warning_and_no_folder_is_an_error(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "good", "softmax", [0.8])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / store.FILE).write_text('{"schema": ')
    runs, (problem,) = find_runs([tmp_path, tmp_path / "good"])  # each run once
    assert len(runs) == 1
    with pytest.warns(UserWarning, match="truncated"):
        assert [run.folder for run in read_runs(tmp_path)] == [runs[0].folder]
    assert "truncated" in problem
    with pytest.raises(UserError, match="no folder"):
        read_runs(tmp_path / "nowhere")
