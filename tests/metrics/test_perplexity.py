"""Perplexity and its relatives: by hand, and as lm-evaluation-harness computes them."""

import json
import math
from typing import Any

import numpy as np
import pytest

from finetune.errors import UserError
from finetune.metrics import registry
from finetune.metrics.perplexity import count_bytes, count_words, masked_metrics, perplexity_metrics
from finetune.metrics.rows import MASKED_LOSS, PERPLEXITY

TEXTS = ("the cat sat on the mat", " = Ein Titel = \n", "naïve – dès 1840 \U0001f408", "x")
HOW: dict[str, Any] = {
    "tokenizer": "ab12",
    "length": 16,
    "stride": None,
    "scored_tokens": 4,
    "eval_lengths": [8, 32, 16],
    "test_windows": None,
}


def row(number: int, nats: float, tokens: int, text: str = "a b", **by_length: list[float]) -> dict[str, Any]:
    return {
        "row": number,
        "document": f"d{number}",
        "nats": nats,
        "tokens": tokens,
        "bytes": count_bytes(text),
        "words": count_words(text),
        "by_length": {name.removeprefix("at"): pair for name, pair in by_length.items()},
    }


def values(rows: list[dict[str, Any]], **how: Any) -> dict[str, Any]:
    return {name: score["value"] for name, score in perplexity_metrics(rows, **HOW | how).items()}


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    nats = math.log(257)
    found = values([row(0, 10 * nats, 10), row(1, 3 * nats, 3, at8=[4 * nats, 4], at16=[4 * nats, 4])])
    assert found["perplexity"] == pytest.approx(257)
    assert found["perplexity@8"] == found["perplexity@16"] == pytest.approx(257)
    # 13 tokens over 2 x 3 bytes and 2 x 2 words
    assert found["bits_per_byte"] == pytest.approx(13 / 6 * math.log2(257))
    assert found["word_perplexity"] == pytest.approx(257 ** (13 / 4))


def test_a_bigram_table_by_hand() -> None:
    """P(a|end) = 1/2, P(b|a) = 1/4, P(a|b) = 1/8: "ab" and "aba" have 1/8 and 1/64, 2^-9 over 5 tokens."""
    chance = {("", "a"): 1 / 2, ("a", "b"): 1 / 4, ("b", "a"): 1 / 8}
    rows = [
        row(n, -sum(math.log(chance[pair]) for pair in zip(["", *text], text, strict=False)), len(text), text)
        for n, text in enumerate(("ab", "aba"))
    ]
    found = values(rows)
    assert found["perplexity"] == pytest.approx(2 ** (9 / 5))
    assert found["bits_per_byte"] == pytest.approx(9 / 5)  # a byte is a token here
    assert found["word_perplexity"] == pytest.approx(2 ** (9 / 2))


def test_documents_count_by_their_tokens() -> None:
    found = values([row(0, 10.0, 10), row(1, 0.0, 990)])
    assert found["perplexity"] == pytest.approx(math.exp(0.01))


def test_signatures_say_what_a_number_depends_on() -> None:
    scores = perplexity_metrics([row(0, 3.0, 2, at8=[1.0, 4])], **HOW)
    assert scores["perplexity"]["signature"] == (
        "perplexity|tokenizer:ab12|length:16|windows:disjoint|context:document|first:end-of-text"
    )
    assert scores["perplexity@8"]["signature"] == (
        "perplexity@8|tokenizer:ab12|length:8|scored:last-4|longest:32|windows:all|context:document"
    )
    fewer = perplexity_metrics([row(0, 3.0, 2, at8=[1.0, 4])], **HOW | {"test_windows": 9})
    assert "|longest:32|windows:at-most-9|" in fewer["perplexity@8"]["signature"]
    sliding = perplexity_metrics([row(0, 3.0, 2)], **HOW | {"stride": 5})
    assert "|windows:stride-5|" in sliding["perplexity"]["signature"]
    assert next(iter(scores)) == registry.primary("causal").name
    masked = masked_metrics([row(0, 3.0, 2)], tokenizer="ab12", length=16, masked_share=0.15)
    assert masked == {
        "masked_loss": {
            "value": 1.5,
            "signature": "masked_loss|tokenizer:ab12|length:16|masked:0.15|context:document",
        }
    }


def test_other_tokens_at_other_lengths_are_refused() -> None:
    for by_length in ({"at8": [1.0, 4], "at16": [1.0, 5]}, {"at8": [1.0, 4]}):
        rows = [row(0, 3.0, 2, at8=[1.0, 4], at16=[1.0, 4]), row(1, 3.0, 2, **by_length)]  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="same tokens"):
            values(rows)
    assert "perplexity@8" not in values([row(0, 3.0, 2)])  # all documents are too short


@pytest.mark.parametrize("nats", [100.0, math.nan, math.inf])
def test_a_model_that_diverged_is_named(nats: float) -> None:
    with pytest.raises(UserError, match="diverged"):
        values([row(0, nats, 2)])


