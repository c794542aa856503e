"""The page: self-contained, with every plot that the records allow, and the right numbers drawn."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from finetune.cli.main import main
from finetune.comparison.compare import Comparison, compare
from finetune.errors import UserError
from finetune.records import store
from finetune.records.diagnostics import LayerSnapshot, read
from finetune.records.run import Run
from finetune.report import extents, reached, words
from finetune.report.answer import answer, state
from finetune.report.formats import saved
from finetune.report.histories import History, collect, mean_curve
from finetune.report.html.page import ATTENTION_FILE, FILE, HERE, attention_page, page
from finetune.report.plots import curves, distances, forest, gradients, series, weights
from finetune.report.plots.colors import COLORS, SERIES, depth
from finetune.report.plots.figures import Palette, draw
from finetune.report.plots.gallery import Gallery, TablePlots, draw_all
from finetune.report.write import write
from tests.support.records import classified, correctness, save, save_accuracies, started
from tests.support.report_records import FILE as DIAGNOSTICS
from tests.support.report_records import diagnostics, enrich

# The colours of the page in its two schemes: the first two blocks of variables.
LIGHT, DARK = re.findall(r":root \{(.*?)\}", (HERE / "page.css").read_text(encoding="utf-8"), re.S)


def _study(root: Path, looked_at: bool = True) -> Comparison:
    for variant, values in (("softmax", [0.8, 0.81, 0.79]), ("sa-softmax", [0.86, 0.87, 0.855])):
        for folder in save_accuracies(root, variant, values, rows=2000):
            enrich(folder, looked_at=looked_at)
    return compare([root])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Three seeds of two variants, with curves and diagnostics."""
    return _study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def drawn(study: Comparison) -> Gallery:
    return draw_all(study)


@pytest.fixture(scope="module")
def html(study: Comparison, drawn: Gallery) -> str:
    return page(study, drawn=drawn)


@pytest.fixture(scope="module")
def attention(study: Comparison, drawn: Gallery) -> str:
    found = attention_page(study, drawn)
    assert found is not None
    return found


def test_the_pages_ask_nothing_of_the_network(html: str, attention: str) -> None:
    for text, other in ((html, ATTENTION_FILE), (attention, FILE)):
        assert f'href="{other}' in text
        assert not re.search(rf"""(src|href)\s*=\s*["'](?!#|data:,|{other}["#])""", text)
        assert not re.search(r"@import|url\((?!#)|<script|<link(?! rel=\"icon\")|<iframe", text)
        assert "default-src 'none'" in text


def test_ids_are_unique_and_every_reference_has_its_own(html: str, attention: str) -> None:
    for text, other in ((html, attention), (attention, html)):
        counts = Counter(re.findall(r'\sid="([^"]+)"', text))
        assert max(counts.values()) == 1
        asked = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
        assert {name for pair in asked for name in pair if name} <= set(counts)
        assert set(re.findall(r'href="[^"#]+#([^"]+)"', text)) <= set(re.findall(r'\sid="([^"]+)"', other))


def test_what_attention_did_is_apart_and_only_where_there_is_something(
    html: str, attention: str, tmp_path: Path
) -> None:
    assert "Gradient norms" not in html and "Gradient norms" in attention
    for folder in save_accuracies(tmp_path, "softmax", [0.8]):
        enrich(folder, looked_at=False)
    (tmp_path / ATTENTION_FILE).write_text("of an earlier comparison")
    written = write(compare([tmp_path]), tmp_path)
    assert ATTENTION_FILE not in {file.name for file in written}
    assert not (tmp_path / ATTENTION_FILE).exists()
    assert ATTENTION_FILE not in (tmp_path / FILE).read_text(encoding="utf-8")


