"""Nothing that the program prints as a list or a table is wider than the terminal."""

from pathlib import Path

import pytest
from rich.cells import cell_len

from finetune.bench import run, tables
from finetune.cli.main import main
from finetune.report import write

RESULTS = Path(__file__).parents[2] / "results"
REPORTS = sorted(RESULTS.glob("*/report.json"))
BENCHES = sorted(RESULTS.glob("*/bench.json"))
WORDS = {
    "tasks": ["tasks"],
    "variants": ["variants"],
    "validate": ["validate"],
    "study": ["study", "downstream", "--plan"],
    "classify": ["classify", "--plan", "--model", "scratch:tiny"],
}


@pytest.fixture(params=[40, 80, 120, 200])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def too_wide(text: str, width: int) -> list[str]:
    """Lines that are wider, but for those of one word, such as a path."""
    return [line for line in text.splitlines() if cell_len(line) > width and len(line.split()) > 1]


@pytest.mark.parametrize("name", WORDS)
def test_what_verbs_print(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(WORDS[name]) == 0
    assert too_wide(capsys.readouterr().out, width) == []


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.parent.name)
def test_the_text_of_a_report(file: Path, width: int) -> None:
    comparison = write.read(file)
    shown = write.text(comparison, width)
    assert too_wide(shown, width) == []
    assert "difference" in shown and "95%" in shown  # which are not to be left out
    assert "Left out" not in write.text(comparison)


@pytest.mark.parametrize("file", BENCHES, ids=lambda file: file.parent.name)
def test_the_tables_of_a_benchmark(file: Path, width: int) -> None:
    assert too_wide(tables.text(run.read(file), width), width) == []
