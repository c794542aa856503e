"""``finetune bench --evidence``: the whole path at toy sizes, interpreted, and how its processes end."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.attention.kernels.triton import forms, launch
from finetune.bench import datasheet
from finetune.bench.cases import NotMeasuredError
from finetune.bench.evidence import correctness, page, run, search, times, worker
from finetune.bench.evidence.calls import Call
from finetune.bench.evidence.plan import CUDA, SHARES, TOY, Plan, plan
from finetune.cli.evidence import BUDGET, asked
from finetune.cli.main import main
from finetune.errors import UserError

errors = pytest.importorskip("triton.runtime.errors", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]
# What a machine that is lent with a GPU may lack of what a run needs.
ABSENT = (
    "accelerate", "annotated_types", "datasets", "dill", "evaluate", "jsonargparse", "matplotlib", "pandas",
    "peft", "pyarrow", "pydantic", "pydantic_core", "sacrebleu", "scipy", "sklearn",
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole measurement by ``python -m finetune``, without what only a run needs."""
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n")
    words = ["bench", "--device", "cpu", "--evidence", "--toy", "--budget", "1200", "--output", str(folder)]
    surroundings = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *words], check=False, cwd=ROOT, env=surroundings, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def result(measured: Path) -> Any:
    return json.loads((measured / run.FILE).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_step_is_taken_in_order_without_what_only_a_run_needs(result: Any) -> None:
    assert (result["schema"], result["version"], result["finished"]) == (run.SCHEMA, run.VERSION, True)
    assert [step["name"] for step in result["steps"]] == list(SHARES)
    for step in result["steps"]:
        assert step["status"] == "done" and step["rows"] and step["left_out"] == 0, step["name"]
        assert not any(each["failed"] for each in step["absent"]), step["absent"]
    assert result["seconds"] < result["plan"]["budget"]


@pytest.mark.slow
def test_every_form_is_held_against_float64_and_timed(result: Any) -> None:
    steps = {step["name"]: step["rows"] for step in result["steps"]}
    assert all(row["right"] and 0 < row["output"] < row["limit"] for row in steps["correctness"])
    assert {row["kind"] for row in steps["correctness"]} == set(correctness.KINDS)
    assert {row["dtype"] for row in steps["correctness"]} == set(TOY.dtypes)
    for name in ("correctness", "times", "memory"):
        assert {row["by"] for row in steps[name]} >= set(forms.FORMS if name != "memory" else [forms.DEFAULT])
    assert {row["kernel"] for row in steps["tiles"]} >= {
        "attend_rows",
        "query_gradient",
        "key_value_gradient",
    }
    computed = {row["by"]: row["computes"] for row in steps["fine-tuning"]}
    assert computed == {"sdpa": "sdpa", forms.DEFAULT: "triton", "reference": "reference"}


@pytest.mark.slow
def test_the_page_has_every_table_and_says_that_it_is_a_toy(measured: Path, result: Any) -> None:
    text = (measured / run.PAGE).read_text(encoding="utf-8")
    assert text == page.markdown(result)
    assert "Toy sizes" in text and "Unfinished" not in text
    for words in ("sa-softmax fused", "softmax flash", "| attend\\_rows |", "torch has it on CUDA alone"):
        assert words in text
    assert "GB/s" in text and "rows/s" in text


@pytest.mark.slow
def test_the_tiles_it_finds_are_a_table_for_launch(result: Any) -> None:
    (major,) = result["tiles"]
    laid = launch.laid_over(launch.TILES, result["tiles"])
    for kernel, sizes in result["tiles"][major].items():
        for size, tile in sizes.items():
            width, element = map(int, size.split(","))
            assert laid[int(major)][kernel][width, element] == tuple(tile)


def test_measured_tiles_go_before_the_chosen_ones_of_their_architecture_alone() -> None:
    usual = {9: {"attend_rows": {(64, 2): (128, 64, 8, 3), (128, 2): (128, 64, 8, 3)}}}
    found = launch.laid_over(
        usual, {"10": {"attend_rows": {"64,2": [64, 64, 4, 2]}, "dropped": {"64,2": [1] * 4}}}
    )
    assert found[9] == usual[9] and set(found[10]) == {"attend_rows"}
    assert found[10]["attend_rows"] == {(64, 2): (64, 64, 4, 2), (128, 2): (128, 64, 8, 3)}


def test_the_nearest_tiles_are_tried_first() -> None:
    first, *others = search.neighbours((128, 64, 8, 3))
    assert first == (128, 64, 8, 3) and len(others) == len(set(others)) == 71
    assert set(others[:5]) == {
        (64, 64, 8, 3), (128, 32, 8, 3), (128, 128, 8, 3), (128, 64, 4, 3), (128, 64, 8, 2)
    } or (128, 64, 8, 4) in others[:6]  # fmt: skip


def test_what_matters_most_comes_first_on_a_gpu() -> None:
    titles = [title for title, _ in correctness.items(CUDA, "correctness")]
    assert titles[0].endswith("padded, heads of 64, bfloat16") and forms.DEFAULT in titles[0]
    assert len(titles) == len(set(titles))
    wanted = {f"{kind}, heads of {width}, {dtype}" for kind in correctness.KINDS
              for width in (64, 80, 128) for dtype in ("float32", "bfloat16", "float16")}  # fmt: skip
    assert wanted <= {title.partition(", ")[2] for title in titles}
    assert next(title for title, _ in times.items(CUDA, "times")) == "softmax flash, causal, 2048 tokens"
    assert set(CUDA.lengths) == {2**n for n in range(7, 16)}
    assert sum(SHARES.values()) == pytest.approx(1.0) and CUDA.budget == BUDGET < 600


# Processes


def stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, budget: float = 60.0, chosen: Plan = TOY
) -> Any:
    """The result of steps whose worker is ``script``, in place of one that imports torch."""
    file = folder / "worker.py"
    file.write_text(script)
    monkeypatch.setattr(run, "python_module", lambda name: [sys.executable, str(file)])
    monkeypatch.setattr(run, "SHARES", {"environment": 0.5, "times": 0.5})
    return run.measure(replace(chosen, budget=budget), folder, "finetune bench", lambda line: None)


