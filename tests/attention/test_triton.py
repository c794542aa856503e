"""The Triton kernels against the definitions in float64, on the GPU or, without one, in Triton's interpreter.

The interpreter runs the same kernels in numpy, a tile at a time, so the inputs are small; ``conftest.py``
switches it on before anything imports Triton.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.attention import get_variant
from finetune.attention.kernels import reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.triton import forms, triton_attention

pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
assert DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1", "conftest.py has to set it"

# numpy warns of what lies beyond the last key: those numbers belong to no key and are thrown away
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")

FORMS = ("softmax", "sa-softmax", "sa-softmax-raw")
every_form = pytest.mark.parametrize("form", FORMS)


def by_turns(*cases: Any) -> list[Any]:
    """(form, case): each case with sa-softmax, one of the others by turns as slow, the rest as exhaustive."""
    found = []
    for number, case in enumerate(cases):
        marks = {
            "sa-softmax": [],
            ("softmax", "sa-softmax-raw")[number % 2]: [pytest.mark.slow],
        }
        found += [pytest.param(f, case, marks=marks.get(f, [pytest.mark.exhaustive])) for f in FORMS]
    return found


def bind(form: str) -> BoundVariant:
    variant = get_variant(form)
    return BoundVariant(form, partial(variant.weigh, **variant.parameters), variant.parameters)


@dataclass(frozen=True)
class Case:
    """Sizes and masks of one attention call; ``build`` draws its tensors."""

    batch: int = 1
    heads: int = 2
    key_heads: int = 2
    query_len: int = 37
    key_len: int = 45
    width: int = 16
    value_width: int = 16
    allowed: Callable[[int, int, int, int], Tensor] | None = None  # (batch, heads, query, key) -> mask
    bias: tuple[int, int, int, int] | None = None  # its shape
    shift: float = 0.0  # of the bias
    causal: bool = False
    scale: float = 1.0  # of the scores
    dtype: torch.dtype = torch.float32

    def build(self, seed: int = 0) -> tuple[list[Tensor], Tensor, dict[str, Any]]:
        """Leaves (query, key, value and perhaps bias), dL/doutput, and the rest of ``Inputs``."""
        torch.manual_seed(seed)
        sizes = self.batch, self.heads, self.query_len, self.key_len
        leaves = [
            torch.randn(self.batch, self.query_len, self.heads, self.width) * self.scale,
            torch.randn(self.batch, self.key_len, self.key_heads, self.width),
            torch.randn(self.batch, self.key_len, self.key_heads, self.value_width),
        ]
        if self.bias is not None:
            leaves.append(torch.randn(self.bias) * self.scale + self.shift)
        given = torch.randn(self.batch, self.query_len, self.heads, self.value_width)
        allowed = None if self.allowed is None else self.allowed(*sizes).to(DEVICE)
        rest = {"allowed": allowed, "causal": self.causal, "scaling": self.width**-0.5, "dropout": 0.0}
        return [leaf.to(DEVICE, self.dtype) for leaf in leaves], given.to(DEVICE, self.dtype), rest


Kernel = Callable[[Inputs, BoundVariant], Tensor]


def exactly(inputs: Inputs, variant: BoundVariant) -> Tensor:
    return reference.reference(inputs, variant)[0]


def results(  # noqa: PLR0917
    kernel: Kernel,
    leaves: list[Tensor],
    given: Tensor,
    rest: dict[str, Any],
    norm: BoundVariant,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The output and the gradient of every leaf, in float64; the leaves are computed with in ``dtype``."""
    leaves = [leaf.detach().to(dtype).clone().requires_grad_() for leaf in leaves]
    query, key, value = (leaf.transpose(1, 2) for leaf in leaves[:3])
    bias = leaves[3] if len(leaves) > 3 else None
    output = kernel(Inputs(query=query, key=key, value=value, bias=bias, **rest), norm)
    assert output.is_contiguous() and output.dtype == dtype
    output.backward(given.to(dtype))
    return [output.detach().double(), *gradients_of(leaves)]


def gradients_of(leaves: list[Tensor]) -> list[Tensor]:
    assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves)
    return [leaf.grad.double() for leaf in leaves if leaf.grad is not None]


