"""Half precision in the native kernel: what is read and written is rounded, and what is computed is not, but
where bfloat16 is multiplied in pairs: weights and dx are then, and errors stay within torch's own kernel's.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from finetune.attention import VARIANTS
from finetune.attention.kernels import dispatch, proof, reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import build, native_attention

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

FLOAT, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16
NAMES = ("query", "key", "value")
UNPAIRED = [types for types in itertools.product((FLOAT, BRAIN, HALF), repeat=3) if types != (BRAIN,) * 3]
"""Types of query, key and value of which nothing is rounded inside."""
every_half = pytest.mark.parametrize("dtype", [BRAIN, HALF], ids=str)
every_form = pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "sa-softmax-raw"])
FACTOR = 1.5  # times the error of torch's kernel, as in the bench


def make(
    types: torch.dtype | Sequence[torch.dtype], width: int = 24, mask: str = "padded", *, key_heads: int = 2,
    dropout: float = 0.0, scale: float = 1.0,
) -> Inputs:  # fmt: skip
    """Rows of 45 keys and, but for causal ones, 37 queries; heads side by side in memory."""
    types = [types] * 3 if isinstance(types, torch.dtype) else types
    queries = 45 if mask == "causal" else 37
    query, key, value = (
        torch.randn(3, length, heads, width).to(dtype).transpose(1, 2).requires_grad_()
        for length, heads, dtype in zip((queries, 45, 45), (4, key_heads, key_heads), types, strict=True)
    )
    allowed = {
        "padded": torch.arange(45) < torch.tensor([[45], [30], [1]])[:, None, None],
        "arbitrary": torch.rand(3, 1, queries, 45) < torch.rand(3, 1, queries, 1),
        "one key": torch.arange(45) == torch.randint(45, (3, 1, queries, 1)),
    }.get(mask)
    return Inputs(query, key, value, allowed, None, mask == "causal", scale * width**-0.5, dropout)


def arriving_at(inputs: Inputs) -> Tensor:
    return torch.randn(inputs.query.transpose(1, 2).shape).to(inputs.value.dtype)


def with_gradients(output: Tensor, inputs: Inputs, arriving: Tensor) -> list[Tensor]:
    leaves = [inputs.query, inputs.key, inputs.value]
    if inputs.by_distance is not None:
        leaves.append(inputs.by_distance)
    return [output.detach(), *torch.autograd.grad(output, leaves, arriving.to(output.dtype))]


def native(inputs: Inputs, variant: str, arriving: Tensor) -> list[Tensor]:
    """Output and gradients of the native kernel, its dropout drawn from one seed."""
    torch.manual_seed(7)
    output = native_attention.attend(inputs, BoundVariant.of(VARIANTS[variant]))
    return with_gradients(output, inputs, arriving)


def recast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same numbers in another type."""
    cast = {name: getattr(inputs, name).detach().to(dtype).requires_grad_() for name in NAMES}
    return replace(inputs, **cast)


def errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, float]:
    """Of the output and of the worst gradient, relative, in norm."""
    output, *gradients = (
        float((one.double() - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)
    )
    return output, max(gradients)


# ---- nothing rounded inside ------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("types", UNPAIRED, ids=str)
def test_only_what_is_read_and_written_is_rounded(variant: str, types: Sequence[torch.dtype]) -> None:
    """The output has the value's type, each gradient its tensor's."""
    for seed, (mask, width) in enumerate([("none", 1), ("padded", 7), ("causal", 33), ("arbitrary", 64)]):
        torch.manual_seed(seed)
        for key_heads, dropout in itertools.product((4, 1), (0.0, 0.3)):
            inputs = make(types, width, mask, key_heads=key_heads, dropout=dropout)
            arriving = arriving_at(inputs)
            wide = native(recast(inputs, FLOAT), variant, arriving)
            for found, exact, dtype in zip(
                native(inputs, variant, arriving), wide, (types[2], *types), strict=True
            ):
                assert found.dtype == dtype and torch.equal(found, exact.to(dtype))


@every_half
def test_every_number_is_read_and_written_as_it_is(dtype: torch.dtype) -> None:
    """A query with one key passes its value on. Infinite values and NaN come through as well."""
    value = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(1, 256, 1, 256)
    other = torch.zeros(1, 256, 1, 256)
    inputs = Inputs(other, other, value, None, None, False, 1.0, 0.0)
    output = native_attention.attend(inputs, BoundVariant.of(VARIANTS["softmax"]))
    assert torch.equal(output.isnan(), value.transpose(1, 2).isnan())
    assert torch.equal(output.nan_to_num(nan=0.0), value.transpose(1, 2).nan_to_num(nan=0.0))


@every_half
def test_what_is_written_is_rounded_to_the_nearest(dtype: torch.dtype) -> None:
    """The gradient of one value that two heads read is the sum of two: of any size, down to subnormal."""
    sizes = torch.exp2(torch.randint(-30, 16, (1, 2, 64, 256)).float())
    sizes[..., :32] *= 2.0 ** (-100 if dtype == BRAIN else 0)
    arriving = (sizes * torch.randn(sizes.shape)).to(dtype)  # (batch, query, heads, width)
    other = torch.zeros(1, 64, 2, 256)
    value = torch.zeros(1, 64, 1, 256, dtype=dtype, requires_grad=True)
    inputs = Inputs(other, other[:, :, :1], value, None, None, False, 1.0, 0.0)
    output = native_attention.attend(inputs, BoundVariant.of(VARIANTS["softmax"]))
    (found,) = torch.autograd.grad(output, value, arriving)
    assert torch.equal(found[:, :, 0], arriving.float().sum(1).to(dtype))


# ---- bfloat16 throughout ---------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("mask", ["none", "padded", "causal"])
@pytest.mark.parametrize("width", [1, 7, 17, 33, 64, 80])
def test_errors_in_bfloat16_are_no_more_than_of_torchs_kernel(variant: str, mask: str, width: int) -> None:
    """Against float64, at small, usual and peaked scores; with and without grouped keys. Where torch's output
    is exact, as of rows that copy one value, what the last rounding alone makes is no error."""
    for seed, (scale, key_heads) in enumerate(itertools.product((0.2, 1.0, 4.0, 30.0), (4, 1))):
        torch.manual_seed(seed)
        inputs = make(BRAIN, width, mask, key_heads=key_heads, scale=scale)
        arriving, exact = arriving_at(inputs), recast(inputs, torch.float64)

        def definition(name: str, exact: Inputs = exact, arriving: Tensor = arriving) -> list[Tensor]:
            output, _ = reference.reference(exact, BoundVariant.of(VARIANTS[name]))
            return with_gradients(output, exact, arriving)

        truth = definition(variant)
        theirs = errors(with_gradients(reference.sdpa(inputs), inputs, arriving), definition("softmax"))
        least = errors([tensor.to(BRAIN) for tensor in truth], truth)
        for ours, other, rounding in zip(
            errors(native(inputs, variant, arriving), truth), theirs, least, strict=True
        ):
            assert ours <= FACTOR * max(other, rounding)


@every_form
@pytest.mark.parametrize("key_heads", [4, 1])
def test_dropout_in_bfloat16_drops_what_it_drops_in_float32(variant: str, key_heads: int) -> None:
    for mask in ("none", "padded", "arbitrary"):
        torch.manual_seed(1)
        inputs = make(BRAIN, 33, mask, key_heads=key_heads, dropout=0.3)
        arriving = arriving_at(inputs)
        wide = native(recast(inputs, FLOAT), variant, arriving)
        found = native(inputs, variant, arriving)
        assert all(tensor.dtype == BRAIN for tensor in found) and max(errors(found, wide)) < 4e-3


@every_form
def test_rows_that_attend_to_one_key_cancel_in_bfloat16(variant: str) -> None:
    """The gradient of their scores is 0 or nearly, but for x * p: terms are rounded after they cancel."""
    torch.manual_seed(2)
    inputs = make(BRAIN, mask="one key")
    arriving, exact = arriving_at(inputs), recast(inputs, torch.float64)
    output, _ = reference.reference(exact, BoundVariant.of(VARIANTS[variant]))
    expected = with_gradients(output, exact, arriving)
    wide = native(recast(inputs, FLOAT), variant, arriving)
    for ours, plainly, truth in zip(native(inputs, variant, arriving), wide, expected, strict=True):
        assert (ours - truth).norm() <= FACTOR * (plainly - truth).norm() + 4e-3 * truth.norm()


@every_form
@pytest.mark.parametrize("value", [0.0, 3.0, -50.0, 1e4])
def test_rows_without_a_key_and_of_equal_scores_stay_finite_in_bfloat16(variant: str, value: float) -> None:
    inputs = make(BRAIN)
    with torch.no_grad():
        inputs.query.fill_(value)
        inputs.key.fill_(1.0)
    allowed = torch.ones(1, 1, 37, 45, dtype=torch.bool)
    allowed[..., 2, :] = False
    inputs = replace(inputs, allowed=allowed)
    found = native(inputs, variant, torch.ones(3, 37, 4, 24))
    assert all(tensor.isfinite().all() for tensor in found)
    assert not found[0][:, 2].any() and not found[1][:, :, 2].any()


@every_form
def test_many_blocks_in_bfloat16_agree_with_float32(variant: str) -> None:
    """Longer than any block of queries, of keys, and than the chunk of a task; an odd number of each."""
    for causal in (False, True):
        torch.manual_seed(3)
        query, key, value = (
            torch.randn(1, count, length, 20, dtype=BRAIN, requires_grad=True)
            for count, length in ((2, 301), (1, 1101), (1, 1101))
        )
        inputs = Inputs(query, key, value, None, None, causal, 0.4, 0.0)
        arriving = arriving_at(inputs)
        wide = native(recast(inputs, FLOAT), variant, arriving)
        assert max(errors(native(inputs, variant, arriving), wide)) < 4e-3


# ---- either --------------------------------------------------------------------------------------------


@every_half
@every_form
def test_layout_in_memory_changes_nothing(variant: str, dtype: torch.dtype) -> None:
    """Rows with gaps, heads side by side or apart, columns that are no neighbors."""
    inputs = make(dtype)
    arriving = arriving_at(inputs)
    expected = native(inputs, variant, arriving)
    for spread in (
        lambda tensor: tensor.repeat_interleave(2, -1)[..., ::2],
        lambda tensor: torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]],
        lambda tensor: tensor.mT.contiguous().mT,
    ):
        query, key, value = (spread(getattr(inputs, name).detach()).requires_grad_() for name in NAMES)
        apart = replace(inputs, query=query, key=key, value=value)
        pairs = zip(native(apart, variant, spread(arriving)), expected, strict=True)
        assert all(torch.equal(found, known) for found, known in pairs)


