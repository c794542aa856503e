"""Runs of several processes against one: the same rows in the same steps, the same losses and answers.

Without dropout, which draws otherwise on each process. What differs is the order in which sums are formed.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.records import store
from tests.support.pretrained_models import save as save_pretrained
from tests.support.processes import launch
from tests.support.small_runs import COMMON

LOSSES = 1e-4
"""How far the losses of steps may differ, which on these runs they do by 3e-5 at most."""
STILL = ["--model.dropout", "0", "--model.attention_dropout", "0"]
CLASSIFY = ["classify", *COMMON, *STILL, "--train.per_device_train_batch_size", "12", "--attention"]
TRANSLATE = [
    "translate", *COMMON, *STILL, "--generation.max_new_tokens", "8", "--train.num_train_epochs", "1",
    "--train.per_device_train_batch_size", "8", "--train.per_device_eval_batch_size", "4", "--attention",
]  # fmt: skip
PRETRAIN = [
    "pretrain", "--data", "sample", "--data.train_rows", "14", "--data.validation_rows", "4",
    "--data.test_rows", "5", "--data.max_length", "32", "--model.vocab_size", "300",
    "--language.tokens_per_step", "256", "--train.per_device_train_batch_size", "4",
    "--train.per_device_eval_batch_size", "2", "--train.num_train_epochs", "2", "--train.logging_steps", "1",
    "--train.disable_tqdm", "true", *STILL, "--attention",
]  # fmt: skip
SMOOTHED = ["--train.label_smoothing_factor", "0.1"]
BEST = [
    "--train.eval_strategy", "steps", "--train.eval_steps", "3", "--train.save_strategy", "steps",
    "--train.save_steps", "3", "--train.load_best_model_at_end", "true", "--train.metric_for_best_model",
    "loss",
]  # fmt: skip
STRATEGY = "--train.train_sampling_strategy"
ANNEALED = ["--attention.start", "annealed", "--attention.annealing_share", "0.6"]
COMPUTED = ["--train.bf16", "true", "--train.use_cpu", "true"]
COMPILED = ["--train.torch_compile", "true", "--train.torch_compile_backend", "eager"]
Cases = dict[str, list[str]]
# The rows of an epoch and of a split make no whole steps and batches.
CASES: Cases = {
    "classification": [*CLASSIFY, "softmax", "--data.train_rows", "45"],
    "translation": [*TRANSLATE, "sa-softmax", *SMOOTHED, *BEST],
    "causal": [*PRETRAIN, "sa-softmax", "--model.position", "kerple", "--eval_lengths", "64"],
    "masked": [*PRETRAIN, "sa-softmax", "--objective", "masked"],
}  # fmt: skip
MORE: Cases = {
    "blocked": [*CLASSIFY, "sa-softmax", "--attention.kernel", "blocked", "--attention.start", "calibrated"],
    "reference": [*CLASSIFY, "sa-softmax-raw", "--attention.kernel", "reference", *SMOOTHED],
    "annealed": [*CLASSIFY, "sa-softmax", *ANNEALED],
    "accumulation": [*CLASSIFY, "sa-softmax", "--train.per_device_train_batch_size", "4",
                     "--train.gradient_accumulation_steps", "3", STRATEGY, "group_by_length"],
    "sequential": [*CLASSIFY, "softmax", STRATEGY, "sequential", "--train.activation_checkpointing", "true",
                   "--data.train_rows", "47"],
    "early stopping": [*CLASSIFY, "softmax", *BEST, "--early_stopping_patience", "1",
                       "--train.learning_rate", "5e-3", "--train.num_train_epochs", "6"],
    "adapters": [*CLASSIFY, "sa-softmax", "--model", "BASE", "--model.lora.rank", "3"],
    "compiled": [*CLASSIFY, "sa-softmax", *COMPILED, "--train.max_steps", "3"],
    "bf16": [*CLASSIFY, "softmax", *COMPUTED, "--train.max_steps", "3"],
    "isolated": [*PRETRAIN, "softmax", "--language.documents", "isolate"],
}  # fmt: skip
HALF = ("bf16",)


def made(root: Path, processes: int, cases: Cases) -> Path:
    """The folder of the runs of ``cases``, each below its name, made by so many processes."""
    base = root / "base"
    if not base.is_dir():
        save_pretrained("bert", base)
    here = root / str(processes)
    words = [
        [*(str(base) if word == "BASE" else word for word in case), "--output", str(here / name)]
        for name, case in cases.items()
    ]
    file = root / f"{processes}-{next(iter(cases))}.json"
    file.write_text(json.dumps(words))
    ended = launch([sys.executable, "-m", "tests.support.worker", str(file)], processes, timeout=500)
    for each in ended:
        assert each.status == 0 and each.output.count("status 0") == len(words), each.output[-3000:]
    return here


def record_of(folder: Path) -> tuple[Path, Any]:
    """The one run below a folder, and its record."""
    [file] = folder.rglob(store.FILE)
    return file.parent, store.read(file.parent)


def check(name: str, one: Path, several: Path, processes: int) -> None:
    (before, first), (after, second) = (record_of(here / name) for here in (one, several))
    assert second["status"] == "finished" and second["computed"]["parallelism"]["processes"] == processes
    assert first["config_hash"] == second["config_hash"]
    assert first["computed"]["batch"]["total"] == second["computed"]["batch"]["total"]
    tolerance = 2e-2 if name in HALF else LOSSES
    losses = [
        [point[key] for point in record["curve"] for key in ("loss", "eval_loss") if key in point]
        for record in (first, second)
    ]
    assert len(losses[0]) > 2 and losses[1] == pytest.approx(losses[0], abs=tolerance)
    loss = first["untrained"].pop("loss")
    assert second["untrained"].pop("loss") == pytest.approx(loss, rel=1e-5)
    assert second["untrained"] == first["untrained"] or "nats" in store.read_predictions(before)[0]
    rows = [store.read_predictions(where) for where in (before, after)]
    assert [row["row"] for row in rows[0]] == [row["row"] for row in rows[1]]
    for one_row, other in zip(*rows, strict=True):
        if "nats" in one_row:
            assert other["nats"] == pytest.approx(one_row["nats"], rel=1e-3)
            assert other["tokens"] == one_row["tokens"]
        else:
            assert other == one_row
    if first["probabilities"]:
        (ids, logs), (again, others) = (store.read_probabilities(where) for where in (before, after))
        assert ids.tolist() == again.tolist() == [row["row"] for row in rows[0]]
        assert others == pytest.approx(logs, abs=max(tolerance, 5e-3))  # a digit of float16


@pytest.mark.slow
def test_every_kind_of_run_is_the_same_on_two_processes(tmp_path: Path) -> None:
    one, several = made(tmp_path, 1, CASES), made(tmp_path, 2, CASES)
    for name in CASES:
        check(name, one, several, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("processes", "cases"), [(4, CASES), (2, MORE)])
def test_every_kind_of_training_is_the_same_on_several_processes(
    processes: int, cases: Cases, tmp_path: Path
) -> None:
    one, several = made(tmp_path, 1, cases), made(tmp_path, processes, cases)
    for name in cases:
        check(name, one, several, processes)
