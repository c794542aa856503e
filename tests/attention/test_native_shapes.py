"""The native loop at the edges of its shapes: few queries, tails of steps and panels, and threads."""

from dataclasses import replace

import pytest
import torch

from finetune.attention.kernels import dispatch, reference
from finetune.attention.kernels.native import native_attention
from finetune.errors import UserError
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_rows_that_overlap(variant: str) -> None:
    """Equal strides leave it open which axis is the last; its gradient is dense, row by row."""
    torch.manual_seed(6)
    inputs = make((2, 3, 3, 9, 12, 16))
    key = torch.randn(100).as_strided((2, 3, 12, 16), (7, 1, 1, 1)).requires_grad_()
    for error, allowed in errors("native", replace(inputs, key=key), bind(variant)):
        assert error <= allowed


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(0, 4, 2, 5, 7, 16), (2, 4, 2, 0, 7, 16)])
@pytest.mark.parametrize("mask", ["none", "padded", "causal"])
def test_nothing_to_attend_with_gives_nothing(variant: str, shape: tuple[int, ...], mask: str) -> None:
    inputs = make(shape, mask)  # type: ignore[arg-type]
    arriving = torch.empty(shape[0], shape[3], shape[1], shape[5])
    output, *gradients = results(native_attention.attend(inputs, bind(variant)), inputs, arriving)
    assert output.numel() == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"by_distance": torch.zeros(4, 5 + 7)}, "by distance of shape"),
        ({"by_distance": torch.zeros(1, 5 + 7 - 1)}, "by distance of shape"),
        ({"allowed": torch.ones(2, 1, 5, 8, dtype=torch.bool)}, "a mask of shape"),
        ({"allowed": torch.ones(1, 2, 4, 5, 7, dtype=torch.bool)}, "a mask of shape"),
        ({"bias": torch.zeros(3, 5, 7)}, "a bias of shape"),
        ({"allowed": torch.ones(5, 7)}, "bool"),
        ({"allowed": torch.ones(5, 7, dtype=torch.bool, device="meta")}, "one device"),
        ({"dropout": 1.0}, "no weight is left"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", ["native", "blocked", "triton"])
def test_what_would_be_read_beyond_its_end_is_passed_over(kernel: str, change: dict, reason: str) -> None:
    inputs = replace(make((2, 4, 2, 5, 7, 16)), **change)
    assert reason in str(dispatch.why_not(kernel, inputs, bind("sa-softmax")))


@pytest.mark.parametrize("choice", ["auto", "native", "blocked", "reference"])
@pytest.mark.parametrize("shape", [(4, 12), (4, 10), (1, 11), (3, 11)])
def test_a_line_of_another_length_is_refused_in_words(choice: str, shape: tuple[int, int]) -> None:
    inputs = replace(make((2, 4, 2, 5, 7, 16)), by_distance=torch.zeros(shape))
    with pytest.raises(UserError, match=r"has the shape \(4, 11\), not"):
        dispatch.attend(inputs, bind("sa-softmax"), choice)


@pytest.mark.parametrize("choice", ["auto", "blocked"])
def test_a_dropout_of_one_leaves_nothing(choice: str) -> None:
    inputs = replace(make((2, 4, 2, 5, 7, 16)), dropout=1.0)
    output, _, kernel = dispatch.attend(inputs, bind("sa-softmax"), choice)
    assert kernel == "reference" and not output.any()