@every_half
@pytest.mark.parametrize("bias_dtype", [FLOAT, BRAIN, HALF, torch.float64], ids=str)
def test_bias_may_be_of_another_type(dtype: torch.dtype, bias_dtype: torch.dtype) -> None:
    """Under autocast it often is. Its columns may be strided, and one row may stand for all."""
    inputs = make(dtype)
    arriving = arriving_at(inputs)
    for bias in (torch.randn(1, 4, 37, 45), torch.randn(3, 1, 1, 45), torch.randn(1, 4, 45, 37).mT):
        mixed = native(replace(inputs, bias=bias.to(bias_dtype)), "sa-softmax", arriving)
        plain = native(replace(inputs, bias=bias.to(bias_dtype).float()), "sa-softmax", arriving)
        assert all(torch.equal(found, known) for found, known in zip(mixed, plain, strict=True))


@every_half
@every_form
def test_bias_by_distance_stays_float32(variant: str, dtype: torch.dtype) -> None:
    by_distance = torch.randn(4, 45 + 45 - 1, requires_grad=True)
    inputs = replace(make(dtype, mask="causal"), by_distance=by_distance)
    arriving = arriving_at(inputs)
    *found, grad = native(inputs, variant, arriving)
    *wide, wide_grad = native(recast(inputs, FLOAT), variant, arriving)
    assert grad.dtype == FLOAT
    torch.testing.assert_close(grad, wide_grad, rtol=1e-4, atol=1e-5)  # of dx before it is rounded
    assert max(errors(found, wide)) < 4e-3


