"""A run of seconds, through the command itself."""

from pathlib import Path

from finetune.cli.main import main

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


def folder(verb: str, root: Path, variant: str = "softmax", seed: int = 0) -> Path:
    """Where ``run`` puts one run."""
    return root / FOLDERS[verb] / variant / f"seed-{seed}"
