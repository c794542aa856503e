"""The command: simulates studies and writes every rate into ``calibration.json`` and ``calibration.md``."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from finetune.comparison.aggregate import FEWEST as FEWEST_NUMBERS
from finetune.comparison.aggregate import FEWEST_SEEDS
from finetune.errors import UserError
from finetune.statistics.power import ALPHA, POWER
from finetune.system.environment import environment
from finetune.system.files import write_text
from tests.calibration import looks, page, rates
from tests.calibration.studies import DESIGNS, Design

FOLDER = Path("results/calibration")
MOST = 8.0  # points: the largest true difference that fits between an accuracy of about 90% and 100%
BLEU = ("errors", "mixed")  # designs that are simulated for BLEU too
LANGUAGE = ("tastes", "mixed")  # designs that are simulated for perplexity too
PERPLEXITY = math.exp(4)  # of the simulated baseline, about
FEWEST = 20  # studies, so that each line has some


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.calibration",
        description="Simulate studies and write the error rates of the statistics (half an hour).",
    )
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a line (2000)")
    parser.add_argument("--output", type=Path, default=FOLDER, help=f"folder for the results ({FOLDER})")
    options = parser.parse_args()
    try:
        if options.studies < FEWEST:
            raise UserError(f"--studies takes a number from {FEWEST}, e.g. 2000, not {options.studies}")
        write(measure(options.studies), options.output)
    except UserError as error:
        print(f"tests.calibration: error: {error}", file=sys.stderr)
        return 2
    return 0


def write(result: dict[str, Any], folder: Path) -> None:
    """Writes both files; raises ``UserError`` where the folder cannot be written."""
    text = json.dumps(result, indent=1, allow_nan=False)
    for name, content in (("calibration.json", text + "\n"), ("calibration.md", page.markdown(result))):
        print(f"wrote {write_text(folder / name, [content])}")


def measure(
    studies: int, designs: Sequence[Design] = DESIGNS, seeds: Sequence[int] = rates.SEEDS
) -> dict[str, Any]:
    """Every rate, as plain values; prints a line for each as it is known."""
    alarms = list(_printed(_alarms(studies, designs, seeds)))
    return {
        "schema": "finetune-calibration",
        "version": 1,
        "studies": studies,
        "rows": rates.ROWS,
        "alpha": ALPHA,
        "power": POWER,
        "versions": {name: environment()["versions"].get(name) for name in ("numpy", "scipy", "sacrebleu")},
        "alarms": [asdict(line) for line in alarms],
        "found": [asdict(line) for line in _printed(_found(studies, designs, alarms))],
        "looks": [asdict(line) for line in _printed(_looks(studies // 5, designs))],
        "middle": [asdict(line) for line in _printed(_middles(studies, seeds))],
        "equivalent": [asdict(line) for line in _printed(_equivalent(studies, designs, alarms))],
        "improvement": [asdict(line) for line in _printed(_improvements(studies, seeds))],
    }


def _alarms(studies: int, designs: Sequence[Design], seeds: Sequence[int]) -> Iterator[rates.Alarms]:
    for design in designs:
        for count in seeds:
            yield rates.alarms(
                design.name, "accuracy", rates.classification(design, count, studies, plain=True)
            )
    for design in designs:
        for count in seeds if design.name in BLEU else ():
            yield rates.alarms(design.name, "bleu", rates.translation(design, count, studies // 4))
    yield from _documents(studies // 4, designs, seeds)


def _documents(studies: int, designs: Sequence[Design], seeds: Sequence[int]) -> Iterator[rates.Alarms]:
    for design in designs:
        for documents in rates.DOCUMENTS if design.name in LANGUAGE else ():
            for count in seeds:
                name = f"{design.name}, {documents} documents"
                families = rates.language_models(design, count, studies, documents)
                yield rates.alarms(name, "perplexity", families)


def _found(studies: int, designs: Sequence[Design], alarms: list[rates.Alarms]) -> Iterator[rates.Found]:
    """Power at the minimum detectable difference, and with the number of seeds reported as needed."""
    for design in designs:
        lines = [line for line in alarms if (line.design, line.metric) == (design.name, "accuracy")]
        for line in lines if not design.collapses else ():
            if line.detectable is not None and line.detectable <= MOST:
                yield rates.find(design, line.seeds, studies // 2, line.detectable, POWER)
            if line.needed is not None and line.seeds == 6:
                yield rates.find(design, line.needed, studies // 2, rates.WANTED, POWER)


def _middles(studies: int, seeds: Sequence[int]) -> Iterator[rates.Middle]:
    for tasks in rates.TASKS:
        for count in seeds:
            if count > 1 and tasks * count >= FEWEST_NUMBERS:
                yield rates.middles(tasks, count, studies)


def _equivalent(
    studies: int, designs: Sequence[Design], alarms: list[rates.Alarms]
) -> Iterator[rates.Equivalence]:
    """Claims of equivalence at a margin that is the minimum detectable difference of the design."""
    by_name = {design.name: design for design in designs}
    for line in alarms:
        if line.detectable is None:
            continue
        name, _, documents = line.design.partition(", ")
        design, seeds, margin = by_name[name], line.seeds, min(line.detectable, MOST)
        at: Callable[..., Iterator[rates.Family]]
        if line.metric == "perplexity":
            margin = 100 * line.detectable / PERPLEXITY
            length = int(documents.partition(" ")[0])
            at = partial(rates.perplexity_at, documents=length)
        else:
            at = {"accuracy": rates.accuracy_at, "bleu": rates.bleu_at}[line.metric]
        count = studies // 4 if line.metric == "accuracy" else studies // 8
        apart, equal = at(design, seeds, count, margin, 1.0), at(design, seeds, studies // 20, margin, 0.0)
        yield rates.equivalence(line.design, line.metric, margin, apart, equal)


def _improvements(studies: int, seeds: Sequence[int]) -> Iterator[rates.Improvement]:
    for tasks in rates.TASKS:
        for count in seeds:
            if count >= FEWEST_SEEDS and tasks * count >= FEWEST_NUMBERS:
                yield rates.improvements(tasks, count, studies // 4)


def _looks(studies: int, designs: Sequence[Design]) -> Iterator[looks.Looked]:
    """Equal methods under every plan, and methods that differ by the margin under the first of them."""
    for design in designs:
        for plan in looks.LOOKS:
            yield looks.looked(design, plan, studies, looks.MARGIN, 0.0)
        if not design.collapses:  # which have no true difference that a shift would give
            yield looks.looked(design, looks.LOOKS[0], studies, looks.MARGIN, looks.MARGIN)


def _printed(lines: Iterator[Any]) -> Iterator[Any]:
    for line in lines:
        print(line, flush=True)
        yield line


if __name__ == "__main__":
    raise SystemExit(main())
