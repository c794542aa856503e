"""Training of language models: by transformers' recipe, whatever fits into memory, from rows to record."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from finetune import load, objectives
from finetune.cli.main import main
from finetune.data.synthetic import STORIES
from finetune.models.builder import Built, build_model
from finetune.models.scratch import NEOX, train_tokenizer
from finetune.objectives import causal, masked
from finetune.records import store
from finetune.tasks import TASKS
from finetune.training import loop
from tests.support.records import run_config
from tests.support.resumed import kept_at, same_end
from tests.support.tiny_models import FAMILIES

STEPS, LENGTH, WINDOWS = 100, 24, 8  # windows of an optimizer step
TRAIN = {
    "max_steps": STEPS, "learning_rate": 3e-3, "warmup_steps": 5, "logging_steps": 1,
    "train_sampling_strategy": "sequential", "eval_strategy": "no", "save_strategy": "no",
}  # fmt: skip


def config_of(batch: int, variant: str = "softmax", **over: Any) -> Any:
    return run_config(
        variant, kind="causal", task="books", pair=None, data={"max_length": LENGTH},
        model={"vocab_size": 300}, language={"tokens_per_step": LENGTH * WINDOWS},
        train=TRAIN | {"per_device_train_batch_size": batch}, **over,
    )  # fmt: skip


def stories() -> str:
    rows = STORIES.rows(TASKS["books"], None, "train", 40)
    return " ".join(row["text"] for row in rows)


def built_of(config: Any) -> Built:
    return build_model(config, objectives.of(config), iter([stories()]), None)


def windows_of(built: Built) -> list[list[int]]:
    """So many tokens as a training takes, one more a window: the first of the next one."""
    ids = built.tokenizer(stories(), add_special_tokens=False)["input_ids"]
    count = (len(ids) - 1) // LENGTH
    return [ids[start * LENGTH : (start + 1) * LENGTH + 1] for start in range(count)]


def losses(trainer: Any) -> np.ndarray:
    trainer.train()
    return np.array([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def trained(batch: int, folder: Path, variant: str = "softmax") -> tuple[np.ndarray, Any]:
    """The losses of a training by this program, and its trainer."""
    config = config_of(batch, variant)
    built = built_of(config)
    rows = Dataset.from_list([
        {"row": row, "input_ids": ids[:-1], "labels": ids[1:]} for row, ids in enumerate(windows_of(built))
    ])  # fmt: skip
    trainer = loop.build_trainer(
        config, objectives.of(config), built, {"train": rows, "validation": rows}, folder
    )
    return losses(trainer), trainer


def test_softmax_learns_as_by_the_recipe_of_transformers(tmp_path: Path) -> None:
    """As run_clm.py has it: the stock Trainer and collator, the model's own loss, which shifts the labels."""
    ours, _ = trained(4, tmp_path / "ours")
    config = config_of(4)
    built = built_of(config)
    stock = AutoModelForCausalLM.from_config(built.model.config, attn_implementation="sdpa")
    stock.load_state_dict(built.model.state_dict())
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "stock"), report_to="none", seed=config.seed, use_cpu=True,
        disable_tqdm=True,
        **{**config.train, "gradient_accumulation_steps": 2},
    )  # fmt: skip
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in windows_of(built)])
    trainer = Trainer(model=stock, args=arguments, train_dataset=rows, data_collator=default_data_collator)
    theirs = losses(trainer)
    assert len(ours) == len(theirs) == STEPS and theirs[-1] < theirs[0] - 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)  # float noise grows with the steps
    np.testing.assert_allclose(ours[:20], theirs[:20], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_a_step_is_the_same_however_it_is_cut(variant: str, tmp_path: Path) -> None:
    (one, whole), (other, cut) = (trained(batch, tmp_path / str(batch), variant) for batch in (8, 2))
    np.testing.assert_allclose(one, other, rtol=0, atol=0.05)  # noise decides which score is the smallest
    np.testing.assert_allclose(one[:20], other[:20], rtol=0, atol=1e-5)
    assert whole.trained_tokens == cut.trained_tokens == STEPS * WINDOWS * LENGTH


OPTIONS = [
    "pretrain", "--data", "sample", "--data.train_rows", "30", "--data.validation_rows", "4",
    "--data.test_rows", "6", "--data.max_length", "32", "--model.vocab_size", "300",
    "--language.tokens_per_step", "256", "--train.max_steps", "6", "--train.per_device_train_batch_size", "4",
    "--language.scored_tokens", "8", "--language.test_windows", "5", "--train.logging_steps", "1",
    "--train.eval_strategy", "no", "--train.save_strategy", "no",
]  # fmt: skip


def test_a_run_from_rows_to_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        *OPTIONS,
        "--eval_lengths",
        "16,64,100000",
        "--output",
        str(tmp_path),
        "--model.position",
        "kerple",
    ]
    assert main([*words, "--attention", "softmax,sa-softmax"]) == 0
    assert "pretrain" in capsys.readouterr().out
    folders = sorted(path.parent for path in tmp_path.glob("books/**/record.json"))
    assert len(folders) == 2
    for folder in folders:
        record = store.read(folder)
        assert record["task"]["kind"] == "causal"
        assert record["config"]["language"]["eval_lengths"] == [16, 64, 100000]
        metrics, times = record["metrics"], record["times"]
        assert metrics["perplexity"]["value"] < record["untrained"]["perplexity"]
        assert metrics["perplexity@16"]["value"] is None  # no document is so long as the longest length
        assert "100000" in metrics["perplexity@64"]["missing"]
        assert times["tokens_per_s"] > 0 and times["mfu"] is None  # the peak of a CPU is not known
        assert record["data"]["tokens"]["train"]["tokens"] % 32 == 0
        assert record["model"]["reloaded"]["equal"]
        rows = store.read_predictions(folder)
        assert len(rows) == 6 and all(row["tokens"] > 0 for row in rows)
        model, tokenizer = load(folder)
        ids = tokenizer("a", return_tensors="pt")["input_ids"]
        written = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
        assert written.shape[1] <= ids.shape[1] + 3


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_model_that_is_worse_than_guessing_before_it_is_trained_has_no_number_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a swap can leave it, which training makes good again."""
    module = {"causal": causal, "masked": masked}[kind]
    scored = module.scored

    def worse(trainer: Any, rows: Dataset, prefix: str) -> dict[int, Any]:
        factor = 20 if prefix == "untrained" else 1
        return {
            row: {**each, "nats": factor * each["nats"]}
            for row, each in scored(trainer, rows, prefix).items()
        }

    monkeypatch.setattr(module, "scored", worse)
    none = [word for key in ("scored_tokens", "test_windows") for word in (f"--language.{key}", "null")]
    extra = ["--eval_lengths", "16"] if kind == "causal" else ["--objective", "masked", *none]
    assert main([*OPTIONS, *extra, "--output", str(tmp_path), "--attention", "softmax"]) == 0
    (file,) = tmp_path.glob("books/**/record.json")
    record = store.read(file.parent)
    (primary, score), *_ = record["metrics"].items()
    assert score["value"] > 0
    assert record["untrained"][primary] is None and record["untrained"]["loss"] > 0


CPU_REFUSES = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no more"), CPU_REFUSES], ids=["gpu", "cpu"])
@pytest.mark.parametrize("fitting", [0, 2], ids=["never", "until the model is read back"])
def test_a_length_that_does_not_fit_is_missing_with_its_reason(
    fitting: int, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, tries = causal.scored, count()

    def small(trainer: Any, rows: Dataset, prefix: str) -> dict[int, Any]:
        if max(rows["length"]) == 64 and next(tries) >= fitting:
            raise error
        return scored(trainer, rows, prefix)

    monkeypatch.setattr(causal, "scored", small)
    words = [*OPTIONS, "--eval_lengths", "16,64", "--output", str(tmp_path), "--attention", "softmax"]
    assert main(words) == 0
    (file,) = tmp_path.glob("books/**/record.json")
    record = store.read(file.parent)
    metrics = record["metrics"]
    assert next(tries) > fitting and record["model"]["reloaded"]["equal"]
    assert metrics["perplexity"]["value"] and metrics["perplexity@16"]["value"]
    if fitting:
        assert metrics["perplexity@64"]["value"]
    else:
        assert metrics["perplexity@64"]["value"] is None
        assert "do not fit into the memory" in metrics["perplexity@64"]["missing"]


def opt(**options: Any) -> Any:
    """A decoder whose table of positions is called a decoder's."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 20}
    return OPTForCausalLM(OPTConfig(**sizes, max_position_embeddings=32, word_embed_proj_dim=24, **options))


