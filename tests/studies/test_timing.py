"""``--time-one``: steps are measured, here or on a worker, and the plan goes by them."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.cli.main import main
from finetune.errors import UserError
from finetune.studies import timing
from finetune.studies.run import plan_text
from finetune.studies.timing import Timed, ask, measure
from tests.support.pretrained_models import save
from tests.support.processes import launch
from tests.support.studies import TINY, keep, study_of, written
from tests.support.workers import Worker

ONE = {"variants": ["softmax"], "data.source": "sample", "data.validation_rows": 8, "data.test_rows": 12}
CAUSAL = {
    "task": "books", **ONE, "data.max_length": 16, "model.vocab_size": 300, "language.train_tokens": 1024,
    "language.tokens_per_step": 64, "language.eval_lengths": [], "language.stride": None,
    "train.per_device_train_batch_size": 2, "train.num_train_epochs": 1,
}  # fmt: skip
KINDS = {
    "classification": (TINY | ONE, 3),  # steps of 8 rows
    "translation": (TINY | ONE | {"task": "iwslt2017", "pair": "de-en", "data.max_target_length": 16}, 3),
    "causal": (CAUSAL, 16),
    "masked": (
        {key: value for key, value in CAUSAL.items() if key != "language.eval_lengths"}
        | {"objective": "masked", "language.tokens_per_step": 64}, 16,
    ),
}  # fmt: skip
SOME = Timed("", "node1", "NVIDIA H100", seconds=0.5, counted=6, steps=7200, peak_memory_mib=1000.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_every_kind_is_measured(kind: str, tmp_path: Path) -> None:
    grid, steps = KINDS[kind]
    study = study_of(tmp_path, {"a": grid}, seeds=[0, 1])
    (timed,) = measure(study.cells)
    assert timed.cell == study.cells[0].name and timed.device == "cpu"
    assert timed.steps == steps and 0 < timed.seconds < 5 and timed.whole == steps * timed.seconds
    assert timed.counted >= 1 and not study.root.exists()


@pytest.mark.slow
def test_adapters_and_warm_starts_are_measured_too(tmp_path: Path) -> None:
    model = save("bert", tmp_path / "model")
    grid = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    grid |= {"model.name": str(model), "model.dropout": None, "variants": ["sa-softmax"]}
    plain, adapted = {"attention.start": "annealed"}, {"model.lora.rank": 2, "attention.start": "calibrated"}
    study = study_of(tmp_path, {"a": grid | plain, "b": grid | adapted})
    assert [timed.steps for timed in measure(study.cells)] == [3, 3]


@pytest.mark.slow
def test_several_processes_rehearse_and_measure_together(tmp_path: Path) -> None:
    """As a worker has them whose runs take two devices, with a model that is shared out."""
    path = str(written(tmp_path, {"a": TINY | ONE | {"train.fsdp": True}}))
    words = ["study", path, "--output", str(tmp_path / "runs")]
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([[*words, "--rehearse"], [*words, "--time-one"]]), encoding="utf-8")
    first, second = launch([sys.executable, "-m", "tests.support.worker", str(file)], 2, timeout=240)
    printed = first.output
    assert second.output.count("status 0") == 2, second.output
    assert printed.count("status 0") == 2 and "1 kind of run took a first step" in printed
    assert printed.count(timing.MARK) == 1 and not (tmp_path / "runs").exists()


def test_a_worker_measures_and_what_else_it_prints_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, seeds=[0, 1])
    known = [replace(SOME, cell=cell.name) for cell in study.cells[:2]]
    monkeypatch.setattr(timing, "measure", lambda cells: iter(known))
    worker = Worker()
    assert ask(study, worker) == known and worker.called[0][-2:] == ["--time-one", "--quiet"]
    assert [timed.of for timed in ask(study, Worker(), of=8)] == [8, 8]
    worker = Worker(words=lambda words: [words[0], "nothing.yaml", *words[2:]])
    with pytest.raises(UserError, match=r"a step cannot be measured \(status 2\): cannot read"):
        ask(study, worker)


def test_a_plan_goes_by_what_was_measured(tmp_path: Path) -> None:
    """Also where runs of the study are done, which may have been made on another machine."""
    study = study_of(tmp_path, seeds=[0, 1, 2])
    keep(study.cells[0])
    timed = [replace(SOME, cell=study.cells[1].name)]
    lines = plan_text(study, 1, timed=timed).splitlines()
    (row,) = [line.split() for line in lines if line.startswith("agnews, scratch-tiny ")]
    assert row[2:] == ["sa-softmax", "node1,", "NVIDIA", "H100", "3", "0.5", "s", "7,200", "60", "min", "3.0",
                       "h", "1,000", "MiB"]  # fmt: skip
    (planned,) = [line for line in lines if line.startswith("a ") and " sa-softmax " in line]
    assert planned.endswith("3.0 h") and any("expected times above are these" in line for line in lines)
    assert "measured" not in plan_text(study, 1)
    fewer = [replace(SOME, cell=study.cells[1].name, processes=4, of=8)]
    text = plan_text(study, 1, timed=fewer)
    (row,) = [line for line in text.splitlines() if line.startswith("agnews, scratch-tiny ")]
    assert "H100, 4 of 8 processes " in row and row.split()[-6:] == ["s", "7,200", "-", "-", "1,000", "MiB"]
    assert "3.0 h" not in text and "as many processes as a run has" in text


@pytest.mark.slow
def test_the_command_measures_where_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, {"a": TINY | ONE}))
    words = ["study", path, "--output", str(tmp_path / "runs"), "--time-one"]
    assert main([*words, "--plan"]) == 0
    said = capsys.readouterr().out
    assert "\nmeasured " in said and "unknown" not in said.partition("\n\n")[0]
    assert main(words) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values.pop(timing.MARK) == "a--agnews--scratch-tiny--softmax--seed-0" and values["steps"] == 3
    assert not (tmp_path / "runs").exists()
    assert main([*words, "--rehearse"]) == 2
    assert "give --plan in the place of --rehearse" in capsys.readouterr().err
    assert main(["classify", "--time-one", "--output", str(tmp_path / "runs")]) == 2
    assert "--time-one says how hours are planned: give --plan too" in capsys.readouterr().err
