"""The wheel builds from the tree alone, installs elsewhere and trains from another folder, all offline."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from finetune.records import store

ROOT = Path(__file__).parents[2]
SHIPPED = ["finetune", "tasks", "configs", "pyproject.toml", "README.md", "LICENSE"]
# 2 steps on 64 rows; every other option has its quick value.
QUICK = (
    "classify --task agnews --data sample --attention softmax,sa-softmax --data.train_rows 64 "
    "--data.test_rows 16 --data.validation_rows 8 --data.max_length 16 --model.vocab_size 300 "
    "--train.max_steps 2 --train.per_device_train_batch_size 8 --train.eval_strategy no "
    "--train.save_strategy no"
)


def run(words: list[str], folder: Path, **environment: str) -> str:
    """Run this Python with ``words`` in ``folder``; its output. Nothing of the tree leaks in."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=clean | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither build outputs nor an editable installation of the tree matter."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, tree / name)
    # No isolation, which would fetch setuptools: build comes with the dev extra, setuptools with torch.
    run(["-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."], tree)
    (built,) = (tree / "out").glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_preset(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    patterns = ("finetune/**/*.py", "finetune/**/*.c", "tasks/*.py", "configs/*.py", "configs/**/*.yaml")
    files = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    shipped = {name if name.startswith("finetune/") else f"finetune/{name}" for name in files}
    assert {name for name in names if ".dist-info/" not in name} == shipped
    assert any(name.endswith("LICENSE") for name in names)


def test_the_wheel_installs_elsewhere_and_trains_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    run(["-m", "pip", "install", *options, "--target", str(target), str(wheel)], elsewhere)
    assert list(target.glob("bin/finetune*"))
    where = run(["-c", "import finetune; print(finetune.__file__)"], elsewhere, PYTHONPATH=str(target))
    assert Path(where.strip()).is_relative_to(target)

    printed = run(["-m", "finetune", *QUICK.split()], elsewhere, PYTHONPATH=str(target))
    for variant in ("softmax", "sa-softmax"):
        found = store.read(elsewhere / "runs/agnews/scratch-tiny" / variant / "seed-0")
        assert found["status"] == "finished"
        assert found["git"] is None, "the installed code is no checkout"
    assert "SAMPLE" in printed
    assert (elsewhere / "runs").is_dir() and [path.name for path in elsewhere.iterdir()] == ["runs"]
