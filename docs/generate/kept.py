"""What the pages of results read from the report and the records of a study that is kept in ``results/``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from finetune.comparison.verdicts import TITLES, VERDICTS
from finetune.report import summary
from finetune.report.formats import saved
from finetune.report.words import CELLS
from finetune.system.text import minus

ROOT = Path(__file__).parents[2] / "results"


@cache
def report(study: Path) -> Any:
    """``report.json``, as it is read today: the tables of a study with the verdicts of now."""
    return json.loads(saved.as_json(saved.read(study)))


def complete(study: Path) -> str:
    """Summarizes every variant of every table, as ``finetune summary`` writes it."""
    return summary.markdown(summary.read(study / "report.json"))


def surroundings(study: Path) -> dict[str, str]:
    """Where a study ran and for how long, which no table says; one value each, or it is not one study."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in study.glob("**/record.json")]
    (cpu,) = {record["hardware"]["cpu"] for record in records}
    (torch,) = {record["versions"]["torch"].partition("+")[0] for record in records}
    (transformers,) = {record["versions"]["transformers"] for record in records}
    hours = sum(record["times"]["total_s"] for record in records) / 3600
    return {
        "runs": str(len(records)),
        "cpu": cpu,
        "torch": torch,
        "transformers": transformers,
        "hours": f"{hours:.1f}",
    }


def variant(group: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The variant of a table by its name."""
    (found,) = (each for each in group["arms"] if each["name"] == name)
    return found


def count(verdicts: Sequence[str]) -> dict[str, int]:
    """How often each verdict is among ``verdicts``."""
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def neither(counted: Mapping[str, int]) -> str:
    """``in 3 the two are equivalent within the margin, in 4 it cannot be told``; without what is in none."""
    said = {
        "equivalent": "the two are equivalent within the margin",
        "none": "there is no significant difference",
        "unknown": "it cannot be told",
    }
    return ", ".join(f"in {counted[verdict]} {text}" for verdict, text in said.items() if counted[verdict])


def verdict(difference: Mapping[str, Any]) -> str:
    """A verdict as a cell of a table; what is significant stands out."""
    title = CELLS.get(difference["verdict"], TITLES[difference["verdict"]])
    return f"**{title}**" if difference["verdict"] in ("better", "worse") else title


def difference(value: Mapping[str, Any], digits: int = 2) -> str:
    """A mean difference with its interval, as it is written."""
    mean, low, high = (minus(f"{each:+.{digits}f}") for each in (value["mean"], *value["interval"]))
    return f"{mean} ({low} to {high})"


def looks(diagnostics: Path) -> list[Mapping[str, Any]]:
    """What a diagnosed run saw in its attention, at each look after its first step."""
    samples = json.loads(diagnostics.read_text(encoding="utf-8"))["samples"]
    return [each for each in samples if each["step"]]


def ratios(layers: Iterable[Mapping[str, Any]], scores: str) -> list[float]:
    """The gradient that sa-softmax passes to these scores over that of softmax, where there are any."""
    reached = [(layer["reach"]["sa-softmax"][scores], layer["reach"]["softmax"][scores]) for layer in layers]
    return [changed / baseline for changed, baseline in reached if baseline]
