"""A folder of hand-made runs of every kind, to be explored: few rows, and names that want to run."""

import base64
import json
import random
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from finetune.records import store
from tests.support.records import LABELS, save, started, translations
from tests.support.report_records import curve, save_language_model

EVIL = "</script><script>document.title='ran'</script><img src='https://example.invalid/x.png'>\u202eturned"
ROWS = 211  # odd, so that no share is a round number
WRONG = {"softmax": 0.30, "sa-softmax": 0.25, "sa-softmax-raw": 0.45}


def guesses(variant: str, seed: int, rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows of four classes, of which a run is wrong on hard ones more often than on others; from row 3 on."""
    hard, mine = random.Random("hard"), random.Random(f"{variant} {seed}")
    lines = []
    for row in range(rows):
        label, hardness = row % len(LABELS), hard.random()
        wrong = mine.random() < 2 * WRONG[variant] * hardness
        prediction = (label + mine.randint(1, 3)) % len(LABELS) if wrong else label
        lines.append({"row": row + 3, "label": label, "prediction": prediction})
    return lines


def save_all(root: Path) -> Path:
    """Writes the runs below ``root``: AG News with three variants, a translation, a language model, a sample,
    a failed run, and a hostile one."""
    for variant, seeds in (("softmax", 4), ("sa-softmax", 3), ("sa-softmax-raw", 1)):
        for seed in range(seeds):
            entry = started(variant, seed)
            entry["curve"] = curve(seed)
            save(root, entry, guesses(variant, seed))
    for variant, noise in (("softmax", 0.3), ("sa-softmax", 0.25)):
        for seed in range(2):
            rows = translations(31, noise, seed)
            save(root, started(variant, seed, kind="translation"), rows)
    for variant in ("softmax", "sa-softmax"):
        save_language_model(root, variant, 0)
    save(root, started("sa-softmax", 5, sample=True), guesses("sa-softmax", 5, 40))
    evil = started("softmax", 0)
    evil["task"] |= {"name": EVIL, "labels": [EVIL, *LABELS[1:]]}
    evil["command"] = EVIL
    save(root / "evil", evil, guesses("softmax", 9, 20))
    failed = started("sa-softmax", 7)
    failed["status"], failed["reason"] = "failed", EVIL
    store.write(save(root / "failed", failed), failed)
    return root


class Outline(HTMLParser):
    """Scripts, columns and everything with an address, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.scripts: list[str] = []
        self._script: dict[str, str | None] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs) if tag == "script" else None
        if tag == "script" and not attrs:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            return
        if "id" in self._script:
            key = str(self._script["id"])
            self.texts[key] = self.texts.get(key, "") + data
        else:
            self.scripts[-1] += data

    def column(self, key: str) -> Any:
        (kind,) = (attrs["data-kind"] for _, attrs in self.elements if attrs.get("id") == key)
        content = zlib.decompress(base64.b64decode(self.texts[key]))
        return json.loads(content) if kind == "json" else np.frombuffer(content, dtype=f"<{kind}")