HEAD = """
import json, os, sys, time
def say(number, **event): os.write(1, (json.dumps({"id": number, **event}) + "\\n").encode())
say(0, ready=True, cuda=False)
for line in sys.stdin:
    asked = json.loads(line); number = asked["id"]
    say(number, pid=PID); say(number, items=3)
"""


def absent_of(result: Any, name: str) -> list[tuple[str, bool]]:
    step = next(step for step in result["steps"] if step["name"] == name)
    return [(each["reason"], each["failed"]) for each in step["absent"]]


def test_a_figure_that_takes_its_process_along_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        HEAD.replace("PID", "2**22 + 1")
        + """
    for place in range(asked["start"], 3):
        say(number, begin=place, title=f"figure {place}")
        if place == 1 and asked["step"] == "times":
            say(number, exit=-11, said="illegal memory access")
            break
        say(number, item=place, title=f"figure {place}", reason="as told", failed=False)
    else:
        say(number, exit=0, said="")
"""
    )
    result = stage(tmp_path, monkeypatch, script)
    assert absent_of(result, "environment") == 3 * [("as told", False)]
    crash = "the process ended with status -11: illegal memory access"
    assert absent_of(result, "times") == [("as told", False), (crash, True), ("as told", False)]
    assert page.failures(result) == [f"Failed: figure 1: {crash}."]
    assert [step["left_out"] for step in result["steps"]] == [0, 0] and result["finished"]


