"""Activation checkpointing, bfloat16 and torch.compile with every variant and encoding: as without them."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.attention import VARIANTS
from finetune.attention.swap import attention_layers, blend
from finetune.positions import POSITIONS
from tests.support.decoders import decoder, tokens

USUAL = ("softmax", "sa-softmax", "sa-softmax-raw")
PAIRS = list(itertools.product(VARIANTS, POSITIONS))


def each(often: Callable[[str, str], bool], seldom: pytest.MarkDecorator) -> list[Any]:
    """Every variant with every encoding; those that are not tried ``often`` are marked."""
    return [pytest.param(*pair, marks=() if often(*pair) else seldom) for pair in PAIRS]


def results(model: nn.Module, ids: Tensor, forward: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradient of every weight that has one, of a training step by ``forward``."""
    model.zero_grad()
    run = model if forward is None else forward
    logits = run(input_ids=ids, use_cache=False).logits.float()
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return loss.detach(), {name: grad.clone() for name, grad in found.items() if grad is not None}


def assert_equal(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    """But for sums in another order, relative to the largest gradient of all.

    The gradient of a bias that softmax makes no use of is rounding error alone.
    """
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=0)
    largest = max(float(grad.abs().max()) for grad in one[1].values())
    torch.testing.assert_close(one[1], other[1], rtol=1e-3, atol=1e-5 * largest)


EXHAUSTIVE = pytest.mark.exhaustive


@pytest.mark.parametrize(("variant", "name"), each(lambda variant, _: variant in USUAL, EXHAUSTIVE))
def test_activation_checkpointing_changes_nothing(variant: str, name: str) -> None:
    model = decoder(name, variant).train()
    plain = results(model, tokens())
    for reentrant in (False, True):
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        assert_equal(plain, results(model, tokens()))


@pytest.mark.parametrize("name", ["rope", "kerple", "dapev2-kerple"])
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_activation_checkpointing_draws_the_same_dropout_again(variant: str, name: str) -> None:
    model = decoder(name, variant).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    whole = results(model, tokens())
    torch.manual_seed(3)
    plain = results(model, tokens())
    assert not torch.equal(whole[0], plain[0])  # something is dropped
    model.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(3)
    assert_equal(plain, results(model, tokens()))


@pytest.mark.parametrize(("variant", "name"), each(lambda variant, _: variant in USUAL, EXHAUSTIVE))
def test_bfloat16_rounds_products_and_no_bias(variant: str, name: str) -> None:
    """The kernel that is chosen computes what the definition does, of the same rounded queries and keys, but
    that it may round products as well: no further from float32 than the definition is, where few scores of a
    row make its gradient large."""
    full, half, definition = (decoder(name, variant, kernel) for kernel in ("auto", "auto", "reference"))
    loss, wide = results(full.train(), tokens())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = results(half.train(), tokens())
        expected = results(definition.train(), tokens())
    assert abs(float(rounded[0] - loss)) < 2e-3
    torch.testing.assert_close(rounded[0], expected[0], rtol=1e-4, atol=0)
    ours, theirs, exact = (
        torch.cat([grad.flatten() for grad in grads.values()]) for grads in (rounded[1], expected[1], wide)
    )
    assert torch.isfinite(ours).all()
    assert (ours - exact).norm() < 1.2 * (theirs - exact).norm()


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing compiled before or after; skips where inductor has no compiler for the CPU."""
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        pytest.skip("torch.compile needs a C++ compiler (g++ or clang++), and there is none")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


WARNS = pytest.mark.filterwarnings("ignore")  # torch's compiler looks at what torch warns of
FEW = {("softmax", "rope"), ("sa-softmax", "kerple"), ("sa-softmax", "dapev2-kerple"), ("softpick", "fire")}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
@WARNS
@pytest.mark.parametrize(("variant", "name"), each(lambda variant, name: (variant, name) in FEW, EXHAUSTIVE))
def test_compiled_code_computes_the_same(variant: str, name: str) -> None:
    model = decoder(name, variant).train()
    counts = [layer.ran for layer in attention_layers(model).values()]
    found = []
    for forward in (model, torch.compile(model)):
        for ran in counts:
            ran.clear()
        found.append((results(model, tokens(), forward), [dict(ran) for ran in counts]))
    (plain, usual), (compiled, counted) = found
    assert_equal(plain, compiled)
    assert counted == usual  # so that the record names the kernels that ran


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
@WARNS
def test_compiled_code_follows_an_annealed_start() -> None:
    """The share of the variant is another number in every step."""
    model = decoder("rope").train()
    compiled = torch.compile(model, backend="aot_eager")
    for step in range(11):
        blend(model, step / 10)
        assert_equal(results(model, tokens(step)), results(model, tokens(step), compiled))
