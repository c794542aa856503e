"""The maps from scores to weights: against a slow float64 reference, exact gradients, and every edge."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finetune.attention import VARIANTS, get_variant
from finetune.attention.functions import sa_softmax, sa_softmax_raw, softmax
from finetune.errors import UserError

EPS = 1e-6
MAPS: dict[str, Callable[..., Tensor]] = {name: variant.function for name, variant in VARIANTS.items()}
every_map = pytest.mark.parametrize("name", MAPS)


def softmax_row(row: list[float]) -> list[float]:
    top = max(row)
    exponentials = [math.exp(x - top) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def sa_softmax_row(row: list[float], eps: float) -> list[float]:
    low, high = min(*row, 0.0), max(*row, 0.0)
    return [(x - low) / (high - low + eps) * p for x, p in zip(row, softmax_row(row), strict=True)]


# Each variant once more, by its definition: one row of allowed scores -> weights, in Python's float64.
SLOW: dict[str, Callable[[list[float], float], list[float]]] = {
    "softmax": lambda row, eps: softmax_row(row),
    "sa-softmax": sa_softmax_row,
    "sa-softmax-raw": lambda row, eps: [x * p for x, p in zip(row, softmax_row(row), strict=True)],
}
with_reference = pytest.mark.parametrize("name", SLOW)


def test_every_variant_has_a_slow_reference() -> None:
    assert SLOW.keys() == VARIANTS.keys(), "add the variant's definition to SLOW"


def slow(name: str, scores: Tensor, allowed: Tensor | None, eps: float = EPS) -> Tensor:
    """Row by row, key by key."""
    seen = torch.ones_like(scores, dtype=torch.bool) if allowed is None else allowed.expand(scores.shape)
    weights = torch.zeros(scores.shape, dtype=torch.float64)
    rows = zip(scores.double().reshape(-1, scores.shape[-1]), seen.reshape(-1, scores.shape[-1]), strict=True)
    for target, (row, keys) in zip(weights.view(-1, scores.shape[-1]), rows, strict=True):
        index = [k for k in range(len(row)) if keys[k]]
        for k, weight in zip(
            index, SLOW[name]([float(row[k]) for k in index], eps) if index else [], strict=True
        ):
            target[k] = weight
    return weights


def exact_gradient(name: str, x: Tensor, allowed: Tensor, da: Tensor, eps: float = EPS) -> Tensor:
    """dL/dx from da = dL/dweights, by hand: for x_min and x_max one index takes the whole gradient."""
    p = slow("softmax", x, allowed)
    if name == "softmax":
        return p * (da - (p * da).sum(-1, keepdim=True))
    if name == "sa-softmax-raw":
        d1 = (x * p * da).sum(-1, keepdim=True)
        return p * (da * (1 + x) - d1)
    x_min, k_min = x.masked_fill(~allowed, math.inf).min(-1, keepdim=True)
    x_max, k_max = x.masked_fill(~allowed, -math.inf).max(-1, keepdim=True)
    low, high = x_min.clamp(max=0.0), x_max.clamp(min=0.0)
    span = high - low + eps
    g = (x - low) / span
    d1, d0 = (g * p * da).sum(-1, keepdim=True), (p * da).sum(-1, keepdim=True)
    gradient = p * (da * (1 / span + g) - d1)
    gradient.scatter_add_(-1, k_min, torch.where(x_min < 0, (d1 - d0) / span, 0.0))
    gradient.scatter_add_(-1, k_max, torch.where(x_max > 0, -d1 / span, 0.0))
    return gradient


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor | None]:
    """Scores (batch, heads, query, key) of any scale and sign, with no mask, a partial or a blocking one."""
    shape = [draw(st.integers(1, longest)) for longest in (3, 3, 5, 7)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([1e-4, 1e-2, 1.0, 30.0, 1e4]))
    shift = draw(st.sampled_from([-2.0, 0.0, 2.0]))
    scores = (torch.randn(shape, generator=generator, dtype=torch.float64) + shift) * scale
    if draw(st.booleans()):
        scores = scores.sign() * scale  # many equal scores
    density = draw(st.sampled_from([None, 0.0, 0.3, 0.8, 1.0]))
    if density is None:
        return scores, None
    broadcast = draw(st.sampled_from([shape, [shape[0], 1, 1, shape[3]], [1, 1, *shape[2:]]]))
    return scores, torch.rand(broadcast, generator=generator) < density


@with_reference
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_equals_the_slow_reference(name: str, case: tuple[Tensor, Tensor | None]) -> None:
    scores, allowed = case
    weights = MAPS[name](scores, allowed)
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights, slow(name, scores, allowed), rtol=1e-9, atol=1e-12)


@with_reference
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_float32_equals_the_slow_reference(name: str, case: tuple[Tensor, Tensor | None]) -> None:
    scores, allowed = case[0].float().requires_grad_(), case[1]
    weights = MAPS[name](scores, allowed)
    assert weights.dtype == torch.float32
    reference = slow(name, scores.detach(), allowed)
    scale = max(1.0, float(reference.abs().max()))
    torch.testing.assert_close(weights.detach().double(), reference, rtol=1e-4, atol=1e-6 * scale)
    weights.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@every_map
@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_blocked_keys_weigh_nothing_and_change_nothing(name: str, case: tuple[Tensor, Tensor | None]) -> None:
    scores, allowed = case
    if allowed is None:
        return
    blocked = ~allowed.expand(scores.shape)
    weights = MAPS[name](scores, allowed)
    assert (weights[blocked] == 0).all()
    for hidden in (-1e30, 0.0, 1e30):
        assert torch.equal(MAPS[name](scores.masked_fill(blocked, hidden), allowed), weights)


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_sa_softmax_is_within_zero_and_softmax(case: tuple[Tensor, Tensor | None]) -> None:
    scores, allowed = case
    weights = sa_softmax(scores, allowed)
    assert (weights >= 0).all()
    assert (weights <= softmax(scores, allowed) + 1e-15).all()


@pytest.mark.parametrize("name", ["softmax", "sa-softmax", "sa-softmax-raw"])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 5.0])
@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_the_exact_ones(name: str, scale: float, shift: float, masked: bool) -> None:
    torch.manual_seed(3)
    x = ((torch.randn(2, 3, 4, 6, dtype=torch.float64) + shift) * scale).requires_grad_()
    allowed = torch.rand(2, 1, 4, 6) < 0.7
    allowed[..., 0] = True
    allowed = allowed if masked else torch.ones_like(allowed)
    da = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    MAPS[name](x, allowed if masked else None).backward(da)
    expected = exact_gradient(name, x.detach(), allowed, da)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, rtol=1e-10, atol=1e-12)


@every_map
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(name: str, masked: bool) -> None:
    torch.manual_seed(4)
    x = torch.randn(2, 1, 3, 5, dtype=torch.float64, requires_grad=True)
    allowed = torch.rand(2, 1, 1, 5) < 0.6 if masked else None
    assert torch.autograd.gradcheck(lambda scores: MAPS[name](scores, allowed), (x,))


def test_minimum_and_maximum_take_the_gradient_of_one_index() -> None:
    x = torch.tensor([-1.0, -1.0, 2.0, 2.0], dtype=torch.float64, requires_grad=True)
    da = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64)
    sa_softmax(x).backward(da)
    expected = exact_gradient("sa-softmax", x.detach(), torch.ones(4, dtype=torch.bool), da)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-14)


def test_a_bound_of_zero_takes_no_gradient() -> None:
    x = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    sa_softmax(x).backward(torch.tensor([1.0, 0.0, 0.0]))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([1 / 3 / EPS, 0.0, 0.0]))


@every_map
def test_a_row_without_an_allowed_key_is_zero_with_zero_gradient(name: str) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    allowed = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    allowed[1, :, 2] = False
    weights = MAPS[name](x, allowed)
    assert (weights[1, :, 2] == 0).all()
    (weights * torch.randn_like(weights)).sum().backward()
    assert x.grad is not None
    assert (x.grad[1, :, 2] == 0).all()
    assert x.grad.isfinite().all()


@with_reference
@pytest.mark.parametrize("value", [-1e4, -3.0, -1e-4, 0.0, 1e-4, 3.0, 1e4])
@pytest.mark.parametrize("keys", [1, 6])
def test_equal_scores_stay_finite(name: str, value: float, keys: int) -> None:
    x = torch.full((1, 2, 3, keys), value, requires_grad=True)
    weights = MAPS[name](x)
    torch.testing.assert_close(weights.detach().double(), slow(name, x.detach(), None), rtol=1e-4, atol=1e-7)
    weights.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("score", "weight"), [(2.5, 1.0), (0.0, 0.0), (-2.5, 0.0)])
def test_sa_softmax_of_a_single_key(score: float, weight: float) -> None:
    x = torch.tensor([[7.0, score, -7.0]])
    only = torch.tensor([[False, True, False]])
    torch.testing.assert_close(sa_softmax(x, only), torch.tensor([[0.0, weight, 0.0]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(sa_softmax(x[:, 1:2]), torch.tensor([[weight]]), rtol=0, atol=1e-6)


@with_reference
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    scores = (torch.randn(2, 3, 4, 5) * 3).to(dtype)
    allowed = torch.rand(2, 1, 4, 5) < 0.7
    weights = MAPS[name](scores, allowed)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), slow(name, scores.float(), allowed), rtol=1e-5, atol=1e-6)


def test_narrow_rows_have_finite_gradients() -> None:
    """Filling before the ratio: a row whose range is below 1, beside blocked keys, must not overflow."""
    scores = (torch.randn(1, 1, 3, 6) * 1e-3).requires_grad_()
    allowed = torch.tensor([True, True, True, False, False, False])
    sa_softmax(scores, allowed).sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().max() > 0


def test_hand_worked_example() -> None:
    x = torch.log(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)) - math.log(2)  # p = 1/8, 2/8, 5/8
    low, high = -math.log(2), math.log(2.5)
    torch.testing.assert_close(softmax(x), torch.tensor([0.125, 0.25, 0.625], dtype=torch.float64))
    raw = torch.tensor([low / 8, 0.0, high * 5 / 8], dtype=torch.float64)
    torch.testing.assert_close(sa_softmax_raw(x), raw)
    middle = math.log(2) / (high - low + EPS) / 4
    upper = (high - low) / (high - low + EPS) * 5 / 8
    torch.testing.assert_close(sa_softmax(x), torch.tensor([0.0, middle, upper], dtype=torch.float64))


def test_eps_is_a_parameter() -> None:
    x = torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(sa_softmax(x, eps=0.5), slow("sa-softmax", x, None, eps=0.5))


def test_an_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown attention variant 'sasoftmax': did you mean 'sa-softmax'"):
        get_variant("sasoftmax")


@every_map
def test_every_variant_is_documented(name: str) -> None:
    variant = get_variant(name)
    assert variant.name == name
    assert variant.paper
    assert variant.equation
    assert variant.summary
    x = torch.randn(2, 3)
    assert torch.equal(variant.function(x, None, **variant.parameters), variant.function(x))
