"""What a run needs on paper: held to models that are built, and to steps that are computed."""

import math
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from finetune import objectives
from finetune.attention.swap import swap
from finetune.models.scratch import BERT, MARIAN
from finetune.models.sizes import ENCODER_DECODERS, ENCODERS
from finetune.models.workload import Amount, Anatomy, Strategy, Workload
from tests.support.on_paper import config_of, count, kept_bytes
from tests.support.scratch_models import stock

LABELS = ("one", "two", "three")
SCRATCH = [("classification", name) for name in ENCODERS] + [
    ("translation", name) for name in ENCODER_DECODERS
]
SOURCE, TARGET, ROWS = 96, 64, 3


def planned(kind: str, size: str, **options: Any) -> Workload:
    lengths = {"max_length": SOURCE, "max_target_length": TARGET if kind == "translation" else None}
    config = config_of(kind, {"data": lengths, **options}, name=f"scratch:{size}", vocab_size=700)
    found = objectives.get(kind).workload(config, LABELS if kind == "classification" else ())
    assert found is not None
    return found


def built(kind: str, size: str, **options: Any) -> Any:
    scratch = BERT if kind == "classification" else MARIAN
    heads = {"id2label": dict(enumerate(LABELS))} if kind == "classification" else {}
    config = stock(scratch, {**scratch.sizes[size], **heads}, 700)
    for name, value in options.items():
        setattr(config, name, value)
    return objectives.get(kind).auto_model.from_config(config).train()


def rows(kind: str) -> dict[str, torch.Tensor]:
    source = {"input_ids": torch.ones(ROWS, SOURCE, dtype=torch.long)}
    if kind == "classification":
        return source
    return source | {"decoder_input_ids": torch.ones(ROWS, TARGET, dtype=torch.long)}


@pytest.mark.parametrize(("kind", "size"), SCRATCH)
def test_a_scratch_model_has_the_parameters_that_the_formula_says(kind: str, size: str) -> None:
    with torch.device("meta"):
        model = built(kind, size)
    found = planned(kind, size).model
    assert (found.parameters, found.trained) == (count(model), count(model, trained=True))
    assert found.outside + sum(_layers(model)) == pytest.approx(found.parameters, rel=0.01)
    assert found.layer == max(_layers(model))


