"""The names of run folders."""

from pathlib import Path

import pytest

from finetune.config import folders
from finetune.config.schema import LoraConfig
from tests.support.records import run_config


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({}, "agnews/scratch-tiny/sa-softmax/seed-3"),
        ({"model": {"name": "org/name"}}, "agnews/org--name/sa-softmax/seed-3"),
        ({"model": {"name": "/data/models/MiniLM/"}}, "agnews/MiniLM/sa-softmax/seed-3"),
        ({"model": {"name": "/data/MiniLM/model"}}, "agnews/MiniLM-model/sa-softmax/seed-3"),
        ({"model": {"name": "./out/checkpoint-500"}}, "agnews/out-checkpoint-500/sa-softmax/seed-3"),
        ({"model": {"lora": {"rank": 8}}}, "agnews/scratch-tiny-lora8/sa-softmax/seed-3"),
        ({"attention": {"scope": "encoder"}}, "agnews/scratch-tiny/sa-softmax-encoder/seed-3"),
        ({"attention": {"parameters": {"eps": 1e-5}}}, "agnews/scratch-tiny/sa-softmax-eps1e-05/seed-3"),
        ({"task": "my task.py"}, "my-task.py/scratch-tiny/sa-softmax/seed-3"),  # a name, never a file
        ({"kind": "translation", "pair": "en-fr"}, "toy-en-fr/scratch-tiny/sa-softmax/seed-3"),
    ],
)
def test_run_folders(over: dict[str, object], expected: str) -> None:
    config = run_config("sa-softmax", 3, **over)
    assert folders.run_folder(Path("runs"), config) == Path("runs") / expected


def test_a_local_model_folder_goes_by_its_base_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mini").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = run_config(model={"name": "models/mini"}).model
    assert folders.model_slug(model) == "mini"
    assert model.lora == LoraConfig(0, model.lora.alpha, model.lora.dropout, model.lora.target_modules)


def test_a_name_fits_into_a_file_system_and_stays_its_own() -> None:
    long = [folders.file_name("x" * 300 + end) for end in "ab"]
    assert len(set(long)) == 2 and all(len(name) <= 200 for name in long)
    assert folders.file_name("x" * 200) == "x" * 200
