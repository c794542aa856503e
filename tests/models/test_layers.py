"""Linear layers and dropout on a CPU are torch's own but for rounding, and for which numbers are dropped."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import UserError
from finetune.models import layers
from finetune.models.layers import Layers
from tests.support.tiny_models import FAMILIES, batch

SHAPES = {  # input, features out
    "wide": ((70, 33), 48),
    "narrow": ((2, 37, 48), 5),
    "square": ((3, 5, 7, 40), 40),
    "one feature": ((65, 1), 1),
}


@pytest.fixture(params=[False, True], ids=["as given", "transposed"])
def transposed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def however_small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Even the tiniest model's layers are replaced."""
    monkeypatch.setattr(layers, "FEWEST_ROWS", 1)
    monkeypatch.setattr(layers, "FEWEST_NUMBERS", 1)
    yield


def gradients(function: Any, *tensors: Tensor) -> list[Tensor]:
    """The output, and the gradient of each tensor that asks for one, of a sum with unlike weights."""
    output = function(*tensors)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    asked = [tensor for tensor in tensors if tensor.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, asked, weights)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_layer_and_its_gradients_are_those_of_the_formula(
    shape: str, bias: bool, transposed: bool
) -> None:
    torch.manual_seed(3)
    size, out = SHAPES[shape]
    data = torch.randn(size)
    if transposed:  # the same values, in another order in memory
        data = data.transpose(0, -1).contiguous().transpose(0, -1)
    tensors = [data, torch.randn(out, size[-1]), *([torch.randn(out)] if bias else [])]
    exact = gradients(functional.linear, *(tensor.double().requires_grad_() for tensor in tensors))
    with Layers():
        ours = gradients(functional.linear, *(tensor.requires_grad_() for tensor in tensors))
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("asks", ["input", "weight", "bias"])
def test_a_linear_layer_computes_no_gradient_that_nobody_asks_for(asks: str) -> None:
    tensors = [torch.randn(80, 6), torch.randn(4, 6), torch.randn(4)]
    tensors[("input", "weight", "bias").index(asks)].requires_grad_()
    with Layers():
        ours = gradients(functional.linear, *tensors)
    for mine, theirs in zip(ours, gradients(functional.linear, *tensors), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_what_is_not_float32_on_a_cpu_or_has_few_rows_is_left_to_torch() -> None:
    weight = torch.randn(4, 6)
    with Layers():
        for inputs in (torch.randn(80, 6).double(), torch.randn(80, 6).bfloat16()):
            kind = inputs.dtype
            assert torch.equal(functional.linear(inputs, weight.to(kind)), inputs @ weight.to(kind).t())
            assert functional.dropout(inputs.repeat(100, 1), 0.5).dtype == kind
        few = torch.randn(3, 6)
        assert "_Linear" not in str(functional.linear(few.requires_grad_(), weight).grad_fn)
        assert functional.linear(torch.randn(6), weight).shape == (4,)
        with torch.autocast("cpu", torch.bfloat16):
            assert functional.linear(torch.randn(80, 6), weight).dtype == torch.bfloat16
        meta = functional.linear(torch.randn(80, 6, device="meta"), weight.to("meta"))
        assert meta.device.type == "meta"


@pytest.mark.parametrize("p", [0.1, 0.25, 0.9999])
def test_dropout_drops_its_share_and_scales_the_rest_so_that_the_mean_stays(p: float) -> None:
    torch.manual_seed(7)
    inputs = torch.full((301, 333), 2.0, requires_grad=True)
    with Layers():
        output = functional.dropout(inputs, p, training=True)
    kept = (output != 0).float()
    count, share = kept.numel(), round(p * 2**16) / 2**16
    assert abs(float(kept.mean()) - (1 - share)) < 5 * (share * (1 - share) / count) ** 0.5
    torch.testing.assert_close(output, kept * (2 / (1 - share)))
    (grad,) = torch.autograd.grad(output.sum(), inputs)
    torch.testing.assert_close(grad, kept / (1 - share))
    rows = kept.mean(1)  # of independent draws: no row or column has its own share
    assert float(rows.std()) < 1.3 * (share * (1 - share) / kept.shape[1]) ** 0.5


def test_dropout_takes_one_number_of_the_generator_and_is_repeated_by_its_seed() -> None:
    inputs = torch.randn(64, 128)
    drawn, states = [], []
    for _ in range(2):
        torch.manual_seed(5)
        with Layers():
            drawn.append([nn.Dropout(0.3)(inputs), functional.dropout(inputs.t(), 0.3)])
        states.append(torch.get_rng_state())
    assert all(torch.equal(one, two) for one, two in zip(*drawn, strict=True))
    assert not torch.equal(drawn[0][0] == 0, drawn[0][1].t() == 0)
    torch.manual_seed(5)
    torch.randint(2**63 - 1, (2,))
    assert all(torch.equal(state, torch.get_rng_state()) for state in states)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.4, False), (1.0, True)])
