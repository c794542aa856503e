"""The metrics as ``evaluate.Metric`` classes on scikit-learn and sacrebleu; nothing is fetched.

Every value comes with a signature, and a number without its signature is not comparable. Accuracy and F1
are fractions in [0, 1]; BLEU and chrF run from 0 to 100.
"""

import logging
import tempfile
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import evaluate
import sklearn
from datasets import Features, Value
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from finetune.errors import UserError
from finetune.metrics.scorers import PRIMARY, bleu_scorer, bleu_tokenizer, chrf_scorer
from finetune.system.text import reason

__all__ = [
    "PRIMARY",
    "Accuracy",
    "Bleu",
    "ChrF",
    "MacroF1",
    "classification_metrics",
    "extra_metric",
    "translation_metrics",
]

HUB = "hub:"  # before the name of a metric there


def _info(description: str, citation: str, dtype: str) -> evaluate.MetricInfo:
    features = Features({"predictions": Value(dtype), "references": Value(dtype)})
    inputs = f"predictions, references: one {dtype} a row, in the same order"
    return evaluate.MetricInfo(
        description=description, citation=citation, inputs_description=inputs, features=features
    )


class Accuracy(evaluate.Metric):
    """Share of rows whose predicted class index is the right one, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of rows predicted right.", "", "int64")

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        signature = f"accuracy|scikit-learn:{sklearn.__version__}"
        return {"accuracy": float(accuracy_score(references, predictions)), "signature": signature}


class MacroF1(evaluate.Metric):
    """Unweighted mean of the classes' F1, in [0, 1], over classes that occur in labels or predictions."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Unweighted mean of the F1 of every class that occurs.", "", "int64")

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        score = f1_score(references, predictions, average="macro", zero_division=0.0)
        signature = f"macro_f1|classes:occurring|zero_division:0|scikit-learn:{sklearn.__version__}"
        return {"macro_f1": float(score), "signature": signature}


class Bleu(evaluate.Metric):
    """Corpus BLEU, 0 to 100, one reference a row."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("sacrebleu's corpus BLEU.", "https://aclanthology.org/W18-6319", "string")

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], target_lang: str | None = None
    ) -> dict[str, Any]:
        scorer = bleu_scorer(bleu_tokenizer(target_lang))
        score = scorer.corpus_score(list(predictions), [list(references)]).score
        return {"bleu": float(score), "signature": f"bleu|{scorer.get_signature()}"}


class ChrF(evaluate.Metric):
    """Corpus chrF2, 0 to 100, one reference a row."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("sacrebleu's corpus chrF.", "https://aclanthology.org/W15-3049", "string")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        scorer = chrf_scorer()
        score = scorer.corpus_score(list(predictions), [list(references)]).score
        return {"chrf": float(score), "signature": f"chrf|{scorer.get_signature()}"}


def classification_metrics(
    predictions: Sequence[int], labels: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, macro-F1 and a report per class.

    ``predictions`` and ``labels`` are class indices into ``names``, one a row, in the same order. Returns
    ``{"accuracy": {"value", "signature"}, "macro_f1": {...}, "per_class": {name: {"precision", "recall",
    "f1", "support"}}}``. Raises ``ValueError`` for unequal lengths, no row, or an index outside ``names``.
    """
    _check_lengths(predictions, labels)
    outside = {int(i) for i in [*predictions, *labels] if not 0 <= int(i) < len(names)}
    if outside:
        raise ValueError(f"class indices {sorted(outside)} are outside 0..{len(names) - 1}")
    return {
        "accuracy": _score(Accuracy, "accuracy", predictions, labels),
        "macro_f1": _score(MacroF1, "macro_f1", predictions, labels),
        "per_class": _per_class(predictions, labels, names),
    }


def translation_metrics(
    predictions: Sequence[str], references: Sequence[str], target_lang: str | None
) -> dict[str, Any]:
    """Corpus BLEU and chrF with sacrebleu's signatures: ``{"bleu": {"value", "signature"}, "chrf": {...}}``.

    ``target_lang`` ("en", "zh", ...) chooses BLEU's tokenizer. Raises ``ValueError`` for unequal lengths.
    """
    _check_lengths(predictions, references)
    return {
        "bleu": _score(Bleu, "bleu", predictions, references, target_lang=target_lang),
        "chrf": _score(ChrF, "chrf", predictions, references),
    }


def load_metric(name: str) -> evaluate.EvaluationModule:
    """A metric of ``evaluate``, which is a script that runs: a ``.py`` file, or ``hub:`` and its name there.

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
    try:
        return evaluate.load(known, keep_in_memory=True)
    except (OSError, ImportError, ValueError) as error:  # OSError holds FileNotFound and ConnectionError
        raise UserError(
            f"cannot load the metric '{name}': {reason(error)} (further metrics are fetched from the Hugging "
            "Face Hub; take it out of 'metrics', or run where the Hub can be reached)"
        ) from error


def extra_metric(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
    """Another ``evaluate`` metric, as ``load_metric`` takes it: ``{key: {"value", "signature"}}`` a number.

    Raises ``UserError`` where the metric cannot be had, misses a package, or cannot score these rows.
    """
    _check_lengths(predictions, references)
    metric = load_metric(name)
    try:
        result = metric.compute(predictions=predictions, references=references) or {}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"the metric '{name}' cannot score these rows: {reason(error)}") from error
    signature = f"{name.removeprefix(HUB)}|evaluate:{evaluate.__version__}"
    numbers = {key: value for key, value in result.items() if isinstance(value, Real)}
    return {key: {"value": float(value), "signature": signature} for key, value in numbers.items()}


def _score(
    metric: type[evaluate.Metric],
    key: str,
    predictions: Sequence[Any],
    references: Sequence[Any],
    **kwargs: Any,
) -> dict[str, Any]:
    # evaluate.Metric makes its cache folder in any case, so it is given one that goes away again.
    with tempfile.TemporaryDirectory() as folder:
        scorer = metric(keep_in_memory=True, cache_dir=folder)
        result = scorer.compute(predictions=list(predictions), references=list(references), **kwargs)
    return {"value": result[key], "signature": result["signature"]}


def _per_class(
    predictions: Sequence[int], labels: Sequence[int], names: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    columns = precision_recall_fscore_support(
        labels, predictions, labels=list(range(len(names))), zero_division=0.0
    )
    rows = zip(names, *columns, strict=True)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in rows
    }


def _check_lengths(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if len(predictions) != len(references) or len(references) == 0:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")


# sacrebleu advises, at every call, against text that looks tokenised; the text is the model's own.
logging.getLogger("sacrebleu").setLevel(logging.ERROR)
