"""Half precision in the native kernel: what is read and written is rounded, what is computed is not."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from finetune.attention import VARIANTS
from finetune.attention.kernels import dispatch
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import build, native_attention

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

HALVES = (torch.bfloat16, torch.float16)
every_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
every_form = pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "sa-softmax-raw"])


def make(
    dtype: torch.dtype, width: int = 24, mask: str = "padded", key_heads: int = 2, dropout: float = 0.0
) -> Inputs:
    """Rows of 45 keys and, but for causal ones, 37 queries; heads side by side in memory."""
    queries = 45 if mask == "causal" else 37
    query, key, value = (
        torch.randn(3, length, heads, width).to(dtype).transpose(1, 2).requires_grad_()
        for length, heads in ((queries, 4), (45, key_heads), (45, key_heads))
    )
    allowed = {
        "padded": torch.arange(45) < torch.tensor([[45], [30], [1]])[:, None, None],
        "arbitrary": torch.rand(3, 1, queries, 45) < torch.rand(3, 1, queries, 1),
    }.get(mask)
    return Inputs(query, key, value, allowed, None, mask == "causal", width**-0.5, dropout)


def results(inputs: Inputs, variant: str, arriving: Tensor) -> list[Tensor]:
    """Output and gradients of the native kernel, its dropout drawn from one seed."""
    torch.manual_seed(7)
    output = native_attention.attend(inputs, BoundVariant.of(VARIANTS[variant]))
    leaves = [inputs.query, inputs.key, inputs.value]
    if inputs.by_distance is not None:
        leaves.append(inputs.by_distance)
    return [output.detach(), *torch.autograd.grad(output, leaves, arriving.to(output.dtype))]


def widened(inputs: Inputs) -> Inputs:
    """The same numbers in float32."""
    cast = {name: getattr(inputs, name).detach().float() for name in ("query", "key", "value")}
    return replace(inputs, **{name: tensor.requires_grad_() for name, tensor in cast.items()})


@every_half
@every_form
@pytest.mark.parametrize("mask", ["none", "padded", "causal", "arbitrary"])
@pytest.mark.parametrize("width", [1, 7, 33, 64])
def test_only_what_is_read_and_written_is_rounded(
    variant: str, mask: str, width: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(width)
    for key_heads, dropout in itertools.product((4, 1), (0.0, 0.3)):
        inputs = make(dtype, width, mask, key_heads, dropout)
        arriving = torch.randn(inputs.query.transpose(1, 2).shape).to(dtype)
        wide = results(widened(inputs), variant, arriving)
        for found, exact in zip(results(inputs, variant, arriving), wide, strict=True):
            assert found.dtype == dtype and torch.equal(found, exact.to(dtype))


@every_half
def test_every_number_is_read_and_written_as_it_is(dtype: torch.dtype) -> None:
    """A query with one key passes its value on. Infinite values and NaN come through as well."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    value = numbers.view(1, 256, 1, 256)
    other = torch.zeros(1, 256, 1, 256, dtype=dtype)
    inputs = Inputs(other, other, value, None, None, False, 1.0, 0.0)
    output = native_attention.attend(inputs, BoundVariant.of(VARIANTS["softmax"]))
    assert torch.equal(output.isnan(), value.transpose(1, 2).isnan())
    assert torch.equal(output.nan_to_num(nan=0.0), value.transpose(1, 2).nan_to_num(nan=0.0))


@every_half
def test_what_is_written_is_rounded_to_the_nearest(dtype: torch.dtype) -> None:
    """The gradient of one value that two queries read is the sum of two: of any size, down to subnormal."""
    sizes = torch.exp2(torch.randint(-30, 16, (1, 2, 64, 256)).float())
    sizes[..., :32] *= 2.0 ** (-100 if dtype == torch.bfloat16 else 0)
    arriving = (sizes * torch.randn(sizes.shape)).to(dtype)  # (batch, query, heads, width)
    other = torch.zeros(1, 64, 2, 256, dtype=dtype)
    value = torch.zeros(1, 64, 1, 256, dtype=dtype, requires_grad=True)
    inputs = Inputs(other, other[:, :, :1], value, None, None, False, 1.0, 0.0)
    output = native_attention.attend(inputs, BoundVariant.of(VARIANTS["softmax"]))
    (found,) = torch.autograd.grad(output, value, arriving)
    assert torch.equal(found[:, :, 0], arriving.float().sum(1).to(dtype))


