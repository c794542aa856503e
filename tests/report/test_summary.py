"""The short table for a README: the numbers of report.json."""

import json
from pathlib import Path

import pytest

from finetune.cli.main import main
from finetune.comparison.compare import Comparison
from finetune.errors import UserError
from finetune.report import summary, write
from tests.support.records import save_accuracies

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report(tmp_path, capsys):
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.79, 0.80])
    save_accuracies(tmp_path, "sa-softmax", [0.90, 0.92, 0.89, 0.91])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.80])
    save_accuracies(tmp_path, "softmax", [0.5], sample=True, task="dbpedia")
    assert main(["compare", str(tmp_path)]) == 0
    capsys.readouterr()
    return tmp_path / "report.json"


def test_the_summary_tells_what_the_report_tells(report, capsys):
    assert main(["summary", str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len({len(row) for row in cells}) == 1 and len(cells) == 2 + 3  # the sample has no place here
    content = json.loads(report.read_text())
    table = next(t for t in content["tables"] if not t["sample"])
    variants = {variant["name"]: variant for variant in table["arms"]}
    found = variants["sa-softmax"]["difference"]
    row = next(row for row in cells if row[2] == "sa-softmax")
    low, high = found["interval"]
    assert row[3] == "4" and row[4].startswith("90.50 ± 1.29")
    assert row[5:7] == [f"{found['mean']:+.2f}", f"{low:+.2f} to {high:+.2f}"]
    assert row[8] == "**better**" and found["verdict"] == "better"
    assert next(row for row in cells if row[2] == "sa-softmax-raw")[8] == "cannot tell"


@pytest.mark.parametrize(
    ("sample", "scores", "reason"), [(True, [0.5], "synthetic sample"), (False, [], "no run of the report")]
)
def test_an_empty_summary_says_why(tmp_path, capsys, sample, scores, reason):
    save_accuracies(tmp_path, "softmax", scores, sample=sample)
    assert main(["compare", str(tmp_path), "--output", str(tmp_path)]) == (0 if scores else 2)
    file = tmp_path / "report.json"
    if not scores:
        write.write(Comparison([], []), tmp_path)
    capsys.readouterr()
    assert main(["summary", str(file)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("There is nothing to summarize: ") and reason in line


def test_the_summary_goes_between_its_marks(report, tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "before\n" + summary.MARK.format(report.as_posix()) + "\nold\n" + summary.END + "\nafter\n"
    )
    for _ in range(2):
        assert main(["summary", str(report), "--into", str(document)]) == 0
    text = document.read_text()
    assert text.count("| sa-softmax |") == 1 and "old" not in text
    assert text.startswith("before\n") and text.endswith("\nafter\n")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": "other"}'])
def test_what_is_no_report_is_one_line(tmp_path, content):
    file = tmp_path / "report.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"name a report\.json"):
        summary.read(file)


def test_a_document_without_a_place_says_what_to_write(report, tmp_path):
    document = tmp_path / "page.md"
    document.write_text("nothing here\n")
    with pytest.raises(UserError, match=r"write the lines '<!-- summary of .*"):
        summary.insert("x", document, report)
