"""A folder of hand-made runs of every kind, to be explored: few rows, and names that want to run."""

import random
from pathlib import Path
from typing import Any

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