@every_half
@every_form
def test_layout_in_memory_changes_nothing(variant: str, dtype: torch.dtype) -> None:
    """Rows with gaps, heads side by side or apart, columns that are no neighbors."""
    inputs = make(dtype)
    arriving = torch.randn(3, 37, 4, 24).to(dtype)
    expected = results(inputs, variant, arriving)
    for spread in (
        lambda tensor: tensor.repeat_interleave(2, -1)[..., ::2],
        lambda tensor: torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]],
        lambda tensor: tensor.mT.contiguous().mT,
    ):
        cast = {name: spread(getattr(inputs, name).detach()) for name in ("query", "key", "value")}
        apart = replace(inputs, **{name: tensor.requires_grad_() for name, tensor in cast.items()})
        pairs = zip(results(apart, variant, spread(arriving)), expected, strict=True)
        assert all(torch.equal(found, known) for found, known in pairs)


@every_half
@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_bias_may_be_of_another_type(dtype: torch.dtype, bias_dtype: torch.dtype) -> None:
    """Under autocast it often is. Its columns may be strided, and one row may stand for all."""
    inputs = make(dtype)
    arriving = torch.randn(3, 37, 4, 24).to(dtype)
    for bias in (torch.randn(1, 4, 37, 45), torch.randn(3, 1, 1, 45), torch.randn(1, 4, 45, 37).mT):
        mixed = replace(inputs, bias=bias.to(bias_dtype))
        plain = replace(inputs, bias=bias.to(bias_dtype).float())
        pairs = zip(
            results(mixed, "sa-softmax", arriving), results(plain, "sa-softmax", arriving), strict=True
        )
        assert all(torch.equal(found, known) for found, known in pairs)


@every_half
@every_form
def test_bias_by_distance_stays_float32(variant: str, dtype: torch.dtype) -> None:
    by_distance = torch.randn(4, 45, requires_grad=True)
    inputs = replace(make(dtype, mask="causal"), by_distance=by_distance)
    arriving = torch.randn(3, 45, 4, 24).to(dtype)
    *found, grad = results(inputs, variant, arriving)
    *wide, wide_grad = results(widened(inputs), variant, arriving)
    assert grad.dtype == torch.float32 and torch.equal(grad, wide_grad)
    assert all(torch.equal(one, other.to(dtype)) for one, other in zip(found, wide, strict=True))


@pytest.mark.parametrize("types", list(itertools.product((torch.float32, *HALVES), repeat=3)), ids=str)
def test_query_key_and_value_may_differ_in_type(types: tuple[torch.dtype, ...]) -> None:
    """The output has the value's, each gradient its tensor's."""
    inputs = make(torch.float32)
    names = ("query", "key", "value")
    cast = {name: getattr(inputs, name).detach().to(each) for name, each in zip(names, types, strict=True)}
    inputs = replace(inputs, **{name: tensor.requires_grad_() for name, tensor in cast.items()})
    arriving = torch.randn(3, 37, 4, 24).to(types[2])
    found, wide = results(inputs, "sa-softmax", arriving), results(widened(inputs), "sa-softmax", arriving)
    for one, other, each in zip(found, wide, (types[2], *types), strict=True):
        assert one.dtype == each and torch.equal(one, other.to(each))


def test_float64_in_any_place_is_refused() -> None:
    inputs = make(torch.float32)
    for name in ("query", "key", "value"):
        one = replace(inputs, **{name: getattr(inputs, name).double()})
        reason = native_attention.why_not(one, BoundVariant.of(VARIANTS["sa-softmax"]))
        assert reason == "it computes in float32, and these inputs are float64"


@every_half
def test_nothing_is_copied_into_float32(dtype: torch.dtype) -> None:
    """What is kept for the backward pass is the inputs themselves and a number a row."""
    inputs = make(dtype)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        native_attention.attend(inputs, BoundVariant.of(VARIANTS["sa-softmax"]))
    same = {inputs.query.data_ptr(), inputs.key.data_ptr(), inputs.value.data_ptr()}
    assert {tensor.data_ptr() for tensor in kept} >= same
    assert sum(tensor.numel() for tensor in kept if tensor.dtype == torch.float32) == 3 * 4 * 37


@every_half
@every_form
def test_one_query_as_in_generation(variant: str, dtype: torch.dtype) -> None:
    inputs = make(dtype)
    one = replace(inputs, query=inputs.query.detach()[:, :, -1:])
    with torch.no_grad():
        found = native_attention.attend(one, BoundVariant.of(VARIANTS[variant]))
        wide = native_attention.attend(widened(one), BoundVariant.of(VARIANTS[variant]))
    assert torch.equal(found, wide.to(dtype))


@every_half
def test_auto_takes_the_native_kernel_under_autocast(dtype: torch.dtype) -> None:
    """Queries arrive in half precision, the mask is bool, a bias float32."""
    inputs = replace(make(dtype), bias=torch.randn(1, 4, 37, 45))
    with torch.autocast("cpu", dtype):
        output, _, ran = dispatch.attend(inputs, BoundVariant.of(VARIANTS["sa-softmax"]), "auto")
        output.sum().backward()
    assert ran == "native" and output.dtype == dtype and inputs.query.grad is not None
    assert inputs.query.grad.dtype == dtype
