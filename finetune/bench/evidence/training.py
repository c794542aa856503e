"""Whole optimizer steps of stock models at random weights, with softmax and with sa-softmax by kernel."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, GPTNeoXConfig, GPTNeoXForCausalLM

from finetune.attention.kernels import dispatch
from finetune.attention.kernels.triton import forms, triton_attention
from finetune.attention.swap import calls_by_kernel, forget_calls, swap
from finetune.bench.datasheet import peak
from finetune.bench.evidence.calls import DTYPES, SELF_ADJUST, events
from finetune.bench.evidence.plan import Plan
from finetune.models.scale import Shape, flops_per_token
from finetune.models.sizes import DECODERS, ENCODERS, size_of

Item = tuple[str, Callable[[], dict[str, Any]]]
LABELS = 4  # as AG News
FEWEST = 3  # steps that count
WARM_UP = 3  # steps that do not
SECONDS = 3.0  # of all steps that count


def items(plan: Plan, step: str) -> list[Item]:
    """For each model: softmax on torch's kernel, sa-softmax by the default form, the formula, other forms."""
    setups = [("softmax", "sdpa"), (SELF_ADJUST, forms.DEFAULT), (SELF_ADJUST, "reference")]
    setups += [(SELF_ADJUST, form) for form in forms.FORMS if form != forms.DEFAULT and not plan.toy]
    if step == "fine-tuning":
        return [
            (f"fine-tuning, {variant} {by}", partial(_encoder, plan, variant, by)) for variant, by in setups
        ]
    return [
        (f"pretraining, {variant} {by}, windows of {length}", partial(_decoder, plan, variant, by, length))
        for length in plan.windows
        for variant, by in setups
    ]


def _encoder(plan: Plan, variant: str, by: str) -> dict[str, Any]:
    """BERT on rows of half to all of its tokens, padded; dropout as in BERT."""
    sizes = ENCODERS[plan.encoder]
    with _quiet_seed(plan.seed):
        config = BertConfig(
            **sizes, vocab_size=plan.vocabulary, num_labels=LABELS, attn_implementation="sdpa"
        )
        model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(plan.seed)
    ids = torch.randint(plan.vocabulary, (plan.rows, plan.row_tokens), generator=generator)
    kept = torch.linspace(plan.row_tokens // 2, plan.row_tokens, plan.rows).round()
    batch = {
        "input_ids": ids,
        "attention_mask": (torch.arange(plan.row_tokens) < kept[:, None]).long(),
        "labels": torch.randint(LABELS, (plan.rows,), generator=generator),
    }
    layers, width, heads, feed_forward = size_of(sizes)
    shape = Shape(layers, width, heads, feed_forward, 0)
    flops = plan.rows * plan.row_tokens * _flops(shape, plan.row_tokens)
    row = _train(plan, model, batch, variant, by, flops)
    return {"rows_per_s": plan.rows / row["seconds"], "length": plan.row_tokens, "batch": plan.rows, **row}


def _decoder(plan: Plan, variant: str, by: str, length: int) -> dict[str, Any]:
    """GPT-NeoX with rotary positions, as the toolkit's own decoders, on windows of random tokens."""
    sizes = DECODERS[plan.decoder]
    rows = max(1, plan.window_tokens // length)
    with _quiet_seed(plan.seed):
        config = GPTNeoXConfig(
            **sizes, vocab_size=plan.vocabulary, max_position_embeddings=max(512, length),
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
            use_parallel_residual=False, hidden_dropout=0.0, attention_dropout=0.0, use_cache=False,
            attn_implementation="sdpa",
        )  # fmt: skip
        model = GPTNeoXForCausalLM(config)
    generator = torch.Generator().manual_seed(plan.seed)
    ids = torch.randint(plan.vocabulary, (rows, length), generator=generator)
    layers, width, heads, feed_forward = size_of(sizes)
    shape = Shape(layers, width, heads, feed_forward, plan.vocabulary)
    flops = rows * length * _flops(shape, length)
    row = _train(plan, model, {"input_ids": ids, "labels": ids}, variant, by, flops)
    return {"tokens_per_s": rows * length / row["seconds"], "length": length, "batch": rows, **row}


def _flops(shape: Shape, length: int) -> float:
    return flops_per_token(shape.multiplied, layers=shape.layers, width=shape.width, length=length)


def _train(  # noqa: PLR0917 - a setup's parts
    plan: Plan, model: Any, batch: dict[str, Tensor], variant: str, by: str, flops: float
) -> dict[str, Any]:
    """Steps of AdamW with the matrix products in ``plan.dtype`` and the weights in float32."""
    kernel = "auto" if by == "sdpa" else "reference" if by == "reference" else "triton"
    model = model.to(plan.device)
    model.train()
    with _form(by):
        swap(model, variant, kernel=kernel)
        batch = {name: tensor.to(plan.device) for name, tensor in batch.items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=plan.device == "cuda")
        forget_calls(model)
        if plan.device == "cuda":
            torch.cuda.reset_peak_memory_stats()  # of the setups before it

        def step() -> None:
            with torch.autocast(plan.device, DTYPES[plan.dtype], enabled=plan.dtype != "float32"):
                loss = model(**batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        once = events(step, plan.device, 1 if plan.toy else WARM_UP)[-1]
        count = plan.steps if plan.toy else max(FEWEST, min(plan.steps, int(SECONDS / once)))
        seconds = statistics.median(events(step, plan.device, count))
    name = torch.cuda.get_device_name() if plan.device == "cuda" else ""
    top = peak(name, plan.dtype)
    memory = torch.cuda.max_memory_allocated() / 2**20 if plan.device == "cuda" else None
    return {
        "variant": variant, "by": by, "computes": "+".join(sorted(calls_by_kernel(model, variant))),
        "parameters": sum(each.numel() for each in model.parameters()), "seconds": seconds, "steps": count,
        "tflops": flops / seconds / 1e12, "mfu": flops / seconds / 1e12 / top if top else None,
        "peak_mib": memory,
    }  # fmt: skip


@contextmanager
def _form(name: str) -> Iterator[None]:
    """Lets the kernel "triton" of the models be a form of it; any other name changes nothing."""
    usual = dispatch.FAST["triton"]
    if name in forms.FORMS:
        chosen: Any = SimpleNamespace(
            attend=partial(triton_attention.attend, form=name), why_not=triton_attention.why_not
        )
        dispatch.FAST["triton"] = chosen
    try:
        yield
    finally:
        dispatch.FAST["triton"] = usual


@contextmanager
def _quiet_seed(seed: int) -> Iterator[None]:
    """The same random weights for every setup."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