def magnitudes(leaves: list[Tensor], given: Tensor, rest: dict[str, Any], form: str) -> list[Tensor]:
    """As ``results``, but every term of every sum taken positive: what rounding errors are in proportion to.

    In a row that attends to one key the terms of a gradient cancel, and float32 knows no more than this.
    """
    query, key, value = (leaf.detach().double().transpose(1, 2) for leaf in leaves[:3])
    heads = query.shape[1]
    key, value = reference.one_per_query_head(key, heads), reference.one_per_query_head(value, heads)
    do = given.double().transpose(1, 2)
    inputs = Inputs(query=query, key=key, value=value, bias=None, **rest)
    bias = leaves[3].double() if len(leaves) > 3 else 0.0
    x = query @ key.transpose(-1, -2) * inputs.scaling + bias
    p = bind("softmax").weigh(x, inputs.all_allowed())
    w = bind(form).weigh(x, inputs.all_allowed()).abs()
    da = (do @ value.transpose(-1, -2)).abs()
    factor = {"softmax": torch.ones_like(x), "sa-softmax-raw": 1 + x.abs()}.get(form)
    if factor is None:
        span = (x.amax(-1, keepdim=True).clamp(min=0) - x.amin(-1, keepdim=True).clamp(max=0)).clamp(min=1e-6)
        factor = 1 + 1 / span
    dx = p * (da * factor + (w * da).sum(-1, keepdim=True)) * inputs.scaling
    dk, dv = dx.transpose(-1, -2) @ query.abs(), w.transpose(-1, -2) @ do.abs()
    found = [(w @ value.abs()), dx @ key.abs(), dk, dv]
    return [*found, dx / inputs.scaling]


def check(form: str, case: Case, seed: int = 0, cut: str = forms.DEFAULT) -> None:
    """Values and all gradients in float32: within 1e-5 of float64, or as near as float32 can be."""
    leaves, given, rest = case.build(seed)
    norm = bind(form)
    ours = results(partial(triton_attention.attend, form=cut), leaves, given, rest, norm, torch.float32)
    exact = results(exactly, leaves, given, rest, norm, torch.float64)
    single = results(exactly, leaves, given, rest, norm, torch.float32)
    # What scores move by when they are rounded: the whole error where they are large.
    rounded = leaves[0].double() * (1 + 3e-7 * torch.randn(leaves[0].shape, dtype=torch.float64))
    shaken = results(exactly, [rounded, *leaves[1:]], given, rest, norm, torch.float64)
    floors = magnitudes(leaves, given, rest, form)
    for name, mine, true, plain_one, moved, floor in zip(
        ("output", "query", "key", "value", "bias"), ours, exact, single, shaken, floors, strict=False
    ):
        assert mine.isfinite().all(), name
        error = float((mine - true).norm())
        limits = [1e-5 * true.norm(), 2 * (plain_one - true).norm(), 1e-6 * floor.norm()]
        bound = float(max(*limits, 4 * (moved - true).norm()))
        assert error <= bound, f"{name}: {error:.2e} > {bound:.2e}"


def padding(batch: int, heads: int, query_len: int, key_len: int) -> Tensor:
    lengths = torch.arange(batch) * 7 % key_len + key_len // 2
    return (torch.arange(key_len) < lengths[:, None])[:, None, None, :]


def left_padding(batch: int, heads: int, query_len: int, key_len: int) -> Tensor:
    """The last batch row is nothing but padding, the first has none."""
    begins = torch.arange(batch) * key_len // max(batch - 1, 1)
    return (torch.arange(key_len) >= begins[:, None])[:, None, None, :]


def scattered(batch: int, heads: int, query_len: int, key_len: int) -> Tensor:
    """Of every shape and density, with rows that see nothing."""
    mask = torch.rand(batch, 1, query_len, key_len) < 0.4
    mask[:, :, ::5] = False
    return mask


def per_head(batch: int, heads: int, query_len: int, key_len: int) -> Tensor:
    return torch.rand(1, heads, query_len, key_len) < 0.6


