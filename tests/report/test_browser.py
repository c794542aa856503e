"""The page in Chromium, on a desktop and a phone: nothing overflows, nothing is fetched, nothing runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.comparison.compare import compare
from finetune.report.html.page import page
from tests.support.records import classified, correctness, save, save_accuracies, started
from tests.support.report_records import enrich

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium chromium-driver)"
    ),
]
EVIL = "<script>document.title='ran'</script><img src='https://example.invalid/x.png'>" + "long" * 60
OPTIONS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip
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
        ("sa-softmax-raw", [0.7]),
    ):
        for folder in save_accuracies(root / "runs", variant, values):
            enrich(folder)
    entry = started("softmax", 0)
    entry["task"]["name"] = entry["command"] = EVIL
    save(root / "runs", entry, classified(correctness(30, 0.5, 0)))
    failed = started("sa-softmax", 0)
    failed["task"]["name"], failed["status"], failed["reason"] = EVIL, "failed", EVIL
    save(root / "evil", failed)
    made = root / "report.html"
    made.write_text(page(compare([root])), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in OPTIONS:
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def _show(browser: Any, file: Path, width: int, scheme: str) -> None:
    """Load the page anew as a screen of this width, in this colour scheme, shows it."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get(file.as_uri())


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_or_out_of_sight(browser: Any, file: Path, width: int) -> None:
    _show(browser, file, width, "light")
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script(OVERFLOW) == [0]
    assert browser.execute_script(HIDDEN) == 0
    browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.execute_script(OVERFLOW) == [0]


def test_text_in_plots_can_be_read_on_a_phone(browser: Any, file: Path) -> None:
    _show(browser, file, 390, "light")
    sizes = browser.execute_script(TEXT_SIZES)
    assert len(sizes) > 50 and min(sizes) >= 10


def test_nothing_is_fetched_nothing_runs_and_nothing_is_complained_of(browser: Any, file: Path) -> None:
    browser.get_log("browser")
    _show(browser, file, 1280, "light")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.scripts.length + document.images.length") == 0
    assert browser.title == "Attention softmaxes compared"
    assert EVIL in browser.execute_script("return document.querySelector('main').textContent")
    assert browser.get_log("browser") == []


def test_the_dark_scheme_has_other_colours_and_plots_follow(browser: Any, file: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        _show(browser, file, 1280, scheme)
        assert browser.execute_script(INVISIBLE_TEXT) == 0
        colours.append(
            browser.execute_script(
                "return ['body', 'figure svg text', 'figure svg .f', 'a'].map(name => {"
                " const style = getComputedStyle(document.querySelector(name));"
                " return [style.backgroundColor, style.color, style.fill, style.stroke].join() })"
            )
        )
    assert all(light != dark for light, dark in zip(*colours, strict=True))


def test_print_is_light_and_opens_the_commands(browser: Any, file: Path) -> None:
    _show(browser, file, 718, "dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    assert (
        browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    heights = browser.execute_script("return [...document.querySelectorAll('pre')].map(e => e.clientHeight)")
    assert heights and min(heights) > 10
