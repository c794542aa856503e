"""The pages in Chromium, on a desktop, a phone and paper: nothing overflows, is fetched or runs.

What a reader wants first is in sight first, and reached by eye, keyboard and ear alike.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.compare import compare
from finetune.report import words
from finetune.report.html.page import ATTENTION_FILE, FILE, attention_page, page
from finetune.report.plots.gallery import draw_all
from tests.support import browser as browsers
from tests.support.browser import show
from tests.support.records import classified, correctness, save, save_accuracies, started
from tests.support.report_records import enrich

pytestmark = [pytest.mark.slow, browsers.NEEDED]
EVIL = "<script>document.title='ran'</script><img src='https://example.invalid/x.png'>" + "long" * 60
OVERFLOW = """
const page = document.documentElement, width = page.clientWidth;
const wide = [...document.querySelectorAll('body *')].filter(e =>
  e.getBoundingClientRect().right > width + 0.5 && !e.parentElement.closest('.scroll, details:not([open])'));
return [page.scrollWidth - width, ...wide.map(e => e.outerHTML.slice(0, 80))];
"""
HIDDEN = """
return [...document.querySelectorAll('svg')].filter(e => {
  const box = e.getBoundingClientRect();
  return !(box.width > 20 && box.height > 8 && e.checkVisibility());
}).length;
"""
TEXT_SIZES = """
return [...document.querySelectorAll('figure svg text')].map(e => {
  const matrix = e.getScreenCTM();
  return Math.hypot(matrix.c, matrix.d) * parseFloat(getComputedStyle(e).fontSize);
});
"""
FIRST = """
const low = e => e.getBoundingClientRect().bottom;
return ['.verdicts li', '.matrix b'].map(name => low(document.querySelector(name)));
"""
OUT_OF_SIGHT = """
return [...document.querySelectorAll('.cards :is(.verdict, b, td)')].filter(e =>
  e.checkVisibility() && e.getBoundingClientRect().right > innerWidth).length;
"""
SHOWN = """
return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length;
"""
OPEN_ALL = "document.querySelectorAll('details').forEach(e => e.open = true)"
INVISIBLE_TEXT = """
const surface = getComputedStyle(document.body).backgroundColor;
return [...document.querySelectorAll('svg text')].filter(e => getComputedStyle(e).fill === surface).length;
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of section, and with names that want to run and to be wide."""
    root = tmp_path_factory.mktemp("browser")
    for variant, values in (
        ("softmax", [0.8, 0.81]),
        ("sa-softmax", [0.86, 0.87]),
        ("sa-softmax-raw", [0.7, 0.71]),
    ):
        for folder in save_accuracies(root / "runs", variant, values):
            enrich(folder)
    entry = started("softmax", 0)
    entry["task"]["name"] = entry["command"] = EVIL
    save(root / "runs", entry, classified(correctness(30, 0.5, 0)))
    failed = started("sa-softmax", 0)
    failed["task"]["name"], failed["status"], failed["reason"] = EVIL, "failed", EVIL
    save(root / "evil", failed)
    comparison = compare([root])
    drawn = draw_all(comparison)
    (root / ATTENTION_FILE).write_text(attention_page(comparison, drawn) or "", encoding="utf-8")
    made = root / FILE
    made.write_text(page(comparison, drawn=drawn), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from browsers.started(tmp_path_factory.mktemp("profile"))


@pytest.mark.parametrize("name", [FILE, ATTENTION_FILE])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_or_out_of_sight(
    browser: Any, file: Path, width: int, name: str
) -> None:
    show(browser, file.with_name(name), width, "light")
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script(OVERFLOW) == [0]
    browser.execute_script(OPEN_ALL)
    assert browser.execute_script(HIDDEN) == 0
    assert browser.execute_script(OVERFLOW) == [0]
    if width < 500:
        sizes = browser.execute_script(TEXT_SIZES)
        assert len(sizes) > 20 and min(sizes) >= 10, "text in plots can be read on a phone"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_answer_and_the_first_difference_are_on_the_first_screen(
    browser: Any, file: Path, width: int
) -> None:
    show(browser, file, width, "light")
    verdict, difference = browser.execute_script(FIRST)
    assert verdict < 200 and difference < 700


def test_a_phone_shows_every_difference_and_verdict_without_pushing(browser: Any, file: Path) -> None:
    show(browser, file, 390, "light")
    assert browser.execute_script(SHOWN, ".matrix .verdict") == 2
    assert browser.execute_script(OUT_OF_SIGHT) == 0


def test_details_are_closed_and_open_from_the_keyboard(browser: Any, file: Path) -> None:
    show(browser, file, 1280, "light")
    assert browser.execute_script(SHOWN, "details > :not(summary)") == 0
    assert browser.execute_script(SHOWN, "details > summary") > 5
    summary = browser.find_element("css selector", "section details > summary")
    summary.send_keys("\ue007")  # Enter
    assert browser.execute_script(SHOWN, "details > :not(summary)") > 0


def test_nothing_is_fetched_nothing_runs_and_nothing_is_complained_of(browser: Any, file: Path) -> None:
    browser.get_log("browser")
    show(browser, file, 1280, "light")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.scripts.length + document.images.length") == 0
    assert browser.title == words.HEADING
    assert EVIL in browser.execute_script("return document.querySelector('main').textContent")
    assert browser.get_log("browser") == []


def test_the_dark_scheme_has_other_colours_and_plots_follow(browser: Any, file: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        show(browser, file, 1280, scheme)
        assert browser.execute_script(INVISIBLE_TEXT) == 0
        colours.append(
            browser.execute_script(
                "return ['body', 'figure svg text', 'figure svg .f', 'a'].map(name => {"
                " const style = getComputedStyle(document.querySelector(name));"
                " return [style.backgroundColor, style.color, style.fill, style.stroke].join() })"
            )
        )
    assert all(light != dark for light, dark in zip(*colours, strict=True))


def test_paper_is_light_and_has_the_tables_but_no_details(browser: Any, file: Path) -> None:
    show(browser, file, 718, "dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    assert (
        browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert browser.execute_script(SHOWN, ".matrix td b") == 2
    assert browser.execute_script(SHOWN, "section table") > 1
    assert browser.execute_script(SHOWN, "details, pre, nav, .aside") == 0