def test_float64_in_any_place_is_refused() -> None:
    inputs = make(FLOAT)
    for name in NAMES:
        one = replace(inputs, **{name: getattr(inputs, name).double()})
        reason = native_attention.why_not(one, BoundVariant.of(VARIANTS["sa-softmax"]))
        assert reason == "it computes in float32, and these inputs are float64"


def test_each_mixture_of_types_is_proved_by_itself() -> None:
    softmax = BoundVariant.of(VARIANTS["softmax"])
    kinds = {proof.CallKind.of(make(types), "softmax") for types in (*UNPAIRED, (BRAIN,) * 3)}
    assert len(kinds) == 27
    assert all(proof.fault(native_attention.attend, kind) is None for kind in kinds)
    seen: list[Inputs] = []

    def watched(inputs: Inputs, variant: BoundVariant) -> Tensor:
        seen.append(inputs)
        return native_attention.attend(inputs, variant)

    biased = replace(make((BRAIN, FLOAT, HALF)), bias=torch.zeros(1, 4, 37, 45, dtype=HALF))
    assert proof.fault(watched, proof.CallKind.of(biased, softmax.name)) is None
    (tried,) = seen
    assert tried.bias is not None
    assert [each.dtype for each in (tried.query, tried.key, tried.value, tried.bias)] == [
        BRAIN,
        FLOAT,
        HALF,
        HALF,
    ]


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
    assert {tensor.data_ptr() for tensor in kept} >= {getattr(inputs, name).data_ptr() for name in NAMES}
    assert sum(tensor.numel() for tensor in kept if tensor.dtype == FLOAT) == 3 * 4 * 37


@every_half
@every_form
def test_one_query_as_in_generation(variant: str, dtype: torch.dtype) -> None:
    inputs = make(dtype)
    one = replace(inputs, query=inputs.query.detach()[:, :, -1:])
    with torch.no_grad():
        found = native_attention.attend(one, BoundVariant.of(VARIANTS[variant]))
        wide = native_attention.attend(recast(one, FLOAT), BoundVariant.of(VARIANTS[variant]))
    assert found.dtype == dtype and float((found - wide).norm() / wide.norm()) < 4e-3


@every_half
@pytest.mark.parametrize(
    "types", [(FLOAT, FLOAT, BRAIN), (FLOAT, FLOAT, FLOAT), (BRAIN, BRAIN, FLOAT)], ids=str
)
def test_autocast_computes_in_its_type(types: Sequence[torch.dtype], dtype: torch.dtype) -> None:
    """As torch's own attention does: rotated queries and keys are often float32 and values are not."""
    inputs = make(types)
    narrow = recast(inputs, dtype)
    arriving = arriving_at(narrow).to(BRAIN)  # which all three types hold
    with torch.autocast("cpu", dtype):
        found = native(inputs, "sa-softmax", arriving)
        assert proof.CallKind.of(inputs, "sa-softmax") == proof.CallKind.of(narrow, "sa-softmax")
    for one, other, each in zip(
        found, native(narrow, "sa-softmax", arriving), (types[2], *types), strict=True
    ):
        assert one.dtype == each and torch.equal(one, other.to(each))


@every_half
def test_auto_takes_the_native_kernel_under_autocast(dtype: torch.dtype) -> None:
    """Queries arrive in half precision, the mask is bool, a bias float32."""
    inputs = replace(make(dtype), bias=torch.randn(1, 4, 37, 45))
    with torch.autocast("cpu", dtype):
        output, _, ran = dispatch.attend(inputs, BoundVariant.of(VARIANTS["sa-softmax"]), "auto")
        output.sum().backward()
    assert ran == "native" and output.dtype == dtype
    assert all(getattr(inputs, name).grad.dtype == dtype for name in NAMES)
