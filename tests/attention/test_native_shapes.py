"""The native loop at the edges of its shapes: few queries, tails of steps and panels, and threads."""

from dataclasses import replace

import pytest
import torch

from finetune.attention.kernels import reference
from finetune.attention.kernels.native import native_attention
from tests.attention.test_kernels import MASKS, bind, errors, make, results, wide

VARIANTS = ("softmax", "sa-softmax", "sa-softmax-raw")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("queries", "keys", "width"), [(1, 1, 64), (1, 77, 20), (3, 64, 80), (4, 33, 128)])
def test_few_queries_are_the_definition(variant: str, mask: str, queries: int, keys: int, width: int) -> None:
    """They go over keys and values in place; 5 queries, one more than few, are packed."""
    for count in (queries, 5):
        torch.manual_seed(count)
        inputs = make((2, 4, 2, count, keys, width), mask, scale=2.0, bias=True)
        for error, allowed in errors("native", inputs, bind(variant)):
            assert error <= allowed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_few_queries_of_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs, bound = make((2, 4, 2, 1, 70, 64), "padded", dtype=dtype), bind("sa-softmax")
    with torch.no_grad():
        output = native_attention.attend(inputs, bound)
        expected = reference.reference(wide(inputs), bound)[0]
    assert output.dtype == dtype
    assert (output - expected).norm() < torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize(
    "layout", ["heads first", "a slice of a longer cache", "rows of other heads between"]
)
def test_few_queries_read_any_strides(layout: str) -> None:
    torch.manual_seed(1)
    inputs, bound = make((2, 3, 3, 1, 70, 64)), bind("sa-softmax")

    def lay(tensor: torch.Tensor) -> torch.Tensor:
        if layout == "heads first":
            return tensor.contiguous()
        longer = torch.full((2, 3, 2 * 70, 64), torch.nan)
        place = longer[:, :, :70] if layout.startswith("a slice") else longer[:, :, ::2]
        return place.copy_(tensor)

    with torch.no_grad():
        laid = replace(inputs, key=lay(inputs.key), value=lay(inputs.value))
        assert torch.equal(native_attention.attend(laid, bound), native_attention.attend(inputs, bound))


def test_a_step_without_gradients_is_the_same_as_one_with() -> None:
    torch.manual_seed(2)
    inputs = replace(make((2, 2, 2, 1, 40, 16)), dropout=0.3)
    torch.manual_seed(3)
    output = native_attention.attend(inputs, bind("sa-softmax"))
    torch.manual_seed(3)
    with torch.no_grad():
        again = native_attention.attend(inputs, bind("sa-softmax"))
    assert output.requires_grad and not again.requires_grad
    assert torch.equal(output, again)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("keys", [1, 15, 16, 17, 31, 33, 48, 49, 64, 65])
def test_every_length_of_a_tail(variant: str, keys: int) -> None:
    """Scores are computed in whole vectors, and keys in panels of two: beyond the keys is nothing."""
    torch.manual_seed(keys)
    inputs = make((1, 2, 1, 9, keys, 16 + keys % 3), scale=2.0)
    for error, allowed in errors("native", inputs, bind(variant)):
        assert error <= allowed


@pytest.mark.parametrize("shape", [(3, 4, 2, 70, 90, 48), (3, 4, 2, 1, 90, 48)])
@pytest.mark.parametrize("mask", ["none", "padded", "causal"])
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, ...], mask: str) -> None:
    torch.manual_seed(4)
    inputs, bound = make(shape, mask), bind("sa-softmax")  # type: ignore[arg-type]
    arriving = torch.randn(inputs.query.transpose(1, 2).shape)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results(native_attention.attend(inputs, bound), inputs, arriving))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], others, strict=True))


def test_what_a_masked_key_holds_reaches_nothing() -> None:
    """Infinite values of padding, which a step of scores or a panel still holds, change no gradient."""
    torch.manual_seed(5)
    inputs, bound = make((1, 2, 2, 20, 40, 16)), bind("sa-softmax")
    allowed = (torch.arange(40) < 35)[None, None, None]
    arriving = torch.randn(1, 20, 2, 16)
    clean = replace(inputs, allowed=allowed)
    spoiled = wide(clean, torch.float32)
    with torch.no_grad():
        spoiled.value[:, :, 35:] = torch.inf
    ours, theirs = (
        results(native_attention.attend(each, bound), each, arriving) for each in (spoiled, clean)
    )
    for left, right in zip(ours, theirs, strict=True):
        assert torch.equal(left, right)