def test_the_answer_the_comparisons_and_how_to_read_them_come_before_any_other_table(html: str) -> None:
    places = [
        html.index(part)
        for part in (
            words.HEADING + "</h1>", '<ul class="verdicts">', 'class="cards matrix"', words.READING,
            "<caption class=",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    reading = html[places[3] : places[4]].partition("</ul>")[0]
    assert reading.count("<li>") == 4


def test_every_table_has_a_caption_and_no_heading_is_skipped(html: str, attention: str) -> None:
    for text in (html, attention):
        tables = re.findall(r"<table.*?</table>", text, re.S)
        assert tables and all(re.search(r"<caption[^>]*>[^<]{3,}", table) for table in tables)
        assert all('scope="row"' in table and 'scope="col"' in table for table in tables)
        levels = [int(level) for level in re.findall(r"<h(\d)", text)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_kept_study_of_a_hundred_runs_is_a_small_page() -> None:
    """What the runs' folders hold is not drawn here: it is the same in number for every page."""
    kept = saved.read(Path(__file__).parents[2] / "results" / "cpu")
    empty = Gallery(Palette([]), [], [], [], [TablePlots([], [], [], [], []) for _ in kept.tables], [])
    assert len(page(kept, drawn=empty).encode()) < 200_000


def test_every_plot_has_a_label_a_heading_and_a_caption_that_says_n(html: str, attention: str) -> None:
    figures = re.findall(r"<figure .*?</figure>", html + attention, re.S)
    assert len(figures) == 23
    for figure in figures:
        named = re.search(r'<svg [^>]*role="img" aria-labelledby="(\S+) (\S+)"', figure)
        assert named and f'<title id="{named[1]}">' in figure
        assert re.search(f'<desc id="{named[2]}">[^<]{{30,}}</desc>', figure)
        assert re.search(r"<figcaption>.*n: (3 (paired )?(seeds|runs)|3 runs).*</figcaption>", figure, re.S)
    headings = re.findall(r'<p class="title">(.*?)</p>', html + attention)
    assert headings == re.findall(r'<figure aria-label="(.*?)">', html + attention)
    assert headings[:5] == [
        "Difference from softmax", "Seed by seed", "Training loss", "Validation loss", "Validation metric"
    ]  # fmt: skip
    assert {"Gradient norms, softmax", "Row sums", "Gradient that scores get, sa-softmax"} <= set(headings)
    assert headings[-9:] == [
        "Row sums by number of keys", "From softmax by number of keys", "Weights by distance",
        "Entropy by distance", "Bias by distance", "Gradient by distance, softmax",
        "Gradient by distance, sa-softmax", "Positional encoding: p", "Positional encoding: c",
    ]  # fmt: skip


def test_plots_have_the_page_s_colours_only(html: str, attention: str) -> None:
    html += attention
    for svg in re.findall(r"<svg .*?</svg>", html, re.S):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", svg)
        assert "font-family" not in svg
        assert "<text" in svg or 'aria-hidden="true"' in svg
    names = set(re.findall(r"var\((--[a-z0-9-]+)\)", html))
    for theme in (LIGHT, DARK):
        assert names <= set(re.findall(r"(--[a-z0-9-]+):", theme))


def _contrast(one: str, two: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_contrast_is_wcag_aa(theme: str) -> None:
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", theme))
    for name in ("ink", "muted", "accent", "better", "worse", "equivalent"):
        assert _contrast(colours[name], colours["surface"]) >= 4.5, name
        assert _contrast(colours[name], colours["raised"]) >= 4.5, name
    drawn = ["shallow", "deep", *(f"variant-{i}" for i in range(COLORS + 1))]
    for name in drawn:
        assert _contrast(colours[name], colours["surface"]) >= 3, name


def test_a_page_is_the_same_for_the_same_records(study: Comparison, html: str) -> None:
    assert page(study) == html


def test_the_label_of_a_plot_tells_its_numbers(study: Comparison) -> None:
    (table,) = study.tables
    palette = Palette(["sa-softmax"])
    found = table.variants[1].difference
    plot, values = forest.differences(table, palette, "a"), curves.seeds(table, palette, "b")
    assert plot and values and found and found.interval
    assert f"sa-softmax {found.mean:+.2f}, 95% {found.interval[0]:+.2f} to" in plot.svg
    assert "80.00 ± 1.00, 3 seeds" in values.svg


def _right(svg: str, text: str) -> float:
    """Where a label stands, in pixels from the left."""
    found = re.search(rf'<text x="([\d.]+)" y="[\d.]+">{text}</text>', svg)
    assert found, text
    return float(found[1])


def test_a_variant_that_broke_down_does_not_hide_the_others(tmp_path: Path) -> None:
    """Its axis reaches every value, and tenths can still be told apart on it."""
    save_accuracies(tmp_path, "softmax", [0.80, 0.81, 0.82], rows=2000)
    save_accuracies(tmp_path, "sa-softmax", [0.80, 0.812, 0.82], rows=2000)
    whole = compare([tmp_path])
    save_accuracies(tmp_path, "sa-softmax-raw", [0.10, 0.11, 0.12], rows=2000)
    broken = compare([tmp_path])
    palette = Palette(["sa-softmax", "sa-softmax-raw"])
    for draw_one in (forest.differences, curves.seeds):
        plain, wide = (draw_one(each.tables[0], palette, "a") for each in (whole, broken))
        assert plain and wide and "logarithmic" in wide.svg and "logarithmic" not in plain.svg
    wide = forest.differences(broken.tables[0], palette, "a")
    assert wide and "−70.00" in wide.svg
    assert _right(wide.svg, "0.5") - _right(wide.svg, "0") > 30
    assert 0 < _right(wide.svg, "−50") < _right(wide.svg, "−1")


def test_the_glance_names_every_task_and_each_variant_in_full(tmp_path: Path) -> None:
    for root in ("a", "b"):
        model = "scratch:tiny" if root == "a" else "sentence-transformers/all-MiniLM-L6-v2"
        for variant in ("softmax", "sa-softmax-renormalised"):
            save_accuracies(tmp_path / root, variant, [0.80, 0.81], model={"name": model})
    (glance,) = forest.at_a_glance(compare([tmp_path]), Palette(["sa-softmax-renormalised"]))
    words = re.findall(r">([^<>]+)</text>", glance.svg)
    assert words.count("sa-softmax-renormalised") == 2
    assert {"agnews, scratch:tiny", "agnews, all-MiniLM-L6-v2"} <= set(words)


def test_the_glance_tells_two_settings_of_one_task_apart(tmp_path: Path) -> None:
    for rate in (0.001, 0.0003):
        for variant in ("softmax", "sa-softmax"):
            save_accuracies(tmp_path / str(rate), variant, [0.80, 0.81], train={"learning_rate": rate})
    (glance,) = forest.at_a_glance(compare([tmp_path]), Palette(["sa-softmax"]))
    words = set(re.findall(r">([^<>]+)</text>", glance.svg))
    assert {f"agnews, train.learning_rate = {rate}" for rate in ("0.001", "0.0003")} <= words


def test_a_mean_curve_has_only_the_steps_that_all_seeds_have() -> None:
    assert mean_curve([{10: 1.0, 20: 3.0}, {10: 2.0, 30: 9.0}]) == {10: 1.5}
    assert mean_curve([]) == {}


def test_a_curve_skips_what_is_no_number_and_takes_the_later_of_two() -> None:
    entry = started("softmax", 0)
    entry["curve"] = [
        {"step": 2, "loss": 0.5}, {"step": 1, "loss": 1.0}, {"step": 1, "loss": 0.9}, {"loss": 1.0},
        {"step": 3, "loss": "x"}, {"step": True, "loss": 1.0}, {"step": 4, "loss": 1e300},
        {"step": 5, "eval_loss": 1.0},
    ]  # fmt: skip
    assert History(Run(Path(), entry), None).curve("loss") == {1: 0.9, 2: 0.5}


def test_a_failed_run_does_not_cut_the_mean_short(tmp_path: Path) -> None:
    for folder in save_accuracies(tmp_path, "softmax", [0.8, 0.81]):
        enrich(folder, looked_at=False)
    failed = started("softmax", 2)
    failed["status"], failed["reason"], failed["curve"] = (
        "failed",
        "NaN",
        [{"step": step, "loss": 9.0} for step in (10, 20)],
    )
    save(tmp_path, failed)
    (table,) = compare([tmp_path]).tables
    plot = curves.curves(table, collect(table)[0], Palette([]), "k")[0]
    assert "at step 120" in plot.svg and "n: 3 runs" in plot.caption


def test_a_run_without_curve_and_diagnostics_has_neither_plot(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.8])
    assert "<figure" not in page(compare([tmp_path]))


def _seen(variant: str, *runs: dict[str, object]) -> list[series.Sampled]:
    entry = started(variant, 0)
    histories = [History(Run(Path(), entry), run) for run in runs]  # type: ignore[arg-type]
    return series.of_variants(histories, [variant, "other"])


def test_layers_and_runs_are_averaged_with_the_weight_of_what_was_counted() -> None:
    (seen,) = _seen("softmax", diagnostics("softmax", [0]), diagnostics("softmax", [0, 7]))
    first, second, third = seen.runs[0]["samples"][0]["layers"]
    first["reach"]["softmax"]["saturated"], second["reach"]["softmax"]["saturated"] = 1.0, 4.0
    third["reach"]["softmax"]["saturated"] = None  # counts for nothing
    for layer in seen.runs[1]["samples"][0]["layers"]:
        layer["reach"]["softmax"]["saturated"] = 3.0

    def pick(layer: LayerSnapshot) -> float | None:
        return layer["reach"]["softmax"]["saturated"]

    first["counts"]["saturated"], second["counts"]["saturated"] = 30, 10
    assert series.over_layers(seen, pick, lambda layer: layer["counts"]["saturated"]) == {0: (1.75 + 3) / 2}
    layers = series.by_layer(seen, pick)
    assert layers[0, "encoder"] == {0: 2.0} and layers[1, "encoder"] == {0: 3.5}
    assert layers[2, "encoder"][0] == 3.0


@pytest.mark.slow
def test_looks_after_training_stand_alone_where_there_are_no_others() -> None:
    both, after = diagnostics("softmax", [0, 5]), diagnostics("softmax", [9])
    both["samples"][1]["after_training"] = True
    after["samples"][0] |= {"after_training": True, "rows": 64}
    (during,) = _seen("softmax", both, after)
    assert [[sample["step"] for sample in run["samples"]] for run in during.runs] == [[0]]
    assert series.counted([during]) == "n: 1 run, 16 rows of a training batch."
    (alone,) = _seen("softmax", after)
    assert series.counted([alone]) == "n: 1 run, 64 rows of the validation split after training."
    assert gradients.norms([alone], "k") and weights.weights([alone], Palette([]), "k")


def test_encoder_decoder_and_cross_attention_are_told_apart() -> None:
    content = diagnostics("softmax", [0, 5], layers=3)
    for sample in content["samples"]:
        for layer, kind in zip(sample["layers"], ("encoder", "decoder", "cross"), strict=True):
            layer["kind"] = kind
    (plot,) = gradients.norms(_seen("softmax", content), "k")
    assert "encoder solid, decoder dashed, cross dotted" in plot.caption
    assert len(set(re.findall(r'stroke-dasharray="([^"]+)', plot.svg))) >= 2


def test_a_zone_without_scores_leaves_the_other_its_plot() -> None:
    content = diagnostics("softmax")
    for layer in (layer for sample in content["samples"] for layer in sample["layers"]):
        layer["counts"]["saturated"] = 0
        layer["reach"]["softmax"]["saturated"] = None
    (plot,) = gradients.reach(_seen("softmax", content), ["softmax"], Palette([]), "k")
    assert plot.svg.count(">100<") == 2, "steps reach as far as the samples"
    assert "suppressed, softmax 3e-06 at step 0" in plot.svg and "no such score" in plot.svg
    assert gradients.reach(_seen("softmax", content), ["another"], Palette([]), "k") == []


def test_buckets_are_averaged_over_layers_and_runs_at_the_last_look() -> None:
    one, other = diagnostics("sa-softmax", [0, 5], layers=2), diagnostics("sa-softmax", [5], layers=1)
    first, second = one["samples"][-1]["layers"]
    first["by_keys"] = [{"start": 2, "row_sum": 0.5}, {"start": 4, "row_sum": 0.25}]
    second["by_keys"] = [{"start": 2, "row_sum": 0.25}, {"start": 4, "row_sum": None}]
    sums = {2: 1.0, 4: 0.75, 8: 9.0}
    other["samples"][0]["layers"][0]["by_keys"] = [{"start": n, "row_sum": each} for n, each in sums.items()]
    (seen,) = _seen("sa-softmax", one, other)
    assert series.over_buckets(seen, "by_keys", "row_sum") == {2: (0.375 + 1) / 2, 4: 0.5}
    plots = distances.last_look([seen], Palette(["sa-softmax"]), "k")
    assert "sa-softmax 0.688 from 2, 0.5 from 4" in plots[0].svg
    assert ">2<" in plots[0].svg and "keys that the query sees, from" in plots[0].svg
    (far,) = distances.reach([seen], ["softmax", "nothing"], Palette([]), "k")
    assert "softmax 1e-06 from 0, 1.11e-07 from 8" in far.svg
    del first["by_keys"], second["by_keys"], other["samples"][0]["layers"][0]["by_keys"]
    first_left, *_ = distances.last_look([seen], Palette([]), "k")
    assert first_left.heading == "Weights by distance"


def test_what_an_encoding_learned_is_drawn_by_step() -> None:
    content = diagnostics("softmax", [0, 5], layers=1)
    for sample, values in zip(content["samples"], ([1.0, 3.0], [None, 7.0]), strict=True):
        sample["layers"][0]["learned"] = {"a": values}
    (plot,) = weights.learned(_seen("softmax", content), Palette([]), "k")
    assert plot.heading == "Positional encoding: a" and "softmax 2 at step 0, 7 at step 5" in plot.svg


def test_a_table_of_the_gradient_at_lost_scores() -> None:
    content = diagnostics("sa-softmax", [0, 1, 2, 3], layers=2)
    for sample in content["samples"]:
        for layer, norms in zip(sample["layers"], ((3.0, 6.0), (4.0, 8.0)), strict=True):
            layer["counts"] = {"saturated": 0, "suppressed": 30, "faint": 1, "all": 100}
            layer["norm"] = {
                name: {"saturated": None, "suppressed": norm, "faint": 0.0, "all": 20.0}
                for name, norm in zip(("softmax", "sa-softmax"), norms, strict=True)
            }
    (seen,) = _seen("sa-softmax", content)
    table = reached.reached([seen], ["softmax", "sa-softmax"])
    assert table[0] == ["attention", "step", "scores", "share", "softmax", "sa-softmax"]
    assert [row[1] for row in table[1::3]] == ["0", "2", "3"]
    assert table[1:4] == [
        ["sa-softmax", "0", "saturated, p > 0.99", "0%", "-", "-"],
        ["sa-softmax", "0", "suppressed, p < 0.01", "30%", "5", "10 (2 x)"],
        ["sa-softmax", "0", "faint, p < 0.01 / n", "1%", "0", "0"],
    ]
    del seen.runs[0]["faint"]
    assert len(reached.reached([seen], ["softmax"])) == 1 + 3 * 2
    for layer in (layer for sample in content["samples"] for layer in sample["layers"]):
        del layer["norm"]
    assert reached.reached([seen], ["softmax"]) == []


def test_a_table_of_rows_with_all_scores_near_0() -> None:
    content = diagnostics("sa-softmax", [0, 1, 2, 3], layers=2)
    (seen,) = _seen("sa-softmax", content)
    content["samples"][-1]["layers"][0]["extent"] |= {"rows": 0, "single": 0, "narrow": 0, "least": None}
    table = extents.extents([seen], ["softmax", "another"])
    assert table == [
        ["attention", "step", "rows", "one key", "M - m near 0", "least M - m", "softmax", "another"],
        ["sa-softmax", "0", "800", "0.5%", "1% below 0.001", "0.00025", "0.001", "-"],
        ["sa-softmax", "2", "800", "0.5%", "1% below 0.001", "0.00025", "0.001", "-"],
        ["sa-softmax", "3", "400", "0.5%", "1% below 0.001", "0.0005", "0.001", "-"],
    ]


def test_files_of_before_have_what_they_had(tmp_path: Path) -> None:
    """Without numbers by distance and by keys, and without those of an encoding."""
    content = diagnostics("softmax")
    del content["faint"], content["narrow"]
    for layer in (layer for sample in content["samples"] for layer in sample["layers"]):
        for name in ("norm", "by_keys", "by_distance", "learned", "extent", "largest"):
            del layer[name]
        for numbers in (layer["counts"], *layer["reach"].values()):
            numbers.pop("faint", None)
    (tmp_path / DIAGNOSTICS).write_text(json.dumps(content))
    (seen,) = _seen("softmax", read(tmp_path / DIAGNOSTICS))
    palette = Palette([])
    assert (
        distances.last_look([seen], palette, "k") == distances.reach([seen], ["softmax"], palette, "k") == []
    )
    assert weights.learned([seen], palette, "k") == [] and reached.reached([seen], ["softmax"]) == []
    assert extents.extents([seen], ["softmax"]) == []
    assert gradients.reach([seen], ["softmax"], palette, "k") and weights.weights([seen], palette, "k")


def test_only_variants_with_negative_weights_get_that_plot() -> None:
    def headings(variant: str) -> list[str]:
        return [
            plot.heading for plot in weights.weights(_seen(variant, diagnostics(variant)), Palette([]), "k")
        ]

    assert "Weights below 0" not in headings("softmax")
    assert "Weights below 0" in headings("sa-softmax-raw")


def test_a_palette_tells_many_variants_apart() -> None:
    palette = Palette(f"arm{i}" for i in range(20))
    assert len({palette[f"arm{i}"] for i in range(20)}) == 20
    assert palette["softmax"].color == SERIES[0]
    assert depth(0) != depth(1) and depth(-1) == depth(0)


def test_drawing_changes_no_setting_of_matplotlib() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw("k", "h", "l", "", lambda axes: axes[0].plot([0, 1]))  # type: ignore[arg-type,return-value]
    assert dict(matplotlib.rcParams) == before


# The answer


def _judged(study: Comparison, *verdicts: str, seeds: int = 3, p: float = 0.001) -> Comparison:
    """One table for each verdict, each with the same p before Holm."""
    (table,) = study.tables
    baseline, variant = table.variants
    tables = []
    for i, verdict in enumerate(verdicts):
        mean = -5.0 if verdict == "worse" else 5.0
        found = replace(variant.difference, verdict=verdict, mean=mean, seeds=list(range(seeds)), p=p)  # type: ignore[type-var]
        tables.append(replace(table, task=f"t{i}", variants=[baseline, replace(variant, difference=found)]))
    return Comparison(tables, [])


def test_the_answer_is_a_line_a_variant(study: Comparison) -> None:
    name = "sa-softmax"
    assert answer(_judged(study, "none", "unknown")) == [
        f"{name}: no benefit shown: better in 0, worse in 0, no significant difference in 1, cannot tell "
        "in 1 of 2."
    ]
    assert answer(_judged(study, "better", "equivalent", "worse")) == [
        f"{name}: benefit and harm shown: better in 1, worse in 1, equivalent within the margin in 1 of 3."
    ]
    assert answer(_judged(study, *["equivalent"] * 2)) == [
        f"{name}: equivalent within the margin: better in 0, worse in 0, equivalent within the margin in "
        "2 of 2."
    ]


def test_the_answer_says_what_the_number_of_tables_takes_back(study: Comparison) -> None:
    (one,) = answer(_judged(study, "better", p=0.03))
    assert one == "sa-softmax: a benefit shown: better in 1, worse in 0 of 1.", (
        "one table is a family already"
    )
    sure, doubtful = (_judged(study, "worse", p=p).tables[0] for p in (1e-5, 0.03))
    third = replace(_judged(study, "unknown", p=0.5).tables[0], task="t2")
    (two,) = answer(Comparison([replace(sure, task="t1"), doubtful], []))
    assert "harm shown: better in 0, worse in 2 of 2." in two, "0.03 x 1"
    (three,) = answer(Comparison([replace(sure, task="t1"), doubtful, third], []))
    assert "worse in 2 (1 of them survives correction over all 3), cannot tell in 1 of 3." in three, (
        "0.03 x 2"
    )
    assert answer(_judged(study, "worse", *["none"] * 3, p=0.03)) == [
        "sa-softmax: no benefit shown: better in 0, worse in 1 (does not survive correction over all 4), no "
        "significant difference in 3 of 4."
    ]
    (four,) = answer(_judged(study, *["better"] * 4, p=0.03))
    assert "no benefit shown: better in 4 (none of them survives correction over all 4)" in four


def test_what_can_never_be_significant_takes_nothing_back(study: Comparison) -> None:
    significant, other = _judged(study, "better", "unknown", p=0.03).tables
    baseline, variant = other.variants
    single = replace(variant.difference, seeds=[0], interval=None, p=0.9)  # type: ignore[type-var]
    tables = [
        replace(other, task=f"s{i}", variants=[baseline, replace(variant, difference=single)]) for i in (1, 2)
    ]
    said = answer(Comparison([significant, *tables], []))
    assert said == [
        "sa-softmax: a benefit shown: better in 1, worse in 0, cannot tell in 2 of 3.",
        "2 of 3 comparisons have one seed, and one seed never allows a conclusion.",
    ]
    unsure = replace(single, interval=[-1.0, 1.0])
    other = replace(other, variants=[baseline, replace(variant, difference=unsure)])
    assert (
        "better in 1 (does not survive correction over all 2)"
        in answer(Comparison([significant, other, *tables], []))[0]
    )


def test_the_variants_of_the_paper_are_answered_before_the_controls(study: Comparison) -> None:
    (table,) = _judged(study, "worse").tables
    baseline, variant = table.variants
    control = replace(variant, name="sigmoid", control=True)
    said = answer(Comparison([replace(table, variants=[baseline, control, variant])], []))
    assert [line.partition(":")[0] for line in said] == ["sa-softmax", "sigmoid (control)"]


def test_a_sample_a_failure_and_nothing_at_all_claim_nothing(study: Comparison, tmp_path: Path) -> None:
    assert answer(Comparison([], [])) == ["No run was found."]
    sample = [replace(table, sample=True) for table in _judged(study, "better").tables]
    assert "every run is on the synthetic sample" in answer(Comparison(sample, []))[0]
    failed = started("softmax", 0)
    failed["status"], failed["reason"] = "failed", "no memory"
    save(tmp_path, failed)
    found = compare([tmp_path])
    assert answer(found)[0].startswith("No conclusion: no variant has a finished run")
    assert state(found) == "0 finished runs in 1 table; 1 run failed, missing or unfinished."


# A report from a report


def _kept(root: Path, kept: Path) -> None:
    """What is kept of a study: the report, and its records without predictions, in another place."""
    assert main(["compare", str(root), "--output", str(kept)]) == 0
    for file in [*root.rglob(store.FILE), *root.rglob(DIAGNOSTICS)]:
        place = kept / "records" / file.relative_to(root).parent
        place.mkdir(parents=True, exist_ok=True)
        (place / file.name).write_bytes(file.read_bytes())


@pytest.mark.slow
def test_a_report_is_remade_without_predictions_and_elsewhere(tmp_path: Path) -> None:
    root, kept = tmp_path / "runs", tmp_path / "kept"
    (table,) = _study(root, looked_at=False).tables
    enrich(Path(table.variants[1].runs[0].folder))
    _kept(root, kept)
    before = {file.name: file.read_text() for file in kept.glob("report.*")}
    root.rename(tmp_path / "gone")
    for name in before:
        if name != saved.FILE:
            (kept / name).unlink()
    assert main(["compare", "--from", str(kept / saved.FILE), str(kept / "records")]) == 0
    assert {file.name: file.read_text() for file in kept.glob("report.*")} == before
    assert (
        main(["compare", "--from", str(kept), str(kept / "records"), "--output", str(tmp_path / "new")]) == 0
    )
    assert (tmp_path / "new" / "report.html").read_text() == before["report.html"]


@pytest.mark.slow
def test_runs_that_are_gone_or_others_are_named_and_not_plotted(tmp_path: Path) -> None:
    found = _study(tmp_path / "runs", looked_at=False)
    (table,) = found.tables
    folder = Path(table.variants[0].runs[0].folder)
    entry = store.read(folder)
    assert entry["metrics"]
    entry["metrics"]["accuracy"]["value"] += 0.001
    store.write(folder, entry)
    (Path(table.variants[1].runs[2].folder) / store.FILE).unlink()
    histories, problems = collect(table)
    assert len(histories) == 4 and len(problems) == 2
    assert all("its record is not there any more, or is another run's" in line for line in problems)
    assert "n: 2 runs each" in page(found)


@pytest.mark.parametrize(
    ("content", "telling"),
    [
        ("{", "truncated or no JSON"),
        ("[]", "no report of this version"),
        ('{"schema": "finetune-comparison", "version": 1}', "version 2"),
        ('{"schema": "finetune-comparison", "version": 2, "tables": 3, "problems": []}', "damaged (tables"),
    ],
)
def test_what_is_no_report_is_one_sentence(tmp_path: Path, content: str, telling: str) -> None:
    (tmp_path / saved.FILE).write_text(content)
    with pytest.raises(UserError, match=re.escape(telling)) as caught:
        saved.read(tmp_path)
    assert "finetune compare" in str(caught.value)
    with pytest.raises(UserError, match="cannot read the report"):
        saved.read(tmp_path / "none.json")


def test_a_report_is_read_back_as_it_was(study: Comparison, tmp_path: Path) -> None:
    failed = started("sa-softmax", 0)
    failed["status"], failed["reason"] = "failed", "no memory"
    save(tmp_path / "runs", failed)
    save(tmp_path / "runs", started("softmax", 0), classified(correctness(10, 0.5, 0)))
    for found in (study, compare([tmp_path / "runs"])):
        (tmp_path / saved.FILE).write_text(saved.as_json(found))
        assert saved.read(tmp_path) == found
        assert json.loads(saved.as_json(found)) == json.loads(saved.as_json(saved.read(tmp_path)))
