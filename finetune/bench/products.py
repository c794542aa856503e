"""Matrix products that the Triton kernels make, counted in the interpreter and not by hand.

One product is query x key x width multiply-adds of every head, as q @ k^T is. FlashAttention makes 7: 2
forward (q k^T, p v) and 5 backward (q k^T and dO v^T again, p^T dO, dx^T q, dx k).

``TRITON_INTERPRET=1 python -m finetune.bench.products`` writes the counts of each form and variant as JSON.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune.attention import PAPER, get_variant
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.triton import triton_attention
from finetune.attention.kernels.triton.forms import DEFAULT, FORMS
from finetune.attention.kernels.triton.launch import Launch

LENGTH, WIDTH = 64, 16  # whole tiles, so that none computes beyond the last key


def count(variant: str, form: str = DEFAULT, half: bool = True) -> dict[str, float]:
    """Products of each kernel in one forward and backward pass, no mask; ``half``: in bfloat16.

    To be called in Triton's interpreter.
    """
    dtype = torch.bfloat16 if half else torch.float32
    shape = (1, 1, LENGTH, WIDTH)
    query, key, value = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(3))
    inputs = Inputs(query, key, value, None, None, False, WIDTH**-0.5, 0.0)
    with _counting() as counted:
        output = triton_attention.attend(inputs, BoundVariant.of(get_variant(variant)), form)
        output.float().square().sum().backward()
    return {kernel: operations / (LENGTH * LENGTH * WIDTH) for kernel, operations in counted.items()}


@contextmanager
def _counting() -> Iterator[Counter[str]]:
    """Multiply-adds of every ``tl.dot``, by the kernel that is running."""
    from triton.runtime.interpreter import InterpreterBuilder

    dot, launch = InterpreterBuilder.create_dot, Launch.launch
    counted: Counter[str] = Counter()
    running = ""

    def counting_dot(builder: Any, left: Any, right: Any, *rest: Any) -> Any:
        counted[running] += left.data.size * right.data.shape[-1]
        return dot(builder, left, right, *rest)

    def naming_launch(call: Launch, kernel: Any, *rest: Any) -> None:
        nonlocal running
        running = kernel.__name__
        launch(call, kernel, *rest)

    InterpreterBuilder.create_dot, Launch.launch = counting_dot, naming_launch  # type: ignore[method-assign,assignment]
    try:
        yield counted
    finally:
        InterpreterBuilder.create_dot, Launch.launch = dot, launch  # type: ignore[method-assign]


if __name__ == "__main__":
    print(json.dumps({form: {variant: count(variant, form) for variant in PAPER} for form in FORMS}))
