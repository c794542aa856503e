"""What may be tuned, what of a record follows from it, and how a tuning is put in words."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from finetune.errors import UserError, shown, unknown

SETTING = "tuned"
"""The setting of a comparison that says how the values of its runs were chosen."""
EDGE = 0.05
"""Of a range that is searched, on its own scale: a value this near to an end of it is at its edge."""

_GROUPS, _SCHEDULE = "computed.optimizer.groups", "computed.scheduler"
FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "train.learning_rate": (_GROUPS, _SCHEDULE),
    "train.weight_decay": (_GROUPS,),
    "train.adam_beta1": (_GROUPS,),
    "train.adam_beta2": (_GROUPS,),
    "train.adam_epsilon": (_GROUPS,),
    "train.warmup_steps": (_SCHEDULE,),
    "train.lr_scheduler_type": (_SCHEDULE,),
    "train.max_grad_norm": ("computed.gradient_clipping",),
    "train.label_smoothing_factor": ("computed.label_smoothing",),
    "train.neftune_noise_alpha": ("computed.embedding_noise",),
    "model.dropout": (),
    "model.attention_dropout": ("attention dropout",),
    "attention.annealing_share": (),
}
"""What may be tuned, beside the parameters of variants -> facts of a record that follow from it.

None changes the rows, the initial weights, the order of the batches or the length of a training, which the
runs of a comparison share.
"""
PARAMETERS = "attention.parameters."
_NEVER = "computed.scheduler.steps"  # no key above changes it


def check(key: str) -> None:
    """Raises ``UserError`` for a key that may not be tuned."""
    if key in FOLLOWS or (key.startswith(PARAMETERS) and key != PARAMETERS):
        return
    meant = [known for known in FOLLOWS if known.endswith(f".{key}")]
    if meant or get_close_matches(key, FOLLOWS, 1, 0.85):
        raise unknown("key to tune", key, FOLLOWS, meant)
    raise UserError(
        f"{shown(key)} cannot be tuned, since variants are compared on the same rows, models, batches and "
        f"number of steps: tune one of {', '.join(FOLLOWS)} or {PARAMETERS}NAME"
    )


def without(settings: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """``settings`` by dotted names without the tuned ``keys`` and what follows from them."""
    gone = tuple(name for key in keys for name in (key, *FOLLOWS.get(key, ())))
    return {
        name: value
        for name, value in settings.items()
        if name == _NEVER or not any(name == each or name.startswith(f"{each}.") for each in gone)
    }


def text(tuning: Mapping[str, Any]) -> str:
    """A tuning in words, which are equal for equal ones.

    >>> text({"keys": {"train.learning_rate": [0.1, 0.2]}, "search": "grid", "trials": 2, "seeds": [9],
    ...       "metric": "accuracy"})
    'train.learning_rate over 0.1, 0.2; 2 trials a variant by accuracy, trial seed 9'
    """
    keys = "; ".join(f"{key} {values_text(values)}" for key, values in tuning["keys"].items())
    trials, seeds = tuning["trials"], tuning["seeds"]
    how = "" if tuning["search"] == "grid" else f" ({tuning['search']})"
    many = f"{trials} trial{'' if trials == 1 else 's'}{how} a variant"
    plural = "" if len(seeds) == 1 else "s"
    listed = ", ".join(map(str, seeds))
    return f"{keys}; {many} by {tuning['metric']}, trial seed{plural} {listed}"


def values_text(values: Any) -> str:
    """The values of one key: ``over 0.1, 0.2``, or ``from 0.1 to 0.2``."""
    if isinstance(values, Mapping):
        return f"from {values['low']} to {values['high']}" + (" (log)" if values.get("log") else "")
    return f"over {', '.join(map(str, values))}"


def at_edge(values: Any, chosen: Any) -> bool:
    """Whether a chosen number is the least or the greatest of its values, so that the best may lie beyond.

    >>> at_edge([0.1, 0.2, 0.3], 0.3), at_edge([0.1, 0.2, 0.3], 0.2), at_edge(["linear", "cosine"], "linear")
    (True, False, False)
    """
    if isinstance(values, Mapping):
        low, high, value = (float(each) for each in (values["low"], values["high"], chosen))
        if values.get("log"):
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low)
        return not EDGE <= share <= 1 - EDGE
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return False
    return len(values) > 1 and chosen in (min(values), max(values))
