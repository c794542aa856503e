"""What the page of the protocol says in numbers, from ``results/calibration/calibration.json``."""

import json
from pathlib import Path

FILE = Path(__file__).parents[2] / "results" / "calibration" / "calibration.json"


def figures() -> dict[str, str]:
    """Name -> number, as it is written. Detectable differences are those of accuracy, in points."""
    result = json.loads(FILE.read_text(encoding="utf-8"))
    equal = result["alarms"]  # studies of equal methods, one entry a design, metric and number of seeds
    studies = {each["metric"]: each["studies"] for each in equal}
    detectable = {
        (each["design"], each["seeds"]): each["detectable"]
        for each in equal
        if each["metric"] == "accuracy" and each["detectable"] is not None
    }
    # Runs that collapse are noise of a size of its own, which the page gives apart.
    six = [value for (design, seeds), value in detectable.items() if seeds == 6 and design != "collapse"]
    return {
        "studies": f"{studies['accuracy']:,}",
        "studies_bleu": f"{studies['bleu']:,}",
        "rows": str(result["rows"]),
        "false": f"{max(each['claims'] for each in equal):.1%}",
        "false_rows": f"{max(each['claims_rows'] for each in equal):.0%}",
        "two": f"{min(value for (_, seeds), value in detectable.items() if seeds == 2):.0f}",
        "six_low": f"{min(six):.1f}",
        "six_high": f"{max(six):.1f}",
        "six_collapse": f"{detectable['collapse', 6]:.0f}",
    }
