"""Sums of a language model by document -> perplexity and its relatives, with their signatures.

The definitions are those of EleutherAI's lm-evaluation-harness (``loglikelihood_rolling``, lm_eval 0.4): sums
over all documents, divided once. With n the nats of a document (minus the log-likelihood of its tokens, each
predicted once), t its tokens, w the words and b the UTF-8 bytes of its text as it was before any tokenizer,

    perplexity = exp(sum n / sum t)              of a token; comparable only under one tokenizer
    bits_per_byte = sum n / sum b / log 2        comparable between tokenizers
    word_perplexity = exp(sum n / sum w)         comparable between tokenizers, for one way to count words
    perplexity@L = exp(sum n_L / sum t_L)        of the same tokens at each L, with as much context as L holds
    masked_loss = sum n / sum t                  nats of a masked token; no perplexity, as no text has it

Light to import: it computes nothing but sums.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError
from finetune.metrics.registry import at_length

MOST_NATS = math.log(1e12)  # of a mean: no vocabulary is so large that guessing would come near

Rows = Sequence[Mapping[str, Any]]
Scores = dict[str, dict[str, Any]]


def count_bytes(text: str) -> int:
    """The UTF-8 bytes of a text."""
    return len(text.encode("utf-8"))


def count_words(text: str) -> int:
    r"""The words of a text: its pieces between white space, an empty one before or after it included.

    As lm-evaluation-harness counts, ``len(re.split(r"\s+", text))``.

    >>> count_words("to be or not"), count_words(" = Title = ")
    (4, 5)
    """
    return len(re.split(r"\s+", text))


def perplexity_metrics(
    rows: Rows,
    *,
    tokenizer: str,
    length: int,
    stride: int | None,
    scored_tokens: int | None,
    eval_lengths: Sequence[int],
    test_windows: int | None,
) -> Scores:
    """Computes the metrics of a causal model, ``perplexity`` first: ``{name: {"value", "signature"}}``.

    A row is a document, as in ``predictions.jsonl``: ``nats``, ``tokens``, ``bytes``, ``words``, and
    ``by_length``, ``{"512": [nats, tokens], ...}`` (empty for a document that is too short). A length that no
    document has is left out. ``tokenizer`` is its fingerprint, ``length`` that of the windows of
    ``perplexity``, ``stride`` their step (``None``: no overlap); of a window of ``perplexity@L`` the
    last ``scored_tokens`` are scored. Which windows there are follows from the longest of ``eval_lengths``,
    scored or not, and from ``test_windows``, so that signatures have both. Raises ``UserError`` for a model
    that has diverged, ``ValueError`` where there is no token, or other tokens were scored at some lengths.
    """
    nats, tokens = _sums(rows, "nats"), _sums(rows, "tokens")
    _check(nats / tokens)
    model = f"tokenizer:{tokenizer}"
    windows = f"length:{length}|windows:{'disjoint' if stride is None else f'stride-{stride}'}"
    how = f"{model}|{windows}|context:document|first:end-of-text"
    scores = {
        "perplexity": _score(_perplexity(nats, tokens), f"perplexity|{how}"),
        "bits_per_byte": _score(nats / _sums(rows, "bytes") / math.log(2), f"bits_per_byte|{how}|utf-8"),
        "word_perplexity": _score(
            _perplexity(nats, _sums(rows, "words")), f"word_perplexity|{how}|words:white-space"
        ),
    }
    scored = [row["by_length"] for row in rows if row["by_length"]]
    if len({tuple(sorted(each)) for each in scored}) > 1 or any(
        len({tokens for _, tokens in each.values()}) > 1 for each in scored
    ):
        raise ValueError("the lengths were not scored on the same tokens of the same documents")
    most = "all" if test_windows is None else f"at-most-{test_windows}"
    for each in sorted(map(int, scored[0] if scored else ())):
        nats, tokens = (math.fsum(by_length[str(each)][part] for by_length in scored) for part in (0, 1))
        if tokens:
            name = at_length("perplexity", each)
            which = f"scored:last-{scored_tokens}|longest:{max(eval_lengths)}|windows:{most}"
            signature = f"{name}|{model}|length:{each}|{which}|context:document"
            scores[name] = _score(_perplexity(nats, tokens), signature)
    return scores


def masked_metrics(rows: Rows, *, tokenizer: str, length: int, masked_share: float) -> Scores:
    """Computes ``masked_loss``: the mean nats of a masked token, over ``nats`` and ``tokens`` by document."""
    loss = _sums(rows, "nats") / _sums(rows, "tokens")
    _check(loss)
    signature = f"masked_loss|tokenizer:{tokenizer}|length:{length}|masked:{masked_share:g}|context:document"
    return {"masked_loss": _score(loss, signature)}


def _sums(rows: Rows, name: str) -> float:
    total = math.fsum(row[name] for row in rows)
    if not total and name != "nats":
        raise ValueError(f"there are no {name} to score")
    return total


def _perplexity(nats: float, units: float) -> float | None:
    """exp(nats / units); ``None`` for a word that is beyond all measure, as one of many tokens can be."""
    mean = nats / units
    return math.exp(mean) if mean <= MOST_NATS else None


def _check(nats: float) -> None:
    if not nats <= MOST_NATS:  # or NaN
        raise UserError(
            f"the model gives the test text {nats:.4g} nats a token, worse than guessing: it has diverged. "
            "Lower train.learning_rate, or raise train.warmup_steps"
        )


def _score(value: float | None, signature: str) -> dict[str, Any]:
    return {"value": value, "signature": signature}
