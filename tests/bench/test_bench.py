"""``finetune bench`` in seconds: what is in its result, what is made of it, and that faults are said."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.attention.kernels import reference
from finetune.bench import accuracy, attention, cases, resident, rows, run, settings, steps, tables, timing
from finetune.bench.cases import BASELINE, CONTROLS, Case, Implementation
from finetune.cli.main import main
from finetune.data.dataset import training_texts
from finetune.models.pretrained import build_tokenizer
from finetune.models.scratch import BERT

TINY = replace(
    settings.QUICK["cpu"], tokens=96, heads=2, widths=(16,), seconds=0.05, plain_seconds=0.05,
    train_rows=33, test_rows=24, rounds=1, model="scratch:tiny",
)  # fmt: skip
WORDS = ["bench", "--quick", "--device", "cpu", "--lengths", "24,12", "--only", "attention,steps"]
SPREAD = {"median", "low", "high", "repeats"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one whole measurement, through the command."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.QUICK, "cpu", TINY)
        assert main([*WORDS, "--output", str(folder)]) == 0
    yield folder


@pytest.fixture
def result(measured: Path) -> Any:
    return json.loads((measured / run.FILE).read_text(encoding="utf-8"))


def figures(result: Any, *kernels: str) -> list[dict[str, Any]]:
    return [row for row in result["attention"]["rows"] if row["kernel"] in kernels]


# What is in a result


@pytest.mark.slow
def test_the_result_says_what_was_measured_on_what(result: Any) -> None:
    assert (result["schema"], result["version"]) == (run.SCHEMA, run.VERSION)
    assert result["command"].startswith("finetune bench --quick")
    assert result["versions"]["torch"] and result["hardware"]["cpu"] and "git" in result
    assert result["threads"] == torch.get_num_threads() and result["seconds"] > 0
    assert result["settings"]["lengths"] == [12, 24] and result["settings"]["seed"] == 0
    shapes = {(row["mask"], row["batch"], row["length"]) for row in result["attention"]["rows"]}
    assert shapes == {(mask, 96 // length, length) for mask in ("padded", "causal") for length in (12, 24)}


@pytest.mark.slow
def test_every_figure_has_its_spread_and_repeats(result: Any) -> None:
    for row in figures(result, "sdpa", "blocked"):
        for which in ("forward", "both"):
            for figure in (row[which]["seconds"], row[which]["ratio"]):
                assert set(figure) == SPREAD
                assert 0 < figure["low"] <= figure["median"] <= figure["high"] and figure["repeats"] >= 2
    for setup in result["steps"]["arms"]:
        for which in ("train", "evaluate"):
            assert all(
                setup[which][key]["repeats"] == 1 for key in ("rows_per_s", "time_ratio", "speed_ratio")
            )
            assert setup[which]["rows_per_s"]["median"] > 0


@pytest.mark.slow
def test_the_baseline_is_exactly_once_itself(result: Any) -> None:
    for row in figures(result, "sdpa"):
        for which in ("forward", "both"):
            assert [row[which]["ratio"][key] for key in ("low", "median", "high")] == [1.0, 1.0, 1.0]
    arms = {setup["name"]: setup for setup in result["steps"]["arms"]}
    assert arms["softmax auto"]["train"]["time_ratio"]["median"] == 1.0
    assert arms["stock sdpa"]["evaluate"]["speed_ratio"]["median"] == 1.0


@pytest.mark.slow
def test_every_variant_has_its_setups_and_stock_its_own_attention(result: Any) -> None:
    computed = {setup["name"]: setup["computes"] for setup in result["steps"]["arms"]}
    assert computed.pop("softmax auto") == "sdpa"
    assert computed.pop("stock sdpa") == "sdpa" and computed.pop("stock eager") == "eager"
    assert computed.pop("sa-softmax reference") == computed.pop("sa-softmax-raw reference") == "reference"
    ways = ("", ", padding skipped", ", layers onednn", ", padding skipped, layers onednn")
    assert set(computed) == {"sa-softmax-raw auto", *(f"sa-softmax auto{way}" for way in ways)}


@pytest.mark.slow
def test_a_kernel_that_cannot_run_is_listed_with_its_reason(result: Any, measured: Path) -> None:
    fused = figures(result, "triton")
    assert {row["variant"] for row in fused} == {"softmax", "sa-softmax", "sa-softmax-raw"}
    for row in fused:
        assert row["reason"] == "no CUDA device"
        assert row["both"] is row["forward"] is row["memory_mib"] is None
    page = (measured / run.PAGE).read_text(encoding="utf-8")
    assert "Not measured: softmax triton, sa-softmax triton, sa-softmax-raw triton: no CUDA device." in page
    causal = [row["reason"] for row in figures(result, "reference") if row["mask"] == "causal"]
    assert len(causal) == 6 and all("too slow" in reason for reason in causal)


@pytest.mark.slow
def test_all_kernels_are_exact(result: Any) -> None:
    errors = result["attention"]["errors"]
    assert {(row["variant"], row["kernel"]) for row in errors} >= {
        ("softmax", "sdpa"),
        ("sa-softmax", "blocked"),
    }
    assert all(0 < row["output"] < 1e-5 and 0 < row["gradients"] < 1e-5 and row["exact"] for row in errors)
    assert tables.failures(result) == []


# What is made of it


@pytest.mark.slow
def test_page_and_figures_are_remade_from_the_result_alone(
    measured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "measure", None)
    assert main(["bench", "--from", str(measured), "--output", "again"]) == 0
    made = sorted(path.name for path in Path("again").iterdir())
    assert made == ["attention-16.png", "attention-16.svg", run.PAGE]
    for name in made[1:]:
        assert Path("again", name).read_bytes() == (measured / name).read_bytes(), name

    result = run.read(measured)
    for row in result["attention"]["rows"]:
        if row["both"]:  # of so few tokens the memory can be too little to be seen
            row["memory_mib"] = row["memory_ratio"] = 1.0
    run.write(result, run.check(Path("filled")))
    capsys.readouterr()
    assert main(["bench", "--from", "filled"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "ratio to SDPA",
        "MiB ratio",
        "Fine-tuning scratch:tiny",
        "4 x 24",
        "sa-softmax blocked",
    ):
        assert words in printed
    figure = Path("again/attention-16.svg").read_text(encoding="utf-8")
    assert figure.count("<!-- sa-softmax blocked -->") == 1, "one line of the legend"
    assert "<!-- length (tokens) -->" in figure and "2 heads of 16, float32" in figure


def test_the_kept_page_is_what_its_record_makes() -> None:
    kept = Path(__file__).parents[2] / "results" / "bench-cpu"
    page = tables.markdown(run.read(kept), ["attention-64.svg", "attention-128.svg"])
    assert page == (kept / run.PAGE).read_text(encoding="utf-8"), f"finetune bench --from {kept}"


@pytest.mark.slow
def test_the_tables_are_in_line_and_whole(result: Any) -> None:
    for table in tables.tables(result):
        assert table.rows and all(len(row) == len(table.header) for row in table.rows), table.title
    page = tables.markdown(result, ["attention-16.svg"])
    assert "![attention 16](attention-16.svg)" in page
    assert re.search(r"\| 4 x 24 \| softmax sdpa \| 1\.00 \(1\.00-1\.00\) \| \d+% \| 1\.00 \(", page)
    assert "GFLOP/s (multiply-adds measured on" in page
    for width in (80, 120):
        assert max(map(len, tables.text(result, width).splitlines())) <= width


@pytest.mark.slow
def test_figures_are_also_compared_with_softmax_on_the_same_kernel(result: Any) -> None:
    for row in figures(result, "blocked"):
        row["both"]["control"] = {"median": 1.25, "low": 1.2, "high": 1.3, "repeats": 9}
    (table,) = [table for table in tables.tables(result) if "key padding" in table.title]
    place = table.header.index("over softmax")
    over = {line[1]: line[place] for line in table.rows if line[0] == "4 x 24"}
    assert over["softmax native"] == "1.00" and over["sa-softmax blocked"] == "1.25"
    assert "softmax on the same kernel (softmax on native)" in tables.markdown(result)


# Faults


def errors_of(implementation: Implementation) -> dict[str, Any]:
    found = accuracy.measure("cpu", "float32", ["padded"], [16], seed=0)
    return next(
        row
        for row in found
        if (row["variant"], row["kernel"]) == (implementation.variant, implementation.kernel)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda output: output * 1.01, {"output", "gradients"}),
        (lambda output: output.detach() + 1.01 * (output - output.detach()), {"gradients"}),
        (lambda output: output * float("nan"), {"output", "gradients"}),
    ],
    ids=["scaled", "gradients", "nan"],
)
def test_a_wrong_kernel_shows(
    result: Any, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], Any], wrong: set[str]
) -> None:
    real = reference.sdpa
    monkeypatch.setattr(reference, "sdpa", lambda inputs: spoil(real(inputs)))
    found = errors_of(BASELINE)
    assert not found["exact"] and {key for key in ("output", "gradients") if found[key] > 1e-3} == wrong
    assert errors_of(Implementation("sa-softmax", "blocked"))["exact"]
    result["attention"]["errors"] = [found]
    (failure,) = tables.failures(json.loads(json.dumps(result, allow_nan=False)))
    assert failure.startswith("Wrong: softmax sdpa, padded, heads of 16: relative error")
    assert "NO: WRONG" in tables.text(result)


def rows_of_one_case() -> dict[str, dict[str, Any]]:
    case = Case("padded", 3, 12, 2, 16, "float32")
    found = attention.measure_case(case, replace(TINY, masks=("padded",)), {})
    return {tables.name(row): row for row in found}


@pytest.mark.slow
def test_a_kernel_that_fails_is_said_and_the_rest_measured(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cases.attend

    def fail(implementation: Implementation, inputs: Any) -> Any:
        if implementation.kernel == "blocked":
            raise RuntimeError("no such\ninstruction")
        return real(implementation, inputs)

    monkeypatch.setattr(cases, "attend", fail)
    found = rows_of_one_case()
    assert found["sa-softmax blocked"]["reason"] == "forward: failed: no such instruction"
    assert found["sa-softmax blocked"]["both"] is None and found["sa-softmax reference"]["both"] is not None
    result["attention"]["rows"] = list(found.values())
    (failure,) = tables.failures(result)
    assert failure.endswith(
        "sa-softmax blocked, sa-softmax-raw blocked: forward: failed: no such instruction."
    )


@pytest.mark.slow
def test_a_kernel_refused_for_its_faults_is_a_failure_too(
    result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cases.dispatch.blocked.attend
    monkeypatch.setattr(cases.dispatch.blocked, "attend", lambda *given: real(*given) * 1.1)
    result["attention"]["rows"] = list(rows_of_one_case().values())
    assert all("blocked: its output is wrong on cpu" in failure for failure in tables.failures(result))
    assert len(tables.failures(result)) in (1, 2), "one line a size of the error"


@pytest.mark.slow
def test_an_earlier_result_tells_its_failures_by_their_reasons(result: Any, tmp_path: Path) -> None:
    told = [
        "blocked: its output is wrong on cpu in torch.float32, by 1e-1 of its norm",
        "no CUDA device",
        None,
    ]
    for row, reason in zip(result["attention"]["rows"], told, strict=False):
        del row["failed"], row["memory_failed"]
        row["reason"] = reason
    (tmp_path / run.FILE).write_text(json.dumps(result), encoding="utf-8")
    (failure,) = tables.failures(run.read(tmp_path))
    assert "is wrong on cpu" in failure


@pytest.mark.slow
def test_a_failure_is_the_exit_status_too(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result["attention"]["errors"][0]["exact"] = False
    monkeypatch.setattr(run, "measure", lambda *_: result)
    assert main(["bench", "--quick", "--device", "cpu"]) == 1
    assert Path("bench", run.FILE).is_file()


def test_another_kernel_than_the_one_asked_for_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases.dispatch.blocked, "why_not", lambda *_: "it is tired")
    assert rows_of_one_case()["sa-softmax blocked"]["reason"] == "it is tired"
    monkeypatch.setattr(cases, "why_not", lambda *_: None)
    inputs, _ = cases.make(Case("whole", 1, 5, 1, 16, "float32"), "cpu", 0)
    with pytest.raises(cases.NotMeasuredError, match="ran in its place"):
        cases.attend(Implementation("sa-softmax", "blocked"), inputs)


def test_what_died_for_memory_is_not_tried_again() -> None:
    case = Case("padded", 3, 12, 2, 16, "float32")
    dead = {
        (case, Implementation("softmax", "reference")): {
            "reason": "its process ended",
            "died": True,
            "failed": False,
        }
    }
    found = {tables.name(row): row for row in attention.measure_case(case, TINY, dead)}
    assert found["softmax reference"]["reason"] == "its process ended"
    assert found["softmax reference"]["both"] is None and found["sa-softmax reference"]["both"] is not None


def test_a_measuring_process_that_crashes_is_a_failure_and_one_out_of_memory_is_not() -> None:
    script = (
        "import os; from finetune.bench import resident; "
        "resident._extra = lambda case, *_: os.kill(os.getpid(), case.width); resident.main()"
    )
    numbers = [signal.SIGSEGV, signal.SIGKILL]
    jobs = [(asdict(Case("whole", 1, 5, 1, n, "float32")), asdict(BASELINE)) for n in numbers]
    request = json.dumps({"jobs": jobs, "seed": 0, "threads": 1})
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, input=request, capture_output=True, text=True
    )
    crashed, killed = map(json.loads, done.stdout.splitlines())
    assert crashed == {"reason": "its process ended with status -11", "died": True, "failed": True}
    assert killed["failed"] is False and killed["reason"].endswith("-9, out of memory?")


# How it is measured


class Clock:
    """A clock that only the tasks move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def task(self, name: str, *seconds: float) -> Callable[[], None]:
        left = list(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_rounds_are_interleaved_and_ratios_taken_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    seconds = {"base": (9, 1, 2, 4), "twice": (2, 2, 4, 8), "slow": (30,)}
    tasks = {name: clock.task(name, *each) for name, each in seconds.items()}
    limits = {"base": 18, "twice": 6, "slow": 10}
    times, failures = timing.interleave(tasks, limits, ["base"], "cpu")
    assert failures == {} and clock.log == 2 * ["base", "twice", "slow"] + 2 * ["base", "twice"]
    assert times == {"base": [9, 1, 2, 4], "twice": [2, 2, 4, 8], "slow": [30, 30]}
    ratio = timing.ratios(times["twice"], times["base"])
    assert ratio == {"median": 2, "low": 2, "high": 2, "repeats": 3}, "without the warm-up"
    assert timing.ratios(times["slow"], times["base"])["repeats"] == 2
    assert timing.ratios(times["base"], times["base"])["median"] == 1


def test_a_short_task_is_repeated_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    times, _ = timing.interleave({"short": clock.task("short", 0.004)}, {"short": 0.05}, [], "cpu")
    assert clock.log.count("short") == 1 + 4 * 3
    assert times["short"] == pytest.approx([0.004] * 5)


def test_the_spread_is_the_median_and_quartiles() -> None:
    assert timing.spread([5, 1, 2, 4, 3]) == {"median": 3, "low": 2, "high": 4, "repeats": 5}
    assert timing.spread([7]) == {"median": 7, "low": 7, "high": 7, "repeats": 1}


@pytest.mark.slow
def test_memory_of_the_definition_holds_its_weights_and_torch_s_kernel_none() -> None:
    case = Case("padded", 1, 1024, 2, 16, "float32")
    weights = 2 * 1024 * 1024 * 4 / 2**20
    sdpa, reference, unknown = resident.measure(
        [
            (case, BASELINE),
            (case, Implementation("softmax", "reference")),
            (case, Implementation("softmax", "nothing")),
        ],
        0,
    )
    assert 0 < sdpa["mib"] < weights < 2 * weights < reference["mib"] < 8 * weights
    assert "failed: " in unknown["reason"]


def test_padding_hides_the_end_of_each_row_evenly() -> None:
    inputs, upstream = cases.make(Case("padded", 5, 8, 2, 16, "float32"), "cpu", 0)
    assert inputs.allowed is not None
    assert inputs.allowed.sum(-1).flatten().tolist() == [4, 5, 6, 7, 8]
    assert upstream.shape == (5, 8, 2, 16)
    assert cases.row_lengths(Case("padded", 1, 4096, 12, 64, "float32")) == [3072]


def test_the_full_shapes_are_the_standard_ones_and_the_usual_ones_some_of_them() -> None:
    for mask in cases.MASKS:
        found = [
            case for case in settings.cases(settings.FULL["cpu"]) if (case.mask, case.width) == (mask, 64)
        ]
        assert {(case.batch, case.length) for case in found} >= {(32, 128), (8, 512), (2, 2048), (1, 4096)}
        assert {(case.heads, case.dtype) for case in found} == {(12, "float32")}
    assert {case.length for case in settings.cases(settings.FULL["cpu"]) if case.width == 128} == {512, 2048}
    cuda = settings.cases(settings.FULL["cuda"])
    assert {case.width for case in cuda} == {64, 128} and {case.mask for case in cuda} == set(cases.MASKS)
    assert {case.length for case in cuda} == {2**n for n in range(7, 16)}
    assert all(case.batch * case.length == 32768 for case in cuda)
    half, longest = settings.growth_cases(settings.FULL["cpu"])
    assert (half.batch, half.length, longest.batch, longest.length) == (1, 2048, 1, 4096)
    for device, usual in settings.USUAL.items():
        some = set(settings.cases(usual))
        assert some < set(settings.cases(settings.FULL[device])) and {c.mask for c in some} == set(
            cases.MASKS
        )
    assert BASELINE in cases.implementations() and CONTROLS["cuda"] in cases.implementations()


@pytest.mark.slow
def test_the_sample_s_rows_get_the_lengths_of_ag_news(result: Any) -> None:
    for name, size in (("train", 33), ("test", 24)):
        found = result["steps"]["data"][name]
        assert found["rows"] == size and found["tokens_longest"] == rows.MAX_LENGTH
        assert 50 < found["tokens_mean"] < 57 and found["tokens_quartiles"] == pytest.approx(
            [43, 50, 59], abs=1
        )


def test_the_stock_recipe_s_rows_are_the_same_but_padded() -> None:
    config = steps.configuration(TINY, steps.BASELINE)
    loaded = rows.load("sample", config)
    tokenizer = build_tokenizer(config, BERT.recipe, training_texts(loaded.splits["train"], ["text"]))
    tokens = rows.tokenize(loaded, tokenizer, config)
    for split in tokens.values():
        stock = rows.padded(split, 7)
        assert stock["labels"][:] == split["labels"][:]
        for ids, mask, own in zip(
            stock["input_ids"], stock["attention_mask"], split["input_ids"], strict=True
        ):
            assert len(ids) == len(mask) == rows.MAX_LENGTH and sum(mask) == len(own)
            assert ids[: len(own)] == own and set(ids[len(own) :]) <= {7}
    lengths = [len(ids) for ids in tokens["test"]["input_ids"]]
    assert lengths == sorted(lengths, reverse=True), "as a run predicts them"


# Interruptions


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C in the midst of a measurement."""


def test_what_was_measured_before_a_ctrl_c_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(settings.QUICK, "cpu", TINY)
    real = attention.measure_case
    seen: list[Case] = []

    def measure_case(case: Case, *others: Any) -> Any:
        seen.append(case)
        if len(seen) == 3:
            raise Interrupted
        return real(case, *others)

    monkeypatch.setattr(attention, "measure_case", measure_case)
    monkeypatch.setattr(attention.memory, "measure", lambda jobs, *_: [{"mib": 1.0} for _ in jobs])
    words = ["bench", "--quick", "--device", "cpu", "--lengths", "24,12", "--only", "attention"]
    assert main([*words, "--output", "out"]) == 130
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "finetune: interrupted; what was measured is in out/bench.json"
    result = run.read(Path("out"))
    assert not result["finished"] and {row["length"] for row in result["attention"]["rows"]} == {12, 24}
    assert "Unfinished: this is what was measured before it ended" in Path("out", run.PAGE).read_text("utf-8")
    assert main(["bench", "--from", "out", "--output", "remade"]) == 0
    assert sorted(os.listdir("remade")) == ["attention-16.png", "attention-16.svg", run.PAGE]


@pytest.mark.slow
def test_rounds_of_training_are_kept_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = replace(TINY, parts=("steps",), rounds=2)
    kept: list[dict[str, Any]] = []
    run.measure(chosen, "finetune bench", lambda part: kept.append(json.loads(json.dumps(part))))
    repeats = [part["steps"]["arms"][0]["train"]["rows_per_s"]["repeats"] for part in kept]
    assert repeats == [1, 2] and not any(part["finished"] for part in kept)


def test_a_result_of_before_has_no_part_of_the_peak() -> None:
    earlier = run.read(Path(__file__).parents[2] / "results" / "bench-cpu")
    assert earlier["finished"] and all(row["failed"] is False for row in earlier["attention"]["rows"])


# Mistakes


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--lengths", "128,1"], "--lengths takes numbers of tokens from 3"),
        (["--lengths", "short"], "--lengths takes numbers of tokens, e.g. 128,512, not 'short'"),
        (["--only", "stesp"], "did you mean 'steps'?"),
        (["--model", "scratch:tiny"], "--model is of one part that trains, and two are measured: add --only"),
        (["--only", "steps,pretraining", "--data", "texts"], "--data is of one part that trains"),
        (["--only", "steps", "--data", "nowhere"], "there is no data folder 'nowhere'"),
        (["--only", "steps", "--model", "scratch:huge"], "unknown scratch size"),
        (["--output", "file"], "cannot write to file"),
        (["--output", "file/below"], "cannot write to file/below"),
        (["--from", "nowhere.json"], "cannot read nowhere.json"),
        (["--from", "file"], "is truncated or no JSON"),
        (["--from", "foreign.json"], "is no result of this version"),
        (["--from", "foreign.json", "--quick"], "--quick is about measuring"),
        (["--preset", "quick"], "finetune bench takes no '--preset'"),
        (["--full"], "--quick and --full ask for opposites"),
        (["--budget", "9"], "--budget goes with --evidence"),
        (["--evidence"], "leave out --quick"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], telling: str) -> None:
    Path("file").write_text("mine")
    Path("foreign.json").write_text('{"schema": "finetune-record", "version": 1}')
    assert main(["bench", "--quick", *words] if "--from" not in words else ["bench", *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("finetune: error: ") and telling in error
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["file", "foreign.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_cuda_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cuda"]) == 2
    assert "no CUDA device is visible" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom finetune.cli.main import main\n"
        "try: main(['bench', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'matplotlib', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--from" in done.stdout
