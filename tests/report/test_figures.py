"""A drawing in its forms, and the axis of differences."""

import re
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shutil import which
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from finetune.comparison.compare import Comparison, compare
from finetune.report.plots import files, fonts
from finetune.report.plots.colors import INK, MUTED, SERIES
from finetune.report.plots.drawing import Drawing
from finetune.report.plots.figures import (
    LETTER,
    MARKERS,
    WIDTH,
    Palette,
    Plot,
    by_step,
    draw,
    log_scale,
    name_row,
    number,
)
from finetune.report.plots.gallery import _Names, draw_all
from finetune.report.plots.recorder import Line
from finetune.report.plots.scale import FEWEST, Scale, telling
from tests.support.records import save_accuracies


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    """Lines, dashes, bands, every marker and all kinds of text."""

    def paint(axes: list[Axes]) -> None:
        (axis,) = axes
        axis.plot(range(5000), [1 + 0.001 * (x % 7) for x in range(5000)], color=INK, linestyle="--")
        axis.fill_between([0, 4000], 1.2, 1.4, color=MUTED, alpha=0.2, linewidth=0)
        for y, marker in enumerate(MARKERS):
            axis.plot([0, 2500, 4000], [1.5 + y] * 3, marker, color=SERIES[y], markersize=5)
        axis.text(3000, 1.1, "sa-softmax ± 注意", ha="right", fontweight="bold")
        log_scale(axis)
        by_step(axis, title="a < b", ylabel="−1")

    return draw("a-name", "Heading & more", "what is <drawn>", "caption", paint).drawing


def test_a_drawing_is_small_and_says_what_it_is(drawing: Drawing) -> None:
    for svg in (drawing.page(), drawing.file()):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-labelledby")
        texts = [element.text for element in root if element.tag.endswith(("title", "desc"))]
        assert texts == ["Heading & more", "what is <drawn>"]
        assert not re.search(r"\d\.\d\d", svg), "tenths of a pixel"
        assert len(svg) < 7000, "5,000 points on 300 pixels"


def test_a_file_needs_no_page_and_a_page_no_colors(drawing: Drawing) -> None:
    assert not re.search(r"#[0-9a-f]{6}|style=", drawing.page())
    svg = drawing.file()
    assert "class=" not in svg and "var(" not in svg
    assert 'font-family="Helvetica, Arial' in svg and '<rect width="340" height="190" fill="#ffffff"/>' in svg


def test_a_pdf_has_its_fonts_and_is_the_same_again(drawing: Drawing, tmp_path: Path) -> None:
    with fonts.holding(label.text for label in drawing.labels) as held:
        pdf = drawing.pdf(held)
        assert pdf.startswith(b"%PDF-") and pdf == drawing.pdf(held)
    assert b"FontFile2" in pdf and b"Type3" not in pdf
    if which("pdftotext"):
        (tmp_path / "a.pdf").write_bytes(pdf)
        shown = subprocess.run(
            ["pdftotext", str(tmp_path / "a.pdf"), "-"], capture_output=True, text=True, check=True
        )
        assert "a<b" in shown.stdout.replace(" ", "") and "sa-softmax ±" in shown.stdout


def test_points_nearer_than_a_pixel_are_left_out_and_ends_are_not() -> None:
    values = [0.0, *(0.5 + 0.4 * (-1) ** n for n in range(3000)), 1.0]
    plot = draw("k", "h", "l", "", lambda axes: axes[0].plot(values, color=INK))  # type: ignore[arg-type,return-value]
    (line,) = (line for stroke, lines in plot.drawing.lines if stroke.color == INK for line in lines)
    assert isinstance(line, Line) and len(line.points) < 1200
    xs = [x for x, _ in line.points]
    assert min(xs) < 400 and max(xs) > 3000


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(-1e5, 1e5).map(lambda value: round(value, 4)), min_size=1, max_size=6),
    st.sampled_from([0.01, 0.5, 3.7]),
)
def test_every_value_is_on_the_axis_and_ticks_do_not_touch(values: list[float], margin: float) -> None:
    scale = Scale.over(values, telling(values, [margin]))
    ends = [scale.at(value) for value in sorted([0.0, *values])]
    assert ends == sorted(ends) and ends[0] > 0 and ends[-1] < 1
    # Differences of a margin are a fifth of half an axis apart, or the axis is linear and no longer than 16.
    assert (scale.at(margin) - scale.at(0)) * WIDTH > 12
    ticks = scale.ticks(WIDTH)
    places = [scale.at(tick) * WIDTH for tick in ticks]
    assert 0.0 in ticks and len(ticks) >= 3
    assert all(right - left >= FEWEST - 1e-6 for left, right in pairwise(places))


