"""Whatever a user named comes out of every form of a report as text: it runs nowhere and breaks nothing."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml

from finetune.bench import plot, tables
from finetune.bench import run as bench
from finetune.comparison.aggregate import Overall
from finetune.comparison.caveats import Note, NoteKind
from finetune.comparison.compare import Comparison, compare
from finetune.publishing import card
from finetune.publishing.metadata import LIBRARY
from finetune.report.formats import saved, tex
from finetune.report.formats.latex import latex as as_latex
from finetune.report.formats.markdown import markdown
from finetune.report.formats.spreadsheet import FORMULA, spreadsheet
from finetune.report.formats.text import text
from finetune.report.html.page import page
from finetune.report.plots.figures import draw
from tests.support.benchmarks import with_pretraining
from tests.support.records import save_accuracies, started

EVIL = [
    "<script>document.title='ran'</script>", "<img src=x onerror=alert(1)>", "a & b &amp; c", "100% of x_1",
    "=cmd|'/C x'!A0", "+1", "@SUM(A1)", "＝1+1", "'1", 'say "x" and \'y\'', "two\nlines", "\x1b[31mred\x07",
    "$x^2$ \\input{y} {z} #~", "{{ 7 * 7 }} {% raw %}", "[a](b) `c` *d* | e", "--- --",
    "nul \x00 \x1b]8;;http://x\x1b\\", "\t=1", "\r@1", "-2+3",
    "\u202eturned \u200b", "naïve 注意",
]  # fmt: skip


def _named(comparison: Comparison, evil: str) -> Comparison:
    """The comparison with ``evil`` wherever a user, a file or a machine names something."""
    (table,) = comparison.tables
    variants = []
    for i, variant in enumerate(table.variants):
        runs = [replace(run, folder=evil, command=evil, reason=evil, device=evil) for run in variant.runs]
        attention = (variant.attention or {}) | {"kernel": evil, "variant": evil}
        name = variant.name if i == 0 else evil
        variants.append(replace(variant, name=name, runs=runs, attention=attention))
    evil_table = replace(
        table,
        task=evil,
        pair=evil,
        model=evil,
        setting={evil: evil},
        sentence=evil,
        signature=evil,
        ran_on=[evil],
        data={"kind": evil, "location": evil, "revision": evil, "splits": {}},
        missing=[evil],
        refused=[evil],
        notes=[Note(NoteKind.KERNELS, evil), Note(NoteKind.HARDWARE, evil)],
        variants=variants,
    )
    over = [
        Overall(evil, False, "accuracy", name, tasks, 80.0, [79.0, 81.0], 0.0, [0.0, 0.0])
        for name, tasks in (("softmax", [evil, "t"]), (f"{evil} variant", [evil]))
    ]
    return Comparison([evil_table, replace(evil_table, setting={})], [evil], over)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("escape")
    save_accuracies(root, "softmax", [0.8, 0.81])
    save_accuracies(root, "sa-softmax", [0.85, 0.84])
    return compare([root])


class _Outline(HTMLParser):
    """Elements and attributes of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()
        self.code: list[str] = []
        self._in_code = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen |= {(tag, name) for name, _ in attrs} | {(tag, "")}
        self._in_code = tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.code.append(data)


def _outline(html: str) -> _Outline:
    outline = _Outline()
    outline.feed(html)
    return outline


@pytest.fixture(scope="module")
def honest(plain: Comparison) -> _Outline:
    """Of a page whose names are words."""
    return _outline(page(_named(plain, "name")))


@pytest.mark.parametrize(
    "evil", [*EVIL[:3], *(pytest.param(evil, marks=pytest.mark.slow) for evil in EVIL[3:])]
)
def test_a_page_has_no_element_that_a_name_made(plain: Comparison, honest: _Outline, evil: str) -> None:
    found = _outline(page(_named(plain, evil)))
    assert found.seen == honest.seen
    assert not {tag for tag, _ in found.seen} & {"script", "img", "iframe", "object", "form"}
    seen = "".join(char if char.isprintable() or char in "\t\n" else "\ufffd" for char in evil)
    assert found.code == [seen] * 8, "a command can be copied"


