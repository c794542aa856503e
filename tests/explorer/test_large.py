"""The explorer at 500 runs of 60,000 test rows: seconds to write, bytes, seconds until it can be used."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from finetune.explorer import page
from finetune.records import store
from finetune.records.run import Run
from tests.support import browser as browsers
from tests.support.browser import show, until
from tests.support.records import folder_of, started
from tests.support.report_records import curve

pytestmark = [pytest.mark.exhaustive, browsers.NEEDED]
ROWS, CLASSES, SEEDS, VARIANTS = (
    60_000,
    14,
    5,
    ("softmax", "sa-softmax", "sa-softmax-raw", "entmax15", "softpick"),
)
SETTINGS = 20  # learning rates: 20 x 5 variants x 5 seeds = 500 runs
READY = "document.getElementById('comparison').dataset.shown && document.getElementById('runs').dataset.ready"


def predictions(number: int) -> list[dict[str, Any]]:
    """Rows of which a run gets 88% right, hard ones less often."""
    label = np.random.default_rng(0).integers(CLASSES, size=ROWS)
    hard = np.random.default_rng(1).random(ROWS)
    mine = np.random.default_rng(2 + number)
    wrong = mine.random(ROWS) < 0.24 * hard
    said = np.where(wrong, (label + mine.integers(1, CLASSES, size=ROWS)) % CLASSES, label)
    pairs = zip(label.tolist(), said.tolist(), strict=True)
    return [{"row": row, "label": one, "prediction": two} for row, (one, two) in enumerate(pairs)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from browsers.started(tmp_path_factory.mktemp("profile"))


@pytest.mark.timeout(1800)
def test_five_hundred_runs_of_sixty_thousand_rows(browser: Any, tmp_path: Path) -> None:
    number, numbers = 0, {}
    for setting in range(SETTINGS):
        for variant in VARIANTS:
            for seed in range(SEEDS):
                entry = started(variant, seed, train={"learning_rate": 1e-5 * (setting + 1)})
                entry["task"]["labels"] = [f"class {k}" for k in range(CLASSES)]
                entry["curve"] = curve(seed)
                value = {"value": 0.88 + 0.0001 * seed, "signature": "accuracy"}
                entry |= {"status": "finished", "finished": store.now(), "predictions": store.PREDICTIONS}
                entry |= {"metrics": {"accuracy": value}}  # type: ignore[typeddict-item]
                folder = folder_of(tmp_path / str(setting), entry)
                store.write(folder, entry)
                numbers[folder] = number
                number += 1
    # Half a million lines a second are read from files; 30 million of them need not lie on this disk.
    began = time.monotonic()
    with patch.object(Run, "predictions", lambda run: predictions(numbers[run.folder])):
        written = page.write(tmp_path, tmp_path / "explore.html")
    seconds, size = time.monotonic() - began, written.file.stat().st_size
    assert (written.runs, written.predictions, written.problems) == (500, 500, [])

    began = time.monotonic()
    show(browser, written.file)
    until(browser, READY, 120)
    usable = time.monotonic() - began
    began = time.monotonic()
    browser.execute_script(
        "const boxes = document.querySelectorAll('.tabulator-row input'); boxes[3].click(); boxes[9].click();"
    )
    until(browser, f"document.querySelector('input[value=runs]').checked && {READY}", 60)
    picked = time.monotonic() - began
    began = time.monotonic()
    browser.execute_script(
        "document.querySelector('input[value=variants]').click();"
        "const list = document.getElementById('choose-group'); list.selectedIndex = 7;"
        "list.dispatchEvent(new Event('change'));"
    )
    until(
        browser,
        f"document.querySelectorAll('#scores table:first-of-type tbody tr').length === 6 && {READY}",
        60,
    )
    variants = time.monotonic() - began
    print(
        f"\nwritten in {seconds:.0f} s, {size / 1e6:.1f} MB; usable in {usable:.1f} s, "
        f"two runs in {picked:.2f} s, two variants of {SEEDS} seeds in {variants:.2f} s"
    )
    assert size < 40e6 and usable < 20 and picked < 5 and variants < 10
