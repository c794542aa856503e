"""Studies: what a file asks for, what has become of it, what it will cost, and that all of it is run once."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from rich.live import Live

from finetune.attention import VARIANTS
from finetune.cli.main import main
from finetune.config.identity import as_dict
from finetune.config.loading import merge, nest, yaml_text
from finetune.errors import UserError
from finetune.records import store
from finetune.studies import cell_file, devices, estimate, logs, progress
from finetune.studies.executors import local
from finetune.studies.executors.base import Job
from finetune.studies.executors.local import Local, Process
from finetune.studies.file import Study, load, shipped
from finetune.studies.grid import Cell
from finetune.studies.rehearsal import rehearse
from finetune.studies.run import commands, plan_text, run_study
from finetune.studies.schedule import run
from finetune.studies.state import RunState, Status, look
from finetune.system import lock
from finetune.system.lock import locked
from finetune.system.processes import python_module
from tests.support.pretrained_models import save
from tests.support.records import classified, correctness, finish, started

ROOT = Path(__file__).parents[2]
TINY = {
    "task": "agnews", "variants": ["softmax", "sa-softmax"], "data.source": "sample", "data.train_rows": 24,
    "data.validation_rows": 8, "data.test_rows": 12, "data.max_length": 16, "model.vocab_size": 300,
    "train.num_train_epochs": 1, "train.per_device_train_batch_size": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Tests that are run in the background or under nohup begin with these signals ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def study_of(folder: Path, grids: dict[str, Any] | None = None, **keys: Any) -> Study:
    """A study file in ``folder``, loaded; its runs go to ``folder/runs``."""
    return load(str(written(folder, grids, **keys)), folder / "runs")


def written(folder: Path, grids: dict[str, Any] | None = None, **keys: Any) -> Path:
    content = {"name": "mine", "seeds": [0], "grids": {"a": TINY} if grids is None else grids} | keys
    path = folder / "mine.yaml"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def folders(study: Study) -> list[str]:
    return [cell.folder.relative_to(study.root).as_posix() for cell in study.cells]


def keep(cell: Cell, status: str = "finished", seconds: float | None = 100.0, **over: Any) -> Path:
    """Leave the record of a run in the folder of a cell, or beside it for a stub to put there."""
    entry = started("softmax", 0, sample=True)
    entry["config"] = as_dict(cell.config)
    if entry["config"]["data"]["source"] != "sample":
        entry["config"]["data"]["source"] = "local"
    if status == "finished":
        finish(entry, classified(correctness(20, 0.8, 0)))
        assert entry["times"] is not None
        entry["times"]["total_s"] = seconds
    entry["status"] = status  # type: ignore[typeddict-item]
    for key, value in over.items():
        entry[key] = value  # type: ignore[literal-required]
    return store.write(cell.folder, entry)


# What a file asks for


def test_a_grid_is_the_product_of_its_axes_seed_by_seed_and_the_baseline_first(tmp_path: Path) -> None:
    grid = {**TINY, "variants": ["sa-softmax", "softmax"], "task": ["agnews", "yelp"]}
    study = study_of(tmp_path, {"a": grid, "b": {**grid, "task": "yahoo", "seeds": [5, 1]}}, seeds=[3, 1])
    assert folders(study) == [
        f"{grid}/{task}/scratch-tiny/{arm}/seed-{seed}"
        for seeds in ({"a": 3, "b": 5}, {"a": 1, "b": 1})
        for grid, tasks in (("a", ("agnews", "yelp")), ("b", ("yahoo",)))
        for task in tasks
        for arm, seed in (("softmax", seeds[grid]), ("sa-softmax", seeds[grid]))
    ]


def test_what_the_folder_of_a_run_tells_needs_no_folder_of_its_own(tmp_path: Path) -> None:
    grid = {
        **TINY, "variants": ["softmax", "sa-softmax", "sa-softmax-raw"],
        "model.name": ["scratch:tiny", "scratch:mini"],
        "attention.start": ["cold", "annealed"], "attention.scope": ["all", "encoder"],
        "attention.parameters.eps": [1e-6, 0.1],
    }  # fmt: skip
    found = folders(study_of(tmp_path, {"a": grid}))
    # 2 models x (softmax once, raw without an eps 2 x 2, sa-softmax 2 x 2 x 2)
    assert len(found) == len(set(found)) == 2 * (1 + 4 + 8)
    assert "a/agnews/scratch-mini/sa-softmax-encoder-annealed0.3-eps0.1/seed-0" in found
    assert "a/agnews/scratch-mini/sa-softmax-raw-annealed0.3/seed-0" in found
    assert {path.count("/") for path in found} == {4}


def test_other_axes_are_told_by_a_folder_above_the_runs(tmp_path: Path) -> None:
    grid = {
        **TINY,
        "variants": ["softmax"],
        "train": {"learning_rate": [1e-3, 1e-4]},
        "data.train_rows": [24],
    }
    assert folders(study_of(tmp_path, {"a": grid})) == [
        f"a/train_rows-24_learning_rate-{rate}/agnews/scratch-tiny/softmax/seed-0" for rate in (0.001, 0.0001)
    ]
    alike = {**TINY, "variants": ["softmax"], "model.dropout": [0.1], "model.lora.dropout": [0.2]}
    assert folders(study_of(tmp_path, {"a": alike}))[0].startswith(
        "a/model.dropout-0.1_model.lora.dropout-0.2/"
    )


def test_a_key_that_is_a_list_by_itself_is_no_axis(tmp_path: Path) -> None:
    grid = {**TINY, "variants": ["softmax"], "metrics": ["f1", "recall"]}
    (cell,) = study_of(tmp_path, {"a": grid}).cells
    assert cell.config.metrics == ["f1", "recall"]
    axis = study_of(tmp_path, {"a": {**grid, "metrics": [["f1"], []]}})
    assert [cell.config.metrics for cell in axis.cells] == [["f1"], []]
    assert len({cell.output for cell in axis.cells}) == 2
    modules = study_of(tmp_path, {"a": {**grid, "model.lora.target_modules": ["query", "value"]}})
    assert [cell.config.model.lora.target_modules for cell in modules.cells] == [["query", "value"]]


@pytest.mark.parametrize(
    ("grid", "telling"),
    [
        ({"varaints": ["softmax"]}, "did you mean 'variants'"),
        ({"trian.learning_rate": 0.1}, "unknown key of a grid 'trian': did you mean 'train'"),
        ({"data.train_row": 5}, "did you mean 'data.train_rows'"),
        ({"train.learning_rat": 0.1}, "did you mean 'train.learning_rate'"),
        ({"train.learning_rate": [0.1, "fast"]}, "train.learning_rate takes float, not 'fast'"),
        ({"train.learning_rate": -1.0}, "train.learning_rate must be at least 0"),
        ({"train.num_train_epochs": True}, "train.num_train_epochs takes float"),
        ({"data.max_length": "long"}, "data.max_length"),
        ({"data.train_rows": []}, "data.train_rows is an empty list"),
        ({"variants": ["sa-softmx"]}, "unknown attention variant 'sa-softmx': did you mean 'sa-softmax'"),
        ({"variants": "softmax"}, "variants must be a list of names"),
        ({"variants": ["softmax"], "attention.parameters.eps": 1e-3}, "unknown parameter of softmax 'eps'"),
        ({"attention.start": "warm"}, "attention.start"),
        ({"attention": "sa-softmax"}, "attention must be a mapping"),
        ({"attention.variant": "softmax"}, "use variants"),
        ({"seed": 3}, "use seeds"),
        ({"seeds": [0.5]}, "seeds must be a list of whole numbers"),
        ({"seeds": [-1]}, "seed"),
        ({"preset": "fast"}, "unknown preset 'fast'"),
        ({"preset": ["quick", "small"]}, "preset must be one name"),
        ({"task": "agnew"}, "unknown task 'agnew': did you mean 'agnews'"),
        ({"task": []}, "task must be a name"),
        ({"pair": "de-en"}, "takes no pair"),
        (
            {"train": {"learning_rate": 0.1}, "train.learning_rate": 0.2},
            "'train.learning_rate' is there twice",
        ),
    ],
)
def test_a_mistake_in_a_grid_is_told_with_its_place(
    tmp_path: Path, grid: dict[str, Any], telling: str
) -> None:
    with pytest.raises(UserError, match=re.escape(telling)) as error:
        study_of(tmp_path, {"agnews-x": {**TINY, **grid}})
    assert "mine.yaml" in str(error.value) and "agnews-x" in str(error.value)


@pytest.mark.parametrize(
    ("keys", "telling"),
    [
        ({"worker": 2}, "did you mean 'workers'"),
        ({"workers": 0}, "workers must be auto or a whole number from 1, not 0"),
        ({"workers": "two"}, "workers must be auto"),
        ({"name": "my study"}, "name must be a word"),
        ({"grids": {}}, "at least one grid"),
        ({"grids": {"a": 3}}, "must be a mapping"),
        ({"grids": {"../a": TINY}}, "named by a word"),
        ({"grids": {"logs": TINY}}, "named by a word"),
        ({"grids": {"configs": TINY}}, "named by a word"),
        ({"seeds": None}, "has no seeds"),
        ({"diagnose": [7]}, "diagnose names seed 7, which no grid runs"),
    ],
)
def test_a_mistake_in_a_file_is_told(tmp_path: Path, keys: dict[str, Any], telling: str) -> None:
    with pytest.raises(UserError, match=re.escape(telling)):
        study_of(tmp_path, **keys)


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
    assert run_study(study, 1) == 2
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


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent / "bert").mkdir(parents=True)
    grid = {**TINY, "model.name": [str(tmp_path / "one/bert"), str(tmp_path / "two/bert")]}
    with pytest.raises(UserError, match=r"share the folder .* and differ in model\.name: make two grids"):
        study_of(tmp_path, {"a": grid})


def test_each_printed_line_plans_the_run_of_its_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what is hard to write: text that looks like a number, null, a list, a negative number."""
    grid = {
        **TINY, "task": ["agnews", "dbpedia"], "attention.start": ["cold", "calibrated", "annealed"],
        "attention.annealing_share": 0.5, "attention.parameters.eps": 1e-3, "attention.scope": ["encoder"],
        "model.revision": "1e-3", "model.dropout": None, "train.learning_rate": [1e-6, 3e-4],
        "train.lr_scheduler_type": "cosine", "data.prefix": " a: b #c\n",
    }  # fmt: skip
    translation = {
        **TINY,
        "task": "iwslt2017",
        "pair": "en-de",
        "generation.num_beams": 2,
        "generation.length_penalty": -0.5,
        "model.revision": "-h",
    }
    study = study_of(tmp_path, {"a": grid, "b": translation}, diagnose=[0])
    assert main(["study", str(tmp_path / "mine.yaml"), "--output", str(study.root), "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(study.cells) == 2 * 2 * 4 + 2
    for line, cell in zip(lines, study.cells, strict=True):
        words = shlex.split(line)
        assert words == cell_file.command(cell)
        *command, verb, file, output, place, diagnose = words
        assert (command, verb) == (python_module("finetune"), "run")
        assert (output, diagnose) == ("--output", "--diagnose")
        planned = cell_file.read(Path(file), Path(place), diagnose=True)
        assert (planned.folder, planned.config, planned.task) == (cell.folder, cell.config, cell.task)
    assert sorted(path.name for path in study.root.iterdir()) == ["configs"]


@pytest.mark.parametrize(
    ("change", "telling"),
    [
        ({"seeds": [0]}, "one run has no seeds: give seed"),
        ({"trian": {}}, "did you mean 'train'"),
        ({"task": "agnew"}, "did you mean 'agnews'"),
        ({"task": 3}, "task must be a name"),
        ({"kind": "translation"}, "'agnews' is a classification task"),
        ({"pair": "de-en"}, "takes no pair"),
        ({"attention.variant": "sa-sofmax"}, "did you mean 'sa-softmax'"),
        ({"attention.parameters": {"eps": 0.1}}, "unknown parameter of softmax 'eps'"),
        ({"model.name": "https://me:secret@place/x"}, "holds a password"),
    ],
)
def test_a_mistake_in_the_file_of_a_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], telling: str
) -> None:
    values = as_dict(study_of(tmp_path).cells[0].config)
    for key, value in change.items():
        values = merge(values, nest(key, value))
    file = tmp_path / "one.yaml"
    file.write_text(yaml_text(values))
    assert main(["run", str(file), "--output", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"finetune: error: {file}: ") and telling in line


# What has become of it


def test_the_state_of_a_cell_is_told_by_its_record_and_its_log(tmp_path: Path) -> None:
    (cell, _) = study_of(tmp_path).cells
    assert look(cell) == Status(RunState.MISSING)
    keep(cell)
    assert look(cell).state == "done"
    keep(cell, "failed", reason="the loss became nan")
    assert (look(cell).state, look(cell).reason) == ("failed", "the loss became nan")
    keep(cell, "running")
    assert look(cell).state == "unfinished"
    with locked(cell.folder):
        assert look(cell).state == "running"
    claim = logs.claim(cell.log, ["x"])
    assert claim is not None
    assert look(cell).state == "running" and look(cell, claimed=True).state == "unfinished"
    claim.close("killed")
    assert look(cell) == replace(look(cell), state=RunState.FAILED, reason="killed")
    keep(cell, "running", started="2999-01-01T00:00:00+00:00")
    assert look(cell).state == "unfinished", "it was begun anew after that"
    (cell.folder / store.FILE).unlink()
    assert look(cell).reason == "killed"
    (cell.folder / store.FILE).write_text("{", encoding="utf-8")
    assert look(cell).state == "other" and "truncated" in look(cell).reason


@pytest.mark.parametrize(
    ("key", "wish", "had", "other"),
    [
        ("data.source", "auto", "local", False),
        ("data.source", "hub", "sample", True),
        ("data.source", "data/agnews", "local", False),
        ("data.source", "data/agnews", "hub", True),
        ("train.bf16", "auto", True, False),
        ("train.bf16", False, True, True),
        ("data.train_rows", 24, 25, True),
    ],
)
def test_a_run_of_another_configuration_is_told_by_its_keys(
    tmp_path: Path, key: str, wish: Any, had: Any, other: bool
) -> None:
    cell = study_of(tmp_path, {"a": {**TINY, key: wish}}).cells[0]
    recorded = as_dict(cell.config)
    recorded["data"]["source"] = "local" if recorded["data"]["source"] not in ("hub", "sample") else "sample"
    section, _, name = key.partition(".")
    recorded[section][name] = had
    keep(cell, config=recorded)
    assert look(cell).state == ("other" if other else "done")
    assert (key in look(cell).reason) == other


def test_a_study_refuses_to_begin_where_a_folder_holds_another_run(tmp_path: Path) -> None:
    keep(study_of(tmp_path).cells[1])
    study = study_of(tmp_path, {"a": {**TINY, "data.train_rows": 25}})
    assert [look(cell).state for cell in study.cells] == ["missing", "other"]
    for refused in (lambda: commands(study), lambda: run_study(study, 1)):
        with pytest.raises(UserError, match=r"differs in data\.train_rows.*--output"):
            refused()
    assert "differs in data.train_rows" in plan_text(study, 1)


# What it will cost


def test_the_cost_is_the_median_of_the_nearest_runs(tmp_path: Path) -> None:
    same = {**TINY, "variants": ["softmax", "sa-softmax", "sa-softmax-raw"]}
    grids = {"a": same, "b": {**same, "task": "yelp"}, "c": {**same, "model.name": "scratch:mini"}}
    grids["d"] = {**same, "task": "yahoo"}
    study = study_of(tmp_path, grids, seeds=[0, 1, 2, 3])
    cells = dict(zip(folders(study), study.cells, strict=True))

    def cell(grid: str, arm: str, seed: int) -> Cell:
        task = {"b": "yelp", "d": "yahoo"}.get(grid, "agnews")
        size = "mini" if grid == "c" else "tiny"
        return cells[f"{grid}/{task}/scratch-{size}/{arm}/seed-{seed}"]

    for seed, seconds in enumerate((10.0, 30.0, 50.0)):
        keep(cell("a", "softmax", seed), seconds=seconds)
    keep(cell("a", "sa-softmax", 0), seconds=80.0)
    resumed = {"train_s": None, "predict_s": 1.0, "total_s": 1.0}
    keep(cell("a", "sa-softmax", 1), times=resumed)
    keep(cell("a", "sa-softmax", 2), "failed", times={"train_s": 1.0, "total_s": 1.0})
    keep(cell("b", "softmax", 0), seconds=900.0)
    costs = estimate.Costs()
    for each in study.cells:
        costs.add(each, look(each).run)
    assert costs.expected(cell("a", "softmax", 3)) == 30.0, "of its own arm"
    assert costs.expected(cell("a", "sa-softmax", 3)) == 80.0, "but for a resumed and a failed one"
    assert costs.expected(cell("a", "sa-softmax-raw", 3)) == 40.0, "of its task, model and grid"
    assert costs.expected(cell("d", "softmax", 3)) == 50.0, "of its kind of task and model"
    assert costs.expected(cell("c", "softmax", 3)) is None
    keep(replace(cell("c", "softmax", 0), folder=study.root / "elsewhere"), seconds=700.0)
    costs.add_others(study.root, study.cells)
    assert costs.expected(cell("c", "softmax", 3)) == 700.0
    assert costs.expected(cell("d", "softmax", 3)) == 50.0, "no run is counted twice"


def test_the_rest_is_shared_by_the_workers() -> None:
    assert estimate.rest([60.0, 120.0, None], 2) == (90.0, 1)
    assert estimate.rest_text([60.0, 120.0], 1) == "about 3 min"
    assert estimate.rest_text([60.0, None], 2) == "about 30 s and 1 run of unknown length"
    assert estimate.rest_text([None, None], 2) == "2 runs of unknown length"
    assert [estimate.duration(s) for s in (89, 91, 7200, 200_000)] == ["89 s", "2 min", "2.0 h", "2.3 days"]


def test_the_plan_counts_states_and_names_failures(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=[0, 1, 2])
    keep(study.cells[0], seconds=100.0)
    keep(study.cells[1], "failed", reason="the disk is full")
    keep(study.cells[2], "running")
    lines = plan_text(study, 2).splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert shown[1] == "grid task model attention runs done missing failed unfinished expected"
    assert shown[2] == "a agnews scratch-tiny softmax 3 1 1 1 3 min"
    assert shown[3] == "a agnews scratch-tiny sa-softmax 3 2 1 5 min"
    assert lines[4] == f"failed: {study.cells[1].folder}: the disk is full"
    assert lines[5].startswith(
        "1 done, 3 missing, 1 failed, 1 unfinished; about 4 min on 2 workers; --rehearse"
    )


def test_a_plan_writes_nothing_a_print_only_files_of_runs_and_neither_imports_torch(tmp_path: Path) -> None:
    """For every shipped study."""
    code = f"""
import pathlib, sys
from finetune.cli.main import main
for name in {shipped()!r}:
    assert main(["study", name, "--plan"]) == 0
assert not list(pathlib.Path().iterdir())
for name in {shipped()!r}:
    assert main(["study", name, "--print"]) == 0
assert not {{"torch", "transformers", "datasets", "numpy"}} & set(sys.modules), "heavy"
assert not [path for path in pathlib.Path("runs").glob("*/*") if path.name != "configs"]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "420 runs in runs/paper" in done.stdout and "=> " not in done.stdout


# The machine


def test_gpus_are_those_that_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}) == ["2", "GPU-ab"]
    assert devices.gpus({"CUDA_VISIBLE_DEVICES": ""}) == devices.gpus({"CUDA_VISIBLE_DEVICES": "-1,0"}) == []
    listing = (
        "GPU 0: NVIDIA A (UUID: GPU-1)\nGPU 1: NVIDIA A (UUID: GPU-2)\n"
        "  MIG 1g.10gb Device 0: (UUID: MIG-3)\n  MIG 1g.10gb Device 1: (UUID: MIG-4)\n"
    )
    assert devices.parse_listing(listing) == ["0", "MIG-3", "MIG-4"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listing))
    assert devices.gpus({}) == ["0", "MIG-3", "MIG-4"]
    assert devices.workers(None, {}) == 3 and devices.workers(7, {}) == 7


def test_a_worker_has_one_gpu_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 7)
    cpu = {"CUDA_VISIBLE_DEVICES": ""}
    assert devices.slots(1, cpu) == [{}], "torch's own choice"
    assert devices.slots(3, cpu) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert devices.slots(9, cpu) == [{"OMP_NUM_THREADS": "1"}] * 9
    assert devices.slots(2, cpu | {"OMP_NUM_THREADS": "5"}) == [{}, {}]
    gpus = devices.slots(3, {"CUDA_VISIBLE_DEVICES": "4,6", "OMP_NUM_THREADS": "5"})
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in gpus] == ["4", "6", "4"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("memory", (), {"available": 9 * 2**30}))
    assert devices.workers(None, cpu) == 2, "by memory"
    monkeypatch.setattr(devices, "cores", lambda: 1)
    assert devices.workers(None, cpu) == 1, "by cores"


# Running, with a stub for the command

STUB = """
import json, os, pathlib, signal, sys, time
from datetime import UTC, datetime
folder, prepared, *deeds = sys.argv[1:]
print("working on", folder)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"))
for deed in deeds:
    name, _, value = deed.partition("=")
    if name == "sleep":
        time.sleep(float(value))
    elif name == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path(folder).mkdir(parents=True)
        pathlib.Path(folder, ".ready").touch()
    elif name == "say":
        print(value)
    elif name == "record":
        entry = json.loads(pathlib.Path(prepared).read_text())
        entry["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        pathlib.Path(folder, "record.json").write_text(json.dumps(entry))
    elif name == "exit":
        sys.exit(int(value))
    elif name == "kill":
        os.kill(os.getpid(), int(value))
"""


class Told:
    """A board that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.most = 0

    def started(self, job: Job) -> None:
        self.events.append(f"start {job.cell.folder.parent.name} {job.cell.config.seed} on {job.worker}")

    def ended(self, cell: Cell, status: Status, seconds: float) -> None:
        self.events.append(f"end {cell.folder.parent.name} {cell.config.seed} {status.state}")

    def refresh(self, jobs: Sequence[Job]) -> None:
        self.most = max(self.most, len(jobs))


def stub(folder: Path, *deeds: str, special: dict[int, Sequence[str]] | None = None) -> Any:
    """What is executed for a cell: ``deeds``, or those that ``special`` names for its seed."""

    (folder / "stub.py").write_text(STUB, encoding="utf-8")

    def execute(cell: Cell) -> list[str]:
        prepared = folder / f"{cell.name}.json"
        chosen = (special or {}).get(cell.config.seed, deeds)
        if any(deed.startswith("record") for deed in chosen):
            status = next(deed for deed in chosen if deed.startswith("record")).partition("=")[2]
            reason = "the loss became nan" if status == "failed" else None
            file = keep(replace(cell, folder=folder / "made"), status or "finished", reason=reason)
            file.rename(prepared)
        return [sys.executable, str(folder / "stub.py"), str(cell.folder), str(prepared), *chosen]

    return execute


def test_cells_run_in_order_so_many_at_a_time_and_a_failure_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=list(range(7)))
    special = {
        1: ["say=finetune: error: no such model", "exit=2"],
        2: ["record=failed", "exit=1"],
        3: ["kill=9"],
        4: ["say=RuntimeError: broken", "exit=1"],
        5: ["exit=75"],
        6: ["record=running"],
    }
    board = Told()
    slots = [{"CUDA_VISIBLE_DEVICES": "4"}, {"OMP_NUM_THREADS": "3"}]
    states = run(study.cells, Local(slots, stub(tmp_path, "sleep=0.2", "record", special=special)), board)
    assert [event.split()[2] for event in board.events if event.startswith("start")] == list("0123456")
    assert board.most == 2
    (last,) = re.findall(r"^(?:4|None) \S+$", study.cells[6].log.read_text(), flags=re.MULTILINE)
    assert [(status.state, status.reason) for status in map(states.get, study.cells) if status] == [
        ("done", ""),
        ("failed", "no such model"),
        ("failed", "the loss became nan"),
        ("failed", "killed by signal 9 (out of memory?)"),
        ("failed", "RuntimeError: broken"),
        ("running", ""),
        ("failed", last),
    ]
    assert "\n4 " in study.cells[0].log.read_text() and "\nNone 3\n" in study.cells[1].log.read_text()
    assert study.cells[0].log.read_text().startswith("# 20")
    kinds = ["done", "failed", "failed", "failed", "failed", "missing", "failed"]
    assert [look(cell).state for cell in study.cells] == kinds, "and the next look knows it from the logs"
    again = run(study.cells[1:3], Local([{}], stub(tmp_path, "record")), Told())
    assert [status.state for status in again.values()] == ["done", "done"], "failed runs are tried again"
    assert study.cells[1].log.read_text().count("working on") == 2, "under what was there"


def test_a_cell_that_another_process_has_is_left_to_it(tmp_path: Path) -> None:
    """One whose log another study holds, one that something trains, one that was done meanwhile."""
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=[0, 1, 2, 3])
    claimed, trained, done, _ = study.cells
    claim = logs.claim(claimed.log, ["another study"])
    assert claim is not None
    keep(trained, "running")
    keep(done)
    board = Told()
    with locked(trained.folder):
        states = run(study.cells, Local([{}], stub(tmp_path, "record")), board)
    claim.close()
    assert [states[cell].state for cell in study.cells] == ["running", "running", "done", "done"]
    assert [event for event in board.events if event.startswith("start")] == ["start softmax 3 on 0"]


