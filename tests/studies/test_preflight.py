"""What stops a study before its first run: a rehearsal that fails, a run that no command would take."""

from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.config.identity import as_dict
from finetune.config.loading import yaml_text
from finetune.errors import UserError
from finetune.studies import dry_run, engines
from finetune.studies.rehearsal import rehearse
from finetune.studies.run import commands, plan_text, run_study
from finetune.studies.state import look
from tests.support.pretrained_models import save
from tests.support.studies import TINY, keep, study_of


@pytest.fixture
def folder_without_a_tokenizer(tmp_path: Path) -> Path:
    folder = save("bert", tmp_path / "models" / "base")
    for file in folder.glob("*token*"):
        file.unlink()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "telling"),
    [
        ({"model.lora.rank": 4}, r"model\.lora adapts a pretrained model: .* leave its rank at 0"),
        ({"model.name": "NO-TOKENIZER"}, "tokenizer"),
        ({"train.metric_for_best_model": "f1"}, "metric_for_best_model"),
        ({"train.optim": "galore_adamw"}, "galore"),
        ({"metrics": ["accuracies"]}, "accuracies"),
        ({"data.source": "no/such/folder"}, "no/such/folder"),
        ({"attention.scope": ["decoder"]}, "decoder"),
    ],
)
def test_a_study_rehearses_every_kind_of_run_before_the_first(
    tmp_path: Path, keys: dict[str, Any], telling: str, folder_without_a_tokenizer: Path
) -> None:
    """A mistake in the last grid of a file, which used to show when its cells began."""
    wrong = {key: str(folder_without_a_tokenizer) if value == "NO-TOKENIZER" else value
             for key, value in keys.items()}  # fmt: skip
    study = study_of(tmp_path, {"a": TINY, "b": {**TINY, **wrong}}, seeds=[0, 1])
    with pytest.raises(UserError, match=f"(?s)grid b: .*{telling}"):
        rehearse(study)
    assert not study.root.exists()


@pytest.mark.slow
def test_a_study_that_fails_its_rehearsal_begins_no_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tmp_path, {"a": TINY, "b": {**TINY, "train.metric_for_best_model": "f1"}})
    assert run_study(study, 1, engines.choose(study)) == 2
    shown = capfd.readouterr().err.splitlines()
    assert [line for line in shown if "finetune: error: grid b: train.metric_for_best_model" in line]
    assert not study.root.exists()


@pytest.mark.slow
def test_a_rehearsal_alone_begins_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of(tmp_path, {"a": {**TINY, "data.train_rows": [24, 32]}}, seeds=[0, 1, 2])
    assert main(["study", study.file, "--output", str(study.root), "--rehearse"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "rehearsal: 4 kinds of run took a first step"
    (cell, *_) = study.cells
    (tmp_path / "one.yaml").write_text(yaml_text(as_dict(cell.config)))
    assert main(["run", str(tmp_path / "one.yaml"), "--output", str(cell.output), "--rehearse"]) == 0
    assert not study.root.exists()


def test_a_study_refuses_to_begin_where_a_folder_holds_another_run(tmp_path: Path) -> None:
    keep(study_of(tmp_path).cells[1])
    study = study_of(tmp_path, {"a": {**TINY, "data.train_rows": 25}})
    assert [look(cell).state for cell in study.cells] == ["missing", "other"]
    assert "other, which a run would refuse: " in dry_run.text(study, {}), "a state that stops says why"
    for refused in (lambda: commands(study), lambda: run_study(study, 1, engines.choose(study))):
        with pytest.raises(UserError, match=r"differs in data\.train_rows.*--output"):
            refused()
    assert "differs in data.train_rows" in plan_text(study, 1)


@pytest.mark.parametrize(
    ("keys", "telling"),
    [
        ({"data.split_seed": list(range(1000)), "data.max_length": list(range(3, 1003))}, "1,000,000 runs"),
        ({"data.train_rows": -5}, "data.train_rows"),
        ({"data.validation_rows": 0}, "data.validation_rows"),
        ({"seeds": [-1]}, "seed"),
        ({"seeds": list(range(20_000))}, "20,000 runs"),
        ({"train.max_steps": -5}, "train.max_steps"),
        ({"train.logging_steps": -1}, "train.logging_steps"),
    ],
)
def test_what_no_run_would_take_is_told_by_the_plan(tmp_path: Path, keys: Any, telling: str) -> None:
    with pytest.raises(UserError, match=telling):
        study_of(tmp_path, {"one": TINY | {"variants": ["softmax"]} | keys})