CASES = {
    "plain": Case(),
    "one query": Case(batch=2, query_len=1, key_len=70),
    "one key": Case(query_len=5, key_len=1),
    "causal": Case(query_len=50, key_len=50, causal=True),
    "causal, more keys": Case(query_len=20, key_len=70, causal=True),
    "causal, more queries": Case(query_len=70, key_len=20, causal=True),
    "padding": Case(batch=2, allowed=padding),
    "causal and padding": Case(batch=2, query_len=45, causal=True, allowed=padding),
    "padding on the left": Case(batch=3, query_len=45, causal=True, allowed=left_padding),
    "scattered": Case(batch=2, heads=1, key_heads=1, allowed=scattered),
    "per head": Case(allowed=per_head),
    "grouped": Case(batch=2, heads=4, key_heads=2, query_len=9, key_len=20),
    "one key head": Case(heads=3, key_heads=1, query_len=33, key_len=17, causal=True),
    "width 24": Case(heads=1, key_heads=1, width=24, value_width=24),
    "width 40 and 24": Case(heads=1, key_heads=1, width=40, value_width=24),
    "width 80": Case(heads=1, key_heads=1, width=80, value_width=80),
    "width 64": Case(heads=1, key_heads=1, width=64, value_width=64),
    "position bias": Case(batch=3, query_len=20, key_len=19, bias=(1, 2, 20, 19), allowed=padding),
    "bias of each batch": Case(2, 4, 2, query_len=17, key_len=33, bias=(2, 1, 17, 33), causal=True),
    "bias of keys": Case(batch=2, bias=(2, 1, 1, 45)),
    "bias of queries": Case(batch=2, bias=(1, 2, 37, 1)),
    "one bias for all": Case(batch=2, query_len=17, key_len=18, bias=(1, 1, 17, 18)),
    "all scores below 0": Case(bias=(1, 1, 1, 45), shift=-20.0),
    "all scores above 0": Case(bias=(1, 1, 1, 45), shift=20.0),
}


@pytest.mark.parametrize(("form", "name"), by_turns(*CASES))
def test_equals_the_float64_reference(form: str, name: str) -> None:
    check(form, CASES[name])


OTHERS = [cut for cut in forms.FORMS if cut != forms.DEFAULT]
every_cut = pytest.mark.parametrize("cut", OTHERS)


def cut_cases() -> list[Any]:
    """(cut, form, case): one of them fast, those that take other ways through the kernels slow."""
    telling = (
        "causal, more keys", "causal, more queries", "padding on the left", "scattered", "one key head",
        "width 80", "width 40 and 24", "bias of each batch", "one query", "one key", "all scores below 0",
    )  # fmt: skip
    found = []
    for cut, form, name in product(OTHERS, FORMS, CASES):
        marks: list[Any] = [pytest.mark.exhaustive]
        if form == "sa-softmax" and name == "causal and padding":
            marks = []
        elif (form == "sa-softmax" and name in telling) or (form != "sa-softmax" and name == "padding"):
            marks = [pytest.mark.slow]
        found.append(pytest.param(cut, form, name, marks=marks))
    return found


@pytest.mark.parametrize(("cut", "form", "name"), cut_cases())
def test_every_other_cut_equals_the_float64_reference(cut: str, form: str, name: str) -> None:
    check(form, CASES[name], cut=cut)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    key_heads = draw(st.integers(1, 2))
    batch, heads = draw(st.integers(1, 2)), key_heads * draw(st.integers(1, 2))
    query_len, key_len = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    whole = (batch, heads, query_len, key_len)
    shared = [draw(st.booleans()) for _ in range(3)]
    bias = (*(1 if one else size for one, size in zip(shared, whole, strict=False)), key_len)
    return Case(
        *whole[:2], key_heads, *whole[2:], draw(st.integers(16, 48)), draw(st.integers(16, 48)),
        draw(st.sampled_from([None, padding, scattered, per_head])),
        draw(st.sampled_from([None, bias])),  # type: ignore[arg-type]
        0.0,
        draw(st.booleans()),
        draw(st.sampled_from([1e-3, 1e-1, 1.0, 30.0, 1e3])),
    )  # fmt: skip


@pytest.mark.slow
@every_form
@settings(max_examples=5, deadline=None, phases=[Phase.generate])  # to shrink a failure would take minutes
@given(case=cases(), seed=st.integers(0, 2**31))
def test_any_shape_mask_and_scale(form: str, case: Case, seed: int) -> None:
    check(form, case, seed)


# Half types


