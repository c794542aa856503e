"""A bias by distance: written out for the kernels that need it so, as it is in the native one."""

from dataclasses import replace

import pytest
import torch

from finetune.attention import VARIANTS
from finetune.attention.kernels import dispatch
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import build

needs_compiler = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


def call(length=37, dtype=torch.float32, padded=False, key_heads=2):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, length, 8, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for heads in (4, key_heads, key_heads)
    )
    by_distance = (-3 * torch.rand(4, length, generator=generator, dtype=torch.float64)).to(dtype)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = None
    if padded:  # the first row on the left, the second on the right
        keys = torch.arange(length)
        real = torch.stack([keys >= 5, keys < length - 6])
        allowed = seen & real[:, None, None]
    return Inputs(query, key, value, allowed, None, not padded, 0.35, 0.0, by_distance.requires_grad_())


def results(inputs, variant, choice):
    output, _, ran = dispatch.attend(inputs, BoundVariant.of(VARIANTS[variant]), choice)
    arriving = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    leaves = (inputs.query, inputs.key, inputs.value, inputs.by_distance)
    return (output.detach(), *torch.autograd.grad(output, leaves, arriving)), ran


def test_written_out_it_is_the_value_of_each_distance():
    inputs = call(length=5)
    bias = inputs.with_whole_bias().bias
    assert bias.shape == (1, 4, 5, 5)
    for i in range(5):
        for j in range(5):
            assert torch.equal(bias[0, :, i, j], inputs.by_distance[:, max(i - j, 0)])


def test_gradient_of_what_is_written_out_is_the_sum_by_distance():
    line = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)

    def written_out(by_distance):
        return replace(call(length=7), by_distance=by_distance).with_whole_bias().bias

    assert torch.autograd.gradcheck(written_out, line)


@needs_compiler
@pytest.mark.parametrize("length", [20, 37, 150, 300])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "sa-softmax-raw"])
def test_native_kernel_equals_the_float64_reference(variant, padded, length):
    got, ran = results(call(length, padded=padded), variant, "auto")
    exact, _ = results(call(length, torch.float64, padded), variant, "reference")
    assert ran == "native"
    for name, one, other in zip(("output", "query", "key", "value", "bias"), got, exact, strict=True):
        error = (one.double() - other).norm() / other.norm()
        assert error < 2e-5, f"{name}: {error:.1e}"  # sa-softmax cancels in a row of one key


@needs_compiler
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_native_kernel_never_writes_it_out(variant, monkeypatch):
    results(call(), variant, "auto")  # with the proof, which holds it against one written out
    inputs = call()

    def written_out(_):
        raise AssertionError("written out")

    monkeypatch.setattr(Inputs, "with_whole_bias", written_out)
    assert results(inputs, variant, "auto")[1] == "native"


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "entmax15"])
def test_beside_another_bias_both_are_added(variant):
    inputs = replace(call(), bias=torch.randn(1, 1, 37, 37))
    got, _ = results(inputs, variant, "auto")
    expected, _ = results(inputs, variant, "reference")
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_dropout_is_the_same_in_the_gradient():
    inputs = replace(call(), dropout=0.4)
    variant = BoundVariant.of(VARIANTS["sa-softmax"])

    def loss(by_distance):
        torch.manual_seed(3)
        output, _, ran = dispatch.attend(replace(inputs, by_distance=by_distance), variant, "auto")
        assert ran == "native"
        return output.double().sin().sum()

    line = inputs.by_distance
    (gradient,) = torch.autograd.grad(loss(line), line)
    direction = torch.randn(line.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-2
    with torch.no_grad():
        slope = (loss(line + step * direction) - loss(line - step * direction)) / (2 * step)
    assert abs(slope - (gradient * direction).sum()) < 2e-3 * gradient.norm() * direction.norm()
