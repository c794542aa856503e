"""Whole runs: what they leave, how they resume, and that two arms differ in nothing but attention."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.trainer
import yaml
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, PreTrainedTokenizerBase
from transformers.trainer_pt_utils import EvalLoopContainer

import finetune.studies.preflight
import finetune.training.run
from finetune import load
from finetune.cli.main import main
from finetune.comparison import pairing
from finetune.data.collate import Collator
from finetune.models.checkpoint import CONFIG_FILE
from finetune.records import manifest, store
from finetune.records.run import find_runs
from finetune.system.lock import locked
from finetune.training.trainer import EpochSampler
from tests.support.resumed import kept_at, same_end
from tests.support.small_runs import COMMON, folder, run
from tests.support.trained import GRID


@pytest.fixture
def classified(trained):
    return trained("classify", *GRID)


def test_run_folder_keeps_everything(classified):
    for variant in ("softmax", "sa-softmax"):
        found = store.read(folder("classify", classified, variant))
        assert found["status"] == "finished" and found["data"]["sample"] is True
        assert found["attention"]["variant"] == variant
        assert found["attention"]["layers"] == {"encoder": 2}
        assert found["attention"]["dropout"] == pytest.approx(0.1)
        assert found["config"]["data"]["source"] == "sample"
        assert found["metrics"]["accuracy"]["signature"]
        assert found["times"]["train_s"] > 0 and found["peak_memory_mib"] > 0
        assert any("loss" in point for point in found["curve"])
        names = {path.name for path in folder("classify", classified, variant).iterdir()}
        assert {
            "record.json",
            "finetune.yaml",
            "predictions.jsonl",
            "probabilities.parquet",
            "model.safetensors",
            "tokenizer.json",
        } <= names
    sa = store.read(folder("classify", classified, "sa-softmax"))
    assert sa["attention"]["parameters"] == {"eps": 1e-6}


def test_recorded_accuracy_is_that_of_the_predictions(classified):
    where = folder("classify", classified)
    rows = store.read_predictions(where)
    accuracy = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    assert len(rows) == 21
    assert store.read(where)["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_recorded_likelihood_is_that_of_the_kept_probabilities(classified):
    """Up to the rounding to float16; each row's largest is the class that was predicted."""
    where = folder("classify", classified)
    rows, (ids, logs) = store.read_predictions(where), store.read_probabilities(where)
    assert ids.tolist() == [row["row"] for row in rows] and logs.shape == (21, 4)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, rtol=2e-3)
    assert [row["prediction"] for row in rows] == logs.argmax(axis=1).tolist()
    entry = store.read(where)
    assert entry["probabilities"] == store.PROBABILITIES
    right = logs[range(21), [row["label"] for row in rows]]
    assert entry["metrics"]["nll"]["value"] == pytest.approx(-right.mean(), rel=1e-3)
    assert 0 <= entry["metrics"]["ece"]["value"] <= 1
    assert store.PROBABILITIES in manifest.checksums(where)


