"""``--plan``: what runs take on paper, without torch and without a run."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli.main import main
from tests.support.pretrained_models import save
from tests.support.studies import written

FULL = ["pretrain", "--preset", "full", "--seeds", "0,1", "--attention", "softmax,sa-softmax"]


def planned(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> list[str]:
    assert main([*words, "--output", str(folder), "--plan"]) == 0
    assert not folder.exists()
    return capsys.readouterr().out.splitlines()


def table(lines: list[str], heading: str) -> list[dict[str, str]]:
    """The rows of a table, by the titles of their columns, which two spaces part."""
    start = next(number for number, line in enumerate(lines) if line.startswith(heading))
    rows = [re.split(r" {2,}", line) for line in itertools.takewhile(bool, lines[start:])]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_the_plan_of_125m_says_what_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = planned(capsys, tmp_path / "runs", *FULL)
    assert lines[0] == f"books: 4 runs in {tmp_path / 'runs'}"
    assert table(lines, "on paper") == [{
        "on paper, at most": "scratch-125m", "attention": "softmax, sa-softmax", "runs": "4",
        "parameters": "162.3M", "trained": "162.3M", "a step": "256 x 512", "tokens a run": "6.554G",
        "FLOPs a run": "5.23e+18", "H200 SXM or H100 SXM": "3.7 h", "L40S": "10.0 h", "A100": "11.6 h",
        "RTX 4090": "22.0 h",
    }]  # fmt: skip
    assert table(lines, "memory of a device") == [{
        "memory of a device": "scratch-125m", "attention": "softmax, sa-softmax",
        "computes in": "half precision", "one device": "19.0 GiB", "with checkpointing": "13.1 GiB",
        "DDP on 2": "19.6 GiB", "DDP on 4": "19.6 GiB", "DDP on 8": "19.6 GiB",
        "FSDP2 on 2": "18.4 GiB", "FSDP2 on 4": "17.8 GiB", "FSDP2 on 8": "17.5 GiB",
    }]  # fmt: skip


def test_peak_and_share_are_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--peak_tflops", "312", "--mfu", "0.8", "--train.bf16", "false"]
    lines = planned(capsys, tmp_path / "runs", *FULL, *words)
    (row,) = table(lines, "on paper")
    assert row["312 TFLOP/s"] == "5.8 h" and "A100" not in row
    assert any("at 80% of the peak in half precision, which float32 is far from" in line for line in lines)


def test_what_an_optimizer_keeps_is_counted_where_it_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = planned(capsys, tmp_path / "runs", *FULL, "--train.optim", "sgd")
    assert any("what sgd keeps is not counted" in line for line in lines)
    (row,) = table(lines, "memory of a device")
    assert row["one device"] == "17.7 GiB"  # 10 bytes of the 18 a parameter


def test_different_trainings_have_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A variant without a fused kernel keeps its weights; the tokens of epochs are those of the text."""
    words = ["--language.train_tokens", "null", "--attention", "softmax,softpick"]
    rows = table(planned(capsys, tmp_path / "runs", "pretrain", *words), "on paper")
    assert [row["attention"] for row in rows] == ["softmax", "softpick"]
    assert {row["tokens a run"] for row in rows} == {"all rows"}
    assert all(row["A100"].endswith(" a million rows") for row in rows)


@pytest.mark.parametrize("verb", ["classify", "translate", "pretrain"])
def test_every_verb_has_its_runs_on_paper(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--attention", "softmax,sa-softmax", "--train.per_device_train_batch_size", "4"]
    lines = planned(capsys, tmp_path / "runs", verb, *words)
    (row,) = table(lines, "on paper")
    assert row["runs"] == "2" and row["on paper, at most"] == "scratch-tiny"
    (sizes,) = table(lines, "memory of a device")
    # A step of 4 rows is none of 8 devices; that of a language model is told by its tokens.
    assert (sizes["DDP on 8"] == "-") == (verb != "pretrain") and sizes["DDP on 4"] != "-"


def test_a_pretrained_model_is_read_where_it_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save("bert", tmp_path / "model")
    for words in ([], ["--model.lora.rank", "2"]):
        wide = ["classify", "--model", str(model), "--model.dropout", "null", *words]
        (row,) = table(planned(capsys, tmp_path / "runs", *wide), "on paper")
        assert (row["trained"] == row["parameters"]) == (not words) and row["runs"] == "2"


def test_what_is_not_here_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = planned(capsys, tmp_path / "runs", "classify", "--model", "org/away")
    assert lines[-1].startswith("not on paper: 2 runs of org--away, whose files are not on this machine")


def test_a_study_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks that differ in their classes alone share a line, and what begins from a run has its size."""
    encoders = {"task": "books", "objective": "masked", "model.name": "scratch:tiny", "variants": ["softmax"]}
    after = {"from": "a", "task": ["agnews", "yelp"], "variants": ["softmax"]}
    path = written(tmp_path, {"a": encoders, "b": after})
    assert main(["study", str(path), "--plan", "--peak_tflops", "312"]) == 0
    said = capsys.readouterr().out
    first, then = table(said.splitlines(), "on paper")
    assert said.startswith("study ") and first["on paper, at most"] == "scratch-tiny"
    assert then["runs"] == "2" and then["on paper, at most"].startswith("pretrained-")
    assert 0.9 < float(then["parameters"][:-1]) / float(first["parameters"][:-1]) < 1.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mfu", "0.3"], "--mfu says what hours are planned for: give --plan too"),
        (["--plan", "--mfu", "40"], "--mfu takes a share of the peak above 0, e.g. 0.4, not '40'"),
        (["--plan", "--peak_tflops", "0"], "--peak_tflops takes the TFLOP/s of a device"),
        (["--plan", "--peak_tflops", "fast"], "not 'fast'"),
        (["--plan", "--model", "scratch:1.4b"], "did you mean '1.3b'?"),
        (["--plan", "--data.max_length", "100"], "set it to 2000 or 2100"),
        (["--plan", "--eval_lengths", "16"], "more than the shortest of language.eval_lengths holds"),
        (["--plan", "--model.lora.rank", "4"], "with a scratch model leave its rank at 0"),
        (["--plan", "--model", "pretrained:nowhere"], "there is no folder 'nowhere' of runs to begin from"),
        (["--plan", "--model", "./nowhere"], "there is no model folder './nowhere'"),
        (["--plan", "--train.per_device_train_batch_size", "0"], "must be at least 1, not 0"),
        (["--plan", "--train.per_device_train_batch_size", "many"], "takes int, not 'many'"),
        (["--plan", "--rehearse"], "not allowed with argument --plan"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--output", str(tmp_path / "runs"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_plan_imports_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from finetune.cli.main import main
for verb in ("pretrain", "classify", "translate"):
    assert main([verb, "--plan", "--output", {str(tmp_path)!r}]) == 0
assert main(["study", "paper", "--plan", "--output", {str(tmp_path)!r}]) == 0
assert not {{"torch", "transformers", "datasets"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