class _Rounded(torch.autograd.Function):
    """x, or its gradient, or both, as if a kernel handed them to a matrix product in a half type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, values: bool) -> Tensor:
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype) if values else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.to(ctx.dtype).to(grad.dtype), None, None


def rounded(inputs: Inputs, norm: BoundVariant) -> Tensor:
    """The formula in float32 with weights and the gradient of scores rounded to the type of the inputs."""
    dtype = inputs.query.dtype
    scores = inputs.query.float() @ inputs.key.float().transpose(-1, -2) * inputs.scaling
    weights = norm.weigh(_Rounded.apply(scores, dtype, False), inputs.all_allowed())
    output = _Rounded.apply(weights, dtype, True) @ inputs.value.float()
    return output.to(dtype).transpose(1, 2).contiguous()


@pytest.mark.parametrize(
    ("form", "case"), by_turns(*product([torch.float16, torch.bfloat16], [0.1, 1.0, 8.0])), ids=str
)
def test_half_types_are_as_near_as_they_can_be(form: str, case: tuple[torch.dtype, float]) -> None:
    near_in_half_types(form, *case)


@pytest.mark.slow
@every_cut
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_half_types_are_as_near_as_they_can_be_in_every_cut(cut: str, scale: float) -> None:
    near_in_half_types("sa-softmax", torch.bfloat16, scale, cut)


def near_in_half_types(form: str, dtype: torch.dtype, scale: float, cut: str = forms.DEFAULT) -> None:
    leaves, given, rest = Case(batch=2, key_heads=2, width=32, causal=True, dtype=dtype, scale=scale).build()
    norm = bind(form)
    ours = results(partial(triton_attention.attend, form=cut), leaves, given, rest, norm, dtype)
    exact = results(exactly, leaves, given, rest, norm, torch.float64)
    theirs = results(rounded, leaves, given, rest, norm, dtype)
    if form == "softmax" and DEVICE == "cuda":  # on the CPU it computes in float32
        theirs = results(lambda inputs, _: reference.sdpa(inputs), leaves, given, rest, norm, dtype)
    for mine, true, other in zip(ours, exact, theirs, strict=True):
        # its weights are as large as the scores, and so is what rounding them takes from dO.O
        factor = 3.0 if form == "sa-softmax-raw" and scale > 1.0 else 1.5
        assert float((mine - true).norm()) <= factor * float((other - true).norm())


# Edges


def attend_leaves(
    form: str, query: Tensor, key: Tensor, value: Tensor, *, cut: str = forms.DEFAULT, **rest: Any
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The output, our gradients and the float64 reference's for a sum of squares as loss."""
    found = []
    ours = partial(triton_attention.attend, form=cut)
    for kernel, dtype in ((ours, torch.float32), (exactly, torch.float64)):
        leaves = [t.detach().to(DEVICE, dtype).clone().requires_grad_() for t in (query, key, value)]
        given = {"allowed": None, "bias": None, "causal": False, "scaling": 0.25, "dropout": 0.0} | rest
        output = kernel(Inputs(*leaves, **given), bind(form))
        output.square().sum().backward()
        found.append([output.detach().double(), *gradients_of(leaves)])
    return found[0][0], found[0], found[1]


@every_form
@pytest.mark.parametrize("level", [-3.0, 0.0, 3.0])
def test_equal_scores_stay_finite(form: str, level: float) -> None:
    equal_scores_stay_finite(form, level)


@pytest.mark.slow
@every_cut
@pytest.mark.parametrize("level", [-3.0, 0.0, 3.0])
def test_equal_scores_stay_finite_in_every_cut(cut: str, level: float) -> None:
    equal_scores_stay_finite("sa-softmax", level, cut)


def equal_scores_stay_finite(form: str, level: float, cut: str = forms.DEFAULT) -> None:
    """Every key is the same, so every score of a row is ``level``: both extremes are at the first key."""
    query, key = torch.zeros(1, 1, 20, 16), torch.zeros(1, 1, 21, 16)
    query[..., 0], key[..., 0] = level * 4, 1.0
    value = torch.randn(1, 1, 21, 16)
    _, ours, exact = attend_leaves(form, query, key, value, cut=cut)
    for mine, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-4 * max(1.0, float(true.abs().max())))


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_tiny_scores_give_no_nan(form: str, dtype: torch.dtype) -> None:
    """1 / (M - m + eps) is 1e6: more than float16 holds."""
    leaves, given, rest = Case(scale=0.0, dtype=dtype).build()
    found = results(triton_attention.attend, leaves, given, rest, bind(form), dtype)
    assert not any(tensor.isnan().any() for tensor in found)