def easy_rows(data):
    """The options of a task that is learnt without a mistake: 80 test rows of 1 to 3 words."""
    data.mkdir()
    names = ["apple", "river", "stone", "cloud"]
    rows = [{"text": " ".join([names[i % 4]] * (1 + i // 4 % 3)), "label": i % 4} for i in range(240)]
    for name, part in (("train", rows[:160]), ("test", rows[160:])):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    options = ["--data", str(data), "--data.train_rows", "null", "--data.test_rows", "null"]
    return [*options, "--train.per_device_eval_batch_size", "7"]


@pytest.mark.slow
def test_each_prediction_belongs_to_its_row(tmp_path):
    """Predictions in another order than the rows would be chance."""
    options = easy_rows(tmp_path / "rows")
    assert run("classify", tmp_path / "runs", "--attention", "softmax", *options) == 0
    predictions = store.read_predictions(folder("classify", tmp_path / "runs"))
    assert len(predictions) == 80
    assert all(row["prediction"] == row["label"] == row["row"] % 4 for row in predictions)


def test_a_run_of_earlier_days_is_read_and_loaded_but_not_paired(classified, tmp_path):
    """Before there were batches in the configuration; what is missing differs, and both sides say so."""
    old, new = tmp_path / "old", folder("classify", classified)
    shutil.copytree(new, old)
    for name, read, write in (
        ("record.json", json.loads, json.dumps),
        (CONFIG_FILE, yaml.safe_load, yaml.dump),
    ):
        content = read((old / name).read_text())
        del (content["config"] if name == "record.json" else content)["batches"]
        (old / name).write_text(write(content))
    model, _ = load(old)
    assert all(map(torch.equal, model.state_dict().values(), load(new)[0].state_dict().values()))
    runs, problems = find_runs([old, new])
    assert problems == [] and len(runs) == 2
    assert pairing.differences(*sorted(runs, key=lambda run: run.folder != old)) == [
        "batches.padding (None against longest)",
        "batches.sort_evaluation (None against True)",
    ]


def test_finished_run_is_skipped_and_says_so(classified, capsys):
    before = (folder("classify", classified) / "record.json").read_bytes()
    assert run("classify", classified, *GRID) == 0
    assert capsys.readouterr().out.count("finished already, skipped") == 2
    assert (folder("classify", classified) / "record.json").read_bytes() == before


def test_other_configuration_stops_and_names_the_keys(classified, capsys):
    before = (folder("classify", classified) / "record.json").read_bytes()
    assert run("classify", classified, *GRID, "--train.learning_rate", "5e-4", "--data.max_length", "20") == 2
    error = capsys.readouterr().err
    assert "data.max_length, train.learning_rate" in error and error.count("\n") == 1
    assert (folder("classify", classified) / "record.json").read_bytes() == before


STEPS = ["--attention", "sa-softmax", "--train.save_strategy", "steps", "--train.save_steps", "7"]


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_numbers(tmp_path, capsys):
    """A command of its own, and a real signal."""
    options = [*STEPS, "--train.num_train_epochs", "8"]
    assert run("classify", tmp_path / "whole", *options) == 0
    whole, killed = (folder("classify", tmp_path / name, "sa-softmax") for name in ("whole", "killed"))
    command = [sys.executable, "-m", "finetune", "classify", "--output", str(tmp_path / "killed")]
    process = subprocess.Popen(
        [*command, *COMMON, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (killed / "checkpoint-14").is_dir() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert store.read(killed)["status"] == "running"

    assert run("classify", tmp_path / "killed", *options) == 0
    assert "resumes from its checkpoint" in capsys.readouterr().out
    same_end(whole, killed)


@pytest.mark.slow
def test_a_translation_resumes_to_the_same_numbers(tmp_path, capsys, monkeypatch):
    """From its folder as it was when a checkpoint had just been written; with dropout, so that it counts what
    is drawn."""
    options = [*STEPS, "--model.dropout", "0.1"]
    whole, killed = (folder("translate", tmp_path / name, "sa-softmax") for name in ("whole", "killed"))
    kept_at(14, whole, killed, monkeypatch)
    assert run("translate", tmp_path / "whole", *options) == 0
    assert store.read(killed)["status"] == "running"
    warned = []
    monkeypatch.setattr(transformers.trainer.logger, "warning", lambda text, *_: warned.append(text))
    assert run("translate", tmp_path / "killed", *options) == 0
    assert "resumes from its checkpoint" in capsys.readouterr().out
    assert not [text for text in warned if "missing keys" in text], "tied weights are in the file once"
    same_end(whole, killed)


@pytest.mark.slow
def test_arms_see_the_same_batches_from_the_same_weights(tmp_path, monkeypatch):
    seen: dict[str, list] = {"softmax": [], "sa-softmax": []}
    first_weights = {}
    original = BertForSequenceClassification.forward

    @functools.wraps(original)  # Trainer reads the signature
    def spy(self, *args, **keywords):
        if self.training and torch.is_grad_enabled():
            variant = current[0]
            first_weights.setdefault(variant, [p.detach().clone() for p in self.parameters()])
            seen[variant].append(keywords["input_ids"].tolist())
            torch.rand(len(variant))  # as if each kernel drew another number of random numbers for dropout
        return original(self, *args, **keywords)

    current = [""]
    build = finetune.training.run.builder.build_model

    def build_and_note(config, *args):
        current[0] = config.attention.variant
        return build(config, *args)

    monkeypatch.setattr(BertForSequenceClassification, "forward", spy)
    monkeypatch.setattr(finetune.training.run.builder, "build_model", build_and_note)
    monkeypatch.setattr(finetune.studies.preflight.rehearsal, "rehearse", lambda *_: [])
    assert run("classify", tmp_path, *GRID) == 0
    assert len(seen["softmax"]) == 20  # 48 rows in fives, two epochs
    assert seen["softmax"] == seen["sa-softmax"]
    assert seen["softmax"][:10] != seen["softmax"][10:]
    assert all(map(torch.equal, first_weights["softmax"], first_weights["sa-softmax"]))


def alone(monkeypatch):
    """Leave out the rehearsal before the first run and the check at the end of each, which predict too."""
    monkeypatch.setattr(finetune.studies.preflight.rehearsal, "rehearse", lambda *_: [])
    monkeypatch.setattr(
        finetune.training.run.reloaded, "check", lambda *_, **__: {"rows": 0, "equal": True, "ties": 0}
    )


@pytest.mark.slow
def test_a_grid_is_tokenized_once(tmp_path, monkeypatch):
    """Two variants and two seeds, then the same rows for another run: the tokenizer is asked once a split."""
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    alone(monkeypatch)
    calls = []
    original = PreTrainedTokenizerBase.__call__

    def spy(self, *args, **keywords):
        calls.append(keywords)
        return original(self, *args, **keywords)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", spy)
    step = ["--train.max_steps", "1"]
    assert run("classify", tmp_path / "grid", *GRID, "--seeds", "0,1", *step) == 0
    assert len(calls) == 3
    finetune.data.token_cache._held.clear()  # as in another process
    assert run("classify", tmp_path / "later", "--attention", "sa-softmax-raw", *step) == 0
    assert len(calls) == 3
    assert run("classify", tmp_path / "each", *GRID, "--batches.cache_tokens", "false", *step) == 0
    assert len(calls) == 3 + 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["classify", "translate"])
def test_sorting_and_caching_change_no_prediction(tmp_path, monkeypatch, verb):
    """In small batches, which mix lengths where they are not sorted."""
    alone(monkeypatch)
    options = ["--attention", "sa-softmax"]
    # at a lower rate all translations are alike
    unlike = ["--data.max_length", "100", "--train.learning_rate", "3e-2"]
    options += easy_rows(tmp_path / "rows") if verb == "classify" else unlike
    options += ["--train.per_device_eval_batch_size", "4"]
    found, weights = [], []
    for switches in (("true", "true"), ("false", "true"), ("false", "false")):
        where = tmp_path / "-".join(switches)
        switched = ["--batches.sort_evaluation", switches[0], "--batches.cache_tokens", switches[1]]
        assert run(verb, where, *options, *switched) == 0
        found.append((folder(verb, where, "sa-softmax") / "predictions.jsonl").read_bytes())
        weights.append(load_file(folder(verb, where, "sa-softmax") / "model.safetensors"))
    assert found[0] == found[1] == found[2]
    assert len({row["prediction"] for row in map(json.loads, found[0].splitlines())}) > 1
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["classify", "translate"])
def test_padding_to_the_limit_trains_alike_on_wider_batches(tmp_path, monkeypatch, verb):
    """The same loss and gradient; every batch is as wide as the limits, which no row reaches."""
    alone(monkeypatch)
    options = ["--attention", "sa-softmax", "--model.dropout", "0.0", "--model.attention_dropout", "0.0"]
    options += ["--train.max_steps", "2", "--train.train_sampling_strategy", "random"]
    options += ["--data.max_length", "250", "--data.validation_rows", "6", "--data.test_rows", "6"]
    options += ["--data.max_target_length", "140"] if verb == "translate" else []
    widths = []
    collate = Collator.__call__

    def spy(self, features):
        batch = collate(self, features)
        labels = batch["labels"].shape[1:] if "labels" in batch else ()
        widths.append((batch["input_ids"].shape[1], *labels))
        return batch

    monkeypatch.setattr(Collator, "__call__", spy)
    curves, shapes = [], []
    for padding in ("longest", "max_length"):
        assert run(verb, tmp_path / padding, *options, "--batches.padding", padding) == 0
        curves.append(store.read(folder(verb, tmp_path / padding, "sa-softmax"))["curve"])
        shapes.append(set(widths))
        widths.clear()
    assert len(curves[0]) == len(curves[1]) >= 2
    for one, other in zip(*curves, strict=True):
        for key in {"loss", "grad_norm", "eval_loss"} & set(one):
            assert other[key] == pytest.approx(one[key], rel=1e-3)
    assert shapes[1] == ({(250,)} if verb == "classify" else {(250, 140), (250,)})
    assert len(shapes[0]) > 3 and all(shape < (250,) for shape in shapes[0])


def test_skipped_padding_moves_no_number_but_by_rounding(tmp_path: Path) -> None:
    """Of a run that drops nothing; the model that is loaded, which pads, answers alike."""
    options = ["--attention", "sa-softmax", "--model.dropout", "0", "--model.attention_dropout", "0"]
    found = []
    for padding in ("longest", "skipped"):
        assert run("classify", tmp_path / padding, *options, "--batches.padding", padding) == 0
        entry = store.read(folder("classify", tmp_path / padding, "sa-softmax"))
        found.append(
            [point[key] for point in entry["curve"] for key in ("loss", "eval_loss") if key in point]
        )
        assert entry["status"] == "finished" and entry["config"]["batches"]["padding"] == padding
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_skipped_padding_is_refused_where_a_model_has_two_parts(tmp_path, capsys):
    assert run("translate", tmp_path / "runs", "--attention", "softmax", "--batches.padding", "skipped") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "--batches.padding longest" in lines[0]
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["classify", "translate"])
def test_evaluation_keeps_no_logits(tmp_path, monkeypatch, verb):
    """While validating: the class and the probabilities of the four, or nothing but the loss.

    While testing: what is predicted.
    """
    alone(monkeypatch)
    kept = []
    add = EvalLoopContainer.add

    def spy(self, tensors):
        kept.extend(tensors if isinstance(tensors, tuple) else [tensors])
        add(self, tensors)

    monkeypatch.setattr(EvalLoopContainer, "add", spy)
    options = ["--attention", "sa-softmax", "--train.eval_strategy", "epoch"]
    assert run(verb, tmp_path, *options, "--train.per_device_eval_batch_size", "4") == 0
    assert all(isinstance(tensor, torch.Tensor) for tensor in kept)
    scored = [tensor for tensor in kept if tensor.is_floating_point() and tensor.ndim == 2]
    numbers = [tensor for tensor in kept if tensor.is_floating_point() and tensor.ndim == 1]  # losses, by row
    indices = [tensor for tensor in kept if not tensor.is_floating_point()]
    before, validations, tests = 3, 3 * 3, 6  # batches of 4 among 12 rows, before and twice, and among 21
    held = 4  # batches of the rows that the model in the folder is to answer alike
    assert len(numbers) == validations + held + (tests if verb == "classify" else 0)
    assert all(len(tensor) <= 4 for tensor in numbers)
    if verb == "classify":
        assert len(indices) == 2 * (validations + tests + held)  # predictions and labels
        assert all(tensor.ndim == 1 and len(tensor) <= 4 for tensor in indices)
        assert len(scored) == validations + tests + held
        assert all(tensor.shape[1] == 4 and len(tensor) <= 4 for tensor in scored)
    else:
        assert not scored
        assert len(indices) == before + tests + held  # token numbers of the translations
        assert all(tensor.ndim == 2 for tensor in indices)


@pytest.mark.parametrize("lengths", [None, [5, 1, 4, 1, 3, 9, 2, 6]])
def test_order_of_rows_ignores_the_global_generator(lengths):
    sampler = EpochSampler(8, lengths, 2, seed=3)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        first = list(sampler)
        torch.rand(7)
        assert list(sampler) == first and sorted(first) == list(range(8))
        orders.append(first)
    assert orders[0] != orders[1]
    assert list(EpochSampler(8, lengths, 2, seed=4)) != orders[0]


@pytest.mark.slow
def test_failed_run_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    build = finetune.training.run.builder.build_model

    def fail_for_softmax(config, *args):
        if config.attention.variant == "softmax":
            raise RuntimeError("out of\nmemory")
        return build(config, *args)

    monkeypatch.setattr(finetune.training.run.builder, "build_model", fail_for_softmax)
    assert run("classify", tmp_path, *GRID) == 1
    failed = store.read(folder("classify", tmp_path))
    assert failed["status"] == "failed" and failed["reason"].startswith("RuntimeError: out of memory")
    assert "Traceback" in (folder("classify", tmp_path) / "error.txt").read_text()
    assert store.read(folder("classify", tmp_path, "sa-softmax"))["status"] == "finished"
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and "out of memory" in captured.out + captured.err

    monkeypatch.setattr(finetune.training.run.builder, "build_model", build)
    assert run("classify", tmp_path, *GRID) == 0
    assert store.read(folder("classify", tmp_path))["status"] == "finished"


def test_non_finite_loss_stops_at_its_step(tmp_path, capsys):
    assert run("classify", tmp_path, "--attention", "softmax", "--train.learning_rate", "1e30") == 1
    failed = store.read(folder("classify", tmp_path))
    assert failed["status"] == "failed"
    assert "the loss became" in failed["reason"] and "at step" in failed["reason"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_translation_runs_and_keeps_its_settings(tmp_path):
    assert run("translate", tmp_path, "--attention", "sa-softmax", "--attention.scope", "cross") == 0
    where = tmp_path / "iwslt2017-de-en/scratch-tiny/sa-softmax-cross/seed-0"
    found = store.read(where)
    assert found["attention"]["layers"] == {"cross": 2} and found["attention"]["total"] == 6
    assert found["metrics"]["bleu"]["signature"].startswith("bleu|nrefs:1|")
    assert found["metrics"]["bleu"]["generation"]["num_beams"] == 1
    rows = store.read_predictions(where)
    assert len(rows) == 21 and all(isinstance(row["prediction"], str) for row in rows)


@pytest.mark.slow
def test_early_stopping_and_gradient_options_pass_through(tmp_path):
    options = ["--early_stopping_patience", "1", "--train.load_best_model_at_end", "true"]
    options += ["--train.gradient_accumulation_steps", "2", "--train.activation_checkpointing", "true"]
    options += [
        "--train.num_train_epochs",
        "9",
        "--train.learning_rate",
        "1e-9",
        "--train.eval_strategy",
        "epoch",
    ]
    assert run("classify", tmp_path, "--attention", "softmax", *options) == 0
    found = store.read(folder("classify", tmp_path))
    assert max(point["epoch"] for point in found["curve"]) < 9


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["classify", "translate"])
def test_accumulated_batches_train_as_whole_ones(tmp_path, verb):
    """Same 15 rows a step, in one batch or in three: the same loss and gradient at the first step."""
    options = ["--attention", "sa-softmax", "--model.dropout", "0.0", "--train.max_steps", "1"]
    options += ["--model.attention_dropout", "0.0", "--data.train_rows", "15"]
    first = {}
    for batch, steps in ((15, 1), (5, 3)):
        batches = ["--train.per_device_train_batch_size", str(batch)]
        batches += ["--train.gradient_accumulation_steps", str(steps)]
        root = tmp_path / str(steps)
        assert run(verb, root, *options, *batches) == 0
        first[steps] = store.read(folder(verb, root, "sa-softmax"))["curve"][0]
    assert first[3]["loss"] == pytest.approx(first[1]["loss"], rel=1e-4)
    assert first[3]["grad_norm"] == pytest.approx(first[1]["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_changed_rows_behind_a_finished_run_stop(tmp_path, capsys):
    data = tmp_path / "rows"
    data.mkdir()
    rows = [{"text": f"word{i % 7} thing{i}", "label": i % 4} for i in range(80)]
    for name in ("train", "test"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [{"text": f"other {row['text']}", "label": row["label"]} for row in rows[:30]]
    options = ["--attention", "softmax", "--data", str(data)]
    assert run("classify", tmp_path / "runs", *options) == 0
    (data / "test.jsonl").write_text(
        "".join(json.dumps({**row, "text": row["text"] + "!"}) + "\n" for row in rows)
    )
    assert run("classify", tmp_path / "runs", *options) == 2
    assert "the test rows have changed" in capsys.readouterr().err


@pytest.mark.slow
def test_one_process_at_a_time_in_a_run_folder(tmp_path, capsys):
    with locked(folder("classify", tmp_path)):
        assert run("classify", tmp_path, *GRID) == os.EX_TEMPFAIL
    assert "another process is training in" in capsys.readouterr().err
    assert run("classify", tmp_path, "--attention", "softmax", "--train.max_steps", "1") == 0


def test_several_gpus_in_one_process_and_half_a_launcher_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("finetune.system.environment.device_count", lambda device=None: 4)
    assert run("classify", tmp_path, *GRID) == 2
    assert "torchrun --nproc-per-node 4" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("classify", tmp_path, *GRID) == 2
    assert "start the run by torchrun" in capsys.readouterr().err


def test_what_is_no_run_is_refused_under_a_launcher(monkeypatch, capsys):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["compare", "runs"]) == 2
    assert "finetune compare is one process: type it without torchrun" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")  # which nobody else speaks for before they have met
    assert main(["compare", "runs"]) == 2 and "error: rank 1: finetune compare is" in capsys.readouterr().err


@pytest.mark.slow
def test_bfloat16_trains(tmp_path):
    options = ["--train.bf16", "true", "--train.use_cpu", "true", "--attention.kernel", "reference"]
    assert run("classify", tmp_path, *GRID, *options) == 0
    found = [store.read(folder("classify", tmp_path, variant)) for variant in ("softmax", "sa-softmax")]
    assert [entry["status"] for entry in found] == ["finished", "finished"]
    assert [entry["attention"]["kernel"] for entry in found] == ["reference", "reference"]


def test_record_is_plain_json_with_what_was_typed(classified):
    content = json.loads((folder("classify", classified) / "record.json").read_text())
    assert content["command"].startswith("finetune classify --output")
    assert content["hardware"]["cores"] <= (os.cpu_count() or 1)
    assert Path(content["predictions"]).name == "predictions.jsonl"


def test_a_kept_configuration_makes_the_run_again(classified, tmp_path, capsys):
    kept = folder("classify", classified, "sa-softmax")
    words = ["run", str(kept / "finetune.yaml"), "--output"]
    assert main([*words, str(tmp_path)]) == 0
    again = folder("classify", tmp_path, "sa-softmax")
    for key in ("config", "config_hash", "metrics", "predictions", "untrained"):
        assert store.read(again)[key] == store.read(kept)[key], key
    assert (again / "predictions.jsonl").read_bytes() == (kept / "predictions.jsonl").read_bytes()
    assert store.read(again)["command"] == f"finetune {' '.join(words)} {tmp_path}"
    assert main([*words, str(classified)]) == 0
    assert "finished already, skipped" in capsys.readouterr().out