@pytest.mark.parametrize("build", [FAMILIES["gpt2"].build, opt], ids=["gpt2", "opt"])
def test_a_length_beyond_the_positions_is_missing_with_its_reason(
    build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stock decoder from a folder goes on, with a table of 32 positions."""
    tokenizer = train_tokenizer(NEOX.recipe, iter([stories()]), 300)
    ids = {f"{role}_token_id": tokenizer.eos_token_id for role in ("bos", "eos")}
    ids["pad_token_id"] = tokenizer.pad_token_id
    build(vocab_size=len(tokenizer), **ids).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    words = [
        *OPTIONS,
        "--eval_lengths",
        "16,64",
        "--output",
        str(tmp_path / "runs"),
        "--attention",
        "sa-softmax",
    ]
    none = ["--model.dropout", "null", "--model.attention_dropout", "null"]
    assert main([*words, *none, "--model", str(tmp_path / "m")]) == 0
    (file,) = tmp_path.glob("runs/books/**/record.json")
    metrics = store.read(file.parent)["metrics"]
    assert metrics["perplexity"]["value"] and metrics["perplexity@16"]["value"]
    assert metrics["perplexity@64"] == {"value": None, "missing": "the model has positions for 32 tokens"}
    assert main(["diagnose", str(file.parent), "--length", "33"]) == 2
    assert "than the model has positions for, 32" in capsys.readouterr().err


@pytest.mark.parametrize("documents", ["cross", "isolate"])
def test_a_killed_run_resumes_to_the_same_numbers(
    documents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch of accumulated steps."""
    words = [*OPTIONS, "--attention", "sa-softmax", "--eval_lengths", "16", "--language.documents", documents]
    words += ["--train.save_strategy", "steps", "--train.save_steps", "2"]
    whole, killed = (
        tmp_path / name / "books" / "scratch-tiny" / "sa-softmax" / "seed-0" for name in ("whole", "killed")
    )
    with monkeypatch.context() as patch:
        kept_at(4, whole, killed, patch)
        assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    assert main([*words, "--output", str(tmp_path / "killed")]) == 0
    same_end(whole, killed)
    told = [store.read(folder)["times"] for folder in (whole, killed)]
    assert told[0]["tokens_per_s"] > 0 and told[1]["tokens_per_s"] is None