@every_form
def test_a_row_that_sees_nothing_is_zero_and_takes_no_gradient(form: str) -> None:
    allowed = torch.rand(1, 1, 33, 40, device=DEVICE) < 0.5
    allowed[..., 3, :] = allowed[..., 32, :] = False
    value = torch.randn(1, 2, 40, 16)
    output, ours, _ = attend_leaves(
        form, torch.randn(1, 2, 33, 16), torch.randn(1, 2, 40, 16), value, allowed=allowed
    )
    assert (output[:, [3, 32]] == 0).all() and (ours[1][:, :, [3, 32]] == 0).all()
    nothing = torch.zeros(1, 1, 1, 40, dtype=torch.bool, device=DEVICE)
    output, ours, _ = attend_leaves(form, value, value, value, allowed=nothing)
    assert all((tensor == 0).all() for tensor in (output, *ours))


@pytest.mark.slow
@every_form
def test_a_bias_of_minus_infinity_is_a_mask(form: str) -> None:
    torch.manual_seed(1)
    tensors = [torch.randn(2, 2, length, 16) for length in (19, 40, 40)]
    allowed = (torch.rand(2, 1, 19, 40) < 0.3).to(DEVICE)
    allowed[:, :, 7] = False
    bias = torch.zeros(2, 1, 19, 40, device=DEVICE).masked_fill(~allowed, -math.inf)
    _, masked, _ = attend_leaves(form, *tensors, allowed=allowed)
    _, biased, _ = attend_leaves(form, *tensors, bias=bias)
    assert all(torch.equal(one, other) for one, other in zip(masked, biased, strict=True))
    least = torch.finfo(torch.float32).min  # a row of nothing else would make sa-softmax-raw that large
    bias = bias.masked_fill(~allowed, least).masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    _, finite, _ = attend_leaves(form, *tensors, bias=bias)
    assert all(tensor.isfinite().all() for tensor in finite)


@every_form
def test_any_strides(form: str) -> None:
    """Slices of one projection, a last axis with gaps or outside, an expanded mask, an expanded gradient."""
    joined = torch.randn(2, 30, 3, 2, 32, device=DEVICE)
    slices = joined[:, :, 0, :, ::2], joined[:, :, 1, :, ::2], joined[:, :, 2, :, 16:]
    allowed = (torch.rand(2, 1, 1, 30) < 0.7).to(DEVICE).expand(2, 2, 30, 30)
    found = []
    for kernel, dtype in ((triton_attention.attend, torch.float32), (exactly, torch.float64)):
        gaps = torch.empty_strided((2, 30, 2, 16), (2000, 64, 32, 2), dtype=dtype, device=DEVICE)
        turned = slices[1].to(dtype).transpose(1, 3).contiguous().transpose(1, 3)
        views = gaps.copy_(slices[0]), turned, slices[2].to(dtype)
        leaves = [view.detach().transpose(1, 2).requires_grad_() for view in views]
        output = kernel(Inputs(*leaves, allowed, None, False, 0.3, 0.0), bind(form))
        output.sum().backward()
        found.append([output.detach().double(), *gradients_of(leaves)])
    for mine, true in zip(*found, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)


def test_nothing_of_length_times_length_is_kept() -> None:
    leaves, given, rest = Case(heads=1, key_heads=1, query_len=90, key_len=90, bias=(1, 1, 1, 90)).build()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results(triton_attention.attend, leaves, given, rest, bind("sa-softmax"), torch.float32)
    assert 0 < max(kept) < 90 * 90 * 4


# Dropout


def kept_by_dropout(case: Case, rate: float, seed: int) -> Tensor:
    """The mask, (batch, heads, query, key), read from the output for values that tell which key they are."""
    leaves, _, rest = replace(case, key_heads=case.heads, value_width=case.key_len).build()
    query, key = leaves[0].transpose(1, 2), leaves[1].transpose(1, 2)
    which = torch.eye(case.key_len, device=DEVICE).expand(case.batch, case.heads, -1, -1)
    torch.manual_seed(seed)
    return (
        triton_attention.attend(
            Inputs(query * 0, key, which, **(rest | {"bias": None, "dropout": rate})), bind("softmax")
        ).transpose(1, 2)
        > 0
    )


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form == "sa-softmax" else [pytest.mark.slow]) for form in FORMS]
)
def test_dropout_is_the_same_forward_and_backward(form: str) -> None:
    dropout_is_the_same(form)


