"""The fast kernels against the definition in float64: values, gradients, dropout, memory; and the choice."""

import logging
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune.attention import VARIANTS
from finetune.attention.kernels import blocked, dispatch, proof, reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import build, native_attention
from finetune.errors import UserError

FAST = {"blocked": blocked, "native": native_attention}
every_kernel = pytest.mark.parametrize("kernel", FAST)
every_form = pytest.mark.parametrize("variant", ["sa-softmax", "sa-softmax-raw"])
Said = Callable[[], list[str]]
MASKS = ("none", "padded", "left-padded", "causal", "causal and padded", "arbitrary", "per head")


def bind(variant: str, **parameters: float) -> BoundVariant:
    bound = {**VARIANTS[variant].parameters, **parameters}
    return BoundVariant(variant, partial(VARIANTS[variant].weigh, **bound), bound)


def mask_of(name: str, batch: int, heads: int, queries: int, keys: int) -> Tensor | None:
    """Masks as models pass them; some rows of the arbitrary ones allow nothing."""
    position = torch.arange(keys)
    if name in ("padded", "causal and padded"):
        return (position < torch.randint(0, keys + 1, (batch, 1)))[:, None, None]
    if name == "left-padded":
        return (position >= torch.randint(0, keys, (batch, 1)))[:, None, None].expand(batch, 1, queries, keys)
    if name == "arbitrary":
        return torch.rand(batch, 1, queries, keys) < torch.rand(batch, 1, queries, 1)
    if name == "per head":
        return torch.rand(1, heads, queries, keys) < 0.3
    return None


def make(
    shape: tuple[int, int, int, int, int, int], mask: str = "none", *, scale: float = 1.0, bias: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Inputs:  # fmt: skip
    """Random inputs laid out as models do: (batch, length, heads, width), transposed."""
    batch, heads, key_heads, queries, keys, width = shape
    query, key, value = (
        torch.randn(batch, length, count, width).to(dtype).transpose(1, 2).requires_grad_()
        for length, count in ((queries, heads), (keys, key_heads), (keys, key_heads))
    )
    allowed = mask_of(mask, batch, heads, queries, keys)
    added = torch.randn(1, heads, queries, keys) if bias else None
    return Inputs(query, key, value, allowed, added, mask.startswith("causal"), scale * width**-0.5, 0.0)


def wide(inputs: Inputs, dtype: torch.dtype = torch.float64) -> Inputs:
    """The same inputs as new leaves of another type."""
    cast = {
        name: getattr(inputs, name).detach().to(dtype).requires_grad_() for name in ("query", "key", "value")
    }
    if inputs.bias is not None:
        cast["bias"] = inputs.bias.detach().to(dtype).requires_grad_(inputs.bias.requires_grad)
    return replace(inputs, **cast)


def results(output: Tensor, inputs: Inputs, arriving: Tensor) -> list[Tensor]:
    """Output and every gradient."""
    leaves = [inputs.query, inputs.key, inputs.value]
    if inputs.bias is not None and inputs.bias.requires_grad:
        leaves.append(inputs.bias)
    return [output.detach(), *torch.autograd.grad(output, leaves, arriving.to(output.dtype))]


def magnitudes(exact: Inputs, arriving: Tensor, bound: BoundVariant) -> list[Tensor]:
    """Output and gradients with every term of every sum taken positive: what rounding is in proportion to.

    In a row with a single key the terms of a gradient cancel, and float32 knows no more than this.
    """
    heads = exact.query.shape[1]
    query, key, value = (
        reference.one_per_query_head(tensor.detach(), heads)
        for tensor in (exact.query, exact.key, exact.value)
    )
    x = query @ key.mT * exact.scaling + (0 if exact.bias is None else exact.bias.detach())
    allowed = exact.all_allowed()
    x = x if allowed is None else x.masked_fill(~allowed, 0)
    p, w = VARIANTS["softmax"].weigh(x, allowed), bound.weigh(x, allowed).abs()
    span = x.amax(-1, keepdim=True).clamp(min=0) - x.amin(-1, keepdim=True).clamp(max=0)
    factor = {"softmax": 1, "sa-softmax-raw": 1 + x.abs()}.get(bound.name, 1 + 1 / span.clamp(min=1e-6))
    upstream = arriving.double().transpose(1, 2)
    da = (upstream @ value.mT).abs()
    dx = p * (da * factor + (w * da).sum(-1, keepdim=True))
    scaled = dx * exact.scaling
    found = [
        (w @ value.abs()).transpose(1, 2),
        scaled @ key.abs(),
        scaled.mT @ query.abs(),
        w.mT @ upstream.abs(),
    ]
    return [*found, dx]


def errors(kernel: str, inputs: Inputs, bound: BoundVariant) -> list[tuple[float, float]]:
    """Of output and gradients: the kernel's distance from float64, and what float32 allows it.

    That is 1e-5 of the norm; where rounding is the whole error, as of large scores, four times the error of
    the definition itself in float32, or of scores that are rounded anew; and 1e-6 of the magnitudes.
    """
    arriving = torch.randn(inputs.query.transpose(1, 2).shape)
    exact, rough, shaken = wide(inputs), wide(inputs, torch.float32), wide(inputs)
    with torch.no_grad():
        shaken.query.mul_(1 + 3e-7 * torch.randn(shaken.query.shape, dtype=torch.float64))
    expected, plainly, moved = (
        results(reference.reference(each, bound)[0], each, arriving) for each in (exact, rough, shaken)
    )
    found = results(FAST[kernel].attend(inputs, bound), inputs, arriving)
    floors = magnitudes(exact, arriving, bound)
    pairs = []
    for ours, theirs, shaky, truth, floor in zip(found, plainly, moved, expected, floors, strict=False):
        assert ours.isfinite().all()
        rounding = 4 * max(float((theirs - truth).norm()), float((shaky - truth).norm()))
        allowed = max(1e-5 * float(truth.norm()), rounding, 1e-6 * float(floor.norm()))
        pairs.append((float((ours.double() - truth).norm()), allowed))
    return pairs


shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(1, 70), st.integers(1, 90),
    st.sampled_from([1, 7, 16, 24, 64, 80]),
).map(lambda s: (s[0], s[1] * s[2], s[1], *s[3:]))  # fmt: skip