def test_a_word_of_many_bad_tokens_has_no_number() -> None:
    found = values([row(0, 40 * 10.0, 40)])
    assert found["word_perplexity"] is None and found["perplexity"] == pytest.approx(math.exp(10))
    json.dumps(found, allow_nan=False)


def test_nothing_to_score_is_an_error() -> None:
    for rows in ([], [row(0, 0.0, 0)]):
        with pytest.raises(ValueError, match="no tokens"):
            values(rows)


def test_the_scorers_of_rows_give_the_recorded_values() -> None:
    rows = [row(0, 7.0, 4, at8=[2.0, 3], at16=[1.0, 3]), row(1, 9.0, 5)]
    for name, score in perplexity_metrics(rows, **HOW).items():
        if name.startswith("perplexity"):
            scorer = registry.get(name).row_scorer()
            assert scorer is PERPLEXITY
            assert scorer.value(scorer.score(rows, score["signature"])) == pytest.approx(score["value"])
    masked = masked_metrics(rows, tokenizer="t", length=8, masked_share=0.2)["masked_loss"]
    scores = MASKED_LOSS.score(rows, masked["signature"])
    assert MASKED_LOSS.value(scores) == pytest.approx(masked["value"])


def test_runs_on_other_tokens_are_not_compared() -> None:
    one, two = (PERPLEXITY.score([row(0, 7.0, n), row(1, 9.0, 5)], "perplexity|") for n in (4, 3))
    with pytest.raises(ValueError, match="same tokens"):
        PERPLEXITY.compare([one], [two])
    assert PERPLEXITY.compare([one], [one]).difference == 0


def test_documents_without_a_token_at_a_length_do_not_count_there() -> None:
    rows = [row(0, 7.0, 4, at8=[2.0, 3]), row(1, 9.0, 5), row(2, 9.0, 5, at8=[3.0, 3])]
    scores = PERPLEXITY.score(rows, "perplexity@8|")
    assert np.array_equal(scores, [[2, 3], [0, 0], [3, 3]])
    assert PERPLEXITY.compare([scores], [scores]).rows == 2


@pytest.mark.filterwarnings("ignore")
def test_definitions_are_those_of_lm_evaluation_harness() -> None:
    """Its own aggregations on its own likelihoods of a small random model, in windows of 16 tokens."""
    reason = "lm-evaluation-harness is not installed: pip install lm_eval"
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason=reason)
    metrics = pytest.importorskip("lm_eval.api.metrics", reason=reason)
    task = pytest.importorskip("lm_eval.api.task", reason=reason).PerplexityTask
    instance = pytest.importorskip("lm_eval.api.instance", reason=reason).Instance
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    texts = [text * 9 for text in TEXTS]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_bytes(), eos_token="<eos>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    config = GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=16, eos_token_id=0, **sizes)
    model = GPTNeoXForCausalLM(config).eval()
    harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, max_length=16, batch_size=1)
    requests = [instance("loglikelihood_rolling", {}, (text,), n) for n, text in enumerate(texts)]
    likelihoods = harness.loglikelihood_rolling(requests, disable_tqdm=True)

    rows = [row(n, *_scored(model, tokenizer(text)["input_ids"], 16), text) for n, text in enumerate(texts)]
    assert [-each["nats"] for each in rows] == pytest.approx(likelihoods, rel=1e-4)
    found = values(rows)
    by_word = list(zip(likelihoods, map(task.count_words, texts), strict=True))
    by_byte = list(zip(likelihoods, map(task.count_bytes, texts), strict=True))
    assert found["word_perplexity"] == pytest.approx(metrics.weighted_perplexity(by_word), rel=1e-3)
    assert found["bits_per_byte"] == pytest.approx(metrics.bits_per_byte(by_byte), rel=1e-4)
    by_token = list(zip(likelihoods, (each["tokens"] for each in rows), strict=True))
    assert found["perplexity"] == pytest.approx(metrics.weighted_perplexity(by_token), rel=1e-4)


def test_words_and_bytes_are_counted_on_the_text_as_it_was() -> None:
    assert [count_bytes(text) for text in TEXTS] == [22, 16, 25, 1]
    assert [count_words(text) for text in TEXTS] == [6, 6, 5, 1]


def _bytes() -> Any:
    """A tokenizer with a token for each byte, and one for the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {"<eos>": 0} | {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _scored(model: Any, tokens: list[int], length: int) -> tuple[float, int]:
    """Nats of a document in windows of ``length``: every token once, the last window reaching back."""
    import torch

    nats, ids = 0.0, [0, *tokens]  # the end of the text before
    for start in range(0, len(tokens), length):
        end = min(start + length, len(tokens))
        first = max(0, end - length)
        with torch.no_grad():
            chances = model(torch.tensor([ids[first:end]])).logits[0].log_softmax(-1)
        kept = range(start - first, end - first)
        nats -= sum(float(chances[place, ids[first + place + 1]]) for place in kept)
    return nats, len(tokens)
