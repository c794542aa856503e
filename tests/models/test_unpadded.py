"""A model whose layers skip padding answers, and learns, as one that computes it."""

from typing import Any

import pytest
import torch

from finetune.attention.swap import attention_layers, swap
from finetune.errors import UserError
from finetune.models.unpadded import skip_padding
from tests.support.tiny_models import FAMILIES, batch, kept_logits, names

SINGLE = names("encoder", "decoder")


def swapped(family: str, variant: str = "sa-softmax", kernel: str = "auto", **overrides: Any) -> Any:
    model = FAMILIES[family].build(**overrides)
    swap(model, variant, kernel=kernel)
    return model


def answers(model: Any, inputs: dict[str, Any], kind: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits of all tokens, and the gradients of the weights."""
    model.zero_grad()
    logits = kept_logits(model, inputs, kind)
    (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum().backward()
    return logits.detach(), [w.grad for w in model.parameters() if w.grad is not None]


def assert_alike(one: Any, two: Any) -> None:
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-5 * float(two[0].abs().max()))
    largest = max(float(grad.abs().max()) for grad in two[1])
    for mine, theirs in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
@pytest.mark.parametrize("family", SINGLE)
def test_every_family_of_one_part_answers_and_learns_as_with_padding(family: str, variant: str) -> None:
    kind = FAMILIES[family].kind
    inputs, whole = batch(kind), batch(kind, padded=False)
    plain, skipping = swapped(family, variant), swapped(family, variant)
    skip_padding(skipping)
    skip_padding(skipping)  # once is enough
    for given in (inputs, whole, inputs):  # without padding in between there is nothing to skip
        assert_alike(answers(skipping, given, kind), answers(plain, given, kind))


@pytest.mark.parametrize("kernel", ["reference", "blocked"])
def test_every_kernel_is_given_padded_rows(kernel: str) -> None:
    plain, skipping = swapped("bert", kernel=kernel), swapped("bert", kernel=kernel)
    skip_padding(skipping)
    inputs = batch("encoder")
    shapes = []
    for layer in attention_layers(skipping).values():
        layer.watchers.append(lambda given, output: shapes.append(given.query.shape))
    assert_alike(answers(skipping, inputs, "encoder"), answers(plain, inputs, "encoder"))
    assert {(shape[0], shape[2]) for shape in shapes} == {tuple(inputs["input_ids"].shape)}


def test_layers_compute_no_padding() -> None:
    model, seen = swapped("bert"), []
    skip_padding(model)
    for layer in model.bert.encoder.layer:
        layer.output.dense.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    inputs = batch("encoder")
    model(**inputs)
    assert seen == [(1, int(inputs["attention_mask"].sum()), 18)] * 3


def test_hidden_states_and_attentions_that_are_asked_for_are_those_of_whole_rows() -> None:
    plain, skipping = swapped("bert", kernel="reference"), swapped("bert", kernel="reference")
    skip_padding(skipping)
    inputs = batch("encoder")
    for asked in ("output_hidden_states", "output_attentions"):
        ours, theirs = (model(**inputs, **{asked: True}) for model in (skipping, plain))
        name = asked.removeprefix("output_")
        for one, two in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_runs_the_same_layers_again(reentrant: bool) -> None:
    found = []
    for checkpointed in (False, True):
        model = swapped("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
        skip_padding(model)
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(4)
        found.append(answers(model, batch("encoder"), "encoder"))
    assert_alike(*found)


def test_variants_see_the_same_dropout_outside_attention() -> None:
    """Of two variants, since each layer draws for as many numbers, in the same order."""
    masks = []
    for variant in ("sa-softmax", "sa-softmax-raw"):
        model = swapped("bert", variant, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.3).train()
        skip_padding(model)
        dropped: list[torch.Tensor] = []
        for layer in model.bert.encoder.layer:
            layer.output.dropout.register_forward_hook(lambda m, args, out, d=dropped: d.append(out == 0))
        torch.manual_seed(4)
        model(**batch("encoder"))
        masks.append(dropped)
    assert len(masks[0]) == 3 and all(torch.equal(one, two) for one, two in zip(*masks, strict=True))


@pytest.mark.parametrize("family", names("seq2seq"))
def test_a_model_of_two_parts_is_refused_and_left_as_it_was(family: str) -> None:
    model = swapped(family)
    inputs = batch("seq2seq")
    before = model(**inputs).logits
    with pytest.raises(UserError, match=r"cannot skip padding.*--batches\.padding longest"):
        skip_padding(model)
    assert torch.equal(model(**inputs).logits, before)


def test_a_layer_that_answers_otherwise_without_padding_is_found() -> None:
    model = swapped("bert")
    layer = model.bert.encoder.layer[1].output
    layer.register_forward_hook(lambda module, args, output: output + 0.01 * output.shape[1])
    with pytest.raises(UserError, match="answers otherwise"):
        skip_padding(model)
