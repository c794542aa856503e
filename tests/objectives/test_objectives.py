"""The kinds of task, and what a further one needs: its own files and one declaration of its metric."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune import objectives
from finetune.errors import UserError
from finetune.objectives.base import Objective
from finetune.tasks import TASK_TYPES

ROOT, EXAMPLE = Path(__file__).parents[2], Path(__file__).parent / "example"
METRIC = """\
    Metric(
        "exact",
        title="texts tagged right",
        unit="points of texts tagged right",
        scale=100.0,
        percent=True,
        lowest=0.0,
        highest=100.0,
        primary_of="tagging",
        truth="label",
        rows="finetune.metrics.rows:ACCURACY",
    ),
)
METRICS: dict[str, Metric] ="""


@pytest.mark.parametrize("kind", objectives.kinds())
def test_an_objective_has_every_member(kind: str) -> None:
    objective = objectives.get(kind)
    assert objective.task_type is TASK_TYPES[kind] and set(objective.sample.sizes) >= {"train", "test"}
    for name in Objective.__annotations__:
        assert getattr(objective, name) is not None, name


def test_an_unknown_kind_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'translation'"):
        objectives.get("translate")


def test_facts_of_a_kind_need_no_torch() -> None:
    facts = "[(one.kind, one.task_type.verb, one.pipeline_tag) for one in map(get, kinds())]"
    code = (
        f"import sys\nfrom finetune.objectives import get, kinds\n{facts}\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_third_kind_is_one_objective_a_task_a_preset_and_a_metric(tmp_path: Path) -> None:
    """In a copy of the program: trained with two variants, compared and reported, nothing else changed."""
    for name in ("finetune", "tasks", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    shutil.copy(EXAMPLE / "tagging.py", tmp_path / "finetune/objectives")
    shutil.copy(EXAMPLE / "vowels.py", tmp_path / "tasks")
    shutil.copy(ROOT / "configs/classification-quick.yaml", tmp_path / "configs/tagging-quick.yaml")
    registry = tmp_path / "finetune/metrics/registry.py"
    before, after = registry.read_text(encoding="utf-8").split(")\nMETRICS: dict[str, Metric] =")
    registry.write_text(f"{before}{METRIC}{after}", encoding="utf-8")

    def python(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "a tag for each token of words" in python("-m", "finetune", "tasks")
    small = ["--data.train_rows", "160", "--data.validation_rows", "20", "--data.max_length", "16"]
    small += ["--model.vocab_size", "400", "--train.num_train_epochs", "2", "--train.disable_tqdm", "true"]
    words = ["tag", "--data", "sample", "--attention", "softmax,sa-softmax", "--diagnose", *small]
    printed = python("-m", "finetune", *words)
    assert "texts tagged right" in printed
    runs = sorted((tmp_path / "runs/vowels/scratch-tiny").glob("*/seed-0"))
    assert [run.parent.name for run in runs] == ["sa-softmax", "softmax"]
    for run in runs:
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
        assert record["status"] == "finished" and record["model"]["reloaded"]["equal"]
        assert record["metrics"]["exact"]["value"] > record["untrained"]["exact"]
        assert "pipeline_tag: token-classification" in (run / "README.md").read_text(encoding="utf-8")
    load = "import finetune, sys; print(type(finetune.load(sys.argv[1])[0]).__name__)"
    assert python("-c", load, str(runs[0])).strip() == "BertForTokenClassification"