@every_kernel
@every_form
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=shapes, mask=st.sampled_from(MASKS), power=st.floats(-3, 3), bias=st.booleans(),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_values_and_gradients_are_the_definitions(  # noqa: PLR0917
    kernel: str, variant: str, shape: Any, mask: str, power: float, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    inputs = make(shape, mask, scale=10**power, bias=bias)
    for error, allowed in errors(kernel, inputs, bind(variant)):
        assert error <= allowed


@pytest.mark.parametrize("mask", MASKS)
def test_the_native_kernel_computes_softmax_too(mask: str) -> None:
    torch.manual_seed(5)
    inputs = make((2, 4, 2, 70, 90, 24), mask, scale=3.0, bias=True)
    for error, allowed in errors("native", inputs, bind("softmax")):
        assert error <= allowed


@every_kernel
@every_form
@pytest.mark.parametrize("mask", MASKS)
def test_many_blocks_agree_with_the_definition(kernel: str, variant: str, mask: str) -> None:
    """Longer than any block of queries, of keys, and than the chunk of a task."""
    torch.manual_seed(1)
    inputs = make((1, 2, 1, 300, 1100, 20), mask, scale=2.0)
    for error, allowed in errors(kernel, inputs, bind(variant)):
        assert error <= allowed


@every_form
def test_the_blocked_kernel_trains_a_position_bias(variant: str) -> None:
    torch.manual_seed(2)
    inputs = make((3, 4, 2, 90, 110, 16), "padded", bias=True)
    assert inputs.bias is not None
    inputs.bias.requires_grad_()
    assert len(pairs := errors("blocked", inputs, bind(variant))) == 5
    assert all(error <= allowed for error, allowed in pairs)
    reason = native_attention.why_not(inputs, bind(variant))
    assert reason == "the position bias is trained, and it computes no gradient for one"


@every_kernel
@every_form
def test_rows_without_an_allowed_key_and_rows_of_equal_scores(kernel: str, variant: str) -> None:
    for value in (0.0, 3.0, -50.0, 1e4):
        inputs = make((1, 2, 2, 5, 6, 8))
        with torch.no_grad():
            inputs.query.fill_(value)
            inputs.key.fill_(1.0)
        allowed = torch.ones(1, 1, 5, 6, dtype=torch.bool)
        allowed[..., 2, :] = False
        inputs = replace(inputs, allowed=allowed)
        bound = bind(variant)
        found = results(FAST[kernel].attend(inputs, bound), inputs, torch.ones(1, 5, 2, 8))
        assert all(tensor.isfinite().all() for tensor in found)
        assert not found[0][:, 2].any() and not found[1][:, :, 2].any()


@every_kernel
def test_eps_reaches_the_kernel(kernel: str) -> None:
    inputs = make((1, 1, 1, 4, 5, 8))
    for error, allowed in errors(kernel, inputs, bind("sa-softmax", eps=0.7)):
        assert error <= allowed


@every_kernel
@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_results_of_their_type(
    kernel: str, variant: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    inputs, bound = make((2, 2, 2, 20, 30, 16), "padded", dtype=dtype), bind(variant)
    output = FAST[kernel].attend(inputs, bound)
    assert output.dtype == dtype
    expected = reference.reference(inputs, bound)[0].detach()
    assert (output.detach() - expected).norm() < torch.finfo(dtype).eps * expected.norm()


@every_kernel
@every_form
@pytest.mark.parametrize("mask", ["none", "left-padded", "causal"])
def test_dropout_is_drawn_again_backward(kernel: str, variant: str, mask: str) -> None:
    """With identity values the output is the weights after dropout: the gradients follow from them."""
    torch.manual_seed(4)
    keys = 150
    inputs = make((2, 2, 2, 100, keys, keys), mask)
    with torch.no_grad():
        inputs.value.copy_(torch.eye(keys).expand(2, 2, keys, keys))
    bound, whole = bind(variant), replace(inputs, dropout=0.25)
    plainly = reference.reference(inputs, bound)[1].detach()
    torch.manual_seed(9)
    output = FAST[kernel].attend(whole, bound)
    dropped = output.detach().transpose(1, 2)
    counted = plainly.abs() > 1e-12
    kept = (dropped != 0) & counted
    assert abs(float(kept.sum() / counted.sum()) - 0.75) < 0.02
    torch.testing.assert_close(dropped, torch.where(kept, plainly / 0.75, 0.0), rtol=1e-4, atol=1e-6)
    if mask == "none":  # no two rows, heads or entries of the batch drop alike
        rows = kept.reshape(-1, keys)
        assert len(torch.unique(rows, dim=0)) == len(rows)

    arriving = torch.randn(output.shape)
    found = results(output, whole, arriving)
    exact = wide(inputs)
    scores = exact.query @ exact.key.mT * exact.scaling
    weights = bound.weigh(scores, exact.all_allowed()) * kept / 0.75
    expected = results((weights @ exact.value).transpose(1, 2), exact, arriving)
    for ours, truth in zip(found, expected, strict=True):
        assert (ours - truth).norm() <= 1e-4 * truth.norm()

    torch.manual_seed(9)
    assert torch.equal(FAST[kernel].attend(whole, bound), output)
    assert not torch.equal(FAST[kernel].attend(whole, bound), output)


@every_kernel
@every_form
def test_no_gradient_is_asked_for_in_vain(kernel: str, variant: str) -> None:
    """Frozen queries, as under adapters, and no gradients at all, as when generating one token at a time."""
    bound = bind(variant)
    inputs = make((2, 4, 2, 1, 33, 16), "padded")
    with torch.no_grad():
        output = FAST[kernel].attend(inputs, bound)
    torch.testing.assert_close(output, reference.reference(inputs, bound)[0], rtol=1e-4, atol=1e-5)
    frozen = replace(inputs, query=inputs.query.detach())
    FAST[kernel].attend(frozen, bound).sum().backward()
    assert inputs.key.grad is not None and inputs.query.grad is None


def peak_bytes(kernel: str, length: int) -> int:
    """The most that torch has allocated at once in a forward and backward pass, as its allocator tells."""
    inputs = make((1, 2, 2, length, length, 16), "padded")
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(FAST[kernel].attend(inputs, bind("sa-softmax")).sum(), (inputs.query, inputs.key))
    now = peak = 0
    events = (event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@every_kernel
def test_memory_is_linear_in_length(kernel: str) -> None:
    """What the C code allocates is no tensor; it is (5 x padded width + block) x length floats a thread."""
    short, long = peak_bytes(kernel, 2048), peak_bytes(kernel, 4096)
    assert 0 < long < 2.3 * short
    assert long < 4096 * 4096  # not even a byte for each pair


# ---- the choice ------------------------------------------------------------------------------------------


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    """What is said while nothing has been said before."""
    monkeypatch.setattr(dispatch, "_logged", set())
    proof.fault.cache_clear()
    caplog.set_level(logging.WARNING)
    yield lambda: caplog.messages
    proof.fault.cache_clear()


def ran(inputs: Inputs, variant: str, choice: str = "auto", **options: Any) -> str:
    return dispatch.attend(inputs, bind(variant), choice, **options)[2]


@pytest.mark.parametrize(
    ("variant", "choice", "kernel"),
    [
        ("softmax", "auto", "sdpa"), ("softmax", "blocked", "sdpa"), ("softmax", "reference", "reference"),
        ("sa-softmax", "auto", "native"), ("sa-softmax", "blocked", "blocked"),
        ("sa-softmax-raw", "native", "native"), ("sa-softmax-raw", "reference", "reference"),
        ("softmax", "native", "sdpa"), ("softmax", dispatch.CONTROL, "native"),
    ],
)  # fmt: skip
def test_the_choice_on_a_cpu(variant: str, choice: str, kernel: str, said: Said) -> None:
    assert ran(make((1, 2, 1, 5, 6, 8), "causal"), variant, choice) == kernel
    assert not said()


def test_what_a_kernel_cannot_do_goes_to_one_that_can_and_is_said_once(said: Said) -> None:
    inputs = make((1, 1, 1, 3, 4, 8), bias=True)
    assert inputs.bias is not None
    inputs.bias.requires_grad_()
    assert ran(inputs, "sa-softmax") == ran(inputs, "sa-softmax") == "blocked"
    assert said() == [
        "attention kernel native passed over: the position bias is trained, and it computes no gradient for "
        "one"
    ]
    assert ran(wide(make((1, 1, 1, 3, 4, 8))), "sa-softmax", "native") == "blocked"
    assert ran(inputs, "sa-softmax", wants_weights=True) == "reference"


def test_a_variant_of_ones_own_goes_to_the_reference(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "mine", replace(VARIANTS["softmax"], name="mine"))
    assert ran(make((1, 1, 1, 3, 4, 8)), "mine") == "reference"
    assert all("knows no formula for mine" in line for line in said())


@pytest.mark.parametrize("variant", [name for name, variant in VARIANTS.items() if variant.control])
def test_a_control_goes_to_the_reference_and_that_is_said_once(variant: str, said: Said) -> None:
    inputs = make((1, 2, 1, 3, 4, 8), "padded")
    assert ran(inputs, variant) == ran(inputs, variant) == ran(inputs, variant, "native") == "reference"
    assert said() == [
        f"attention kernel {kernel} passed over: it knows no formula for {variant}"
        for kernel in ("native", "blocked")
    ]
    assert ran(inputs, variant, "reference") == "reference" and len(said()) == 2


def test_without_a_compiler_there_is_no_native_kernel(
    said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The next kernel computes the same, and what that costs and how to mend it is said once."""
    inputs, bound = make((2, 2, 1, 13, 24, 8), "padded"), bind("sa-softmax")
    arriving = torch.randn(2, 13, 2, 8)
    expected = results(reference.reference(inputs, bound)[0], inputs, arriving)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(native_attention, "attend", None)
    for variables, reason in (
        ({"CC": "/nowhere/cc"}, "CC=/nowhere/cc names no program: unset CC, or let it name a C compiler"),
        ({"CC": "false"}, "false does not compile it (no message)"),
        ({"CC": "gcc '"}, "CC=gcc ' cannot be read"),
        ({"CC": "", "PATH": str(tmp_path)}, "no C compiler: install gcc or clang, or let CC name another"),
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        build._library.cache_clear()
        output, _, kernel = dispatch.attend(inputs, bound, "auto")
        assert kernel == ran(inputs, "sa-softmax", "native") == "blocked"
        assert reason in said()[-1] and said()[-1].endswith(build.COST)
        for ours, theirs in zip(results(output, inputs, arriving), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(said()) == 4
    monkeypatch.undo()
    build._library.cache_clear()


def test_a_kernel_that_is_wrong_here_is_not_used(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make((1, 1, 1, 3, 4, 8))
    for broken, what in (
        (
            lambda i, n: blocked.attend(i, n) * 1.001,
            "its output is wrong on cpu in torch.float32, by 1.0e-03",
        ),
        (
            lambda i, n: blocked.attend(replace(i, key=i.key.detach()), n) + 0 * i.key.sum(),
            "gradient of the key",
        ),
        (lambda i, n: blocked.attend(i, n) * math.nan, "its output is wrong"),
        (lambda i, n: 1 / 0, "it fails on cpu (ZeroDivisionError: division by zero)"),
    ):
        monkeypatch.setattr(native_attention, "attend", broken)
        assert ran(inputs, "sa-softmax") == "blocked"
        assert what in said()[-1]


def test_the_proof_may_fall_into_activation_checkpointing(said: Said) -> None:
    """The first call of a process can be in a checkpointed layer, under hooks on what autograd saves."""
    inputs, bound = make((2, 2, 2, 9, 11, 8), "padded"), bind("sa-softmax")
    leaves = (inputs.query, inputs.key, inputs.value)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return dispatch.attend(replace(inputs, query=query, key=key, value=value), bound, "auto")[0]

    output = checkpoint(attend, *leaves, use_reentrant=False)
    found = torch.autograd.grad(output.sum(), leaves)
    expected = torch.autograd.grad(attend(*leaves).sum(), leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert not said()


@every_kernel
def test_activation_checkpointing_frees_queries_keys_and_values(kernel: str) -> None:
    inputs, bound = make((2, 2, 2, 9, 11, 8)), bind("sa-softmax")
    inside: list[weakref.ref[Tensor]] = []

    def attend(query: Tensor) -> Tensor:
        made = [query * 1.5, inputs.key.detach() * 2, inputs.value.detach() * 3]
        inside.extend(weakref.ref(tensor) for tensor in made)
        return FAST[kernel].attend(replace(inputs, query=made[0], key=made[1], value=made[2]), bound)

    output = checkpoint(attend, inputs.query, use_reentrant=False)
    assert len(inside) == 3 and not any(reference() is not None for reference in inside)
    output.sum().backward()
    assert inputs.query.grad is not None


@every_kernel
def test_a_second_derivative_is_refused(kernel: str) -> None:
    inputs = make((1, 1, 1, 3, 4, 8))
    output = FAST[kernel].attend(inputs, bind("sa-softmax"))
    with pytest.raises(UserError, match="no second derivatives"):
        torch.autograd.grad(output.sum(), inputs.query, create_graph=True)


@pytest.mark.parametrize("shape", [(1, 2, 5, 8), (2, 3, 5, 8), (2, 2, 5, 7), (2, 2, 5, 9)])
def test_shapes_that_do_not_fit_are_left_to_the_reference(shape: tuple[int, ...], said: Said) -> None:
    """It broadcasts a batch of one, and raises at the others; the native kernel would read elsewhere."""
    inputs = make((2, 2, 2, 4, 5, 8))
    inputs = replace(inputs, key=torch.randn(shape), value=torch.randn(shape[0], shape[1], 5, 8))
    if shape[0] == 1:
        assert ran(inputs, "sa-softmax") == "reference"
    else:
        with pytest.raises(RuntimeError):
            ran(inputs, "sa-softmax")
    assert "do not fit each other" in said()[0]


def test_a_bias_with_dropout_is_left_to_one_kernel() -> None:
    """A trained bias may come without gradients first, under checkpointing, and with them when recomputed."""
    inputs = replace(make((1, 1, 1, 3, 4, 8), bias=True), dropout=0.1)
    reason = native_attention.why_not(inputs, bind("sa-softmax"))
    assert reason == "with a bias and dropout another kernel draws the dropout"
