"""The table of a paper: what it says, and that LaTeX makes a page of it."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest

from finetune.comparison.claims import Verdict
from finetune.comparison.compare import Comparison, compare
from finetune.report import write
from finetune.report.formats.latex import latex
from finetune.report.formats.paper import WIDTH, _head, paper
from finetune.report.formats.tex import escape
from tests.support.records import save_accuracies

RESULTS = Path(__file__).parents[2] / "results"
PDFLATEX = which("pdflatex")
DOCUMENT = r"""\documentclass{article}\usepackage{booktabs,graphicx}
\begin{document}\ref{tab:finetune-results}\input{report}\end{document}"""
HOSTILE = '50% of_x & #1 \\relax ~^{}$ <a>|`"[2]* -- --- é ł ß Ð þ ą 注意 \u202e'


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("paper")
    for variant, values in (
        ("softmax", [0.8, 0.81]),
        ("sa-softmax", [0.85, 0.86]),
        ("sa-softmax-raw", [0.7, 0.71]),
    ):
        save_accuracies(root, variant, values)
    return compare([root])


def _judged(study: Comparison, *verdicts: Verdict) -> Comparison:
    (table,) = study.tables
    baseline, *others = table.variants
    judged = [
        replace(each, difference=each.difference and replace(each.difference, verdict=verdict))
        for each, verdict in zip(others, verdicts, strict=True)
    ]
    return replace(study, tables=[replace(table, variants=[baseline, *judged])])


def test_marks_and_bold_follow_the_verdicts(study: Comparison) -> None:
    (table,) = paper(_judged(study, "better", "worse"))
    assert r"\textbf{85.50 $\pm$ 0.71}" in table and table.count("textbf") == 1
    assert r"$+5.00^{\dagger}$" in table and r"$-10.00^{\ddagger}$" in table
    assert r"$^{\dagger}$ significantly better" in table and "equivalent" not in table
    (table,) = paper(_judged(study, "worse", "worse"))
    assert r"\textbf{80.50" in table and table.count("textbf") == 1
    (table,) = paper(_judged(study, "equivalent", "none"))
    assert "textbf" not in table and r"$+5.00^{\approx}$" in table and "$-10.00$" in table
    assert r"within $\pm$0.5" in table


def test_the_caption_has_two_sentences_and_the_table_a_label(study: Comparison) -> None:
    (table,) = paper(_judged(study, "unknown", "worse"))
    caption = re.search(r"\\caption\{(.*)\}\n", table)
    assert caption and len(re.findall(r"\.(?: [A-Z]|$)", caption[1])) == 2
    assert "over 2 seeds" in caption[1]
    assert r"\label{tab:finetune-results}" in table


def test_an_interval_over_rows_alone_is_called_one(study: Comparison) -> None:
    (table,) = study.tables
    baseline, first, _ = table.variants
    assert first.difference
    single = replace(first, difference=replace(first.difference, seeds=[0], interval=None, verdict="unknown"))
    (shown,) = paper(Comparison([replace(table, variants=[baseline, single])], []))
    assert "over 1 seed " in shown and "(of one seed, over test rows alone)" in shown
    assert "alone" not in paper(study)[0]


def test_the_sample_stands_alone_and_without_marks(study: Comparison) -> None:
    real = _judged(study, "better", "worse").tables[0]
    sample = replace(real, sample=True)
    assert paper(Comparison([real, sample], [])) == paper(Comparison([real], []))
    (table,) = paper(Comparison([sample], []))
    assert "dagger" not in table and "textbf" not in table and "SAMPLE" in table.upper()
    assert paper(Comparison([], [])) == []


def test_many_variants_stand_in_blocks_and_many_rows_in_several_tables(study: Comparison) -> None:
    (table,) = study.tables
    baseline, first, _ = table.variants
    variants = [replace(first, name=f"a-variant-with-a-long-name-{number}") for number in range(7)]
    wide = replace(table, variants=[baseline, *variants])
    (block,) = paper(Comparison([wide], []))
    assert block.count("emph") > 1 and all(each.name[-2:] in block for each in variants)
    assert max(map(len, _head(variants[0].name))) < len(variants[0].name) < WIDTH
    long = [replace(table, task=f"task{number}") for number in range(40)]
    tables = paper(Comparison(long, []))
    assert len(tables) == 3 and all(f"task{number} " in "".join(tables) for number in range(40))
    assert len(set(re.findall(r"\\label\{.*?\}", "".join(tables)))) == 3


def test_letters_that_latex_lacks_are_asked_for_by_number() -> None:
    assert escape("é注") == r"é\finetuneletter{注}{6CE8}"
    assert escape("a---b") == "a-{}-{}-b"


def _compiled(content: str, folder: Path) -> str:
    """What LaTeX says of a document that inputs ``content``."""
    if PDFLATEX is None:
        pytest.skip("there is no pdflatex here (Debian: texlive-latex-recommended)")
    (folder / "report.tex").write_text(content, encoding="utf-8")
    (folder / "main.tex").write_text(DOCUMENT, encoding="utf-8")
    command = [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", ["cpu", "downstream", "language"])
def test_latex_makes_pages_of_the_kept_reports(name: str, tmp_path: Path) -> None:
    said = _compiled(latex(write.read(RESULTS / name)), tmp_path)
    assert "Overfull" not in said and "Float too large" not in said


def test_latex_prints_whatever_a_user_named(study: Comparison, tmp_path: Path) -> None:
    (table,) = study.tables
    variants = [replace(table.variants[0]), *(replace(each, name=HOSTILE) for each in table.variants[1:])]
    named = replace(table, task=HOSTILE, model=HOSTILE, setting={HOSTILE: HOSTILE}, variants=variants)
    _compiled(latex(Comparison([named], [])), tmp_path)
