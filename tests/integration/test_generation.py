"""Greedy and beam search equal the library's, with their caches; a cache changes nothing for a variant."""

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.attention.swap import swap
from tests.support.tiny_models import EOS, FAMILIES, PAD, START, batch, names

every_generator = pytest.mark.parametrize("family", names("decoder", "seq2seq"))
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "beam": {"num_beams": 3, "length_penalty": 0.8},
}


def generate(model: Any, kind: str, padded: bool, **settings: Any) -> tuple[Tensor, Tensor]:
    """Generated token ids (rows, tokens) and the scores of each step (rows or beams, steps, vocabulary)."""
    inputs = {k: v for k, v in batch(kind, padded).items() if k != "decoder_input_ids"}
    output = model.generate(
        **inputs,
        max_new_tokens=7,
        do_sample=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        suppress_tokens=[PAD, START],  # M2M100 takes a token's position from whether it is padding
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    return output.sequences, torch.stack(output.scores, dim=1)


@every_generator
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("padded", [False, True])
def test_our_softmax_generates_what_eager_does(family: str, search: str, padded: bool) -> None:
    kind = FAMILIES[family].kind
    model = FAMILIES[family].build()
    expected, expected_scores = generate(model, kind, padded, **SEARCHES[search])
    assert len({tuple(row.tolist()) for row in expected}) > 1
    for kernel in ("auto", "reference"):
        swap(model, "softmax", kernel=kernel)
        sequences, scores = generate(model, kind, padded, use_cache=True, **SEARCHES[search])
        assert torch.equal(sequences, expected)
        torch.testing.assert_close(scores, expected_scores, rtol=1e-3, atol=1e-3)


@every_generator
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("variant", ["sa-softmax", "sa-softmax-raw"])
def test_a_cache_changes_nothing(family: str, search: str, variant: str) -> None:
    kind = FAMILIES[family].kind
    model = FAMILIES[family].build()
    swap(model, variant)
    cached, cached_scores = generate(model, kind, True, use_cache=True, **SEARCHES[search])
    plain, plain_scores = generate(model, kind, True, use_cache=False, **SEARCHES[search])
    assert torch.equal(cached, plain)
    torch.testing.assert_close(cached_scores, plain_scores, rtol=1e-3, atol=1e-3)


@every_generator
def test_a_variant_generates_something_else(family: str) -> None:
    kind = FAMILIES[family].kind
    model = FAMILIES[family].build()
    softmax_scores = generate(model, kind, True)[1][:, 0, START + 1 :]
    swap(model, "sa-softmax")
    scores = generate(model, kind, True)[1][:, 0, START + 1 :]
    assert (scores - softmax_scores).abs().max() > 0.05


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_static_cache_changes_nothing(family: str) -> None:
    """A cache of fixed size holds keys that are not written yet: the mask must hide them."""
    kind = FAMILIES[family].kind
    model = FAMILIES[family].build()
    swap(model, "sa-softmax")
    expected = generate(model, kind, True)[0]
    static = generate(model, kind, True, cache_implementation="static", disable_compile=True)[0]
    assert torch.equal(static, expected)


@pytest.mark.parametrize("family", names("seq2seq"))
def test_labels_may_come_along(family: str) -> None:
    """Seq2SeqTrainer hands the whole batch to generate, and the encoder's attention receives the labels."""
    model = FAMILIES[family].build()
    swap(model, "sa-softmax")
    labels = batch("seq2seq")["decoder_input_ids"]
    with_labels = generate(model, "seq2seq", True, labels=labels)[0]
    assert torch.equal(with_labels, generate(model, "seq2seq", True)[0])