@pytest.mark.parametrize("evil", EVIL)
def test_a_markdown_table_keeps_its_columns_and_has_no_markup_of_a_name(plain: Comparison, evil: str) -> None:
    marked = re.sub(r"^(`{3,})sh\n.*?^\1\n", "", markdown(_named(plain, evil)), flags=re.S | re.M)
    marked = re.sub(r"^<details><summary>[\w ,]+</summary>$|^</details>$", "", marked, flags=re.M)
    for table in re.findall(r"(?:^\|.*\n)+", marked, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert not re.search(r"(?<!\\)[<$`~]|(?<!\\)\]\(", marked)
    assert "\n#" not in marked.replace("\n# ", "").replace("\n## ", "")


@pytest.mark.parametrize("evil", EVIL)
def test_latex_has_no_command_that_a_name_made(plain: Comparison, evil: str) -> None:
    def skeleton(text: str) -> tuple[list[str], int, int]:
        bare = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        bare = bare.replace(tex.HEAD.splitlines()[-1], "").replace(tex.SHRINK, "")
        bare = re.sub(r"\\finetuneletter\{.\}\{[0-9A-F]+\}", "", bare)
        for escaped in tex.SPECIAL.values():
            bare = bare.replace(escaped, "") if escaped.startswith("\\") else bare
        bare = re.sub(r"\{\\char34\}|\{[][*]\}|\$[-+][\d.]+\$|\$\\(?:pm|cdot|times)\$|\$[^$]*\$", "", bare)
        assert not re.search(r"[#$%^_~\"<>|]", bare), bare
        return re.findall(r"\\[a-z]+", bare), bare.count("{") - bare.count("}"), bare.count("&")

    assert skeleton(as_latex(_named(plain, evil))) == skeleton(as_latex(_named(plain, "name")))


@pytest.mark.parametrize("evil", EVIL)
def test_a_spreadsheet_calculates_nothing_and_keeps_its_rows(plain: Comparison, evil: str) -> None:
    lines = list(csv.reader(io.StringIO(spreadsheet(_named(plain, evil)))))
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    for cell in (cell for line in lines[1:] for cell in line):
        assert re.fullmatch(r"[-+]?[\d.]+(e[-+]\d+)?", cell) or not cell.startswith(FORMULA[:-1])
        assert cell.isprintable()


@pytest.mark.parametrize("evil", EVIL)
def test_a_terminal_gets_no_control_characters(plain: Comparison, evil: str) -> None:
    assert text(_named(plain, evil)).replace("\n", "").isprintable()


@pytest.mark.parametrize("evil", EVIL)
def test_json_gives_back_what_was_named(plain: Comparison, evil: str, tmp_path: Path) -> None:
    named = _named(plain, evil)
    (tmp_path / saved.FILE).write_text(saved.as_json(named), encoding="utf-8")
    assert json.loads(saved.as_json(named))["tables"][0]["model"] == evil
    # Its sentences are written anew, from the names and numbers.
    assert saved.read(tmp_path) == saved.with_new_texts(named)


def test_a_name_in_a_plot_is_text_and_its_label_too() -> None:
    evil = "<script>\"'&$x$"
    drawing = draw("key", evil, evil, "caption", lambda axes: axes[0].set_title(evil)).drawing
    for svg in (drawing.page(), drawing.file()):
        assert "<script" not in svg
        assert svg.count("&lt;script&gt;") == 3
        assert re.search('<title id="[a-z-]+">&lt;script&gt;&quot;', svg)


@pytest.mark.slow
def test_a_surrogate_that_no_file_takes_is_shown_as_one(plain: Comparison) -> None:
    for form in (page, markdown, spreadsheet, as_latex, text):
        form(_named(plain, "caf\udce9")).encode()
    assert "caf\\udce9" in page(_named(plain, "caf\udce9"))


# Beside the report: benchmark, model card, and the terminal

ROOT = Path(__file__).parents[2]
BENCH = with_pretraining(bench.read(ROOT / "results" / "bench-cpu"))


def _renamed(value: Any, known: set[str], evil: str) -> Any:
    """A copy in which each text that is in ``known`` is ``evil``."""
    if isinstance(value, dict):
        return {key: _renamed(item, known, evil) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, known, evil) for item in value]
    return evil if isinstance(value, str) and value in known else value


