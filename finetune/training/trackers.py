"""Experiment trackers by transformers' own names (``train.report_to``): checked before a run, ended after."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from finetune.errors import UserError, unknown
from finetune.system.text import reason

ALONE = ("all", "none")  # which TrainingArguments itself turns into a list of names
TENSORBOARD = "tensorboard"
TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"

# Packages of some callbacks: without one they complain again as they are thrown away, so they are not made.
NEEDED: Mapping[str, tuple[str, ...]] = {"mlflow": ("mlflow",), "dagshub": ("dagshub", "mlflow")}
# What transformers' callbacks leave open when a run ends or fails: the next run of a grid would log into it.
CLOSE: Mapping[str, Callable[[Any], Any]] = {
    "wandb": lambda wandb: wandb.run and wandb.finish(),
    "mlflow": lambda mlflow: mlflow.active_run() and mlflow.end_run(),
    "trackio": lambda trackio: trackio.context_vars.current_run.get() and trackio.finish(),
    "swanlab": lambda swanlab: swanlab.get_run() and swanlab.finish(),
    "comet_ml": lambda comet_ml: comet_ml.end(),
}


def check(names: Iterable[str]) -> None:
    """Raises ``UserError`` for a tracker that transformers does not know, or that cannot be used here."""
    for name in names:
        if name in ALONE:
            raise UserError(f"train.report_to {name} stands alone: leave it out of the list")
        if name not in INTEGRATION_TO_CALLBACK:
            raise unknown("tracker in train.report_to", name, [*INTEGRATION_TO_CALLBACK, *ALONE])
        missing = [module for module in NEEDED.get(name, ()) if importlib.util.find_spec(module) is None]
        if missing:
            raise UserError(f"train.report_to {name} cannot be used: pip install {' '.join(missing)}")
        try:
            INTEGRATION_TO_CALLBACK[name]()  # imports the tracker's package, and starts nothing
        except Exception as error:  # from packages of a dozen makers, which have no common parent
            why = reason(error)
            if name == TENSORBOARD:
                why = "it needs a package that is not here: pip install 'softmax-finetune[tensorboard]'"
            raise UserError(f"train.report_to {name} cannot be used: {why}") from error
        if name == TENSORBOARD and os.environ.get(TENSORBOARD_FOLDER):
            raise UserError(
                f"{TENSORBOARD_FOLDER} would put the curves of all runs into one folder: unset it; each run "
                "keeps its own in its folder, and tensorboard --logdir finds them there"
            )


def close() -> None:
    """Ends what a run has left open in any tracker, so that the next run begins one of its own."""
    for name, end in CLOSE.items():
        if name in sys.modules:
            end(sys.modules[name])
