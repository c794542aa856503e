"""Stock models whose position bias is a function of distance: read back as a line, and nothing else is."""

from importlib import import_module

import pytest
import torch
import transformers as hf

from finetune.attention import call, interface, relative_bias
from finetune.attention.kernels.native import build
from finetune.attention.relative_bias import decided_by_distance, line_of
from finetune.attention.swap import attention_layers, swap
from tests.support import tiny_models
from tests.support.tiny_models import FAMILIES, Family, batch

needs_compiler = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
_SIZES = FAMILIES["t5"].sizes
MODELS = {
    "t5": FAMILIES["t5"],
    "mt5": Family("seq2seq", hf.MT5Config, hf.MT5ForConditionalGeneration, _SIZES),
    "umt5": Family("seq2seq", hf.UMT5Config, hf.UMT5ForConditionalGeneration, _SIZES),
}
every_model = pytest.mark.parametrize("family", MODELS)


@pytest.mark.parametrize(("query_len", "key_len"), [(5, 5), (3, 7), (7, 3), (1, 4), (4, 1)])
def test_a_line_is_what_the_bias_was_made_of_and_so_is_its_gradient(query_len, key_len):
    table = torch.randn(2, query_len + key_len - 1, dtype=torch.float64, requires_grad=True)
    places = query_len - 1 - torch.arange(query_len)[:, None] + torch.arange(key_len)
    line = line_of(table[:, places][None])
    assert torch.equal(line, table)
    arriving = torch.randn(line.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(line, table, arriving)
    torch.testing.assert_close(gradient, arriving)


def test_what_is_declared_exists_and_has_its_bias_from_a_table_by_distance():
    for name in relative_bias._DECLARED:
        module, _, kind = name.rpartition(".")
        assert hasattr(getattr(import_module(module), kind), "compute_bias")


def test_a_subclass_and_any_other_module_are_not_taken_for_one_of_them():
    kind = hf.models.t5.modeling_t5.T5Attention
    config = hf.T5Config(**_SIZES)
    assert decided_by_distance(kind(config, layer_idx=0))
    assert not decided_by_distance(type("T5Attention", (kind,), {})(config, layer_idx=0))
    assert not decided_by_distance(torch.nn.Linear(1, 1))


def test_a_trained_bias_is_left_as_it_is_where_nothing_is_declared():
    """It is a function of distance at first, and its gradient is one number a score."""
    layer = interface.LayerAttention(interface.SOFTMAX, "encoder", "auto")
    query = torch.randn(1, 2, 5, 4)
    bias = torch.zeros(1, 2, 5, 5, requires_grad=True)
    output, _ = interface.attention(
        torch.nn.Identity(), query, query, query, None, is_causal=False, position_bias=bias, layer=layer
    )
    output.sin().sum().backward()
    assert len(bias.grad.flatten().unique()) > 2 * 9


def layers_of(model):
    return [getattr(model.get_submodule(name), interface.LAYER) for name in attention_layers(model)]


def watched(model):
    """Every call that the layers of ``model`` are given from now on."""
    calls = []
    for layer in layers_of(model):
        layer.watchers.append(lambda inputs, _: calls.append(inputs))
    return calls


def passed(model, inputs):
    """Logits and the gradient of every weight."""
    model.zero_grad()
    logits = model(**inputs).logits
    logits.double().sin().sum().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters()}


@needs_compiler
@every_model
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_values_and_gradients_are_those_of_the_bias_written_out(family, variant, monkeypatch):
    """Encoder, decoder and cross-attention with padding, the table of buckets among the weights."""
    inputs = batch("seq2seq")
    model, exact = (MODELS[family].build().to(dtype) for dtype in (torch.float32, torch.float64))
    swap(model, variant)
    calls = watched(model)
    logits, gradients = passed(model, inputs)
    assert all(set(layer.ran) == {"native"} for layer in layers_of(model))
    assert calls and all(each.by_distance is not None and each.bias is None for each in calls)
    monkeypatch.setattr(call, "decided_by_distance", lambda _: False)
    swap(exact, variant, kernel="reference")
    written_out = watched(exact)
    expected, expected_gradients = passed(exact, inputs)
    assert all(each.by_distance is None and each.bias is not None for each in written_out)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    table = next(name for name in gradients if name.endswith("relative_attention_bias.weight"))
    assert gradients[table].abs().sum() > 0
    for name, gradient in gradients.items():
        truth = expected_gradients[name]
        assert (gradient.double() - truth).norm() <= 1e-4 * truth.norm() + 1e-5, name


@needs_compiler
@every_model
def test_generation_with_any_cache_is_that_of_the_bias_written_out(family, monkeypatch):
    inputs = {name: each for name, each in batch("seq2seq").items() if "decoder" not in name}
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": tiny_models.PAD}
    model = MODELS[family].build()
    swap(model, "sa-softmax")
    calls = watched(model)
    caches = ({"use_cache": False}, {}, {"cache_implementation": "static", "disable_compile": True})
    found = [model.generate(**inputs, **options, **cache) for cache in caches]
    steps = [each for each in calls if each.query.shape[2] == 1 < each.key.shape[2]]
    assert steps and all(each.by_distance.shape[1] == each.key.shape[2] for each in steps)
    monkeypatch.setattr(call, "decided_by_distance", lambda _: False)
    swap(model, "sa-softmax", kernel="reference")
    expected = model.generate(**inputs, **options)
    for one in found:
        assert torch.equal(one, expected)


@needs_compiler
@every_model
@pytest.mark.parametrize("reentrant", [False, True])
def test_training_with_dropout_and_with_checkpointing_stays_on_the_native_kernel(family, reentrant):
    """A checkpointed layer gets the bias without a gradient at first: the kernel, and so the weights that are
    dropped, must be the same when it is computed again."""
    inputs = batch("seq2seq")
    gradients = []
    for checkpointed in (False, True):
        model = MODELS[family].build(dropout_rate=0.3).train()
        swap(model, "sa-softmax")
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(0)
        gradients.append(passed(model, inputs)[1])
        assert all(set(layer.ran) == {"native"} for layer in layers_of(model))
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() <= 1e-4 * gradient.norm(), name