def test_a_figure_that_hangs_is_ended_and_the_budget_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    script = (
        HEAD.replace("PID", str(sleeper.pid))
        + """
    say(number, begin=0, title="figure 0")
"""
    )
    monkeypatch.setattr(run, "GRACE", 0.2)
    monkeypatch.setattr(run, "RESERVE", 0.0)
    began = time.monotonic()
    result = stage(tmp_path, monkeypatch, script, budget=3.0)
    assert time.monotonic() - began < 15.0
    assert sleeper.wait(10) == -signal.SIGKILL
    for step in result["steps"]:
        assert absent_of(result, step["name"]) == [("time was over before it was done", False)]
        assert (step["status"], step["left_out"]) == ("partly", 2)
    assert "2" in (tmp_path / run.PAGE).read_text(encoding="utf-8")


def test_a_worker_that_cannot_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the process that imports torch and Triton ended"):
        stage(tmp_path, monkeypatch, "raise SystemExit(1)")
    assert json.loads((tmp_path / run.FILE).read_text(encoding="utf-8"))["finished"] is False


def test_a_machine_without_a_gpu_is_said_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match="no CUDA device is visible: run it where one is, or add --device cpu"
    ):
        stage(tmp_path, monkeypatch, HEAD.replace("PID", "0"), chosen=CUDA)


def test_a_tile_without_room_is_not_measured_and_the_table_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> list[float]:
        raise errors.OutOfResources(260_000, 232_448, "shared memory")

    monkeypatch.setattr(search, "events", refuse)
    usual = search._table(TOY)[1]["attend_rows"][64, 4]
    with pytest.raises(NotMeasuredError, match="shared memory"):
        search.measure(TOY, "attend_rows", forms.DEFAULT, 64, 4, (128, 128, 8, 4))
    assert search._table(TOY)[1]["attend_rows"][64, 4] == usual


@pytest.mark.parametrize("kind", correctness.TIMED)
def test_kernels_of_the_times_are_compiled_before_them(kind: str) -> None:
    """For Triton makes one of numbers that are multiples of 16, and another one of those that are not."""
    call = Call("softmax", "math")
    assert correctness.measure(TOY, call, "float32", 16, kind)["length"] % 16 == 0
    inputs, _, _ = correctness._inputs(replace(CUDA, device="cpu"), "float32", 16, 32, kind)
    assert inputs.query.shape[1] == inputs.key.shape[1] == CUDA.heads


def test_an_error_in_a_figure_is_its_reason() -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("out of resource:\nshared memory")

    assert worker._outcome(fail) == {"reason": "RuntimeError: out of resource: shared memory", "failed": True}
    assert Call("softmax", "cudnn").name == "softmax cudnn"


# Options


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["--device", "cpu"], "--evidence is about a GPU"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--toy", "--device", "cpu", "--budget", "5"], "--budget takes seconds from 30"),
        (["--toy", "--device", "cpu", "--budget", "long"], "--budget takes a number of seconds"),
        (["--toy", "--device", "cpu", "--full"], "leave out --full"),
        (["--toy", "--device", "cpu", "--output", __file__], "cannot write to"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], telling: str) -> None:
    assert main(["bench", "--evidence", *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("finetune: error: ") and telling in error


def test_the_light_entrance_is_for_evidence_alone() -> None:
    assert asked(["bench", "--device", "cuda", "--evidence"]) and not asked(["bench", "--quick"])
    assert not asked(["bench", "--evidence", "--help"]) and not asked(["compare", "--evidence"])
    assert plan("cuda", cores=3).processes == 2 and plan("cpu", toy=True).device == "cpu"


def test_the_peak_of_a_device_is_found_by_its_name() -> None:
    assert (
        datasheet.peak("NVIDIA H200", "bfloat16")
        == 989.0
        == datasheet.peak("NVIDIA H100 80GB HBM3", "float16")
    )
    assert datasheet.peak("NVIDIA A100-SXM4-80GB", "float32") == 19.5
    assert datasheet.peak("NVIDIA H100 PCIe", "bfloat16") == 756.0
    assert datasheet.peak("Something else", "bfloat16") is None
