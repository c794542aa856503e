"""Computes the values of metrics, by scikit-learn and sacrebleu; only a further metric by name is fetched.

Every value comes with a signature, and a number without its signature is not comparable. Values are as they
go into a record: accuracy and F1 as fractions in [0, 1], BLEU and chrF from 0 to 100. What they mean is
declared in ``finetune.metrics.registry``.
"""

import logging
from collections.abc import Sequence, Sized
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from finetune.errors import UserError
from finetune.metrics.scorers import bleu_scorer, bleu_tokenizer, chrf_scorer
from finetune.system.text import reason

HUB = "hub:"  # before the name of a metric there
BINS = 15  # of the expected calibration error, as in Guo et al. 2017

# sacrebleu advises, at every call, against text that looks tokenized; the text is the model's own.
logging.getLogger("sacrebleu").setLevel(logging.ERROR)


def classification_metrics(
    predictions: Sequence[int], labels: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Computes accuracy, macro-F1 and a report per class.

    ``predictions`` and ``labels`` are class indices into ``names``, one a row, in the same order. Returns
    ``{"accuracy": {"value", "signature"}, "macro_f1": {...}, "per_class": {name: {"precision", "recall",
    "f1", "support"}}}``. Macro-F1 is over the classes that occur in labels or predictions. Raises
    ``ValueError`` for unequal lengths, no row, or an index outside ``names``.
    """
    _check_lengths(predictions, labels)
    outside = {int(i) for i in [*predictions, *labels] if not 0 <= int(i) < len(names)}
    if outside:
        raise ValueError(f"class indices {sorted(outside)} are outside 0..{len(names) - 1}")
    version = f"scikit-learn:{sklearn.__version__}"
    macro_f1 = f1_score(labels, predictions, average="macro", zero_division=0.0)
    per_class = precision_recall_fscore_support(
        labels, predictions, labels=list(range(len(names))), zero_division=0.0
    )
    return {
        "accuracy": {
            "value": float(accuracy_score(labels, predictions)),
            "signature": f"accuracy|{version}",
        },
        "macro_f1": {
            "value": float(macro_f1),
            "signature": f"macro_f1|classes:occurring|zero_division:0|{version}",
        },
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for name, p, r, f, n in zip(names, *per_class, strict=True)
        },
    }


def probability_metrics(
    log_probabilities: NDArray[np.floating[Any]], predictions: Sequence[int], labels: Sequence[int]
) -> dict[str, Any]:
    """Computes what probabilities are worth: ``{"nll": {"value", "signature"}, "ece": {...}}``.

    ``log_probabilities`` (rows, classes) are natural logarithms in float32 or better. nll is the mean of -log
    p of the right class, in nats. ece is the expected calibration error of Guo et al. 2017 (arXiv 1706.04599,
    equation 3): rows fall into ``BINS`` bins of equal width by the probability of their predicted class, and
    the mean over rows is taken of what lies in each bin between accuracy and mean probability; a fraction.
    Raises ``ValueError`` for unequal lengths or no row.
    """
    _check_lengths(predictions, labels)
    _check_lengths(log_probabilities, labels)
    logs, rows = np.asarray(log_probabilities, dtype=np.float64), np.arange(len(labels))
    confidence = np.exp(logs[rows, np.asarray(predictions)])
    right = np.asarray(predictions) == np.asarray(labels)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # each with its upper end
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return {
        "nll": {"value": float(-logs[rows, np.asarray(labels)].mean()), "signature": "nll|log:e|mean:rows"},
        "ece": {
            "value": float(np.abs(gaps).sum() / len(rows)),
            "signature": f"ece|bins:{BINS}|width:equal|norm:l1|of:predicted",
        },
    }


def translation_metrics(
    predictions: Sequence[str], references: Sequence[str], target_lang: str | None
) -> dict[str, Any]:
    """Computes corpus BLEU and chrF: ``{"bleu": {"value", "signature"}, "chrf": {...}}``.

    ``target_lang`` ("en", "zh", ...) chooses BLEU's tokenizer. Raises ``ValueError`` for unequal lengths.
    """
    _check_lengths(predictions, references)
    scores = {}
    for name, scorer in (("bleu", bleu_scorer(bleu_tokenizer(target_lang))), ("chrf", chrf_scorer())):
        value = scorer.corpus_score(list(predictions), [list(references)]).score
        # The signature is complete only once the scorer has seen the references.
        scores[name] = {"value": float(value), "signature": f"{name}|{scorer.get_signature()}"}
    return scores


def load_metric(name: str) -> Any:
    """Loads a metric of ``evaluate``, a script that runs: a ``.py`` file, or ``hub:`` and its name there.

    Raises ``UserError`` where it cannot be had, where a name does not say that a script is meant to run, and
    where ``evaluate`` would take a folder of that name here, without asking the Hub.
    """
    if not name.startswith(HUB) and not name.endswith(".py"):
        raise UserError(
            f"the metric '{name}' is a script that would be fetched from the Hugging Face Hub and run here: "
            f"write {HUB}{name} in 'metrics' if you trust it, or the path of a .py file of your own"
        )
    known = name.removeprefix(HUB)
    script = Path(known, f"{Path(known).name}.py")
    if script.is_file():
        raise UserError(f"the metric '{name}' is a folder here, whose script would run: write {script} if so")
    import evaluate  # seconds, and only a further metric needs it

    try:
        return evaluate.load(known, keep_in_memory=True)
    except (OSError, ImportError, ValueError) as error:  # OSError holds FileNotFound and ConnectionError
        raise UserError(
            f"cannot load the metric '{name}': {reason(error)} (further metrics are fetched from the Hugging "
            "Face Hub; take it out of 'metrics', or run where the Hub can be reached)"
        ) from error


def extra_metric(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
    """Computes an ``evaluate`` metric that ``load_metric`` takes: ``{key: {"value", "signature"}}`` a number.

    Raises ``UserError`` where the metric cannot be had, misses a package, or cannot score these rows.
    """
    _check_lengths(predictions, references)
    metric = load_metric(name)
    import evaluate

    try:
        result = metric.compute(predictions=predictions, references=references) or {}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"the metric '{name}' cannot score these rows: {reason(error)}") from error
    signature = f"{name.removeprefix(HUB)}|evaluate:{evaluate.__version__}"
    numbers = {key: value for key, value in result.items() if isinstance(value, Real)}
    return {key: {"value": float(value), "signature": signature} for key, value in numbers.items()}


def _check_lengths(predictions: Sized, references: Sized) -> None:
    if len(predictions) != len(references) or len(references) == 0:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