def _layers(model: Any) -> list[int]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [count(layer) for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize(
    ("kind", "size"),
    [("classification", "mini"), ("classification", "modernbert-mini"), ("translation", "mini")],
)
def test_activations_are_those_that_torch_keeps(kind: str, size: str, kernel: str, half: bool) -> None:
    """Within a quarter: the formula of a layer is one for all encoders."""
    model = built(kind, size)
    for name in ("attention_dropout", "attention_probs_dropout_prob"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if "ttention" in type(module).__name__ and isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    swap(model, "sa-softmax", kernel=kernel)
    kept = kept_bytes(model.base_model, half, **rows(kind))
    copies = (
        2 * half * sum(each.weight.numel() for each in model.modules() if isinstance(each, torch.nn.Linear))
    )
    found = planned(kind, size, attention={"variant": "sa-softmax", "kernel": kernel}, train={"bf16": half})
    output = 12 * ROWS * TARGET * 700 if kind == "translation" else 0
    expected = found.activation_bytes(ROWS, checkpointing=False) - output
    assert math.isclose(kept - copies, expected, rel_tol=0.25), (kept - copies) / expected


@pytest.mark.parametrize(
    ("kind", "size"), [("classification", "mini"), ("translation", "mini")], ids=["bert", "marian"]
)
def test_a_whole_step_takes_the_memory_that_the_plan_says(kind: str, size: str) -> None:
    """Weights, moments and the peak of a second step, in float32, as torch allocates them.

    The plan is a sixth above it: the last gradients are there when the activations are gone.
    """
    model = built(kind, size, attention_dropout=0.0, attention_probs_dropout_prob=0.0)
    optimizer = torch.optim.AdamW(model.parameters())
    labels = {"labels": torch.ones(ROWS, *([TARGET] if kind == "translation" else []), dtype=torch.long)}
    inputs = {"input_ids": rows(kind)["input_ids"], **labels}

    def step() -> None:
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    lasting = 4 * count(model) + 8 * count(model, trained=True)
    expected = replace(planned(kind, size), amount=Amount(ROWS, ROWS, 1, True, None)).memory_bytes(
        Strategy.ONE
    )
    assert expected is not None
    ratio = (lasting + max(accumulate(changes))) / expected
    assert 0.75 < ratio < 1.02, ratio


MODEL = Anatomy(
    parameters=100, trained=100, layer=20, outside=40, row_flops=6.0, row_bytes=50.0, row_bytes_again=10.0
)
AMOUNT = Amount(batch=8, step=24, length=3, filled=True, rows=48)
WORKLOAD = Workload(MODEL, AMOUNT, half=False, optimizer="adamw_torch_fused", checkpointing=False)


def test_states_by_strategy_by_hand() -> None:
    """16 bytes a parameter; DDP adds 4 of buckets; FSDP2 shares them, and gathers 40 + 2 x 20 weights and the
    gradients of 40 + 20."""
    assert WORKLOAD.state_bytes(Strategy.ONE) == 1600
    assert WORKLOAD.state_bytes(Strategy.DDP) == 1600
    assert WORKLOAD.state_bytes(Strategy.DDP, 2) == 2000
    assert WORKLOAD.state_bytes(Strategy.FSDP, 4) == 400 + 4 * (80 + 60)
    half = replace(WORKLOAD, half=True)
    assert half.state_bytes(Strategy.DDP, 2) == 2200
    assert half.state_bytes(Strategy.FSDP, 4) == 400 + 4 * (80 + 60) + 200
    assert replace(WORKLOAD, optimizer="sgd").state_bytes(Strategy.ONE) == 800


def test_only_what_is_trained_has_gradients_and_moments() -> None:
    adapted = replace(WORKLOAD, model=replace(MODEL, trained=10))
    assert adapted.state_bytes(Strategy.ONE) == 4 * 100 + 12 * 10
    assert adapted.state_bytes(Strategy.DDP, 8) == 4 * 100 + 16 * 10


@pytest.mark.parametrize(
    ("devices", "local"), [(1, 8), (2, 6), (3, 8), (4, 6), (5, None), (8, 3), (24, 1), (48, None)]
)
def test_a_step_is_divided_into_whole_batches(devices: int, local: int | None) -> None:
    """A share of the step, in the largest batches that make it up and are no larger than the run's."""
    assert WORKLOAD.local_batch(devices) == local
    memory = WORKLOAD.memory_bytes(Strategy.DDP, devices)
    assert memory == (local and (2000 if devices > 1 else 1600) + 50 * local)


def test_what_a_run_needs_in_any_case() -> None:
    """Gradients are gone when activations are kept, unless those of a pass before are; windows are never
    short, rows that are padded to their batch may all be."""
    alone = replace(WORKLOAD, amount=replace(AMOUNT, step=8))
    assert alone.least_bytes(Strategy.ONE) == 1200 + 8 * 50
    assert alone.memory_bytes(Strategy.ONE) == 1600 + 8 * 50, "the plan is above it"
    assert WORKLOAD.least_bytes(Strategy.ONE) == 1600 + 8 * 50, "of three passes"
    again = replace(alone, checkpointing=True)
    assert again.least_bytes(Strategy.ONE) == 1600, "the optimizer's moment: 1200 + 8 x 10 is less"
    padded = replace(WORKLOAD, amount=replace(AMOUNT, filled=False))
    assert padded.least_bytes(Strategy.ONE) == 1600
    assert padded.least_bytes(Strategy.DDP, 2) == 2000
    assert padded.least_bytes(Strategy.FSDP, 4) == 1200 / 4 + 4 * 40, "held whole: what is in no layer"
    assert replace(padded, half=True).least_bytes(Strategy.FSDP, 4) == 1200 / 4 + 4 * 40, "without a copy"
    assert WORKLOAD.least_bytes(Strategy.DDP, 5) is None
    assert (WORKLOAD.flops, WORKLOAD.steps, WORKLOAD.flops_per_token) == (288.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("kind", "over", "expected"),
    [
        ("classification", {"data": {"train_rows": 1000}, "train": {"num_train_epochs": 2}}, 2000),
        ("classification", {"data": {"source": "sample", "train_rows": None}}, 24_000),
        ("classification", {"data": {"source": "hub", "train_rows": None}}, None),
        (
            "classification",
            {"data": {"source": "hub", "train_rows": None}, "train": {"max_steps": 7}},
            7 * 32,
        ),
        ("translation", {"data": {"train_rows": 100}, "train": {"num_train_epochs": 3}}, 300),
        ("causal", {"language": {"train_tokens": 12_800}, "train": {"num_train_epochs": 1}}, 100),
        ("causal", {"language": {"train_tokens": None}, "train": {"max_steps": 3}}, 3 * 16),
        ("masked", {"language": {"train_tokens": None}, "train": {"max_steps": -1}}, None),
    ],
)
def test_rows_that_are_trained_on(kind: str, over: Any, expected: float | None) -> None:
    amount = objectives.get(kind).amount(config_of(kind, over))
    assert amount.rows == expected
    assert amount.filled == (kind in ("causal", "masked"))
