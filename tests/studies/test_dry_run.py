"""What ``--dry-run`` prints: the configuration that a run would have, where it is from, and every run."""

from pathlib import Path

import pytest
import yaml

from finetune.cli.main import main
from finetune.config.identity import as_dict, flatten
from finetune.config.loading import yaml_text
from finetune.studies import dry_run
from finetune.studies.file import load
from tests.support.studies import TINY, study_of


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_merged_configuration_with_the_origin_of_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("train: {weight_decay: 0.5, learning_rate: 7}\nseeds: 3-4\n")
    words = ["--config", "mine.yaml", "--lr", "3e-4", "--data.prefix", "3e-5: ", "--attention", "softmax"]
    shown = printed(capsys, "classify", *words, "--dry-run")
    head, table, end = shown.split("\n\n")
    values = yaml.safe_load(head)
    assert (values["train"]["learning_rate"], values["train"]["weight_decay"]) == (3e-4, 0.5)
    assert values["data"]["prefix"] == "3e-5: " and values["attention"]["variant"] == "softmax"
    for line in (
        "  learning_rate: 0.0003  # command line",
        "  weight_decay: 0.5  # mine.yaml",
        "  max_grad_norm: 1.0  # preset quick",
        "task: agnews",
    ):
        assert f"\n{line}\n" in f"\n{head}\n"
    assert [line.split()[:3] for line in table.splitlines()[1:]] == [["missing", "softmax", s] for s in "34"]
    assert "runs/agnews/scratch-tiny/softmax/seed-4" in table and end.startswith("agnews: 2 runs in runs;")
    assert [path.name for path in Path.cwd().iterdir()] == ["mine.yaml"]


def test_what_differs_among_the_runs_of_a_grid_is_a_column(tmp_path: Path) -> None:
    grid = {**TINY, "variants": ["softmax", "sa-softmax"], "train.learning_rate": [0.1, 0.2]}
    study = study_of(tmp_path, {"a": grid, "b": {**TINY, "model": {"dropout": 0.25}}}, seeds=[5])
    shown = dry_run.text(study, dry_run.of_study(study))
    first, _, second = shown.partition("# grid b")
    configuration, table = first.split("\n\n")[:2]
    shared = flatten(yaml.safe_load(configuration))
    of_runs = [flatten(as_dict(cell.config)) for cell in study.cells if cell.grid == "a"]
    assert shared.items() <= of_runs[0].items() and "train.learning_rate" not in shared
    assert of_runs[0].keys() - shared.keys() == {"train.learning_rate", "attention.variant"}
    heads, *rows = [line.split() for line in table.splitlines()]
    assert heads == ["state", "attention", "seed", "train.learning_rate", "folder"]
    assert sorted(row[1:4] for row in rows) == sorted(
        [variant, "5", rate] for variant in grid["variants"] for rate in ("0.1", "0.2")
    )
    assert f"  dropout: 0.25  # {study.title}\n" in second and "# preset quick" in second


def test_the_file_of_a_run_comes_out_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    config = as_dict(load("quick").cells[0].config)
    Path("one.yaml").write_text(yaml_text(config))
    shown = printed(capsys, "run", "one.yaml", "--dry-run")
    assert yaml.safe_load(shown.partition("\n\n")[0]) == config
    assert "1 run in runs; none was begun" in shown


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        ("classify --dry-run --plan", "not allowed with"),
        ("classify --dry-run --time-one", "--time-one says how hours are planned"),
        ("study quick --dry-run --time-one", "give --plan in the place of --dry-run"),
        ("study quick --dry-run --on slurm", "--dry-run is of this machine"),
        ("classify --dry-run --train.learning_rate -1", "train.learning_rate must be at least 0"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], words: str, telling: str) -> None:
    assert main(words.split()) == 2
    assert telling in capsys.readouterr().err
