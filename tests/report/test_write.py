"""Reports: the same numbers in every form, and no record that takes them down."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.compare import Comparison, compare
from finetune.data.synthetic import STAMP
from finetune.errors import UserError
from finetune.records import store
from finetune.report import cells, words, write
from finetune.report.answer import answer, judged, remarks
from finetune.report.formats.markdown import markdown
from finetune.system.tables import escape
from tests.support.records import classified, correctness, save, save_accuracies, started, translations


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two real tables, one on the sample, a failed run and a broken record."""
    root = tmp_path_factory.mktemp("records") / "runs"
    save_accuracies(root, "softmax", [0.80, 0.81, 0.79])
    save_accuracies(root, "sa-softmax", [0.84, 0.88, 0.835])
    failed = started("sa-softmax-raw", 0)
    failed["status"], failed["reason"] = "failed", "loss became NaN at step 3"
    save(root, failed)
    for variant, noise in (("softmax", 0.4), ("sa-softmax", 0.38)):
        save(root, started(variant, 0, kind="translation"), translations(40, noise, 0))
        save_accuracies(root / "sample", variant, [0.6], sample=True)
    (root / "cut").mkdir()
    (root / "cut" / store.FILE).write_text("{")
    return compare([root])


Rows = list[dict[str, str]]


def _cells(line: str) -> list[str]:
    """The cells of a Markdown table row, unescaped."""
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _of_markdown(text: str) -> list[Rows]:
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.M)]
    return [[dict(zip(_cells(t[0]), _cells(line), strict=True)) for line in t[2:]] for t in tables]


def _of_latex(text: str) -> list[Rows]:
    def plain(cell: str) -> str:
        for mark, char in ((r"$\pm$", "±"), (r"\%", "%"), (r"\textless{}", "<"), ("$", "")):
            cell = cell.replace(mark, char)
        return cell.strip()

    # The table of a paper has heads of its own.
    floats = [each for each in text.split(r"\begin{table}") if r"\label{tab:finetune-results" not in each]
    tables = re.findall(r"\\toprule\n(.*?)\\bottomrule", "".join(floats), re.S)
    lines = [[line for line in table.splitlines() if line.endswith(r"\\")] for table in tables]
    cells = [[[plain(cell) for cell in line[:-2].split(" & ")] for line in table] for table in lines]
    return [[dict(zip(head, row, strict=True)) for row in rows] for head, *rows in cells]


