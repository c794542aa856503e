"""Whole runs that two processes share out (``train.fsdp``), by Trainer's own loop, over gloo, on the CPU.

accelerate has no FSDP on a CPU; here the model comes to Trainer shared out by torch's ``fully_shard``, on a
CPU as on GPUs, so that nothing stands in for anything. Without dropout, which each process draws for itself.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from finetune.records import manifest, store
from finetune.training.sharded import REST
from tests.support.pretrained_models import save as save_pretrained
from tests.support.processes import launch
from tests.support.small_runs import COMMON

pytestmark = pytest.mark.timeout(900)  # several runs are made for the first test of many

LOSSES = 1e-5
"""How far the losses of steps may differ; they do by some 1e-6."""
STILL = ["--model.dropout", "0", "--model.attention_dropout", "0", "--attention", "sa-softmax"]
CLASSIFY = [
    "classify",
    *COMMON,
    *STILL,
    "--train.per_device_train_batch_size",
    "6",
    "--data.train_rows",
    "31",
]
TRANSLATE = ["translate", *COMMON, *STILL, "--train.per_device_train_batch_size", "4", "--data.train_rows",
             "32", "--train.num_train_epochs", "1", "--generation.max_new_tokens", "7"]  # fmt: skip
PRETRAIN = [
    "pretrain", "--data", "sample", "--data.train_rows", "14", "--data.validation_rows", "4",
    "--data.test_rows", "5", "--data.max_length", "32", "--model.vocab_size", "300",
    "--language.tokens_per_step", "256", "--language.scored_tokens", "8", "--language.test_windows", "5",
    "--train.per_device_train_batch_size", "4", "--train.max_steps", "5", "--train.logging_steps", "1",
    "--train.disable_tqdm", "true", "--train.learning_rate", "3e-3", *STILL,
]  # fmt: skip
SAVED = ["--train.save_strategy", "steps", "--train.save_steps", "3", "--train.save_total_limit", "9"]
BEST = [*SAVED, "--train.load_best_model_at_end", "true", "--train.metric_for_best_model", "loss",
        "--train.eval_strategy", "steps", "--train.eval_steps", "3",
        "--train.learning_rate", "5e-3"]  # fmt: skip
ANNEALED = ["--attention.start", "annealed", "--attention.annealing_share", "0.5"]
Cases = dict[str, list[str]]
CASES: Cases = {
    "classification": [*CLASSIFY, "--train.activation_checkpointing", "true"],
    "translation": [*TRANSLATE, *SAVED, *ANNEALED],
    "causal": [*PRETRAIN, "--model.position", "kerple", "--eval_lengths", "16", "--diagnose"],
    "adapters": [*CLASSIFY, "--model", "BASE", "--model.lora.rank", "3", "--attention.start", "calibrated"],
    "best": [*CLASSIFY, *BEST],
    "bf16": [*CLASSIFY, "--train.bf16", "true", "--train.use_cpu", "true"],
    "compiled": [*CLASSIFY, "--train.torch_compile", "true", "--train.torch_compile_backend", "aot_eager",
                 "--train.max_steps", "3"],
    "kept": [*TRANSLATE, "--train.gradient_accumulation_steps", "2"],
}  # fmt: skip
OWN = {"kept": ["--train.fsdp_config.reshard_after_forward", "false"]}  # of a run that is shared out
QUICK = ("translation",)  # of the fast set


def run_all(root: Path, names: Any, processes: int, *, shared: bool, status: int = 0) -> str:
    """Runs cases one after the other, each in a folder of its name below ``root``, which may hold a part.

    Each is to end with ``status``. Returns what the first process printed.
    """
    root.mkdir(exist_ok=True)
    base = save_pretrained("bert", root / "base") if "adapters" in names else root
    words = []
    for name in names:
        own = ["--train.fsdp", "true", *OWN.get(name, [])] if shared else []
        case = [str(base) if word == "BASE" else word for word in CASES[name]]
        words.append([*case, *own, "--output", str(root / name)])
    (root / "words.json").write_text(json.dumps(words))
    worker = [sys.executable, "-m", "tests.support.worker", str(root / "words.json")]
    ended = launch(worker, processes, timeout=500)
    for each in ended:
        assert each.status == 0 and each.output.count(f"status {status}") == len(words), each.output[-3000:]
    return ended[0].output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases of the fast set, by one process and shared out by two: below ``1`` and ``2``."""
    root = tmp_path_factory.mktemp("sharded")
    run_all(root / "1", QUICK, 1, shared=False)
    run_all(root / "2", QUICK, 2, shared=True)
    return root


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The other cases."""
    root = tmp_path_factory.mktemp("sharded")
    names = [name for name in CASES if name not in QUICK]
    run_all(root / "1", names, 1, shared=False)
    run_all(root / "2", names, 2, shared=True)
    return root


def the_run(root: Path) -> tuple[Path, Any]:
    """The one run below a folder, and its record."""
    [file] = root.rglob(store.FILE)
    return file.parent, store.read(file.parent)


def losses(record: Any) -> list[float]:
    """Those of steps and of evaluations."""
    return [point[key] for point in record["curve"] for key in ("loss", "eval_loss") if key in point]


def alike(one: Path, other: Path, tolerance: float = LOSSES) -> None:
    """Holds two runs to the same losses and predictions."""
    (first, before), (second, after) = the_run(one), the_run(other)
    assert after["status"] == "finished"
    assert len(losses(before)) > 2 and losses(after) == pytest.approx(losses(before), abs=tolerance)
    rows = [store.read_predictions(folder) for folder in (first, second)]
    for row, again in zip(*rows, strict=True):
        if "nats" in row:
            assert again["row"] == row["row"] and again["nats"] == pytest.approx(row["nats"], rel=1e-4)
        else:
            assert again == row
    if before["probabilities"]:
        (ids, logs), (ids_again, others) = (store.read_probabilities(folder) for folder in (first, second))
        assert ids.tolist() == ids_again.tolist() == [row["row"] for row in rows[0]]
        assert others == pytest.approx(logs, abs=max(tolerance, 5e-3))  # a digit of float16


@pytest.mark.parametrize("name", QUICK)
def test_a_run_is_the_same_shared_out(name: str, root: Path) -> None:
    alike(root / "1" / name, root / "2" / name)
    _, record = the_run(root / "2" / name)
    assert record["computed"]["parallelism"]["fsdp"] and record["computed"]["parallelism"]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in QUICK])
def test_a_run_is_the_same_shared_out_also(name: str, others: Path) -> None:
    alike(others / "1" / name, others / "2" / name, 2e-2 if name == "bf16" else 1e-4)


def test_the_finished_model_is_a_whole_one(root: Path) -> None:
    (one, _), (two, _) = (the_run(root / number / "translation") for number in "12")
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert weights[1][name].shape == weight.shape and (weights[1][name] - weight).abs().max() < 1e-4
    names = [sorted(file.name for file in folder.iterdir() if file.is_file()) for folder in (one, two)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_learned_numbers_are_whole_in_a_diagnosis(others: Path) -> None:
    found = []
    for number in "12":
        [file] = (others / number / "causal").rglob("diagnostics.json")
        samples = json.loads(file.read_text())["samples"]
        found.append([layer["learned"] for sample in samples for layer in sample["layers"]])
    assert len(found[0]) == len(found[1]) > 2
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        assert all(other[name] == pytest.approx(one[name], abs=1e-4) for name in one)


# Checkpoints


def interrupted(root: Path, target: Path, processes: int = 2) -> Path:
    """A copy of the run of one or two processes as it was after its third step; its folder."""
    shutil.copytree(root / str(processes) / "translation", target)
    folder, record = the_run(target)
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-3":
            shutil.rmtree(checkpoint)
    for file in (folder / "model.safetensors", folder / manifest.FILE, folder / store.PREDICTIONS):
        file.unlink()
    store.write(folder, {**record, "status": "running", "finished": None, "metrics": None, "curve": []})
    return folder


def test_a_checkpoint_holds_shares_of_every_process_and_no_pickle(root: Path) -> None:
    folder, _ = the_run(root / "2" / "translation")
    names = {file.name for file in (folder / "checkpoint-3").iterdir()}
    shards = {f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)}
    assert names == {*shards, REST, "scheduler.pt", "trainer_state.json", manifest.FILE}
    sizes = [(folder / "checkpoint-3" / name).stat().st_size for name in shards]
    assert max(sizes) < 1.1 * min(sizes)


@pytest.mark.parametrize(
    ("processes", "shared"),
    [(2, True), *(pytest.param(n, s, marks=pytest.mark.slow) for n, s in ((1, True), (4, True), (2, False)))],
)
def test_a_run_goes_on_with_any_number_of_processes(
    processes: int, shared: bool, root: Path, tmp_path: Path
) -> None:
    interrupted(root, tmp_path / "translation")
    run_all(tmp_path, ["translation"], processes, shared=shared)
    alike(root / "2" / "translation", tmp_path / "translation", LOSSES)
    if (processes, shared) == (2, True):  # to the last bit
        before, after = (losses(the_run(where / "translation")[1]) for where in (root / "2", tmp_path))
        assert after == before


@pytest.mark.slow
def test_a_whole_checkpoint_is_not_gone_on_with_in_shares(root: Path, tmp_path: Path) -> None:
    folder = interrupted(root, tmp_path / "translation", 1)
    printed = run_all(tmp_path, ["translation"], 2, shared=True, status=2)
    assert "was written without train.fsdp" in printed and "--train.fsdp false" in printed
    assert (folder / "checkpoint-3").is_dir()
    run_all(tmp_path, ["translation"], 2, shared=False)
    alike(root / "1" / "translation", tmp_path / "translation")


@pytest.mark.parametrize("name", [".hidden.safetensors", "shard-00003-model-00001-of-00001.safetensors"])
def test_a_file_that_was_put_beside_the_shares_is_not_read(name: str, root: Path, tmp_path: Path) -> None:
    folder = interrupted(root, tmp_path / "translation")
    [shard, *_] = sorted((folder / "checkpoint-3").glob("shard-*"))
    save_file({key: value * 0 for key, value in load_file(shard).items()}, folder / "checkpoint-3" / name)
    assert name in (_fault(folder) or "")


def _fault(folder: Path) -> str | None:
    from finetune.training import resume

    run = json.loads((folder / "checkpoint-3" / manifest.FILE).read_text())["run"]
    passed = resume.newest(folder, run).passed
    return passed[0] if passed else None
