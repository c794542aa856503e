"""The maps from scores to weights: against a slow float64 reference, exact gradients, and every edge."""

import math
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finetune.attention import PAPER, VARIANTS, controls, get_variant
from finetune.attention.functions import sa_softmax, sa_softmax_raw, softmax
from finetune.attention.kernels import dispatch
from finetune.errors import UserError

EPS = 1e-6
MAPS: dict[str, Callable[..., Tensor]] = {name: variant.weigh for name, variant in VARIANTS.items()}
every_map = pytest.mark.parametrize("name", MAPS)


def softmax_row(row: list[float]) -> list[float]:
    top = max(row)
    exponentials = [math.exp(x - top) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def sa_softmax_row(row: list[float], eps: float) -> list[float]:
    low, high = min(*row, 0.0), max(*row, 0.0)
    return [(x - low) / (high - low + eps) * p for x, p in zip(row, softmax_row(row), strict=True)]


def ratios(numerators: list[Decimal], denominator: Decimal) -> list[float]:
    return [float(numerator / denominator) if numerator else 0.0 for numerator in numerators]


def softmax_plus_one_row(row: list[float]) -> list[float]:
    exponentials = [Decimal(x).exp() for x in row]
    return ratios(exponentials, 1 + sum(exponentials))


def ssmax_row(row: list[float], s: float = 0.168) -> list[float]:
    """As the paper writes it: powers of n."""
    powers = [Decimal(len(row)) ** (Decimal(s) * Decimal(x)) for x in row]
    return ratios(powers, Decimal(sum(powers)))


def sigmoid_row(row: list[float]) -> list[float]:
    return [float(1 / (1 + len(row) * Decimal(-x).exp())) for x in row]


def entmax15_row(row: list[float]) -> list[float]:
    """The threshold by bisection: the weights' sum falls from 1 or more to 0 as it rises."""
    lower, upper = max(row) / 2 - 1, max(row) / 2
    for _ in range(60):
        middle = (lower + upper) / 2
        total = sum(max(x / 2 - middle, 0.0) ** 2 for x in row)
        lower, upper = (middle, upper) if total >= 1 else (lower, middle)
    return [max(x / 2 - lower, 0.0) ** 2 for x in row]


def softpick_row(row: list[float], eps: float) -> list[float]:
    terms = [Decimal(x).exp() - 1 for x in row]
    total = sum(abs(term) for term in terms) + Decimal(eps)
    return ratios([max(term, Decimal(0)) for term in terms], total)


def sa_softmax_renormalised_row(row: list[float], eps: float) -> list[float]:
    low = min(*row, 0.0)
    weights = [(x - low) * p for x, p in zip(row, softmax_row(row), strict=True)]
    return [weight / (sum(weights) + eps) for weight in weights]


# Each variant once more, by its definition: one row of allowed scores -> weights, in float64 or Decimal.
SLOW: dict[str, Callable[[list[float], float], list[float]]] = {
    "softmax": lambda row, eps: softmax_row(row),
    "sa-softmax": sa_softmax_row,
    "sa-softmax-raw": lambda row, eps: [x * p for x, p in zip(row, softmax_row(row), strict=True)],
    "softmax-plus-one": lambda row, eps: softmax_plus_one_row(row),
    "ssmax": lambda row, eps: ssmax_row(row),
    "sigmoid": lambda row, eps: sigmoid_row(row),
    "entmax15": lambda row, eps: entmax15_row(row),
    "softpick": softpick_row,
    "sa-softmax-renormalised": sa_softmax_renormalised_row,
    "sa-softmax-guarded": sa_softmax_row,
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
    (weights * torch.linspace(-1, 1, weights.numel()).view_as(weights)).sum().backward()
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
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_gradcheck(name: str, masked: bool, shift: float) -> None:
    torch.manual_seed(4)
    x = (torch.randn(2, 1, 3, 5, dtype=torch.float64) + shift).requires_grad_()
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


@every_map
def test_an_extreme_row_has_finite_gradients(name: str) -> None:
    """Scores of 1e4 either way, alone and together, in rows of one key, of many and of none."""
    x = torch.tensor([
        [1e4, -1e4, 0.0, 1e4], [-1e4, -1e4, -1e4, -9999.0], [1e4, 9999.0, 1e4, 1e4], [1e-20, -1e-20, 0.0, 0.0]
    ])  # fmt: skip
    for allowed in (
        torch.ones(4, 4, dtype=torch.bool),
        *torch.eye(4, dtype=torch.bool),
        torch.zeros(4, 4) > 0,
    ):
        scores = x.clone().requires_grad_()
        weights = MAPS[name](scores, allowed)
        torch.testing.assert_close(weights.detach().double(), slow(name, x, allowed), rtol=1e-4, atol=1e-6)
        weights.backward(torch.tensor([1.0, -2.0, 3.0, -0.5]).expand(4, 4))
        assert scores.grad is not None
        assert scores.grad.isfinite().all()
        assert (scores.grad[~allowed.expand(4, 4)] == 0).all()


@every_map
@pytest.mark.parametrize("shape", [(2, 3, 4, 7), (2, 1, 1, 7), (7,), (2, 3, 4, 1)])
def test_a_blocked_key_might_as_well_not_be_there(name: str, shape: tuple[int, ...]) -> None:
    """So what counts the keys of a row counts the allowed ones: padding is not in n."""
    torch.manual_seed(6)
    x = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    allowed = torch.rand(shape) < 0.6
    weights = MAPS[name](x, allowed)
    for row, keys, found in zip(
        x.view(-1, 7), allowed.expand(x.shape).reshape(-1, 7), weights.view(-1, 7), strict=True
    ):
        if keys.any():
            torch.testing.assert_close(found[keys], MAPS[name](row[keys]), rtol=1e-12, atol=1e-14)


# ---- the controls ----------------------------------------------------------------------------------------


def test_the_paper_s_variants_come_first_and_the_others_are_controls() -> None:
    assert list(VARIANTS)[:3] == list(PAPER) == ["softmax", "sa-softmax", "sa-softmax-raw"]
    assert [name for name, variant in VARIANTS.items() if not variant.control] == list(PAPER)


@pytest.mark.parametrize(
    "name",
    [
        "softmax-plus-one",
        "ssmax",
        "sigmoid",
        "entmax15",
        "softpick",
        "sa-softmax-renormalised",
        "sa-softmax-guarded",
    ],
)
@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_a_control_is_between_zero_and_one(name: str, case: tuple[Tensor, Tensor | None]) -> None:
    scores, allowed = case
    weights = MAPS[name](scores, allowed)
    sums = weights.sum(-1)
    assert (weights >= 0).all() and (weights <= 1 + 1e-12).all()
    if name in ("ssmax", "entmax15"):
        seen = torch.ones_like(scores, dtype=torch.bool) if allowed is None else allowed.expand(scores.shape)
        torch.testing.assert_close(sums, seen.any(-1).double(), rtol=1e-9, atol=0)
    elif name != "sigmoid":
        assert (sums <= 1 + 1e-12).all()


def test_worked_examples_of_the_controls() -> None:
    x = torch.log(torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64))  # exp(x) is 1/2, 2, 4, and n is 3
    expected = {
        "softmax-plus-one": [0.5 / 7.5, 2 / 7.5, 4 / 7.5],
        "sigmoid": [0.5 / 3.5, 2 / 5, 4 / 7],  # e / (e + n)
        "softpick": [0.0, 1 / 4.5, 3 / 4.5],  # of -1/2, 1, 3
        "sa-softmax-renormalised": [0.0, 8 / 32, 24 / 32],  # x - m is as 0, 2, 3 and p as 1, 4, 8
    }
    for name, weights in expected.items():
        found = MAPS[name](x)
        torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), rtol=1e-5, atol=0)
    powers = torch.tensor([1 / 3, 3.0, 9.0], dtype=torch.float64)  # n to the power of -1, 1, 2
    torch.testing.assert_close(controls.ssmax(x, s=1 / math.log(2)), powers / powers.sum())
    angle = math.radians(75)  # sin 75 = cos 75 + sqrt(2) / 2, and cos^2 + sin^2 = 1: t is -cos 75
    row = torch.tensor([0.0, math.sqrt(2), -5.0], dtype=torch.float64)
    weights = torch.tensor([math.cos(angle) ** 2, math.sin(angle) ** 2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(controls.entmax15(row), weights)


def test_ssmax_is_softmax_where_s_log_n_is_1_and_a_lone_key_has_weight_1() -> None:
    x = torch.randn(3, 9, dtype=torch.float64)
    torch.testing.assert_close(controls.ssmax(x, s=1 / math.log(9)), softmax(x))
    assert torch.equal(controls.ssmax(x[:, :1]), torch.ones(3, 1, dtype=torch.float64))
    mean = sum(math.log(n) for n in range(1, 1025)) / 1024
    assert get_variant("ssmax").parameters["s"] == round(1 / mean, 3)


def test_equal_scores_of_zero_weigh_the_same_under_sigmoid_as_under_softmax() -> None:
    """Almost: 1 / (1 + n), as the bias makes sigmoid start at the scale of softmax."""
    allowed = torch.tensor([True] * 9 + [False] * 4)
    weights = controls.sigmoid(torch.zeros(2, 13), allowed)
    torch.testing.assert_close(weights, torch.where(allowed, 0.1, 0.0).expand(2, 13))


def test_renormalised_is_sa_softmax_over_its_row_sum() -> None:
    torch.manual_seed(7)
    x, allowed = torch.randn(3, 4, 20, dtype=torch.float64), torch.rand(4, 20) < 0.7
    plain = sa_softmax(x, allowed)
    assert plain.sum(-1).max() < 0.95
    found = controls.sa_softmax_renormalised(x, allowed)
    torch.testing.assert_close(found, plain / plain.sum(-1, keepdim=True), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-5)
    assert (controls.sa_softmax_renormalised(torch.full((2, 5), -3.0)) == 0).all()


def rows_of_extents() -> tuple[Tensor, Tensor]:
    """Rows with M - m from 0 to 20, (8, 6) in float64, of either sign or both; and dL/dweights."""
    torch.manual_seed(8)
    extents = torch.tensor([0.0, 1e-8, 1e-5, 9e-4, 2e-3, 0.1, 1.0, 20.0], dtype=torch.float64)[:, None]
    shapes = torch.randn(8, 6, dtype=torch.float64) + torch.tensor([0.0, 3.0, -3.0, 0.0] * 2)[:, None]
    spans = shapes.amax(-1, keepdim=True).relu() + (-shapes.amin(-1, keepdim=True)).relu()
    return shapes / spans * extents, torch.randn(8, 6, dtype=torch.float64)


def gradient_of(name: str, x: Tensor, da: Tensor, **parameters: float) -> Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(MAPS[name](leaf, **parameters), leaf, da.to(leaf))
    return gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_guarded_is_sa_softmax_but_for_the_gradient_of_narrow_rows(dtype: torch.dtype) -> None:
    x, da = rows_of_extents()
    x, da = x.to(dtype), da.to(dtype)
    assert torch.equal(MAPS["sa-softmax-guarded"](x), sa_softmax(x))
    found, plain = gradient_of("sa-softmax-guarded", x, da), gradient_of("sa-softmax", x, da)
    torch.testing.assert_close(found[4:], plain[4:])
    # dx = p (g da - sum(g p da)), within twice the largest da, where that of sa-softmax is up to 1 / eps.
    p, weights = softmax(x), sa_softmax(x)
    expected = p * (weights / p * da - (weights * da).sum(-1, keepdim=True))
    torch.testing.assert_close(found[:4], expected[:4])
    assert found[:4].abs().max() < 2 * da.abs().max() and (found[0] == 0).all()
    assert (plain[:4].abs().amax(-1) > torch.tensor([1e5, 1e4, 1e4, 1e2])).all()


def test_the_gradient_of_guarded_is_as_exact_in_float32_as_in_float64() -> None:
    """Of the same scores, as a float32 has them."""
    x, da = (each.float() for each in rows_of_extents())
    found, exact = (gradient_of("sa-softmax-guarded", x.to(t), da) for t in (torch.float32, torch.float64))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_threshold_of_guarded_is_a_parameter() -> None:
    x, da = rows_of_extents()
    found, plain = (gradient_of(name, x, da) for name in ("sa-softmax-guarded", "sa-softmax"))
    narrow = (found != plain).any(-1)
    assert narrow.tolist() == [True] * 4 + [False] * 4
    lower, higher = (gradient_of("sa-softmax-guarded", x, da, threshold=t) for t in (1e-6, 0.5))
    assert (lower != plain).any(-1).tolist() == [True] * 2 + [False] * 6
    assert (higher != plain).any(-1).tolist() == [True] * 6 + [False] * 2


def test_the_controls_take_their_parameters() -> None:
    x = torch.randn(2, 5, dtype=torch.float64)
    for name in ("softpick", "sa-softmax-renormalised"):
        torch.testing.assert_close(MAPS[name](x, eps=0.5), slow(name, x, None, eps=0.5))
    rows = [ssmax_row(row, s=0.43) for row in x.tolist()]
    torch.testing.assert_close(controls.ssmax(x, s=0.43), torch.tensor(rows, dtype=torch.float64))


def test_the_declarations_load_no_torch() -> None:
    code = "import sys, finetune.attention as a; a.get_variant('ssmax'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_fused_kernel_that_a_variant_names_is_one() -> None:
    kernels = {*dispatch.FAST, "sdpa"}
    assert {kernel for variant in VARIANTS.values() for kernel in variant.kernels} == kernels
    assert {*dispatch.FAST, "auto", "reference"} == set(dispatch.CHOICES)


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
    assert torch.equal(variant.weigh(x, None, **variant.parameters), variant.weigh(x))
