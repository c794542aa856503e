"""Kernels wherever they are called: in threads and forks, under torch.func, autocast, compilers, exporters.

Each is right there, or leaves the call to one that is and says so, or raises an error that says what to do.
"""

import copy
import io
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap

from finetune.attention.kernels import dispatch, proof
from finetune.attention.kernels.inputs import Inputs
from finetune.attention.kernels.native import build
from finetune.attention.swap import calls_by_kernel, swap
from finetune.errors import UserError
from tests.attention.test_kernels import bind, make
from tests.support.tiny_models import FAMILIES, batch, kept_logits

# numpy warns in Triton's interpreter of what lies beyond the last key
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
needs_compiler = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
KERNELS = [pytest.param("native", marks=needs_compiler), "blocked", "triton"]
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
on_cpu = pytest.mark.parametrize("kernel", KERNELS[:2])
VARIANT = bind("sa-softmax")


@pytest.fixture(autouse=True)
def _unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proofs have tests of their own, and take seconds in Triton's interpreter."""
    monkeypatch.setattr(proof, "fault", lambda attend, kind: None)


def small(**options: Any) -> Inputs:
    """Padded, with grouped keys, and leaves that are the queries alone."""
    torch.manual_seed(0)
    inputs = make((2, 4, 2, 9, 11, 8), "padded", **options)
    return replace(inputs, key=inputs.key.detach(), value=inputs.value.detach())


class Attend:
    """Queries -> output; ``ran`` says which kernels computed it."""

    def __init__(self, inputs: Inputs, kernel: str) -> None:
        self.inputs, self.kernel = inputs, kernel
        self.ran: set[str] = set()

    def __call__(self, query: Tensor) -> Tensor:
        output, _, ran = dispatch.attend(replace(self.inputs, query=query), VARIANT, self.kernel)
        self.ran.add(ran)
        return output

    def squares(self, query: Tensor) -> Tensor:
        return self(query).square().sum()


def pair(kernel: str, **options: Any) -> tuple[Attend, Attend, Tensor]:
    """A kernel, the reference, and queries to give both."""
    inputs = small(**options)
    return Attend(inputs, kernel), Attend(inputs, "reference"), inputs.query.detach()


def forward_mode(attend: Attend, query: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(attend(forward_ad.make_dual(query, torch.ones_like(query)))).tangent


TRANSFORMS: dict[str, Callable[[Attend, Tensor], Tensor]] = {
    "grad": lambda attend, query: grad(attend.squares)(query),
    "vmap": lambda attend, query: vmap(attend)(torch.stack([query, 2 * query])),
    "gradient of each": lambda attend, query: vmap(grad(attend.squares))(torch.stack([query, 2 * query])),
    "jvp": lambda attend, query: jvp(attend, (query,), (torch.ones_like(query),))[1],
    "hessian": lambda attend, query: hessian(attend.squares)(query),
    "forward mode": forward_mode,
}


@every_kernel
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, of forward mode
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_left_to_the_reference(kernel: str, transform: str) -> None:
    attend, reference, query = pair(kernel)
    transformed = TRANSFORMS[transform]
    torch.testing.assert_close(transformed(attend, query), transformed(reference, query))
    assert attend.ran == {"reference"}
    attend(query)
    assert attend.ran == {"reference", kernel}


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_a_bias_by_distance_is_transformed_too() -> None:
    torch.manual_seed(0)
    inputs = replace(make((1, 2, 2, 7, 7, 8), "causal"), by_distance=torch.randn(2, 13))

    def attend(by_distance: Tensor) -> Tensor:
        return dispatch.attend(replace(inputs, by_distance=by_distance), VARIANT, "auto")[0].square().sum()

    distances = torch.randn(2, 13, requires_grad=True)
    expected = torch.autograd.grad(attend(distances), distances)[0]
    detached = distances.detach()
    torch.testing.assert_close(grad(attend)(detached), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vmap(grad(attend))(detached[None])[0], expected, rtol=1e-4, atol=1e-5)
    along = jvp(attend, (detached,), (torch.ones_like(detached),))[1]
    torch.testing.assert_close(along, expected.sum(), rtol=1e-3, atol=1e-4)


@every_kernel
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["export", "trace"])
def test_a_graph_that_is_kept_holds_the_definition(kernel: str, how: str) -> None:
    attend, reference, query = pair(kernel)

    class Module(nn.Module):
        def forward(self, query: Tensor) -> Tensor:
            return attend(query)

    kept = (
        torch.export.export(Module(), (query,)).module()
        if how == "export"
        else torch.jit.trace(Module(), (query,), check_trace=False)  # which runs it once more
    )
    torch.testing.assert_close(kept(query + 1), reference(query + 1))
    assert kernel not in attend.ran


