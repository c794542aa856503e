"""Masked pretraining through the command: masks of a run, one that is killed, and what begins from one."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune import load, objectives
from finetune.cli.main import main
from finetune.data.collate import IGNORED
from finetune.models.builder import build_model
from finetune.records import store
from finetune.training.trainer import _Comparable
from tests.support.records import LABELS, run_config
from tests.support.resumed import kept_at, same_end

OPTIONS = [
    "pretrain", "--objective", "masked", "--data", "sample", "--data.train_rows", "12",
    "--data.validation_rows", "4", "--data.test_rows", "6", "--data.max_length", "32",
    "--model.vocab_size", "300", "--language.tokens_per_step", "256", "--language.train_tokens",
    "1100", "--train.per_device_train_batch_size", "4", "--train.num_train_epochs", "3",
    "--train.logging_steps", "1", "--train.save_strategy", "steps", "--train.save_steps", "3",
    "--train.save_total_limit", "9",
]  # fmt: skip
Seen = dict[bool, list[tuple[torch.Tensor, torch.Tensor]]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the model is given, in training (True) and else: inputs and labels of each batch."""
    batches: Seen = defaultdict(list)
    compute = _Comparable.compute_loss

    def look(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if "/seed-" in trainer.args.output_dir:  # and not in the rehearsal before
            batches[model.training].append((inputs["input_ids"].clone(), inputs["labels"].clone()))
        return compute(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(_Comparable, "compute_loss", look)
    return batches


def pretrained(root: Path, *options: str, variant: str = "softmax", seed: int = 0) -> Path:
    words = ["--output", str(root), "--attention", variant, "--seeds", str(seed), *options]
    assert main([*OPTIONS, *words]) == 0
    return root / f"books/scratch-tiny/{variant}/seed-{seed}"


def same(one: list[Any], other: list[Any]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


def test_variants_have_the_same_masks_and_every_epoch_new_ones(seen: Seen, tmp_path: Path) -> None:
    """Wherever batches are made: those of the second in a worker process."""
    runs = []
    worker = ["--train.dataloader_num_workers", "1"]
    for variant, options in (("softmax", []), ("sa-softmax", worker)):
        pretrained(tmp_path, *options, variant=variant)
        runs.append({training: list(batches) for training, batches in seen.items()})
        seen.clear()
    assert same(runs[0][True], runs[1][True]) and same(runs[0][False], runs[1][False])
    pretrained(tmp_path, seed=1)
    assert not same(seen[True], runs[0][True]) and same(seen[False], runs[0][False])
    # The same windows in every epoch, in another order and with other masks.
    batches = runs[0][True]
    epochs = [
        batches[start : start + len(batches) // 3] for start in range(0, len(batches), len(batches) // 3)
    ]
    whole, asked = [], []
    for epoch in epochs:
        plain = [torch.where(labels == IGNORED, ids, labels) for ids, labels in epoch]
        rows = torch.cat(plain).tolist()
        order = sorted(range(len(rows)), key=rows.__getitem__)
        whole.append(torch.cat(plain)[order])
        asked.append(torch.cat([labels for _, labels in epoch])[order])
    assert len(epochs) == 3 and torch.equal(whole[0], whole[1]) and torch.equal(whole[0], whole[2])
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(asked[one], asked[two])


@pytest.mark.parametrize("step", [3, 8], ids=["within an epoch", "in a later one"])
def test_a_run_that_is_killed_ends_the_same(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole, killed = (tmp_path / name / "books/scratch-tiny/sa-softmax/seed-0" for name in ("whole", "killed"))
    saved = ["--train.save_steps", str(step)]
    kept_at(step, whole, killed, monkeypatch)
    pretrained(tmp_path / "whole", *saved, variant="sa-softmax")
    batches = list(seen[True])
    seen.clear()
    pretrained(tmp_path / "killed", *saved, variant="sa-softmax")
    resumed = seen[True]
    assert 0 < len(resumed) < len(batches) and same(resumed, batches[-len(resumed) :])
    same_end(whole, killed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(tmp_path_factory.mktemp("masked"), variant="sa-softmax")


def test_a_run_from_rows_to_record(run: Path) -> None:
    record = store.read(run)
    assert record["task"]["kind"] == "masked" and record["model"]["reloaded"]["equal"]
    for counted in record["data"]["tokens"].values():  # of the windows, whose frames are two tokens each
        assert counted["tokens"] == counted["trained_tokens"] + 2 * counted["rows"]
    rows = store.read_predictions(run)
    assert len(rows) == 6 and all(set(row) == {"row", "document", "nats", "tokens"} for row in rows)
    value = record["metrics"]["masked_loss"]["value"]
    assert value == pytest.approx(sum(row["nats"] for row in rows) / sum(row["tokens"] for row in rows))
    assert value < record["untrained"]["masked_loss"]
    assert not any("perplexity" in name for name in record["metrics"])
    model, tokenizer = load(run)
    code = objectives.get("masked").snippet(record["config"])
    exec(code, {"model": model, "tokenizer": tokenizer, "print": lambda text: None})  # as the card has it


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_a_classifier_from_a_run_has_its_encoder_and_a_new_head(run: Path, variant: str) -> None:
    config = run_config(variant, model={"name": str(run)}, seed=5)
    built = build_model(config, objectives.of(config), iter(()), LABELS)
    theirs, ours = load_file(run / "model.safetensors"), built.model.state_dict()
    new = {name for name in ours if name not in theirs}
    assert new == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert sorted(new) == built.info["new_weights"]
    assert all(torch.equal(ours[name], theirs[name]) for name in set(ours) - new)
    assert {name for name in theirs if name not in ours} == {n for n in theirs if n.startswith("cls.")}
    seed = build_model(
        run_config(variant, model={"name": str(run)}, seed=6), objectives.of(config), iter(()), LABELS
    ).model.state_dict()
    # Biases of a new head are 0 whatever the seed.
    assert {name for name in ours if not torch.equal(ours[name], seed[name])} == {
        name for name in new if name.endswith("weight")
    }
    read = built.tokenizer("Some words, [MASK].")["input_ids"]
    assert read == load(run)[1]("Some words, [MASK].")["input_ids"]


def test_a_classifier_is_trained_from_a_run(run: Path, tmp_path: Path) -> None:
    words = [
        "classify", "--data", "sample", "--data.train_rows", "24", "--data.validation_rows", "8",
        "--data.test_rows", "12", "--train.max_steps", "2", "--model", str(run), "--output", str(tmp_path),
        "--attention", "softmax,sa-softmax",
    ]  # fmt: skip
    assert main(words) == 0
    records = [store.read(path.parent) for path in sorted(tmp_path.glob("agnews/**/record.json"))]
    assert len({record["model"]["initial_weights"] for record in records}) == 1
    assert [record["status"] for record in records] == ["finished"] * 2
