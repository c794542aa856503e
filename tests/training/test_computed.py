"""What is recorded as computed is what was computed, and what would be something else is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    BertForSequenceClassification,
    Seq2SeqTrainingArguments,
    Trainer,
    default_data_collator,
)

from finetune import objectives
from finetune.comparison import compare, pairing
from finetune.comparison.caveats import NoteKind
from finetune.data.collate import Collator
from finetune.errors import UserError
from finetune.models.layers import Layers
from finetune.records import store
from finetune.records.run import find_runs
from finetune.records.schema import upgrade
from finetune.training import computed, effects
from finetune.training.arguments import SET_ELSEWHERE, resolve_bf16, training_arguments
from finetune.training.trainer import comparable
from tests.support.records import classified, run_config, save, started
from tests.support.small_runs import folder, run
from tests.support.tiny_models import FAMILIES

SHORT = ["--train.max_steps", "2", "--attention.kernel", "blocked"]


@pytest.mark.parametrize("verb", ["classify", "translate"])
def test_the_command_refuses_before_the_first_run(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert run(verb, tmp_path / "runs", *SHORT) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "--train.bf16 true" in lines[0] and not (tmp_path / "runs").exists()


REFUSED = {
    "fp16": {"fp16": True},
    "fp16 on the CPU": {"fp16": True, "use_cpu": True},
    "tf32": {"tf32": True, "use_cpu": True},
    "bf16": {"bf16": True},
    "two halves": {"bf16": True, "fp16": True, "use_cpu": True},
    "liger": {"use_liger_kernel": True},
    "accumulation elsewhere": {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}},
    "split batches": {"accelerator_config": {"split_batches": True}},
    "fsdp": {"fsdp": "full_shard"},
    "deepspeed": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "ddp": {"ddp_backend": "gloo"},
    "buckets": {"ddp_bucket_cap_mb": 5},
    "lengths": {"length_column_name": "words"},
    "inputs for metrics": {"include_for_metrics": ["inputs"]},
    "resuming elsewhere": {"ignore_data_skip": True},
    "order": {"dataloader_in_order": False, "dataloader_num_workers": 2},
    "lasting workers": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    "idle workers": {"dataloader_multiprocessing_context": "spawn"},
    "no such order": {"train_sampling_strategy": "shuffled"},
    "no steps": {"max_steps": 0},
    "clipping": {"max_grad_norm": -1.0},
    "smoothing": {"label_smoothing_factor": 1.5},
    "evaluation steps": {"eval_strategy": "epoch", "eval_steps": 10},
    "best of nothing": {"metric_for_best_model": "accuracy"},
    "greater": {"greater_is_better": True},
    "constant": {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"num_cycles": 2}},
    "warmed": {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"x": 1}},
    "no checkpointing": {"activation_checkpointing_kwargs": {"use_reentrant": False}},
    "contradiction": {"activation_checkpointing": False, "gradient_checkpointing": True},
    "modules": {"optim_target_modules": "all-linear"},
    "arguments": {"optim_args": "momentum"},
    "more arguments": {"optim_args": "momentum=0.9=3"},
    "a checkpoint at a signal": {"enable_jit_checkpoint": True},
    "tokens of no kind": {"include_num_input_tokens_seen": "foo"},
    "debugging a TPU": {"debug": "tpu_metrics_debug"},
    "a warm-up between steps": {"warmup_steps": 10.5},
    "no rows at a time": {"eval_accumulation_steps": 0},
    "negative noise": {"neftune_noise_alpha": -5.0},
    "a beta beyond 1": {"adam_beta1": 1.5},
    "a negative beta": {"adam_beta2": -0.1},
    "a negative epsilon": {"adam_epsilon": -1e-8},
    "a GPU's memory": {"torch_empty_cache_steps": 4, "use_cpu": True},
    "no prefetching": {"dataloader_prefetch_factor": 0, "dataloader_num_workers": 1},
    "workers without end": {"dataloader_num_workers": 100_000},
    "epochs without end": {"num_train_epochs": 1e300},
    "steps without end": {"max_steps": 2**62},
    "a batch without end": {"per_device_train_batch_size": 2**62},
    "an order's seed beyond seeds": {"data_seed": 99_999_999_999},
    "a negative seed of the order": {"data_seed": -1},
    "a seed without an order": {"data_seed": 5, "train_sampling_strategy": "sequential"},
    "batches for several devices": {"train_sampling_strategy": "batch_rebalance"},
    "evaluation never and later": {"eval_strategy": "no", "eval_delay": 3},
    "the best of none": {"load_best_model_at_end": True, "eval_strategy": "no", "save_strategy": "no"},
    "saving the best of none": {
        "load_best_model_at_end": True,
        "eval_strategy": "no",
        "save_strategy": "best",
    },
    "saving the best of what": {"save_strategy": "best"},
    "evaluation each 0 steps": {"eval_strategy": "steps", "eval_steps": 0},
    "saving each 0 steps": {"save_strategy": "steps", "save_steps": 0},
    "logging each 0 steps": {"logging_steps": 0, "logging_strategy": "steps"},
    "trackio's project": {"project": "mine"},
    "trackio's space": {"trackio_space_id": "a/b"},
    "trackio's privacy": {"hub_private_repo": True},
    **{
        f"schedule {name}": {"lr_scheduler_type": name, "lr_scheduler_kwargs": kwargs}
        for name, kwargs in (
            ("linear", {"x": 1}),
            ("linear", {"num_warmup_steps": 3}),
            ("cosine", {"num_cycle": 2}),
            ("polynomial", {"last_epoch": 5}),
            ("reduce_lr_on_plateau", {"patiense": 3}),
            ("greedy", {"optimizer": 3}),
            ("warmup_stable_decay", None),
            ("cosine_with_min_lr", "a text"),
        )
    },
}


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("train", REFUSED.values(), ids=REFUSED)
def test_what_would_not_be_computed_as_asked_is_refused(train: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        training_arguments(run_config(train=train), tmp_path)
    assert any(name in str(error.value) for name in train) and "\n" not in str(error.value)


def test_a_translation_takes_no_sorting_that_transformers_ignores(tmp_path: Path) -> None:
    config = run_config(kind="translation", train={"sortish_sampler": True}, generation=GENERATION)
    with pytest.raises(UserError, match="sortish_sampler"):
        training_arguments(config, tmp_path)


GENERATION = {"num_beams": 1, "length_penalty": 1.0, "max_new_tokens": 8}
LET_THROUGH: dict[str, dict[str, Any]] = {
    "defaults": {"torch_compile": False, "fsdp": None, "max_steps": -1, "gradient_checkpointing": False},
    "one device": {"average_tokens_across_devices": False, "ddp_find_unused_parameters": False},
    "bf16": {"bf16": True, "use_cpu": True},
    "checkpointing": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"x": 1}},
    "steps": {"eval_strategy": "steps", "eval_steps": 5},
    "best": {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"},
    "plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"},
    "cycles": {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}},
    "sequential": {"train_sampling_strategy": "sequential"},
    "workers": {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2},
    "compiled": {"torch_compile": True},
    "compiled by its backend": {"torch_compile_backend": "eager"},
    "compiled by its mode": {"torch_compile_mode": "default"},
    "no tf32": {"tf32": False},
    "no clipping": {"max_grad_norm": 0.0},
}


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("train", LET_THROUGH.values(), ids=LET_THROUGH)
def test_what_takes_effect_is_let_through(train: dict[str, Any], tmp_path: Path) -> None:
    training_arguments(run_config(train=train), tmp_path)


def test_every_field_of_transformers_is_known() -> None:
    """A field that a later transformers has anew is looked at before it may stand in a record."""
    names = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    refused = {*SET_ELSEWHERE, *objectives.get("translation").set_elsewhere, *effects.IDLE}
    assert names == refused & names | KNOWN, names ^ (refused & names | KNOWN)
    assert not KNOWN & refused


# Fields that have their effect, or are refused where they have none.
KNOWN = set(
    """
    per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs
    warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules
    gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16
    tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs use_cache neftune_noise_alpha torch_empty_cache_steps logging_strategy
    logging_steps logging_first_step log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen
    log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size eval_on_start
    eval_accumulation_steps save_strategy save_steps save_total_limit hub_private_repo load_best_model_at_end
    metric_for_best_model greater_is_better full_determinism data_seed use_cpu dataloader_num_workers
    dataloader_pin_memory dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy debug skip_memory_metrics
    torch_compile torch_compile_backend torch_compile_mode fsdp fsdp_config
    """.split()  # noqa: SIM905  a table
)


def test_a_presets_value_without_effect_is_said_and_an_own_one_refused(tmp_path: Path) -> None:
    def noted(**train: Any) -> list[str]:
        config = run_config(train=train)
        return effects.notes(config.kind, config.train, training_arguments(config, tmp_path))

    assert noted() == []
    (line,) = noted(lr_scheduler_type="constant")
    assert "warmup_steps 0.1 has no effect" in line
    with pytest.raises(UserError, match="warmup_steps 77 has"):
        noted(lr_scheduler_type="constant", warmup_steps=77)
    with pytest.raises(UserError, match=r"adam_beta1 0\.5 has no effect"):
        noted(optim="sgd", adam_beta1=0.5)
    assert noted(optim="adamw_torch", adam_beta1=0.5) == []


def test_bfloat16_is_automatic_on_a_gpu_that_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_bf16({"bf16": "auto"}) == {"bf16": False}
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_bf16({"bf16": "auto"}) == {"bf16": True}
    for other in ({"use_cpu": True}, {"fp16": True}):
        assert resolve_bf16({"bf16": "auto", **other}) == {"bf16": False, **other}


def read_back(tmp_path: Path, **train: Any) -> dict[str, Any]:
    """What a real Trainer on a tiny model reads back of ``train``."""
    config = run_config(train={"save_strategy": "no", "eval_strategy": "no", "max_steps": 1, **train})
    family = FAMILIES["bert"]
    model = family.build(model_class=BertForSequenceClassification)
    rows = [{"input_ids": [2, 5, 6, 1], "labels": row % 2} for row in range(8)]
    data, args = Dataset.from_list(rows), training_arguments(config, tmp_path)
    collate = Collator(default_data_collator, {})
    trainer = comparable(Trainer)(
        model=model, args=args, data_collator=collate, train_dataset=data, eval_dataset=data
    )
    reader = computed.ReadBack(trainer)
    trainer.add_callback(reader)
    trainer.train()
    json.dumps(reader.facts, allow_nan=False)
    return reader.facts


OPTIMIZERS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "the default": ({}, "AdamW", {"fused": True, "betas": [0.9, 0.999], "eps": 1e-8}),
    "adamw": ({"optim": "adamw_torch"}, "AdamW", {"fused": None}),
    "betas": ({"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6}, "AdamW", {"betas": [0.8, 0.9]}),
    "epsilon": ({"adam_epsilon": 1e-6}, "AdamW", {"eps": 1e-6}),
    "adafactor": ({"optim": "adafactor"}, "Adafactor", {"relative_step": False, "scale_parameter": False}),
    "sgd": ({"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true"}, "SGD", {"nesterov": True}),
    "momentum": ({"optim": "sgd", "optim_args": "momentum=0.9"}, "SGD", {"momentum": 0.9}),
    "adagrad": ({"optim": "adagrad", "optim_args": "lr_decay=0.01"}, "Adagrad", {"lr_decay": 0.01}),
    "rmsprop": ({"optim": "rmsprop", "optim_args": "alpha=0.9,centered=yes"}, "RMSprop", {"alpha": 0.9}),
}  # fmt: skip


@pytest.mark.parametrize(("train", "name", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_optimizer_is_read_back(tmp_path: Path, train: dict[str, Any], name: str, settings: Any) -> None:
    found = read_back(tmp_path, weight_decay=0.02, learning_rate=3e-4, **train)["optimizer"]
    assert found["class"].endswith(f".{name}")
    assert [group["weight_decay"] for group in found["groups"]] == [0.02, 0.0]
    for group in found["groups"]:
        assert group["lr"] == 3e-4 and {key: group[key] for key in settings} == settings


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        ("adamw_torch", "momentum=0.9"),
        ("adamw_torch_fused", "eps=0.1"),
        ("adamw_torch", "amsgrad=true"),
        ("adafactor", "decay_rate=-0.5"),
        ("sgd", "weight_decay=0.3"),
        ("sgd", "mometum=0.9"),
        ("adagrad", "weight_decay=0.3"),
        ("rmsprop", "weight_decay=0.3"),
    ],
)
def test_an_argument_that_the_optimizer_does_not_take_stops_before_a_step(tmp_path, optimizer, text):
    with pytest.raises(UserError, match=text):
        read_back(tmp_path, optim=optimizer, optim_args=text)


SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"warmup_steps": 3}, {"rule": "linear_schedule_with_warmup", "num_warmup_steps": 3}),
    "a share": ({"warmup_steps": 0.5, "max_steps": 4}, {"num_warmup_steps": 2, "num_training_steps": 4}),
    "cosine": (
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}},
        {"rule": "cosine_schedule_with_warmup", "num_cycles": 2},
    ),
    "constant": ({"lr_scheduler_type": "constant"}, {"rule": "constant", "steps": 1}),
    "inverse": (
        {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 5},
        {"rule": "inverse_sqrt_schedule", "num_warmup_steps": 5, "timescale": 5},
    ),
    "plateau": (
        {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 4},
            "eval_strategy": "epoch",
        },
        {"patience": 4, "factor": 0.1},
    ),
}


@pytest.mark.parametrize(("train", "expected"), SCHEDULES.values(), ids=SCHEDULES)
def test_the_schedule_is_read_back(tmp_path: Path, train: dict[str, Any], expected: dict[str, Any]) -> None:
    found = read_back(tmp_path, **train)["scheduler"]
    assert {key: found[key] for key in expected} == expected


def test_precision_batch_and_the_rest_are_read_back(tmp_path: Path) -> None:
    found = read_back(
        tmp_path,
        bf16=True,
        use_cpu=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        activation_checkpointing=True,
        max_grad_norm=0.0,
    )
    assert found["precision"]["mixed"] == "bf16" and found["precision"]["products"] == "bfloat16"
    assert found["precision"]["weights"] == ["float32"] and found["device"] == "cpu"
    batch = found["batch"]
    assert (batch["rows"], batch["accumulated"], batch["total"]) == (2, 3, 6)
    assert found["gradient_checkpointing"] is True and found["gradient_clipping"] is None
    assert found["parallelism"]["devices"] == 1 and found["compiled"] == "no"


def test_the_flags_of_torch_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.are_deterministic_algorithms_enabled", lambda: True)
    monkeypatch.setattr("torch.get_float32_matmul_precision", lambda: "high")
    found = read_back(tmp_path, use_cpu=True)
    assert found["determinism"]["algorithms"] is True
    assert found["precision"]["float32_products"] == "high"


def test_what_is_built_otherwise_than_asked_stops_before_a_step(tmp_path: Path) -> None:
    """Whatever turned it on: here the accelerator itself, as an environment did."""

    class Autocasting(Trainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            self.accelerator.native_amp = True
            self.accelerator.state._mixed_precision = "bf16"

    config = run_config(train={"save_strategy": "no", "eval_strategy": "no", "max_steps": 1, "use_cpu": True})
    model = torch.nn.Linear(2, 2)
    trainer = Autocasting(model=model, args=training_arguments(config, tmp_path), train_dataset=[{}])
    model.is_gradient_checkpointing = False  # type: ignore[assignment]
    with pytest.raises(UserError, match="float32 is asked for and bfloat16 would be computed"):
        computed.check(
            trainer.args, {"precision": computed._precision(trainer.accelerator, model), **FITTING}
        )


FITTING: dict[str, Any] = {
    "batch": {"rows": 32, "accumulated": 1},
    "parallelism": {"processes": 1, "devices": 1},
    "compiled": "no",
    "gradient_checkpointing": False,
    "optimizer": {"class": "AdamW", "groups": [{"lr": 1e-3, "weight_decay": 0.01}]},
}


@pytest.mark.parametrize(("variant", "layers"), [("softmax", "torch"), ("sa-softmax", "onednn")])
def test_a_run_records_what_it_computed(tmp_path: Path, variant: str, layers: str) -> None:
    assert run("classify", tmp_path, "--attention", variant, "--model.layers", layers, *SHORT) == 0
    entry = store.read(folder("classify", tmp_path, variant))
    found = entry["computed"]
    assert found is not None and found["precision"]["products"] == "float32"
    assert found["optimizer"]["groups"][0]["lr"] == 1e-3 and found["scheduler"]["steps"] == 2
    assert found["batch"]["total"] == 5 and found["batch"]["sampler"] == "EpochSampler"
    assert found["layers"] == (
        Layers.facts if layers == "onednn" else {"linear": "torch", "dropout": "torch"}
    )
    assert entry["config"]["model"].get("layers") == (None if layers == "torch" else layers)
    assert "+".join(found["attention"]["kernels"][variant]) == (entry["attention"] or {})["kernel"]
    card = (folder("classify", tmp_path, variant) / "README.md").read_text()
    assert "matrix products float32" in card and "AdamW" in card


BEST = ["--train.load_best_model_at_end", "true", "--train.metric_for_best_model"]
EACH_STEP = ["--train.eval_strategy", "steps", "--train.eval_steps", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["classify", "translate"])
def test_the_best_model_of_every_schedule_comes_to_its_end(tmp_path: Path, verb: str) -> None:
    """A rehearsal takes one step of the run's own schedule, and the model is held to its folder by itself."""
    chosen = ["--attention", "softmax", *SHORT, *EACH_STEP, "--train.lr_scheduler_type", "polynomial"]
    best = [*BEST, "accuracy" if verb == "classify" else "loss", "--train.save_strategy", "best"]
    assert run(verb, tmp_path, *chosen, *best, "--early_stopping_patience", "1") == 0
    found = store.read(folder(verb, tmp_path))["computed"]
    assert found is not None and found["scheduler"]["rule"].startswith("polynomial")


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_an_evaluation_after_the_end_is_refused_before_the_first_run(tmp_path, capsys, strategy):
    late = ["--train.eval_strategy", strategy, "--train.eval_steps", "1", "--train.eval_delay", "3"]
    assert (
        run("classify", tmp_path / "runs", *SHORT, *(late if strategy == "steps" else late[:2] + late[4:]))
        == 2
    )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "train.eval_delay 3 is longer" in lines[0] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("version", [1, 2])