@pytest.mark.slow
@every_cut
def test_dropout_is_the_same_in_every_cut(cut: str) -> None:
    dropout_is_the_same("sa-softmax", cut)


def dropout_is_the_same(form: str, cut: str = forms.DEFAULT) -> None:
    """Against the reference with the very mask that the kernel drew."""
    case, rate = Case(2, 2, 1, query_len=33, key_len=36, bias=(1, 2, 33, 36), allowed=padding), 0.3
    leaves, given, rest = case.build()
    mask = kept_by_dropout(replace(case, allowed=None, bias=None), rate, seed=8)
    assert abs(float(mask.double().mean()) - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / mask.numel())

    def weigh(scores: Tensor, allowed: Tensor | None) -> Tensor:
        return bind(form).weigh(scores, allowed) * mask / (1 - rate)

    torch.manual_seed(8)
    dropping = rest | {"dropout": rate}
    attend = partial(triton_attention.attend, form=cut)
    ours = results(attend, leaves, given, dropping, bind(form), torch.float32)
    exact = results(exactly, leaves, given, rest, BoundVariant(form, weigh), torch.float64)
    for mine, true in zip(ours, exact, strict=True):
        assert float((mine - true).norm()) <= 1e-5 * float(true.norm())


@pytest.mark.slow
def test_dropout_differs_everywhere_and_repeats_with_the_seed() -> None:
    case = Case(batch=2, heads=2, query_len=33, key_len=48)
    mask = kept_by_dropout(case, 0.5, seed=1)
    assert torch.equal(mask, kept_by_dropout(case, 0.5, seed=1))
    assert not torch.equal(mask, kept_by_dropout(case, 0.5, seed=2))
    rows = mask.reshape(-1, 48)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
    columns = mask.permute(0, 1, 3, 2).reshape(-1, 33)
    assert len({tuple(column.tolist()) for column in columns}) == len(columns)
    assert not kept_by_dropout(case, 1.0, seed=1).any()


# torch.compile, checkpointing, operators


def leaves_and_loss(case: Case, rate: float) -> tuple[list[Tensor], Callable[..., Tensor]]:
    leaves, given, rest = case.build()
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def loss(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        heads = [tensor.transpose(1, 2) for tensor in (query, key, value)]
        inputs = Inputs(*heads, bias=bias, **(rest | {"dropout": rate}))
        reason = triton_attention.why_not(inputs, bind("sa-softmax"))
        assert reason is None
        return (triton_attention.attend(inputs, bind("sa-softmax")) * given).sum()

    return leaves, loss


SMALL = Case(query_len=17, key_len=20, bias=(1, 2, 17, 20), allowed=padding, causal=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["checkpoint", "compile"])
def test_checkpointed_and_compiled_give_the_same_bits(way: str) -> None:
    leaves, loss = leaves_and_loss(SMALL, rate=0.2)
    other: Callable[..., Tensor] = partial(checkpoint, loss, use_reentrant=False)
    if way == "compile":
        other = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = []
    for function in (loss, other):
        torch.manual_seed(4)
        value = function(*leaves)
        torch.rand(3, device=DEVICE)  # what is drawn later must not matter to what is computed again
        found.append([value.detach(), *torch.autograd.grad(value, leaves)])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["softmax", "sa-softmax", pytest.param("sa-softmax-raw", marks=pytest.mark.exhaustive)]
)
def test_the_operators_keep_the_rules_of_torch(form: str) -> None:
    leaves, _, rest = SMALL.build()
    query, key, value = (leaf.transpose(1, 2).requires_grad_() for leaf in leaves[:3])
    bias = leaves[3].requires_grad_()
    seed = torch.tensor([7], device=DEVICE)
    torch.library.opcheck(
        triton_attention._attention,
        (query, key, value, rest["allowed"], bias, seed, form, 1e-6, 0.25, True, 0.1, "two-sweeps", True),
    )


# Forms


def test_the_span_of_keys_is_from_the_first_to_the_last_that_any_query_may_see() -> None:
    from finetune.attention.kernels.triton.spans import key_spans

    allowed = torch.zeros(4, 2, 3, 2100, dtype=torch.bool, device=DEVICE)
    allowed[0, 0, 0, 7] = allowed[0, 1, 2, 2050] = allowed[1, :, :, 5:9] = allowed[2] = True
    spans = [[7, 2051], [5, 9], [0, 2100], [2100, 0]]
    assert key_spans(allowed).tolist() == spans
    assert key_spans(allowed[:, :1, :1].expand(4, 2, 3, 2100)).tolist() == [[7, 8], *spans[1:]]


