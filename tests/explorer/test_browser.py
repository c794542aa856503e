"""The explorer in Chromium: filter, sort, pick, see an example; wide and narrow, by mouse and keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.comparison.flips import Flips, flips
from finetune.explorer import page
from finetune.records.run import read_runs
from tests.support import browser as browsers
from tests.support.browser import show, until
from tests.support.explored import guesses, save_all

pytestmark = [pytest.mark.slow, browsers.NEEDED]
READY = "document.getElementById('comparison').dataset.shown && document.getElementById('runs').dataset.ready"
OVERFLOW = """
const page = document.documentElement, width = page.clientWidth;
const wide = [...document.querySelectorAll('body *')].filter(e =>
  e.getBoundingClientRect().right > width + 0.5
  && !e.parentElement.closest('.scroll, .tabulator, details:not([open])'));
return [Math.max(0, page.scrollWidth - width), ...wide.map(e => e.outerHTML.slice(0, 90))];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from browsers.started(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = save_all(tmp_path_factory.mktemp("explored"))
    page.write(root, root / "explore.html", texts=True)
    return root / "explore.html"


def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> None:
    browser.get_log("browser")
    show(browser, file, width, scheme)
    until(browser, READY)


def choose(browser: Any, key: str, text: str) -> None:
    """Takes the option with this text, as a user would, and waits until the page has followed."""
    browser.execute_script(
        "const list = document.getElementById(arguments[0]);"
        "const option = [...list.options].find(each => each.textContent.includes(arguments[1]));"
        "list.value = option.value; list.dispatchEvent(new Event('change'));",
        key,
        text,
    )
    until(browser, READY)


def column(browser: Any, field: str) -> list[str]:
    """What the rows in sight say in one column."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(`.tabulator-row [tabulator-field=${arguments[0]}]`)]"
        ".map(cell => cell.textContent)",
        field,
    )
    return found


def head(browser: Any, field: str) -> Any:
    return browser.find_element("css selector", f".tabulator-col[tabulator-field={field}] button")


def test_search_filter_and_sort(browser: Any, file: Path) -> None:
    opened(browser, file)
    assert browser.find_element("id", "count").text == "17 runs"
    choose(browser, "filter-variant", "sa-softmax-raw")
    assert (column(browser, "variant"), browser.find_element("id", "count").text) == (
        ["sa-softmax-raw"],
        "1 of 17 runs",
    )
    choose(browser, "filter-variant", "all")
    browser.find_element("id", "search").send_keys("agnews softmax finished")
    until(browser, "document.getElementById('count').textContent === '10 of 17 runs'")
    head(browser, "score").click()
    scores = [float(text.strip("%")) for text in column(browser, "score")]
    assert len(scores) == 10 and scores == sorted(scores)
    head(browser, "score").send_keys("\ue007")  # Enter
    assert [float(text.strip("%")) for text in column(browser, "score")] == sorted(scores, reverse=True)
    assert browser.execute_script(
        "return document.querySelector('.tabulator-col[tabulator-field=score]').ariaSort"
    ).startswith("desc")


def tick(browser: Any, variant: str, seed: int) -> None:
    """Ticks a run of AG News with the space bar."""
    box = f"input[aria-label*='agnews'][aria-label$=' {variant}, seed {seed}']"
    browser.find_element("css selector", box).send_keys(" ")


def test_two_ticked_runs_are_drawn_and_compared_down_to_an_example(browser: Any, file: Path) -> None:
    opened(browser, file)
    tick(browser, "sa-softmax", 1)
    until(browser, "document.querySelector('#curves canvas')")
    tick(browser, "softmax", 1)
    until(browser, "document.querySelector('#comparison h3').textContent.startsWith('A: softmax, seed 1')")
    until(browser, READY)
    assert "2 runs" in browser.find_element("css selector", ".readout").text
    assert not browser.find_element("css selector", "#churn .track").is_displayed(), "a bar needs another"
    a, b = (guesses(variant, 1) for variant in ("softmax", "sa-softmax"))
    fixed = [
        one["row"]
        for one, other in zip(a, b, strict=True)
        if one["prediction"] != one["label"] == other["prediction"]
    ]
    choose(browser, "example-kind", "fixed")
    assert browser.find_element("id", "example-count").text == f"{len(fixed)} rows"
    first = browser.find_element("css selector", "#examples li").text
    assert f"row {fixed[0]}" in first and first.startswith("fixed")
    loose = "return [...document.getElementById('examples').childNodes].filter(e => e.nodeType === 3).length"
    assert not browser.execute_script(loose), "an absent part of the page is not the word null"


def numbers(browser: Any, table: str) -> list[list[float]]:
    """The numbers in the cells of a table, empty ones as zeros."""
    texts = browser.execute_script(
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
        ".map(row => [...row.querySelectorAll('td')].map(cell => cell.textContent))",
        table,
    )
    return [
        [float(text.replace(",", "").replace("\u2212", "-").strip("%") or 0) for text in row] for row in texts
    ]


def paired(file: Path, task: str, seeds: int) -> Flips:
    """What ``finetune diff`` computes of softmax and sa-softmax."""
    runs = {(run.variant, run.seed): run for run in read_runs(file.parent) if run.task == task}
    pairs = [(runs["softmax", seed], runs["sa-softmax", seed]) for seed in range(seeds)]
    return flips(pairs, ("softmax", "sa-softmax"))


def test_the_numbers_of_two_variants_are_those_of_finetune_diff(browser: Any, file: Path) -> None:
    opened(browser, file)
    choose(browser, "choose-group", "agnews")
    found = paired(file, "agnews", 3)
    classes, churn = found.classes, found.churn
    assert classes and churn and churn.reseed_baseline and churn.reseed_variant
    assert np.allclose(numbers(browser, "confusion-a"), classes.first, atol=0.051)
    difference = np.array(classes.second) - np.array(classes.first)
    assert np.allclose(numbers(browser, "confusion-difference"), difference, atol=0.051)
    shown = np.array(numbers(browser, "per-class"))
    for line, cells in zip(classes.lines, shown, strict=True):
        lines = [
            part for name in (line.f1, line.precision, line.recall) for part in (*name, name[1] - name[0])
        ]
        assert cells == pytest.approx([line.rows, *lines], abs=0.051)
    agree = np.array(numbers(browser, "consistency"))
    assert agree[:, 0].tolist() == classes.fixed and agree[:, 1].tolist() == classes.broken
    assert agree[:, 2] == pytest.approx(classes.by_chance, abs=0.051)
    shares = browser.execute_script(
        "return [...document.querySelectorAll('#churn .value')]"
        ".map(each => [each.dataset.value, each.textContent])"
    )
    expected = (churn.swap, churn.reseed_baseline, churn.reseed_variant)
    for share, (value, text) in zip(expected, shares, strict=True):
        assert float(value) == pytest.approx(share.value)
        low, high = share.interval
        assert text == f"{share.value:.1f}% (95% interval {low:.1f}% to {high:.1f}%, 3 pairs)"


def test_translations_and_documents_have_views_of_their_own(browser: Any, file: Path) -> None:
    opened(browser, file)
    choose(browser, "choose-group", "toy")
    found = paired(file, "toy", 2)
    assert found.texts and found.buckets
    means = np.array(numbers(browser, "lengths"))
    assert means[:, 0].tolist() == [bucket.rows for bucket in found.buckets]
    weights = means[:, 0] / means[:, 0].sum()
    assert (weights @ means[:, 1], weights @ means[:, 2]) == pytest.approx(found.texts.bleu, abs=0.02)
    choose(browser, "example-kind", "B better")
    first = browser.find_element("css selector", "#examples li")
    assert "reference:" in first.text and first.find_elements("css selector", "mark")
    choose(browser, "choose-group", "books")
    rows = browser.find_elements("css selector", "#examples tbody tr")
    assert len(rows) == 12 and "book" in rows[0].text
    assert browser.get_log("browser") == []


def test_a_cell_of_the_matrix_shows_its_rows(browser: Any, file: Path) -> None:
    opened(browser, file)
    choose(browser, "choose-group", "agnews")
    browser.execute_script("document.querySelector('#confusion-a tbody tr td:nth-child(3) button').click()")
    assert "label World that A or B calls Sports" in browser.find_element("id", "example-count").text
    for item in browser.find_elements("css selector", "#examples li"):
        assert "label World" in item.text and "Sports" in item.text


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_nothing_is_wider_than_the_screen(browser: Any, file: Path, width: int, scheme: str) -> None:
    opened(browser, file, width, scheme)
    tick(browser, "sa-softmax", 1)
    tick(browser, "softmax", 1)
    until(browser, "document.querySelector('#curves canvas')")
    for group in ("agnews", "toy", "books", "turned"):
        browser.execute_script("document.querySelector('input[value=variants]').click()")
        if group != "turned":
            choose(browser, "choose-group", group)
        browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.execute_script(OVERFLOW) == [0], group


def test_dark_and_light_differ_and_curves_follow(browser: Any, file: Path) -> None:
    colors = []
    for scheme in ("light", "dark"):
        opened(browser, file, 1280, scheme)
        colors.append(
            browser.execute_script(
                "return ['body', '.tabulator', '.tabulator-row', '.tabulator-col', 'select'].map(name => {"
                " const style = getComputedStyle(document.querySelector(name));"
                " return [style.backgroundColor, style.color].join(); })"
            )
        )
    assert all(light != dark for light, dark in zip(*colors, strict=True))


def test_nothing_is_fetched_nothing_of_a_name_runs_and_nothing_is_complained_of(
    browser: Any, file: Path
) -> None:
    opened(browser, file)
    browser.execute_script("document.querySelector('input[value=runs]').click()")
    until(browser, READY)
    choose(browser, "choose-run-a", "softmax, seed 0")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.images.length") == 0
    assert browser.title == "Runs explored"
    assert "example.invalid" in browser.execute_script("return document.body.innerText")
    assert browser.execute_script("return [...document.querySelectorAll('.stamp')].length") == 1
    assert browser.get_log("browser") == []