class _Page(HTMLParser):
    """The tables of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def _of_page(text: str) -> list[Rows]:
    parser = _Page()
    parser.feed(text)
    return [[dict(zip(head, row, strict=True)) for row in rows] for head, *rows in parser.tables]


def _main(tables: list[Rows]) -> dict[str, dict[str, str]]:
    """The rows of the first table that shows differences of variants."""
    found = next(rows for rows in tables if {"attention", "runs", "difference"} <= rows[0].keys())
    return {row["attention"]: row for row in found}


def test_every_form_has_the_same_numbers(comparison: Comparison, tmp_path: Path) -> None:
    files = {file.suffix: file.read_text(encoding="utf-8") for file in write.write(comparison, tmp_path)}
    assert list(files) == [".json", ".md", ".csv", ".tex", ".html", ".txt"]
    forms = [
        _main(_of_markdown(files[".md"])), _main(_of_latex(files[".tex"])), _main(_of_page(files[".html"]))
    ]  # fmt: skip
    sheet = {row["attention"]: row for row in islice(csv.DictReader(io.StringIO(files[".csv"])), 3)}
    terminal = write.text(comparison)
    for variant in json.loads(files[".json"])["tables"][0]["arms"][:2]:
        name, score, found = variant["name"], variant["metrics"]["accuracy"], variant["difference"]
        numbers = [(score["mean"], sheet[name]["mean"]), (score["sd"], sheet[name]["sd"])]
        expected = {"accuracy (%)": f"{score['mean']:.2f} ± {score['sd']:.2f}", "runs": "3"}
        if found:
            low, high = found["interval"]
            assert found["interval"] not in (found["interval_rows"], found["interval_seeds"])
            assert rf"${found['mean']:+.2f}$ & ${low:+.2f}$ to ${high:+.2f}$" in files[".tex"]
            expected |= {"difference": f"{found['mean']:+.2f}", "95%": f"{low:+.2f} to {high:+.2f}"}
            expected |= {"p (Holm)": words.p_value(found["p_adjusted"])}
            numbers += [(found["mean"], sheet[name]["difference"]), (low, sheet[name]["interval_low"])]
            numbers += [
                (high, sheet[name]["interval_high"]),
                (found["p_adjusted"], sheet[name]["p_adjusted"]),
            ]
        for key, shown in expected.items():
            assert {form[name][key] for form in forms} == {shown}, (name, key)
            assert shown in terminal
        assert all(exact == float(cell) for exact, cell in numbers)
    assert forms[0]["sa-softmax"]["difference"] == "+5.17"
    for form in forms:
        assert not any(
            cell for key, cell in form["sa-softmax-raw"].items() if key not in ("attention", "runs")
        )


def test_every_table_and_variant_is_in_every_form(comparison: Comparison, tmp_path: Path) -> None:
    files = {file.suffix: file.read_text(encoding="utf-8") for file in write.write(comparison, tmp_path)}
    variants = [[variant.name for variant in table.variants] for table in comparison.tables]
    assert len(variants) == 3
    for read, suffix, times in ((_of_markdown, ".md", 2), (_of_latex, ".tex", 1), (_of_page, ".html", 2)):
        found = [rows for rows in read(files[suffix]) if {"attention", "runs"} <= rows[0].keys()]
        # The main numbers and, folded, all of them.
        repeated = [names for names in variants for _ in range(times)]
        assert [[row["attention"] for row in rows] for rows in found] == repeated
    assert [row["attention"] for row in csv.DictReader(io.StringIO(files[".csv"]))] == [*chain(*variants)]
    for suffix in (".md", ".tex", ".html"):
        assert all(remark[:60] in files[suffix] for remark in remarks(comparison))
        assert all(each.counts in files[suffix] for each in judged(comparison))
    assert json.loads(files[".json"])["answer"] == "\n".join(answer(comparison))


def test_the_sentence_the_gaps_and_the_stamp_are_everywhere(comparison: Comparison) -> None:
    plain, marked = write.text(comparison), markdown(comparison)
    for table in comparison.tables:
        assert escape(table.sentence) in marked
        assert " ".join(table.sentence.split())[:60] in " ".join(plain.split())
    for shown in (plain, marked):
        assert "loss became NaN at step 3" in shown
        assert "truncated" in shown
        assert shown.count(STAMP) == 1
    assert "exact McNemar" in marked
    assert "tok:13a" in marked
    assert "length\\_penalty" in marked
    assert "finetune classify --attention softmax --seeds 0" in marked


def test_the_terminal_table_is_aligned(comparison: Comparison) -> None:
    block = write.text(comparison).split("\n\n")[0].splitlines()
    head, first, second = block[1:4]
    end = head.index("accuracy (%)") + len("accuracy (%)")
    assert first[:end].endswith("80.00 ± 1.00") and second[:end].endswith("85.17 ± 2.47")


def test_columns_without_a_single_value_are_left_out(tmp_path: Path) -> None:
    entry = started("softmax", 0)
    save(tmp_path, entry, classified(correctness(10, 0.5, 0)))
    shown = write.text(compare([tmp_path]))
    assert "95%" not in shown and "difference" not in shown
    assert "50.00" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, ""), (7.4, "7 s"), (600.0, "10.0 min"), (9000.0, "2.5 h")]
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(("mib", "shown"), [(None, ""), (512.3, "512 MiB"), (2048.0, "2.0 GiB")])
def test_memory(mib: float | None, shown: str) -> None:
    assert words.memory(mib) == shown


@pytest.mark.slow
def test_a_report_can_be_written_again_and_nothing_is_reported_of_nothing(
    comparison: Comparison, tmp_path: Path
) -> None:
    first = [file.read_text() for file in write.write(comparison, tmp_path)]
    assert [file.read_text() for file in write.write(comparison, tmp_path)] == first
    assert write.text(Comparison([], [])) == "No run was found."
    assert "No run was found." in markdown(Comparison([], []))


def test_a_folder_that_cannot_be_written(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write report.json in the folder .*file"):
        write.write(comparison, tmp_path / "file")


def test_the_report_says_which_comparisons_are_one_family(comparison: Comparison) -> None:
    shown = " ".join(markdown(comparison).split())
    assert "adjusted for the comparisons of one table (one task, model and setting)" in shown


def test_a_folder_whose_name_is_no_text_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    save(root / "caf\udce9", started("softmax", 0), classified([True, False]))
    found = compare([root])
    write.text(found).encode()
    assert "caf\\udce9" in write.write(found, tmp_path)[0].read_text()


def test_a_language_models_speed_is_shown_beside_its_cost(tmp_path: Path) -> None:
    """Means over seeds; of other kinds of task there is neither column."""
    for seed, (speed, share) in enumerate([(1000.0, 0.4), (3000.0, 0.5)]):
        entry = started("softmax", seed)
        rows = classified(correctness(40, 0.8, seed))
        folder = save(tmp_path / "runs", entry, rows)
        entry["times"] = {**(entry["times"] or {}), "tokens_per_s": speed, "mfu": share}
        store.write(folder, entry)
    save_accuracies(tmp_path / "runs", "sa-softmax", [0.7])
    comparison = compare([tmp_path / "runs"])
    (table,) = comparison.tables
    assert [(each.tokens_per_s, each.mfu) for each in table.variants] == [(2000.0, 0.45), (None, None)]
    assert cells.cost(table)[0][-2:] == ["tokens/s", "MFU"]
    assert cells.cost(table)[1][-2:] == ["2,000", "45.0%"]
    assert "45.0%" in markdown(comparison)
    others = [replace(each, tokens_per_s=None, mfu=None) for each in table.variants]
    assert "MFU" not in cells.cost(replace(table, variants=others))[0]