def test_a_deterministic_form_takes_the_place_of_one_that_adds_atomically() -> None:
    assert forms.in_order("fused") == "one-sweep"
    assert all(forms.in_order(cut) == cut for cut in forms.FORMS if cut != "fused")


@pytest.mark.parametrize(
    ("cut", "sizes", "reason"),
    [
        ("fused", ((4096, 4096), 256, 4), None),
        ("one-tile", ((128, 128), 64, 2), None),
        ("one-tile", ((60, 129), 64, 2), "up to 128 keys, not 129"),
        (
            "one-tile",
            ((500, 128), 64, 4),
            "its keys take 32768 bytes",
        ),
    ],
)
def test_why_a_form_does_not_take_a_call(
    cut: str, sizes: tuple[tuple[int, int], int, int], reason: str | None
) -> None:
    found = forms.why_not(cut, *sizes)
    assert found is None if reason is None else reason in str(found)


def test_the_default_form_takes_what_another_does_not() -> None:
    leaves, _, rest = Case(query_len=5, key_len=140).build()
    inputs = Inputs(*(leaf.transpose(1, 2) for leaf in leaves), bias=None, **rest)
    ours, usual = (triton_attention.attend(inputs, bind("softmax"), f) for f in ("one-tile", forms.DEFAULT))
    assert torch.equal(ours, usual)


# What it can do


def some(**changes: Any) -> Inputs:
    given: dict[str, Any] = {
        "query": torch.randn(1, 2, 3, 16), "key": torch.randn(1, 2, 5, 16), "value": torch.randn(1, 2, 5, 16),
        "allowed": None, "bias": None, "causal": False, "scaling": 1.0, "dropout": 0.0,
    }  # fmt: skip
    given |= changes
    for name in ("query", "key", "value"):
        given[name] = given[name].to(DEVICE)
    return Inputs(**given)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": torch.randn(1, 2, 5, 257)}, "width 1 to 256, not 257"),
        ({"query": torch.randn(1, 2, 3, 16).double()}, "not torch.float64"),
        ({"query": torch.randn(1, 2, 3, 16).half()}, "differ in type"),
    ],
)
def test_why_not(changes: dict[str, Any], reason: str) -> None:
    assert triton_attention.why_not(some(), bind("sa-softmax")) is None
    found = triton_attention.why_not(some(**changes), bind("sa-softmax"))
    assert found is not None and reason in found


def test_why_not_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    other = BoundVariant("sparsemax", bind("softmax").weigh)
    assert "softmax, sa-softmax, sa-softmax-raw only" in str(triton_attention.why_not(some(), other))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    inputs = some()
    inputs = replace(inputs, query=inputs.query.cpu())
    assert "CUDA device, not cpu" in str(triton_attention.why_not(inputs, bind("softmax")))
    monkeypatch.setattr(triton_attention, "_INSTALLED", False)
    assert triton_attention.why_not(some(), bind("softmax")) == "triton is not installed"


def test_autocast_computes_in_its_type() -> None:
    inputs = some()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        mixed = triton_attention.attend(replace(inputs, value=inputs.value.bfloat16()), bind("sa-softmax"))
        wide = triton_attention.attend(inputs, bind("sa-softmax"))
    assert mixed.dtype == torch.bfloat16 and wide.dtype == torch.float32
    assert torch.equal(mixed.float(), wide)


@pytest.mark.parametrize("empty", ["query", "key", "batch"])
def test_empty_inputs(empty: str) -> None:
    sizes = {"query": 3, "key": 5, "batch": 1} | {empty: 0}
    tensors = [torch.randn(sizes["batch"], 2, sizes[name], 16) for name in ("query", "key", "key")]
    leaves = [tensor.to(DEVICE).requires_grad_() for tensor in tensors]
    output = triton_attention.attend(Inputs(*leaves, None, None, False, 1.0, 0.0), bind("sa-softmax"))
    assert output.shape == (sizes["batch"], sizes["query"], 2, 16) and (output == 0).all()
    output.sum().backward()
    assert all(leaf.grad is not None and (leaf.grad == 0).all() for leaf in leaves)