def test_a_record_of_an_earlier_version_says_nothing_of_it(tmp_path: Path, version: int) -> None:
    place = save(tmp_path, started("softmax", 0), classified([True, False]))
    content = json.loads((place / store.FILE).read_text())
    del content["computed"]
    if version == 1:
        del content["untrained"], content["diagnostics"]
    content["version"] = version
    assert upgrade(content)["computed"] is None
    (place / store.FILE).write_text(json.dumps(content))
    assert store.read(place)["computed"] is None


def test_kept_records_are_read() -> None:
    root = Path(__file__).parents[2] / "results"
    runs, problems = find_runs([root / "cpu", root / "first-runs"])
    assert runs and not problems and all(one.record["computed"] is None for one in runs)


def _save(root: Path, variant: str, change: dict[str, Any] | None, seed: int = 0) -> None:
    entry = started(variant, seed)
    if change is None:
        entry["computed"] = None
    else:
        assert entry["computed"] is not None
        entry["computed"] = {**entry["computed"], **change}
    save(root, entry, classified([True, False, True]))


HALVED = {"precision": {"mixed": "bf16", "products": "bfloat16", "weights": ["float32"]}}
UNLIKE: dict[str, dict[str, Any] | None] = {
    "computed.precision.products (": HALVED,
    "computed.batch.total (": {"batch": {"rows": 64, "accumulated": 1, "total": 64}},
    "computed.compiled (": {"compiled": "inductor"},
    "computed.optimizer.class (": {"optimizer": {"class": "torch.optim.sgd.SGD", "groups": []}},
    "computed.scheduler.rule (": {"scheduler": {"class": "x", "rule": "constant", "steps": 100}},
    "computed (not recorded against recorded)": None,
}