@every_kernel
@pytest.mark.filterwarnings("ignore:.*lru_cache:UserWarning", "ignore:The .grad attribute:UserWarning")
def test_compiled_around_a_kernel_nothing_changes(kernel: str) -> None:
    attend, reference, query = pair(kernel)
    torch._dynamo.reset()
    compiled = torch.compile(lambda q: attend(q.sin()).cos(), backend="aot_eager")
    found, expected = query.clone().requires_grad_(), query.clone().requires_grad_()
    output, plainly = compiled(found), reference(expected.sin()).cos()
    torch.testing.assert_close(output, plainly, rtol=1e-4, atol=1e-5)
    output.sum().backward()
    plainly.sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@every_kernel
def test_a_gradient_is_not_differentiated_again(kernel: str) -> None:
    attend, _, query = pair(kernel)
    with pytest.raises(UserError, match=r"no second derivatives.*--attention.kernel reference"):
        found = query.clone().requires_grad_()
        (first,) = torch.autograd.grad(attend.squares(found), found, create_graph=True)
        torch.autograd.grad(first.sum(), found)


@every_kernel
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_values_are_the_same(kernel: str, mode: Callable[[], Any]) -> None:
    attend, _, query = pair(kernel)
    expected = attend(query.clone().requires_grad_())
    with mode():
        found = attend(query)
        made_here = attend(query + 0)
    assert torch.equal(found, expected) and torch.equal(made_here, expected)
    assert not found.requires_grad and attend.ran == {kernel}


@every_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(kernel: str, dtype: torch.dtype) -> None:
    """Products by a model's layers are in the narrow type, and attention takes what they give it."""
    attend, reference, query = pair(kernel)
    torch.manual_seed(1)
    weight = torch.randn(8, 8) / 3
    results = []
    for each in (attend, reference):
        leaf = query.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            narrow = leaf @ weight
            each.inputs = replace(
                each.inputs, key=each.inputs.key.to(dtype), value=each.inputs.value.to(dtype)
            )
            output = each(narrow)
        output.float().square().sum().backward()
        assert narrow.dtype == output.dtype == dtype and leaf.grad is not None
        results.append((output.detach().float(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 2e-2 * theirs.norm()
    assert attend.ran == {kernel}


@every_kernel
def test_shapes_alone_are_computed_where_there_are_no_numbers(kernel: str) -> None:
    inputs = small()
    tensors = [tensor.detach() for tensor in (inputs.query, inputs.key, inputs.value)]
    mode = FakeTensorMode()
    fake = [mode.from_tensor(t) for t in tensors]
    for each, around in (([t.to("meta") for t in tensors], nullcontext()), (fake, mode)):
        with around:
            output, _, ran = dispatch.attend(Inputs(*each, None, None, True, 0.3, 0.0), VARIANT, kernel)
        assert (output.shape, output.device, ran) == ((2, 9, 4, 8), each[0].device, "reference")


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """``work`` of 0 to count - 1, all at once; what one of them raises is raised."""
    failures: list[BaseException] = []
    together = threading.Barrier(count)

    def each(number: int) -> None:
        try:
            together.wait()
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=each, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def both(inputs: Inputs, kernel: str) -> list[Tensor]:
    """Output and gradients."""
    output = dispatch.attend(inputs, VARIANT, kernel)[0]
    leaves = (inputs.query, inputs.key, inputs.value)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), leaves)]


