"""Whatever is wrong with a report.json or a bench.json: the same figures, or one line that names the key."""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from finetune.bench import plot, run, shape, tables
from finetune.bench.cases import MASK_TITLES
from finetune.comparison.compare import compare
from finetune.errors import UserError
from finetune.report import write
from finetune.report.formats import saved
from finetune.report.formats.latex import latex
from finetune.report.formats.markdown import markdown
from finetune.report.formats.spreadsheet import spreadsheet
from finetune.report.html.page import page
from finetune.report.plots import curves, forest, gradients, weights
from finetune.report.summary import markdown as summary
from finetune.statistics import over_seeds
from tests.support.benchmarks import with_pretraining
from tests.support.nested import WRONG, changed, every_place
from tests.support.records import save_accuracies
from tests.support.report_records import undrawn

ROOT = Path(__file__).parents[2]
BENCH = with_pretraining(run.read(ROOT / "results" / "bench-cpu"))  # as this version would have written it
TEXTS = (
    "",
    "{",
    "[]",
    "null",
    "7",
    "[" * 100_000,
    "1" * 5000,
    '{"schema": 1, "schema": 2}',
    b"\xff",
    b"\x00" * 9,
)


def few(result: Any) -> Any:
    """The result with two rows of each list."""
    if isinstance(result, dict):
        return {key: few(item) for key, item in result.items()}
    return [few(item) for item in result[:2]] if isinstance(result, list) else result


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few resamples, and no plots, which take a while each."""
    for name in ("RESAMPLES", "PAIRED_RESAMPLES", "TRIALS"):
        monkeypatch.setattr(over_seeds, name, 5)
    for module in (curves, forest, gradients, weights):
        monkeypatch.setattr(module, "draw", undrawn)
    yield


def show_report(file: Path) -> None:
    found = saved.read(file)
    write.text(found).encode("utf-8", "backslashreplace")
    for form in (markdown, latex, spreadsheet, summary, saved.as_json):
        form(found)  # type: ignore[operator]
    page(found, [])


def show_bench(file: Path) -> None:
    result = run.read(file)
    tables.text(result).encode("utf-8", "backslashreplace")
    tables.markdown(result)
    tables.failures(result)


def damage(file: Path, good: Any, show: Callable[[Path], None], share: float) -> None:
    """Every key, at every depth, without a value and with values of every wrong type; or a share of these."""
    chance = random.Random(0)
    values: list[tuple[object, ...]] = [
        (),
        *((wrong,) for wrong in (*WRONG, 0, -1, 1e300, "<&$\\", {"\ud800": 1})),
    ]
    file.write_text(json.dumps(good), encoding="utf-8")
    show(file)
    for place, value in itertools.product(every_place(good), values):
        if chance.random() > share:
            continue
        file.write_text(json.dumps(changed(good, place, *value)), encoding="utf-8")
        try:
            show(file)
        except UserError as error:
            assert "\n" not in str(error) and file.name in str(error) and len(str(error)) < 500
        except Exception as error:
            raise AssertionError(f"{place}: {value!r} broke it") from error
    for content in TEXTS:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError):
            show(file)


@pytest.fixture
def reported(tmp_path: Path) -> Any:
    for arm, offset in (("softmax", 0.0), ("sa-softmax", 0.1), ("sa-softmax-raw", 0.05)):
        save_accuracies(tmp_path / "runs", arm, [0.6 + offset, 0.65 + offset], rows=40)
    return few(json.loads(saved.as_json(compare([tmp_path / "runs"]))))


def test_no_wrong_value_in_a_report_breaks_or_changes_what_is_shown(tmp_path: Path, reported: Any) -> None:
    damage(tmp_path / saved.FILE, reported, show_report, share=0.1)


def test_no_wrong_value_in_a_benchmark_breaks_or_changes_what_is_shown(tmp_path: Path) -> None:
    damage(tmp_path / run.FILE, few(BENCH), show_bench, share=0.03)


@pytest.mark.exhaustive
def test_every_wrong_value_in_reports_and_benchmarks(tmp_path: Path, reported: Any) -> None:
    damage(tmp_path / saved.FILE, reported, show_report, share=1)
    damage(tmp_path / run.FILE, few(BENCH), show_bench, share=1)


def test_the_shape_of_a_benchmark_is_what_is_written() -> None:
    shape.SHAPE.validate_python(BENCH, strict=False)
    assert set(get_args(shape.Row.__annotations__["mask"])) == set(MASK_TITLES)


def test_a_figure_without_a_positive_value_is_drawn(tmp_path: Path) -> None:
    result = few(BENCH)
    for row in result["attention"]["rows"]:
        row["memory_mib"] = row["memory_ratio"] = 0.0
    assert plot.draw(result, tmp_path)


def test_a_ratio_of_memory_without_the_memory_is_left_out(tmp_path: Path) -> None:
    result = few(BENCH)
    for row in result["attention"]["rows"]:
        row["memory_mib"], row["memory_ratio"] = None, 2.0
    assert tables.text(result) and tables.markdown(result)
    assert plot.draw(result, tmp_path)
