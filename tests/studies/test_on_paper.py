"""``--plan``: what runs take on paper, without torch and without a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli.main import main
from tests.support.studies import study_of, written

FULL = ["pretrain", "--preset", "full", "--seeds", "0,1", "--attention", "softmax,sa-softmax"]


def planned(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> list[str]:
    assert main([*words, "--output", str(folder), "--plan"]) == 0
    assert not folder.exists()
    return capsys.readouterr().out.splitlines()


def test_the_plan_of_125m_says_what_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = planned(capsys, tmp_path / "runs", *FULL)
    start = next(number for number, line in enumerate(lines) if line.startswith("on paper: "))
    assert lines[0] == f"books: 4 runs in {tmp_path / 'runs'}"
    assert lines[start:] == [
        "on paper: scratch-125m, softmax, sa-softmax: 4 runs, windows of 512 tokens, half precision",
        "parameters: 162,250,752 at most, 85,056,000 without embeddings and output",
        "tokens: 6,553,600,000 a run, 40.4 a parameter",
        "FLOPs: 7.99e+08 a token, 5.23e+18 a run, 2.09e+19 in all",
        "time for a run on one device at 40% of its peak: H200 SXM 3.7 h, H100 SXM 3.7 h, L40S 10.0 h, "
        "A100 11.6 h, RTX 4090 22.0 h",
        "optimizer: adamw_torch_fused, its two moments in float32 are counted",
        "memory of a device  1 device  8 devices  64 devices",
        "data parallel        2.7 GiB    2.7 GiB     2.7 GiB",
        "ZeRO 1               2.7 GiB    1.7 GiB     1.5 GiB",
        "ZeRO 2               2.7 GiB    1.1 GiB     957 MiB",
        "ZeRO 3 (FSDP)        2.7 GiB    348 MiB      44 MiB",
        "and activations of a batch of 32 windows: 16.2 GiB, with train.activation_checkpointing 10.4 GiB "
        "(a run here takes one device)",
    ]


def test_peak_and_share_are_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--peak_tflops", "312", "--mfu", "0.8", "--train.bf16", "false"]
    lines = planned(capsys, tmp_path / "runs", *FULL, *words)
    (line,) = [line for line in lines if line.startswith("time for")]
    assert "at 80% of its peak in half precision" in line and line.endswith(": 312 TFLOP/s 5.8 h")


def test_what_an_optimizer_keeps_is_counted_where_it_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = planned(capsys, tmp_path / "runs", *FULL, "--train.optim", "sgd")
    assert "optimizer: sgd, what it keeps is not counted" in lines
    (line,) = [line for line in lines if line.startswith("data parallel")]
    assert line.split()[2:4] == ["1.5", "GiB"]  # 10 bytes of the 18 a parameter


def test_different_trainings_have_a_paragraph_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variant without a fused kernel keeps its weights; the tokens of epochs are those of the text."""
    words = ["--language.train_tokens", "null", "--attention", "softmax,softpick"]
    lines = planned(capsys, tmp_path / "runs", "pretrain", *words)
    assert [line for line in lines if line.startswith("on paper")] == [
        f"on paper: scratch-tiny, {name}: 1 run, windows of 128 tokens, float32"
        for name in ("softmax", "softpick")
    ]
    assert sum(line.startswith("tokens: what the text has") for line in lines) == 2
    assert sum(line.startswith("time for a billion tokens") for line in lines) == 2


def test_a_study_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, {"a": {"task": "books", "variants": ["softmax"]}})
    assert main(["study", str(path), "--plan", "--peak_tflops", "312"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("study ") and "\non paper: scratch-tiny, softmax: " in said


def test_other_kinds_of_task_have_nothing_on_paper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = planned(capsys, tmp_path / "runs", "classify")
    assert lines[0].startswith("agnews: 2 runs") and not any("paper" in line for line in lines)
    assert main(["study", str(tmp_path / "none.yaml"), "--plan"]) == 2
    assert study_of(tmp_path).title.startswith("study ")


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
assert main(["pretrain", "--plan", "--output", {str(tmp_path)!r}]) == 0
assert not {{"torch", "transformers", "datasets"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
