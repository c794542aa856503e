"""A bias by distance: written out for the kernels that need it so, as it is in native and in Triton's."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.attention import VARIANTS
from finetune.attention.kernels import dispatch, reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs, sum_by_distance
from finetune.attention.kernels.native import build, native_attention
from finetune.attention.kernels.triton import triton_attention

needs_triton = pytest.mark.skipif(not triton_attention._INSTALLED, reason="Triton is not installed")
needs_compiler = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
every_variant = pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "sa-softmax-raw"])
HEADS = 4
DIRECTIONS = ("both", "past", "padded on the left", "padded on the right", "past and padded")
LENGTHS = ((37, 37), (20, 45), (45, 20), (1, 30), (30, 2), (150, 300), (300, 300))


def call(query_len=37, key_len=37, direction="past", *, key_heads=2, dtype=torch.float32, width=8):
    """One call and, where it pads, two batch rows of different lengths."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, length, width, dtype=torch.float64, generator=generator)
        .to(dtype)
        .requires_grad_()
        for heads, length in ((HEADS, query_len), (key_heads, key_len), (key_heads, key_len))
    )
    line = -3 * torch.rand(HEADS, query_len + key_len - 1, generator=generator, dtype=torch.float64)
    line = line.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    keys, allowed = torch.arange(key_len), None
    if "padded" in direction:
        shut = torch.tensor([[0], [min(5, key_len - 1)]])
        allowed = (keys >= shut if "left" in direction else keys < key_len - shut)[:, None, None]
    if direction == "past and padded":
        allowed = allowed & torch.ones(query_len, key_len, dtype=torch.bool).tril(max(key_len - query_len, 0))
    return Inputs(query, key, value, allowed, None, direction == "past", 0.35, 0.0, line)


def results(inputs, attend, variant):
    output = attend(inputs, BoundVariant.of(VARIANTS[variant]))
    arriving = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    leaves = (inputs.query, inputs.key, inputs.value, inputs.by_distance)
    return (output.detach(), *torch.autograd.grad(output, leaves, arriving))


def exactly(inputs, bound):
    """The definition, with a bias that is looked up, one number at a time."""
    query_len, key_len = inputs.query.shape[-2], inputs.key.shape[-2]
    places = query_len - 1 - torch.arange(query_len)[:, None] + torch.arange(key_len)
    written_out = replace(inputs, bias=inputs.by_distance[:, places][None], by_distance=None)
    return reference.reference(written_out, bound)[0]


def check(attend, variant, tolerance=2e-5, **options):
    """Against float64 on inputs that are rounded alike. Where two scores are extremes of a row but for their
    last digits, the definition in float32 errs as much."""
    inputs = call(**options)
    wide = replace(inputs, **{
        name: getattr(inputs, name).detach().double().requires_grad_()
        for name in ("query", "key", "value", "by_distance")
    })  # fmt: skip
    got, rough, exact = (
        results(*each, variant) for each in ((inputs, attend), (inputs, exactly), (wide, exactly))
    )
    names = ("output", "query", "key", "value", "bias")
    for name, one, rounded, truth in zip(names, got, rough, exact, strict=True):
        assert one.shape == truth.shape and one.isfinite().all()
        error, rounding = ((each.double() - truth).norm() for each in (one, rounded))
        assert error <= max(tolerance * truth.norm(), 4 * rounding, 1e-6), f"{name}: {error:.1e}"


def automatically(kernel):
    def attend(inputs, bound):
        output, _, ran = dispatch.attend(inputs, bound, "auto")
        assert ran == kernel
        return output

    return attend


@pytest.mark.parametrize(("query_len", "key_len"), [(5, 5), (3, 7), (7, 3), (1, 4), (4, 1)])
def test_written_out_it_is_the_value_of_each_distance(query_len, key_len):
    inputs = call(query_len, key_len)
    bias = inputs.with_whole_bias().bias
    assert bias.shape == (1, HEADS, query_len, key_len)
    for i, j in product(range(query_len), range(key_len)):
        assert torch.equal(bias[0, :, i, j], inputs.by_distance[:, query_len - 1 - i + j])


@pytest.mark.parametrize(("query_len", "key_len"), [(7, 7), (3, 7), (7, 3), (1, 4), (4, 1)])
def test_gradient_of_what_is_written_out_is_the_sum_by_distance(query_len, key_len):
    line = torch.randn(HEADS, query_len + key_len - 1, dtype=torch.float64, requires_grad=True)

    def written_out(by_distance):
        return replace(call(query_len, key_len), by_distance=by_distance).with_whole_bias().bias

    assert torch.autograd.gradcheck(written_out, line)
    scores = torch.randn(2, query_len, key_len)
    expected = torch.zeros(2, query_len + key_len - 1)
    for i, j in product(range(query_len), range(key_len)):
        expected[:, query_len - 1 - i + j] += scores[:, i, j]
    torch.testing.assert_close(sum_by_distance(scores), expected)


@needs_compiler
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
@every_variant
def test_native_kernel_equals_the_float64_reference(variant, direction, lengths):
    for key_heads in (1, 2, 4):
        check(
            automatically("native"), variant, query_len=lengths[0], key_len=lengths[1],
            direction=direction, key_heads=key_heads,
        )  # fmt: skip


