"""The attention calls of the evidence, by name: torch's backends, the forms of our kernel, the formula."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from finetune.attention.kernels import reference
from finetune.attention.kernels.inputs import Inputs
from finetune.attention.kernels.triton import forms, triton_attention
from finetune.bench.cases import NotMeasuredError, bind

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
ON_CPU = ("flash", "math")  # the backends that torch has there
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SELF_ADJUST = "sa-softmax"


@dataclass(frozen=True)
class Call:
    """A variant and what computes it. ``by``: one of ``BACKENDS``, a form of the kernel, or "reference"."""

    variant: str
    by: str

    @property
    def name(self) -> str:
        """``softmax flash``, ``sa-softmax triton: fused``."""
        return f"{self.variant} {f'triton: {self.by}' if self.by in forms.FORMS else self.by}"

    def refusal(self, inputs: Inputs) -> str | None:
        """Why the form of the kernel does not take a call of these sizes; None for all else."""
        if self.by not in forms.FORMS:
            return None
        return triton_attention.why_not_in_form(self.by, inputs.query, inputs.key, inputs.value)

    def attend(self, inputs: Inputs) -> Tensor:
        """The output, (batch, query, heads, width). Raises ``NotMeasuredError`` for what it does not do."""
        variant = bind(self.variant)
        if self.by == "reference":
            return reference.reference(inputs, variant)[0]
        if self.by in BACKENDS:
            device, half = inputs.query.device.type, inputs.query.dtype != torch.float32
            if device == "cpu" and self.by not in ON_CPU:
                raise NotMeasuredError("torch has it on CUDA alone")
            if device != "cpu" and self.by in ("flash", "cudnn") and not half:
                raise NotMeasuredError("it computes in half precision alone")
            with sdpa_kernel(BACKENDS[self.by]):
                return reference.sdpa(inputs)
        if missing := triton_attention.why_not(inputs, variant) or self.refusal(inputs):
            raise NotMeasuredError(missing)
        return triton_attention.attend(inputs, variant, form=self.by)


def rivals() -> list[Call]:
    """torch's fused backends, of softmax."""
    return [Call("softmax", name) for name in ("flash", "efficient", "cudnn")]


def ours() -> list[Call]:
    """Every form of sa-softmax, and the other two variants in the default form."""
    others = [Call(variant, forms.DEFAULT) for variant in ("softmax", "sa-softmax-raw")]
    return [*(Call(SELF_ADJUST, form) for form in forms.FORMS), *others]


def draw(  # noqa: PLR0917 - sizes in their order
    batch: int, heads: int, key_heads: int, length: int, width: int, dtype: str, device: str, seed: int
) -> tuple[list[Tensor], Tensor]:
    """Query, key and value, (batch, heads, length, width), which ask for gradients; the output's gradient."""
    generator = torch.Generator(device).manual_seed(seed)
    options: dict[str, Any] = {"device": device, "dtype": DTYPES[dtype], "generator": generator}
    tensors = [
        torch.randn(batch, count, length, width, **options).requires_grad_()
        for count in (heads, key_heads, key_heads)
    ]
    return tensors, torch.randn(batch, length, heads, width, **options)


def bundle(tensors: Sequence[Tensor], **keywords: Any) -> Inputs:
    """Inputs without mask, bias and dropout but for ``keywords``."""
    query, key, value = tensors
    usual: dict[str, Any] = {
        "allowed": None, "bias": None, "causal": False, "scaling": query.shape[-1] ** -0.5, "dropout": 0.0
    }  # fmt: skip
    return Inputs(query=query, key=key, value=value, **{**usual, **keywords})


def passes(call: Call, inputs: Inputs, upstream: Tensor) -> dict[str, Callable[[], object]]:
    """What a pass does, by its key in a result: ``forward`` without gradients, ``both`` with them."""

    def forward() -> object:
        with torch.no_grad():
            return call.attend(inputs)

    def both() -> object:
        leaves = (inputs.query, inputs.key, inputs.value)
        return torch.autograd.grad(call.attend(inputs), leaves, upstream)

    return {"forward": forward, "both": both}


def events(task: Callable[[], object], device: str, count: int) -> list[float]:
    """Seconds of each of ``count`` calls: by CUDA events, or on a CPU by the clock."""
    if device == "cpu":
        marks = [time.perf_counter()]
        for _ in range(count):
            task()
            marks.append(time.perf_counter())
        return [after - before for before, after in pairwise(marks)]
    stamps = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    stamps[0].record()
    for stamp in stamps[1:]:
        task()
        stamp.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(stamps)]