def test_what_a_killed_study_leaves_running_is_not_run_twice(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}})
    code = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from finetune.studies.file import load
from finetune.studies.executors.local import Local
from finetune.studies.schedule import run
cells = load({str(tmp_path / "mine.yaml")!r}, Path({str(study.root)!r})).cells
board = SimpleNamespace(started=lambda job: print("started", flush=True), refresh=lambda jobs: None)
run(cells, Local([{{}}], lambda cell: [sys.executable, "-c", "import time; time.sleep(60)"]), board)
"""
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None and killed.stdout.readline() == "started\n"
    (orphan,) = psutil.Process(killed.pid).children()
    killed.kill()
    killed.communicate()
    assert look(study.cells[0]).state == "running" and commands(study) == []
    assert [status.state for status in run(study.cells, Local([{}], stub(tmp_path)), Told()).values()] == [
        "running"
    ]
    orphan.kill()
    orphan.wait(5)
    assert look(study.cells[0]).state == "missing"


def test_a_process_that_cannot_start_is_a_failure(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    states = run(study.cells, Local([{}], lambda cell: [str(tmp_path / "no-such-program")]), Told())
    assert [status.reason for status in states.values()] == [
        "cannot start a process: No such file or directory"
    ] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_the_children_and_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Also one that does not listen to SIGTERM."""
    monkeypatch.setattr(local, "GRACE_S", 0.2)
    study = study_of(tmp_path, {"a": {**TINY, "variants": ["softmax"]}}, seeds=[0, 1, 2])
    board = Told()
    before = signal.getsignal(number)

    def interrupt() -> None:
        while not (study.cells[0].folder / ".ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    execute = stub(tmp_path, "sleep=60", special={0: ["ignore", "sleep=60"]})
    with pytest.raises(KeyboardInterrupt):
        run(study.cells, Local([{}, {}], execute), board)
    assert not psutil.Process().children()
    assert not any(lock.held(cell.log) for cell in study.cells)
    assert signal.getsignal(number) is before
    assert [look(cell).state for cell in study.cells] == ["missing"] * 3
    assert len([event for event in board.events if event.startswith("start")]) == 2


# What is shown


def tally_of(study: Study, workers: int = 2) -> progress.Tally:
    states = {cell: look(cell) for cell in study.cells}
    costs = estimate.Costs()
    for cell in study.cells:
        costs.add(cell, states[cell].run)
    return progress.Tally(study, states, costs, workers)


def test_off_a_terminal_each_run_is_two_lines(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": TINY}, seeds=[0, 1])
    keep(study.cells[0], seconds=60.0)
    out = StringIO()
    lines = progress.Lines(tally_of(study), Console(file=out, width=40, highlight=False))
    special = {0: ["record"], 1: ["say=[red]finetune: error: broken[/red]", "exit=1"]}
    run(study.cells[1:], Local([{}], stub(tmp_path, special=special)), lines)
    shown = out.getvalue().splitlines()
    assert shown[0] == "start a/agnews/scratch-tiny/sa-softmax/seed-0"
    assert re.fullmatch(
        r"\[1/3\] \S+/sa-softmax/seed-0: accuracy 80.00%, \d+ s; 2 left, about \d+ s", shown[1]
    )
    assert "FAILED: [red]finetune: error: broken[/red]; 1 left, about" in shown[3]
    assert shown[5].endswith("FAILED: [red]finetune: error: broken[/red]") and len(shown) == 6


def test_on_a_terminal_a_table_shows_grids_and_workers(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"a": TINY, "b": {**TINY, "task": "yelp"}})
    keep(study.cells[0], seconds=60.0)
    tally = tally_of(study)
    tally.end(study.cells[1], Status(RunState.FAILED, "broken"))
    log = logs.claim(study.cells[2].log, ["x"])
    assert log is not None
    log.stream.write(b"header\n{'loss': '0.5', 'grad_norm': '1.0', 'epoch': '1.5'}\r\n\n")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    console = Console(file=StringIO(), force_terminal=True, width=100, height=20)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        table = progress.LiveTable(tally, console, live)
        table.refresh([Process(study.cells[2], 1, process, log, started=time.monotonic() - 50)])
    log.close()
    assert isinstance(console.file, StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "study mine: 0 s so far, about 35 s to go" in shown
    assert re.search(r"grid\s+done\s+running\s+failed\s+left", shown)
    assert re.search(r"^a +1 +- +1 +-\s*$", shown, flags=re.MULTILINE)
    assert re.search(r"^b +- +1 +- +1\s*$", shown, flags=re.MULTILINE)
    assert re.search(
        r"^2 +b/yelp/scratch-tiny/softmax/seed-0 +50 s +epoch 1.5, loss 0.5\s*$", shown, re.MULTILINE
    )


def test_a_log_is_read_from_where_its_attempt_began(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "a.log"
    first = logs.claim(file, ["finetune", "a b"])
    assert first is not None and logs.claim(file, []) is None and lock.held(file)
    assert first.last_line() == first.complaint() == ""
    first.stream.write(b"finetune: error: one\nlast\n")
    assert (first.complaint(), first.last_line()) == ("one", "last")
    first.close("one\u2028 \udcff")
    assert not lock.held(file) and logs.verdict(file).startswith("one")
    second = logs.claim(file, [])
    assert second is not None and second.complaint() == "" and logs.verdict(file) == ""
    second.close()
    assert "finetune 'a b'" in file.read_text(encoding="utf-8")
    assert not lock.held(tmp_path / "none") and not logs.verdict(tmp_path / "none")


@pytest.mark.parametrize("line", ["{'a': 1}", "{'eval_runtime': '3.2'}", "{not python}", "plain"])
def test_a_line_that_is_no_progress_is_shown_as_it_is(line: str) -> None:
    assert logs.brief(line) == line


# The whole


@pytest.mark.slow
def test_a_study_runs_with_a_failing_cell_and_goes_on_from_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two real processes; the second call of the study has only the failed one to try."""
    bad = {**TINY, "variants": ["softmax"], "train.learning_rate": 1e30}  # which takes its first step well
    path = written(tmp_path, {"good": {**TINY, "variants": ["softmax"]}, "bad": bad}, workers=2, diagnose=[])
    assert main(["study", str(path), "--output", str(tmp_path / "runs")]) == 2, "diagnose is an empty list"
    path = written(tmp_path, {"good": {**TINY, "variants": ["softmax"]}, "bad": bad}, workers=2)
    capfd.readouterr()
    assert main(["study", str(path), "--output", str(tmp_path / "runs")]) == 1
    said = capfd.readouterr().out
    assert "/2] good/agnews/scratch-tiny/softmax/seed-0: accuracy " in said
    assert "FAILED: the loss" in said
    assert "agnews · scratch:tiny · train.learning_rate = 0.001 · SAMPLE" in said
    assert "1 of 2 runs failed" in said
    assert said.endswith(f"next: make compare OUTPUT={tmp_path / 'runs'}\n")
    assert main(["study", str(path), "--output", str(tmp_path / "runs"), "--plan"]) == 0
    assert "1 done, 1 failed; about " in capfd.readouterr().out
    assert main(["study", str(path), "--output", str(tmp_path / "runs"), "--print"]) == 0
    assert capfd.readouterr().out.count("\n") == 1
    keep(load(str(path), tmp_path / "runs").cells[1], data=None)
    assert main(["study", str(path), "--output", str(tmp_path / "runs")]) == 0
    assert "2 runs in" in (said := capfd.readouterr().out) and "nothing is left to run" in said


@pytest.mark.slow
def test_a_study_that_is_interrupted_leaves_no_child_and_a_clean_terminal(tmp_path: Path) -> None:
    """A real command on a real terminal."""
    path = written(tmp_path, {"a": TINY}, workers=2)
    ours, theirs = pty.openpty()
    words = ["study", str(path), "--output", str(tmp_path / "runs")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = subprocess.Popen(
        [sys.executable, "-m", "finetune", *words],
        stdout=theirs, stderr=subprocess.PIPE, env=environment, start_new_session=True, text=True,
    )  # fmt: skip
    os.close(theirs)
    cells = load(str(path), tmp_path / "runs").cells
    end = time.monotonic() + 120  # the rehearsal comes first
    while not all(lock.held(cell.log) for cell in cells) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.7)  # a picture of the table or two
    children = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    _, error = command.communicate(timeout=30)
    shown = read_all(ours)
    assert command.returncode == 130 and len(children) >= 2
    assert error == "finetune: interrupted; the same command goes on from the last checkpoint\n"
    assert not any(child.is_running() for child in children)
    assert "worker" in shown and shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"
    assert "Traceback" not in shown


def read_all(terminal: int) -> str:
    pieces = []
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: nobody writes any more
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["nosuch"], "unknown study"),
        (["quik"], "did you mean 'quick'"),
        (["no/such.yaml"], "cannot read the configuration no/such.yaml"),
        (["quick", "--plan", "--print"], "not allowed with"),
        (["quick", "--workers", "0"], "--workers takes a whole number from 1"),
        (["quick", "--plna"], "takes no '--plna'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    telling: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", *words]) == 2
    error = capsys.readouterr().err
    assert telling in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


# What is shipped


def test_the_shipped_studies_hold_what_the_questions_need() -> None:
    assert shipped() == ["ablation", "cpu", "paper", "quick"]
    found = {name: load(name) for name in shipped()}
    for name, study in found.items():
        assert study.name == name and study.root == Path("runs", name)
    paper = {
        (cell.config.task, cell.config.model.name.startswith("scratch")) for cell in found["paper"].cells
    }
    tasks = ("agnews", "dbpedia", "yelp", "yahoo", "amazon-polarity", "iwslt2017")
    assert paper == {(task, scratch) for task in tasks for scratch in (True, False)}
    assert {cell.config.attention.start for cell in found["paper"].cells} == {
        "cold",
        "calibrated",
        "annealed",
    }
    assert {cell.config.attention.variant for cell in found["ablation"].cells} == set(VARIANTS)
    assert {cell.config.attention.scope for cell in found["ablation"].cells} == {
        "all",
        "encoder",
        "decoder",
        "cross",
    }
    assert all(cell.config.data.source == "sample" for cell in found["quick"].cells)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/studies/*.yaml")), ids=lambda path: path.stem)
def test_every_value_in_a_shipped_study_says_what_it_is(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        setting, _, comment = line.partition("  #")
        if re.match(r"\s*(- |[\w.]+:\s*\S)", setting):
            assert len(comment.strip()) > 2, f"{path.name}, line {number} has no comment: {line}"


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


def test_long_values_and_values_of_marks_make_cells(tmp_path: Path) -> None:
    names = ["@home", "[x", "a: b", "x" * 400, "x" * 399 + "y"]
    study = study_of(tmp_path, {"one": TINY | {"data.source": names, "variants": ["softmax"]}}, seeds=[0])
    assert len({cell.folder for cell in study.cells}) == len({cell.log for cell in study.cells}) == len(names)
    for cell in study.cells:
        assert all(len(part) <= 255 for part in (*cell.folder.parts, cell.log.name))
    cell_file.write(study.cells)
    for cell in study.cells:
        assert cell_file.read(cell_file.place(cell), cell.output).config == cell.config
