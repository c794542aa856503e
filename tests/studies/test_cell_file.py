"""The file from which one run of a study is started."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.config.identity import as_dict
from finetune.config.loading import merge, nest, yaml_text
from finetune.studies import cell_file
from finetune.system.processes import python_module
from tests.support.studies import TINY, study_of


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
