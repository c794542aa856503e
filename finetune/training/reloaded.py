"""Loads the model of a run's folder again, and checks that it gives what was measured.

A record says what a model in memory did, and whoever loads the run gets the model of its folder: the end of
every run proves on a few test rows that the two are the same.
"""

import math
from pathlib import Path
from typing import Any

from finetune.config.schema import HALF, RunConfig
from finetune.models.builder import weights_fingerprint
from finetune.models.checkpoint import load_run, read_config
from finetune.objectives.base import Objective
from finetune.training.loop import Outcome, answers

TOLERANCE, HALF_TOLERANCE = 1e-5, 1e-2
"""Relative differences of the mean loss that rounding makes, in float32 and in half precision."""


class ReloadError(RuntimeError):
    """The model in a run's folder is another one than was measured."""


def check(
    config: RunConfig, objective: Objective, outcome: Outcome, folder: Path, *, split: Any, tokens: Any
) -> dict[str, Any]:
    """Loads the run in ``folder`` and has it answer the rows of ``outcome.held`` again; facts for the record.

    ``split`` holds the test rows as texts, ``tokens`` as they were predicted. ``ties`` counts rows that both
    models answer alike here, and otherwise than among all rows: another batch moves the last digits, and two
    classes or words were that close. Raises ``ReloadError`` where anything else differs.
    """
    held = outcome.held
    built = load_run(folder, read_config(folder), objective)
    ids = list(held.predictions)
    rows = objective.tokenize_again(split, ids, built.tokenizer, config)
    places = {row: place for place, row in enumerate(tokens["row"])}
    known = tokens.select([places[row] for row in ids])
    for column in ("input_ids", "labels"):
        if rows[column] != known[column]:
            raise _error(folder, "its tokenizer makes other tokens of the test rows")
    if weights_fingerprint(built.model) != outcome.weights:
        raise _error(folder, "its weights are others")
    again = answers(config, objective, built, rows, folder)
    half = any(config.train.get(name) for name in (*HALF, "tf32"))
    if not math.isclose(again.loss, held.loss, rel_tol=HALF_TOLERANCE if half else TOLERANCE):
        raise _error(folder, f"its loss on {len(rows)} test rows is {again.loss}, not {held.loss}")
    ties = 0
    for row, prediction in again.predictions.items():
        recorded = outcome.predictions[row]
        if objective.agree(prediction, recorded, half=half):
            continue
        if not objective.agree(prediction, held.predictions[row], half=half):
            raise _error(folder, f"it predicts {prediction!r} for test row {row}, not {recorded!r}")
        ties += 1
    return {"rows": len(rows), "equal": True, "ties": ties}


def _error(folder: Path, difference: str) -> ReloadError:
    return ReloadError(
        f"the model in {folder} is not the one that was measured: {difference}. What was measured is not "
        "recorded; look for what else writes into this folder, and type the same command again"
    )
