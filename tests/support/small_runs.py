"""A run of seconds, through the command itself."""

from pathlib import Path
from typing import Any

import torch
import yaml

import finetune
from finetune import objectives
from finetune.cli.main import main
from finetune.config.build import build
from finetune.config.loading import read_yaml
from finetune.data import dataset, sources
from finetune.tasks import get_task

COMMON = [
    "--data", "sample", "--data.train_rows", "48", "--data.validation_rows", "12", "--data.test_rows", "21",
    "--data.max_length", "24", "--model.vocab_size", "300", "--train.disable_tqdm", "true",
    "--train.per_device_train_batch_size", "5", "--train.num_train_epochs", "2", "--train.logging_steps", "1",
]  # fmt: skip
OWN: dict[str, list[str]] = {  # an untrained model seldom ends a translation by itself
    "classify": [],
    "translate": ["--generation.max_new_tokens", "12"],
}
FOLDERS = {
    "classify": "agnews/scratch-tiny",
    "translate": "iwslt2017-de-en/scratch-tiny",
}


def run(verb: str, root: Path, *options: str) -> int:
    """``finetune VERB`` with few rows and steps; the exit status."""
    return main([verb, "--output", str(root), *COMMON, *OWN[verb], *options])


def small_grid(*variants: str) -> dict[str, Any]:
    """The runs of ``classify``, as a grid of a study file."""
    keys = {
        name.removeprefix("--"): yaml.safe_load(value)
        for name, value in zip(COMMON[::2], COMMON[1::2], strict=True)
    }
    return {"task": "agnews", "variants": list(variants), "data.source": keys.pop("data"), **keys}


def folder(verb: str, root: Path, variant: str = "softmax", seed: int = 0) -> Path:
    """Where ``run`` puts one run."""
    return root / FOLDERS[verb] / variant / f"seed-{seed}"


def predict(where: Path) -> tuple[Any, dict[int, Any]]:
    """The model loaded from a run's folder, and what it predicts for each test row, one row at a time."""
    model, tokenizer = finetune.load(where)
    config = build(read_yaml(where / "finetune.yaml"))
    task = get_task(config.task)
    objective, source = objectives.of(config), sources.resolve(task, config.pair, "sample")
    loaded = dataset.load(task, config.pair, source, config.data, objective.sample)
    split = objective.tokenize(loaded.splits["test"], "test", tokenizer, config)
    answers: dict[int, Any] = {}
    for row in split:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            if config.kind == "classification":
                answers[row["row"]] = int(model(ids).logits.argmax())
            else:
                text = tokenizer.decode(model.generate(input_ids=ids)[0], skip_special_tokens=True)
                answers[row["row"]] = text.strip()
    return model, answers