def in_triton(inputs, bound):
    assert triton_attention.why_not(inputs, bound) is None
    return triton_attention.attend(inputs, bound)


@needs_triton
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize(("variant", "direction", "lengths", "key_heads"), [
    ("sa-softmax", "both", (37, 45), 2),
    ("sa-softmax", "past", (37, 37), 1),
    ("softmax", "padded on the right", (45, 20), 4),
    ("sa-softmax-raw", "padded on the left", (20, 37), 2),
    ("sa-softmax", "both", (1, 30), 2),
    ("sa-softmax", "both", (30, 2), 4),
    *(
        pytest.param(*each, marks=pytest.mark.slow)
        for each in product(
            ("softmax", "sa-softmax", "sa-softmax-raw"), DIRECTIONS, ((37, 45), (45, 37), (70, 70)), (1, 4)
        )
    ),
])  # fmt: skip
def test_tritons_kernels_equal_the_float64_reference(variant, direction, lengths, key_heads):
    check(
        in_triton, variant, query_len=lengths[0], key_len=lengths[1], direction=direction, key_heads=key_heads
    )


@needs_triton
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_tritons_gradient_by_distance_has_the_same_bits_however_the_batch_is_cut(dropout, monkeypatch):
    """But for the order of a sum; and the same weights are dropped as in the pass forward."""
    inputs = replace(call(20, 25, "padded on the right"), dropout=dropout)
    found = []
    for programs in (1, 1, 10_000):
        monkeypatch.setattr(triton_attention, "_PROGRAMS", programs)
        torch.manual_seed(3)
        found.append(results(inputs, in_triton, "sa-softmax")[-1])
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    torch.manual_seed(3)
    by_score = results(inputs, lambda given, bound: in_triton(given.with_whole_bias(), bound), "sa-softmax")[
        -1
    ]
    torch.testing.assert_close(found[0], by_score, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("direction", ["both", "past"])
def test_half_precision_has_the_bias_in_float32(direction, dtype):
    tolerance = 2e-2 if dtype == torch.bfloat16 else 3e-3
    check(automatically("native"), "sa-softmax", tolerance, direction=direction, dtype=dtype)


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor had."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.count = max(self.count, each.untyped_storage().nbytes() // each.element_size())
        return result


@needs_compiler
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_nothing_of_length_times_length_is_made(variant):
    inputs = call(1500, 1500, "both")
    attend = automatically("native")
    results(call(), attend, variant)  # with the proof, which holds it against one written out
    with Largest() as largest:
        results(inputs, attend, variant)
    assert largest.count < 1500**2 / 8


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "entmax15"])
@pytest.mark.parametrize("lengths", [(37, 37), (20, 45)], ids=str)
def test_beside_another_bias_both_are_added(lengths, variant):
    inputs = replace(call(*lengths, "both"), bias=torch.randn(1, 1, *lengths))

    def by(choice):
        return lambda inputs, bound: dispatch.attend(inputs, bound, choice)[0]

    for one, other in zip(
        *(results(inputs, by(each), variant) for each in ("auto", "reference")), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@needs_compiler
@every_variant
@pytest.mark.parametrize("direction", ["past", "both", "padded on the right"])
def test_dropout_is_the_same_in_the_gradient(direction, variant):
    inputs = replace(call(20, 20, direction), dropout=0.4)
    bound = BoundVariant.of(VARIANTS[variant])
    attend = automatically("native")

    def loss(by_distance):
        torch.manual_seed(3)
        return attend(replace(inputs, by_distance=by_distance), bound).double().sin().sum()

    line = inputs.by_distance
    (gradient,) = torch.autograd.grad(loss(line), line)
    direction = torch.randn(line.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-2
    with torch.no_grad():
        slope = (loss(line + step * direction) - loss(line - step * direction)) / (2 * step)
    assert abs(slope - (gradient * direction).sum()) < 2e-3 * gradient.norm() * direction.norm()


@needs_compiler
def test_no_gradient_by_distance_is_asked_for_in_vain():
    inputs = call(direction="both")
    held = replace(inputs, by_distance=inputs.by_distance.detach())
    output = native_attention.attend(held, BoundVariant.of(VARIANTS["sa-softmax"]))
    output.sum().backward()
    assert inputs.query.grad is not None and inputs.by_distance.grad is None


@pytest.mark.parametrize(("device", "kernel"), [("cpu", "native"), ("cuda", "triton"), ("mps", "sdpa")])
def test_softmax_goes_where_the_variants_go(device, kernel):
    """In one comparison both sides have one kernel; without such a bias softmax is torch's own."""
    inputs = call()
    moved = replace(inputs, query=inputs.query.detach().to("meta"))
    object.__setattr__(moved, "query", _On(device))
    softmax = BoundVariant.of(VARIANTS["softmax"])
    assert next(dispatch._order(moved, softmax, "auto")) == kernel
    assert next(dispatch._order(replace(moved, by_distance=None), softmax, "auto")) == "sdpa"


class _On:
    """What the choice looks at of a tensor on a device that is not here."""

    def __init__(self, device):
        self.device = torch.device(device)