@pytest.mark.parametrize(("named", "change"), UNLIKE.items(), ids=UNLIKE)
def test_runs_that_computed_otherwise_are_not_paired_and_the_report_says_why(tmp_path, named, change):
    _save(tmp_path, "softmax", {})
    _save(tmp_path, "sa-softmax", change)
    tables = compare.compare([tmp_path]).tables
    assert not any(arm.difference for table in tables for arm in table.variants)
    refused = [line for table in tables for line in table.refused]
    assert any(named in line for line in refused), refused


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"device": "cuda"},
        {"layers": {"linear": "onednn", "dropout": "16 bits"}},
        {"attention": {"kernels": {"sa-softmax": ["native"]}, "sdpa": ["flash"]}},
        {
            "parallelism": {"distributed": "MULTI_GPU", "processes": 4, "devices": 4},
            "batch": {"rows": 4, "accumulated": 2, "total": 32, "sampler": "EpochSampler"},
        },
        None,
    ],
)
def test_what_may_differ_between_arms_is_paired(tmp_path, change):
    _save(tmp_path, "softmax", None if change is None else {})
    _save(tmp_path, "sa-softmax", change)
    (table,) = compare.compare([tmp_path]).tables
    assert any(arm.difference for arm in table.variants) and not table.refused
    told = any(note.kind is NoteKind.UNRECORDED for note in table.notes)
    assert told == (change is None)  # equal by what was asked for alone, and said to be


def test_a_key_that_was_asked_for_is_not_named_twice(tmp_path: Path) -> None:
    one, two = [started("softmax", 0, train={"learning_rate": rate}) for rate in (1e-3, 2e-3)]
    for entry in (one, two):
        save(tmp_path / str(entry["config"]["train"]["learning_rate"]), entry, classified([True]))
    runs, _ = find_runs([tmp_path])
    (named,) = pairing.differences(runs[0], runs[1])
    assert named.startswith("train.learning_rate")
