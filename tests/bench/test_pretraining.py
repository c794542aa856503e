"""``finetune bench --only pretraining``: who takes part, on which windows, and what is not measured."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, GPT2Config

from docs.generate import performance
from finetune.attention import PAPER
from finetune.attention.kernels.native import build
from finetune.bench import pretraining, recipes, rows, run, settings, tables
from finetune.bench.recipes import BASELINE, STOCK
from finetune.cli.main import main
from finetune.config.build import build as built_config
from finetune.config.identity import as_dict
from finetune.models.pretrained import build_tokenizer
from finetune.models.scratch import NEOX
from finetune.objectives.language import section
from tests.support.benchmarks import with_pretraining

LENGTH = 13
TINY = replace(
    settings.QUICK["cpu"], windows=(LENGTH,), step_tokens=80, batch_tokens=30, rounds=1, windows_seconds=0.0
)  # fmt: skip
needs_native = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretraining, "CHARACTERS", 4000)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one measurement, through the command."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.QUICK, "cpu", TINY)
        patch.setattr(pretraining, "CHARACTERS", 4000)
        words = ["bench", "--quick", "--device", "cpu", "--only", "pretraining", "--output", str(folder)]
        assert main(words) == 0
    yield folder


@pytest.fixture
def result(measured: Path) -> Any:
    return json.loads((measured / run.FILE).read_text(encoding="utf-8"))


@pytest.mark.slow
@needs_native
def test_every_variant_takes_part_with_every_encoding_and_stock_with_its_own(result: Any) -> None:
    part = result["pretraining"]
    assert result["attention"] is result["steps"] is None and part["absent"] == []
    others = [name for name in PAPER if name != "softmax"]
    computes = {"rope": "native", "kerple": "native", "dapev2-kerple": "blocked"}
    usual = {"rope": "sdpa", "kerple": "native", "dapev2-kerple": "sdpa"}
    expected = {("rope", "stock sdpa", "sdpa"), ("rope", "softmax native", "native")}
    expected |= {(position, "softmax auto", kernel) for position, kernel in usual.items()}
    expected |= {(where, f"{name} auto", kernel) for where, kernel in computes.items() for name in others}
    told = [(row["position"], row["name"], row["computes"]) for row in part["rows"]]
    assert len(told) == len(set(told)) and set(told) == expected
    for row in part["rows"]:
        assert (row["length"], row["batch"], row["step_tokens"]) == (LENGTH, 2, 3 * 2 * LENGTH)
        assert row["tokens_per_s"]["median"] > 0 and row["tokens_per_s"]["repeats"] == 1
        assert row["time_ratio"]["median"] == 1.0 or row["name"] != "softmax auto"
        assert row["speed_ratio"]["median"] == 1.0 or row["name"] != "stock sdpa"


@pytest.mark.slow
def test_page_and_tables_are_remade_from_the_result(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--from", str(measured), "--output", "again"]) == 0
    assert Path("again", run.PAGE).read_bytes() == (measured / run.PAGE).read_bytes()
    printed = capsys.readouterr().out
    assert f"Pretraining scratch:tiny (0.5M parameters) on windows of {LENGTH} tokens" in printed
    assert "dapev2-kerple, sa-softmax auto" in printed and f"each of {6 * LENGTH} tokens" in printed


def test_what_was_not_measured_is_said_with_its_reason(tmp_path: Path) -> None:
    kept = run.read(Path(__file__).parents[2] / "results" / "bench-cpu")
    assert kept["pretraining"] is None, "a result of before has no such part"
    result = with_pretraining(kept)
    run.write(result, tmp_path)
    again = run.read(tmp_path)
    assert again == result
    page = tables.markdown(again)
    assert "| rope, sa-softmax auto | native | 1,250 (1,125-1,375) | 0.80 (0.72-0.88) |" in page
    assert "Not measured: dapev2-kerple on windows of 2048 tokens: less memory is free." in page


def loaded_and_tokenizer(config: Any) -> tuple[Any, Any]:
    loaded = rows.load("sample", config)
    return loaded, build_tokenizer(config, NEOX.recipe, iter(loaded.splits["train"]["text"][:20]))


def test_the_stock_recipe_reads_the_same_windows() -> None:
    config = pretraining.configuration(TINY, BASELINE, LENGTH, "kerple")
    loaded, tokenizer = loaded_and_tokenizer(config)
    few = replace(loaded, splits={"train": pretraining.beginning(loaded.splits["train"], 300)})
    ours, stock = (
        pretraining.token_rows(few, setup, tokenizer, config)["train"] for setup in (BASELINE, STOCK)
    )
    assert len(ours) == len(stock) == pretraining.STEPS * section(config).tokens_per_step / LENGTH
    assert stock["input_ids"][:] == stock["labels"][:] == ours["input_ids"][:]
    assert {tuple(mask) for mask in stock["attention_mask"]} == {(1,) * LENGTH}
    ids, labels = (np.concatenate(ours[name][:]) for name in ("input_ids", "labels"))
    assert ids[1:].tolist() == labels[:-1].tolist(), "shifted by one, a short text over and over"
    other = pretraining.configuration(TINY, STOCK, LENGTH, "kerple")
    assert (config.model.position, other.model.position) == ("kerple", "rope")


def test_of_a_long_text_the_beginning_is_read() -> None:
    split = Dataset.from_dict({"row": [0, 1, 2], "text": ["abc", "defgh", "ij"]})
    assert pretraining.beginning(split, 5)["text"][:] == ["abc", "de"]
    assert pretraining.beginning(split, 3)["text"][:] == ["abc"]
    assert pretraining.beginning(split, 99)["text"][:] == split["text"][:]


@pytest.mark.parametrize("length", [3, 700, 512, 2048, 100_000])
@pytest.mark.parametrize("chosen", [settings.FULL["cpu"], replace(settings.FULL["cuda"], device="cpu")])
def test_a_step_has_about_as_many_tokens_at_every_length(chosen: settings.Settings, length: int) -> None:
    config = pretraining.configuration(chosen, BASELINE, length, "rope")
    tokens, batch = section(config).tokens_per_step, config.train["per_device_train_batch_size"]
    assert tokens % (batch * length) == 0
    assert batch == 1 or batch * length <= chosen.batch_tokens
    assert tokens == length or 0.6 < tokens / chosen.step_tokens < 1.6
    built_config(as_dict(config))


def nothing(*_: Any) -> None: ...


def test_a_step_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(recipes, "prepare", None)
    part = pretraining.measure(TINY, nothing, nothing)
    assert part["rows"] == [] and [each["position"] for each in part["absent"]] == [*pretraining.ENCODINGS]
    assert all("GiB, and less memory is free" in each["reason"] for each in part["absent"])


@pytest.mark.parametrize(
    ("error", "told"),
    [(torch.OutOfMemoryError("CUDA out of memory"), True), (RuntimeError("a shape is wrong"), False)],
)
def test_what_runs_out_of_memory_is_told_and_no_other_failure(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: bool
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(recipes, "prepare", fail)
    if not told:
        with pytest.raises(RuntimeError, match="a shape is wrong"):
            pretraining.measure(TINY, nothing, nothing)
        return
    reasons = {each["reason"] for each in pretraining.measure(TINY, nothing, nothing)["absent"]}
    assert reasons == {"a step does not fit into the memory of the cpu"}


def test_rounds_end_with_the_time_and_go_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(recipes.time, "monotonic", lambda: now[0])
    made: Any = [recipes.Prepared(setup, *[None] * 3) for setup in (BASELINE, STOCK)]  # type: ignore[arg-type]
    order = []

    def measure(each: recipes.Prepared) -> dict[str, float]:
        now[0] += 1.0
        order.append(each.setup.recipe)
        return {"tokens": now[0]}

    go = partial(recipes.rounds, made, measure, title="it", say=nothing)
    speeds = go(most=7, seconds=5.0)
    assert speeds[BASELINE]["tokens"] == [1.0, 4.0, 5.0] and speeds[STOCK]["tokens"] == [2.0, 3.0, 6.0]
    assert order == ["toolkit", "stock", "stock", "toolkit", "toolkit", "stock"]
    ratios = recipes.ratios(speeds, STOCK, "tokens")
    assert ratios["time_ratio"]["median"] == pytest.approx(5 / 6) and ratios["speed_ratio"]["median"] == 1.0
    assert len(go(most=7, seconds=0.0)[STOCK]["tokens"]) == recipes.FEWEST_ROUNDS


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["--model", "scratch:base"], "unknown scratch size for causal"),
        (["--model", "nowhere"], "nowhere"),
        (["--model", "bert"], "--model bert is a model of bert: pretraining is measured with scratch:SIZE"),
        (["--model", "gpt2"], "that positional encodings can be put into (gpt_neox, phi, smollm3)"),
        (["--data", "nowhere"], "there is no data folder 'nowhere'"),
        (["--lengths", "1000001"], "--lengths takes numbers of tokens from 3 to 1,000,000"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], telling: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    BertConfig().save_pretrained("bert")
    GPT2Config().save_pretrained("gpt2")
    assert main(["bench", "--quick", "--device", "cpu", "--only", "pretraining", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("finetune: error: ") and telling in error
    assert not Path("bench").exists()


def test_the_page_of_performance_can_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = json.loads(performance.FILE.read_text(encoding="utf-8"))
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(with_pretraining(kept)), encoding="utf-8")
    monkeypatch.setattr(performance, "PRETRAINING", file)
    assert performance.pretraining().splitlines()[2:] == [
        "| `rope` | softmax native | native | 0.77 |  | 1.30 |  |",
        "| `rope` | sa-softmax auto | native | 0.80 |  | 1.25 |  |",
        "| `kerple` | sa-softmax auto | native |  | 1.25 |  | 0.80 |",
    ]
    figures = performance.pretraining_figures()
    assert (figures["model"], figures["parameters"], figures["step"]) == ("scratch:mini", "5.2M", "2,048")
    assert (figures["rope"], figures["same_kernel"]) == ("0.80", "1.04")