@on_cpu
def test_several_threads_share_nothing(kernel: str) -> None:
    inputs = [make((2, 4, 2, 30 + 7 * number, 50, 16), "padded") for number in range(4)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = [both(each, kernel) for each in inputs]
        found: dict[tuple[int, int], list[Tensor]] = {}

        def work(number: int) -> None:
            for turn in range(5):
                found[number, turn] = both(inputs[number], kernel)

        in_threads(4, work)
    finally:
        torch.set_num_threads(before)
    assert len(found) == 20
    for (number, _), tensors in found.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, expected[number], strict=True))


def test_proofs_at_once_leave_the_precision_of_products_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    proof.fault.cache_clear()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        in_threads(4, lambda number: both(small_of(8 + number), "blocked") and None)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def small_of(width: int) -> Inputs:
    return make((1, 1, 1, 3, 4, width))


# A child of a process that has used torch's threads, which do not follow into it: torch's own larger products
# wait for them for ever there.
FORKED = """
import faulthandler, os, sys, torch
faulthandler.dump_traceback_later(60, exit=True)
from torch.utils.data import DataLoader
from finetune.attention import VARIANTS
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import native_attention
torch.set_num_threads(2)
variant = BoundVariant.of(VARIANTS["sa-softmax"])
class Rows:
    def __len__(self):
        return 4
    def __getitem__(self, number):
        torch.manual_seed(number)
        tensors = [torch.randn(2, 70, 4, 16).transpose(1, 2).requires_grad_() for _ in range(3)]
        output = native_attention.attend(Inputs(*tensors, None, None, True, 0.25, 0.0), variant)
        return [output.detach(), *(each.detach() for each in torch.autograd.grad(output.sum(), tensors))]
rows = Rows()
def same(found, number):
    return all(torch.equal(a, b) for a, b in zip(found, expected[number], strict=True))
if "{used}" == "torch":  # the library is first loaded in the child
    torch.randn(800, 800).matmul(torch.randn(800, 800)).exp().sum()
else:
    expected = [rows[number] for number in range(4)]
child = os.fork()
if child == 0:
    found = [rows[number] for number in range(4)]
    os._exit(0 if "{used}" == "torch" or all(same(found[n], n) for n in range(4)) else 1)
assert os.waitpid(child, 0)[1] == 0
if "{used}" != "torch":
    assert same(rows[0], 0), "nor is the parent disturbed"
    loaded = list(DataLoader(rows, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    assert len(loaded) == 4 and all(same(found, number) for number, found in enumerate(loaded))
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("used", ["the kernel", "torch"])
def test_a_forked_process_has_threads_of_its_own(used: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED.replace("{used}", used)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---- swapped models --------------------------------------------------------------------------------------


def swapped(kernel: str = "auto") -> tuple[Any, dict[str, Tensor]]:
    model = FAMILIES["bert"].build(num_hidden_layers=1)
    swap(model, "sa-softmax", kernel=kernel)
    return model.eval(), batch("encoder")


@pytest.mark.parametrize("kernel", [*KERNELS[:2], pytest.param("triton", marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_copy_of_a_swapped_model_computes_the_same_and_counts_for_itself(kernel: str, how: str) -> None:
    model, inputs = swapped(kernel)
    expected = kept_logits(model, inputs, "encoder")
    before = calls_by_kernel(model, "sa-softmax")
    if how == "copied":
        other = copy.deepcopy(model)
    else:
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        other = torch.load(stream, weights_only=False)
    assert torch.equal(kept_logits(other, inputs, "encoder"), expected)
    assert calls_by_kernel(model, "sa-softmax") == before == {kernel: 1}
    assert calls_by_kernel(other, "sa-softmax") == {kernel: 2}


def test_a_swapped_model_is_called_by_functions_and_differentiated_by_row() -> None:
    model, inputs = swapped()
    parameters = {name: each.detach() for name, each in model.named_parameters()}

    def loss(weights: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        called = functional_call(model, weights, (ids,), {"attention_mask": mask})
        return called[0].square().mean()

    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    wanted = model(ids, attention_mask=mask)[0].square().mean()
    assert torch.equal(loss(parameters, ids, mask), wanted)
    wanted.backward()
    found = grad(loss)(parameters, ids, mask)
    for name, each in model.named_parameters():
        if each.grad is not None:
            torch.testing.assert_close(found[name], each.grad, rtol=1e-3, atol=1e-6)