def test_dropout_that_drops_nothing_or_all_is_that_of_torch(p: float, training: bool) -> None:
    inputs = torch.randn(64, 128)
    with Layers():
        output = functional.dropout(inputs, p, training)
    assert torch.equal(output, torch.zeros_like(inputs) if p == 1 else inputs)
    with Layers():
        functional.dropout(inputs, 0.5, True, inplace=True)
    assert (inputs == 0).any()


def test_a_second_derivative_is_refused() -> None:
    inputs = torch.randn(80, 6, requires_grad=True)
    for function in (lambda x: functional.linear(x, torch.randn(4, 6)), lambda x: functional.dropout(x, 0.5)):
        with Layers():
            (grad,) = torch.autograd.grad(function(inputs.repeat(100, 1)).sum(), inputs, create_graph=True)
        with pytest.raises(RuntimeError, match=r"twice|does not require grad"):
            grad.sum().backward()


@pytest.mark.usefixtures("however_small")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same_but_for_rounding(family: str) -> None:
    kind, model = FAMILIES[family].kind, FAMILIES[family].build()
    inputs, found = batch(kind), []
    for place in (nullcontext(), Layers()):
        model.zero_grad()
        with place:
            logits = model(**inputs).logits
            logits.square().mean().backward()
        grads = {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}
        found.append((logits.detach(), grads))
    (torchs, theirs), (ours, mine) = found
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5 * float(torchs.abs().max()))
    largest = max(float(grad.abs().max()) for grad in theirs.values())
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.usefixtures("however_small")
@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_run_again_under_activation_checkpointing_drop_the_same(reentrant: bool) -> None:
    found = []
    for checkpointed in (False, True):
        model = FAMILIES["bert"].build(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(11)
        with Layers():
            model(**batch("encoder")).logits.square().sum().backward()
        found.append([weights.grad for weights in model.parameters() if weights.grad is not None])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


USUAL: dict[str, Any] = {"device": "cpu", "half": False, "compiled": False}


def test_torch_computes_its_own_layers_unless_others_are_asked_for() -> None:
    assert isinstance(layers.chosen("torch", **USUAL), nullcontext)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"device": "cuda"}, "this run is on cuda"),
        ({"half": True}, "trains in half precision"),
        ({"compiled": True}, "torch.compile"),
    ],
)
def test_layers_that_cannot_be_used_are_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        layers.chosen("onednn", **USUAL | changed)


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match="not on aarch64"):
        layers.chosen("onednn", **USUAL)


@pytest.fixture
def wrong_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    right = layers._product
    monkeypatch.setattr(layers, "_product", lambda *given: 1.001 * right(*given))
    layers.fault.cache_clear()
    yield
    layers.fault.cache_clear()


@pytest.mark.usefixtures("wrong_products")
def test_products_that_are_not_those_of_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.platform, "machine", lambda: "x86_64")
    with pytest.raises(UserError, match="oneDNN's products are not those of torch"):
        layers.chosen("onednn", **USUAL)