def _bench(evil: str) -> Any:
    """A result with ``evil`` for command, model, variants, kernels, reasons, device and versions."""
    hardware, attention, steps = BENCH["hardware"], BENCH["attention"], BENCH["steps"]
    row = {**attention["rows"][0], "reason": "why", "memory_reason": "why"}
    attention = {**attention, "rows": [row], "errors": attention["errors"][:1], "growth": []}
    names = {BENCH["command"], hardware["cpu"], row["variant"], row["kernel"], row["dtype"], "why"}
    names |= {steps["model"], steps["data"]["source"], BENCH["versions"]["torch"], BENCH["started"]}
    names |= {variant[key] for variant in steps["arms"] for key in ("name", "computes")}
    pretraining = BENCH["pretraining"]
    names |= {pretraining["model"], pretraining["data"]["source"]}
    names |= {row[key] for row in pretraining["rows"] for key in ("position", "name", "computes")}
    names |= {row["reason"] for row in pretraining["absent"]}
    return _renamed({**BENCH, "attention": attention}, names, evil)


@pytest.mark.parametrize("evil", EVIL)
def test_a_benchmark_takes_what_is_named_for_text(evil: str) -> None:
    page = tables.markdown(_bench(evil))
    _has_no_markup(page)
    assert len(page.splitlines()) == len(tables.markdown(_bench("name")).splitlines())
    for line in [*tables.text(_bench(evil)).splitlines(), *tables.failures(_bench(evil))]:
        assert line.isprintable()


def _has_no_markup(page: str) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", page, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert not re.search(r"(?<!\\)[<$`~]|(?<!\\)\]\(", page)
    assert page.replace("\n", "").isprintable()


def test_a_plot_of_a_benchmark_takes_a_name_for_text(tmp_path: Path) -> None:
    with matplotlib.rc_context({"axes.facecolor": "#ff0000"}):  # as of a matplotlibrc here
        plot.draw(_bench("<script>\"'&$x$\x1b"), tmp_path)
    svg = next(tmp_path.glob("*.svg")).read_text(encoding="utf-8")
    assert "<script" not in svg and "&lt;script&gt;" in svg and "\x1b" not in svg and "#ff0000" not in svg


@pytest.mark.parametrize("evil", EVIL)
def test_a_model_card_takes_what_is_named_for_text(evil: str) -> None:
    entry = started("sa-softmax", 0)
    entry |= {"metrics": {"accuracy": {"value": 0.5, "signature": evil}}, "untrained": None, "command": evil}
    entry["versions"] = dict.fromkeys([LIBRARY, "torch", evil], evil)
    entry["hardware"] = {**entry["hardware"], "device": evil, "cpu": evil}
    entry["task"] |= {"name": evil, "labels": [evil, "b"]}
    entry["data"] |= {"location": evil, "licence": evil}
    entry["model"] |= {"name": evil, "architecture": evil, "parameters": 1, "trainable": 1}
    _, head, body = card.text(entry, "org/run").split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == LIBRARY
    body = re.sub(r"^(`{3,})\w+\n.*?^\1\n", "", body, flags=re.S | re.M)
    _has_no_markup(re.sub("`(finetune|from_pretrained|attn_implementation|finetune compare)`", "", body))
    assert "\x1b" not in body and "\u202e" not in body


def test_settings_of_a_matplotlibrc_change_no_plot() -> None:
    plain = draw("key", "heading", "label", "", lambda axes: axes[0].set_title("a"))
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9, "text.usetex": True}):
        assert draw("key", "heading", "label", "", lambda axes: axes[0].set_title("a")) == plain