def test_without_a_margin_differences_of_the_usual_size_are_told_apart() -> None:
    assert telling([0.3, -40.0, 0.2], []) == 0.5
    assert telling([], []) == telling([0.0], []) == 1.0
    assert telling([3.0], [0.5, 0.2]) == 1.0


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.25, "−0.25"), (1e-7, "1e−7"), (12345.0, "12345"), (0.0, "0")]
)
def test_a_tick_has_a_minus_sign_that_is_one(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.fixture
def study(tmp_path: Path) -> Comparison:
    """Two settings of one task, with a name that is no name of a file."""
    for rate in (0.001, 0.0003):
        for variant in ("softmax", "sa-softmax"):
            folder = tmp_path / "runs" / str(rate)
            save_accuracies(
                folder, variant, [0.8, 0.81], train={"learning_rate": rate}, model={"name": "../é/…<a b>"}
            )
    return compare([tmp_path / "runs"])


def test_every_figure_is_written_under_a_name_of_plain_words(study: Comparison, tmp_path: Path) -> None:
    drawn = draw_all(study)
    index = files.write_figures(drawn, tmp_path / "report")
    names = [line.split("\t")[0] for line in index.read_text(encoding="utf-8").splitlines()]
    assert names == [plot.name for plot in drawn] and len(names) == len(set(names))
    assert "differences-accuracy" in names
    assert "agnews-e-a-b-train-learning-rate-0-0003-seed-by-seed" in names
    written = {path.name for path in index.parent.iterdir()}
    assert written == {index.name, *(f"{name}{kind}" for name in names for kind in files.KINDS)}
    assert not list(tmp_path.rglob("*.tmp"))


def test_figures_that_are_no_more_are_removed_and_nothing_else_is(study: Comparison, tmp_path: Path) -> None:
    index = files.write_figures(draw_all(study), tmp_path)
    mine, outside = index.with_name("mine.svg"), tmp_path / "outside.svg"
    mine.write_text("")
    outside.write_text("")
    index.write_text(f"{index.read_text(encoding='utf-8')}../outside\ttitle\n", encoding="utf-8")
    files.write_figures(list(draw_all(study))[:1], tmp_path)
    kept = {path.name for path in index.parent.iterdir()}
    assert kept == {index.name, "mine.svg", "differences-accuracy.svg", "differences-accuracy.pdf"}
    assert outside.exists()


def test_a_figure_alone_has_the_legend_and_the_caption_that_the_page_has_beside_it() -> None:
    looks = {
        name: Palette([])[name] for name in ("softmax", "a-name-of-many-letters-that-needs-a-line", "b < c")
    }
    plot = draw("k", "h", "label", "What it is.", lambda axes: axes[0].plot([0, 1], color=INK), looks=looks)  # type: ignore[arg-type,return-value]
    alone, legend = plot.alone(), "b &lt; c"
    assert legend in alone.file() and legend not in plot.svg
    assert '<desc id="d">label. What it is.</desc>' in alone.file()
    assert alone.height == plot.drawing.height + 3 * 14 + 7 and alone.width == plot.drawing.width
    lowest = max(label.y for label in alone.labels)
    assert plot.drawing.height < lowest / 10 < alone.height


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    def paint(axes: list[Axes]) -> None:
        name_row(axes[0], 10, f"books, {'x' * 60} = 0.003", bold=True)

    (shown,) = (label.text for label in draw("k", "h", "l", "", paint).drawing.labels if label.bold)
    assert shown.startswith("books, x") and shown.endswith("x = 0.003") and len(shown) * LETTER < WIDTH


def test_names_are_told_apart_where_their_words_are_the_same(drawing: Drawing) -> None:
    plots = [Plot(replace(drawing, key=key), "") for key in ("a b", "a/b", "注", "A" * 300)]
    assert [plot.name for plot in _Names().name(plots)] == ["a-b", "a-b-2", "figure", "a" * 100]
