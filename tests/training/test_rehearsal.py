"""What a rehearsal tries besides a step, and that it leaves nothing: neither on the disk nor in memory."""

import gc
import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import finetune.models.warm_start
import finetune.studies.rehearsal
from finetune.cli.main import main
from finetune.errors import UserError
from finetune.metrics import compute
from finetune.models.builder import Built
from finetune.studies import preflight
from finetune.studies.file import Study
from finetune.studies.rehearsal import in_process_of_its_own
from finetune.training import rehearsal
from tests.support.small_runs import folder, run


def refused(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What a grid of two variants says that begins no run."""
    capsys.readouterr()
    assert run("classify", root / "runs", "--attention", "softmax,sa-softmax-raw", *options) == 2
    assert not (root / "runs").exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_rehearsed_model_is_gone_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory would count to the peak of the first run, and fill half of a GPU."""
    models: list[Any] = []

    def build(*given: Any) -> Built:
        assert [model() for model in models] == [None] * len(models)
        built = real(*given)
        models.append(weakref.ref(built.model))
        return built

    real = rehearsal.build_model
    monkeypatch.setattr(rehearsal, "build_model", build)
    gc.disable()
    try:
        assert run("classify", tmp_path / "runs", "--attention", "softmax,sa-softmax", "--rehearse") == 0
        assert [model() for model in models] == [None, None]
    finally:
        gc.enable()


def test_a_further_metric_is_tried_on_right_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the Hub's f1 is, which takes two classes where no average is named."""

    def half(predictions: list[int], references: list[int]) -> dict[str, float]:
        assert predictions == references
        if len(set(references)) > 2:
            raise ValueError("Target is multiclass but average='binary'")
        return {"f1": 1.0}

    for place in (compute, preflight):
        monkeypatch.setattr(place, "load_metric", lambda _: SimpleNamespace(compute=half))
    line = refused(tmp_path, capsys, "--metrics", '["hub:f1"]')
    assert "the metric 'hub:f1' cannot score these rows: Target is multiclass" in line


@pytest.mark.slow
def test_a_start_that_fails_fails_before_the_baseline_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fold(*_: Any) -> None:
        raise UserError("cannot divide by the mean row sum 0.02")

    monkeypatch.setattr(finetune.models.warm_start, "fold", fold)
    assert "cannot divide by" in refused(tmp_path, capsys, "--attention.start", "calibrated")


@pytest.mark.slow
def test_a_base_model_that_was_trained_with_another_attention_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("classify", tmp_path / "first", "--attention", "sa-softmax", "--train.max_steps", "1") == 0
    base = folder("classify", tmp_path / "first", "sa-softmax")
    capsys.readouterr()
    words = ["--model", str(base), "--attention", "softmax,sa-softmax", "--rehearse"]
    assert run("classify", tmp_path / "second", *words) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "was trained with" in line]
    assert len(told) == 1 and "was trained with sa-softmax, and softmax makes another model of it" in told[0]


def test_a_rehearsal_of_a_study_that_is_killed_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = Study("mine", "mine.yaml", tmp_path, workers=1, cells=())
    monkeypatch.setattr(finetune.studies.rehearsal.devices, "slots", lambda _: [{}])
    monkeypatch.setattr("subprocess.run", lambda *_, **__: SimpleNamespace(returncode=-9))
    with pytest.raises(UserError, match=r"killed by signal 9 \(out of memory\?\); .*--rehearse"):
        in_process_of_its_own(study)


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_a_language_model_of_short_documents_is_rehearsed_on_as_many_as_make_a_window(
    objective: str, tmp_path: Path
) -> None:
    """Two of them hold fewer tokens than a window, and the first of the test hardly one."""
    text = "Ann the baker lives in Rome."
    for split, texts in (
        ("train", [text] * 300),
        ("validation", ["Ann.", text]),
        ("test", ["Ann.", "Rome.", text * 9]),
    ):
        lines = [json.dumps({"text": each}) for each in texts]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = ["--objective", objective, "--data", str(tmp_path), "--data.max_length", "64",
               "--language.tokens_per_step", "256", "--train.per_device_train_batch_size", "4",
               "--model.vocab_size", "300", "--language.train_tokens", "2000"]  # fmt: skip
    causal = ["--language.eval_lengths", "[64, 96]", "--language.scored_tokens", "8"]
    words = [
        *options,
        *(causal if objective == "causal" else []),
        "--rehearse",
        "--output",
        str(tmp_path / "runs"),
    ]
    assert main(["pretrain", *words]) == 0
