"""What the page of the protocol says in numbers, from ``results/calibration/calibration.json``."""

import json
import math
from pathlib import Path
from statistics import mean, median

FILE = Path(__file__).parents[2] / "results" / "calibration" / "calibration.json"


def figures() -> dict[str, str]:
    """Name -> number, as it is written. Detectable differences are those of accuracy, in points."""
    result = json.loads(FILE.read_text(encoding="utf-8"))
    looks = result["looks"]  # studies whose seeds were added until a difference was known
    equal = result["alarms"]  # studies of equal methods, one entry a design, metric and number of seeds
    studies = {each["metric"]: each["studies"] for each in equal}
    detectable = {
        (each["design"], each["seeds"]): each["detectable"]
        for each in equal
        if each["metric"] == "accuracy" and each["detectable"] is not None
    }
    # Runs that collapse are noise of a size of its own, which the page gives apart.
    six = [value for (design, seeds), value in detectable.items() if seeds == 6 and design != "collapse"]
    equivalent = result["equivalent"]  # true differences of the margin, and none
    calm = [each for each in equivalent if each["design"] != "collapse"]
    fallen = [each for each in equivalent if each["design"] == "collapse"]
    return {
        **{
            f"margin_{name}": f"{max(each[key] for each in lines):.1%}"
            for lines, suffix in ((calm, ""), (fallen, "_collapse"))
            for name, key in ((f"false{suffix}", "false"), (f"any{suffix}", "false_any"))
        },
        "margin_error": f"{2 * math.sqrt(0.025 * 0.975 / min(each['studies'] for each in calm)):.1%}",
        "margin_mean": f"{mean(each['false'] for each in calm):.1%}",
        "margin_studies": " and ".join(f"{count:,}" for count in sorted({each["studies"] for each in calm})),
        "margin_found": f"{median(each['found'] for each in calm):.0%}",
        "studies": f"{studies['accuracy']:,}",
        "studies_bleu": f"{studies['bleu']:,}",
        "looks_false": f"{max(each['claims'] for each in looks if not each['truth']):.1%}",
        "looks_naive": f"{max(each['claims_naive'] for each in looks if not each['truth']):.1%}",
        "looks_misses": f"{max(each['misses'] for each in looks):.1%}",
        "looks_equivalent": f"{max(each['equivalent'] for each in looks if each['truth']):.1%}",
        "rows": str(result["rows"]),
        "false": f"{max(each['claims'] for each in equal):.1%}",
        "false_rows": f"{max(each['claims_rows'] for each in equal):.0%}",
        "two": f"{min(value for (_, seeds), value in detectable.items() if seeds == 2):.0f}",
        "six_low": f"{min(six):.1f}",
        "six_high": f"{max(six):.1f}",
        "six_collapse": f"{detectable['collapse', 6]:.0f}",
    }
