"""The arithmetic of training on paper, held against models that are built and FLOPs that are counted."""

import math
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from finetune import objectives
from finetune.attention.swap import swap
from finetune.models import scale
from finetune.models.scale import Batch, Pairwise, Shape
from finetune.models.scratch import BERT, NEOX
from finetune.models.sizes import DECODERS, ENCODERS, size_of
from finetune.positions import POSITIONS, get_encoding
from finetune.positions.attach import attach, free
from finetune.tasks import TASK_TYPES
from finetune.training.trainer import summed_loss
from tests.support.on_paper import config_of, count, kept_bytes
from tests.support.scratch_models import stock

VOCABULARY = 50_257
# Without embeddings, as published with Pythia (Biderman et al., 2023, arXiv 2304.01373), whose models 70M,
# 160M, 410M, 1.4B and 2.8B have these shapes.
PUBLISHED = {
    "small": 18_915_328, "125m": 85_056_000, "350m": 302_311_424, "1.3b": 1_208_602_624,
    "2.7b": 2_517_652_480,
}  # fmt: skip
# What the names say: those of GPT-3 (Brown et al., 2020, arXiv 2005.14165), with one table for both ends.
NAMED = {"125m": 125e6, "350m": 350e6, "1.3b": 1.3e9, "2.7b": 2.65e9}


def shape(size: dict[str, int], vocabulary: int, **options: Any) -> Shape:
    return Shape(*size_of(size), vocabulary, **options)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_have_the_parameters_that_the_formula_says(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(stock(NEOX, DECODERS[name], VOCABULARY))
    expected = shape(DECODERS[name], VOCABULARY)
    assert count(model) == expected.parameters == expected.body + 2 * expected.table
    assert expected.body == PUBLISHED.get(name, expected.body)
    if name in NAMED:
        assert math.isclose(expected.body + expected.table, NAMED[name], rel_tol=0.02)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_the_parameters_that_the_formula_says(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(stock(BERT, ENCODERS[name], 30_522))
    on_paper = objectives.get("masked").workload(
        config_of("masked", name=f"scratch:{name}", vocab_size=30_522)
    )
    assert on_paper is not None and count(model) == on_paper.model.parameters


@pytest.mark.parametrize("heads", [3, 12])
@pytest.mark.parametrize("name", POSITIONS)
def test_encodings_learn_what_their_declaration_says(name: str, heads: int) -> None:
    encoding, constants = get_encoding(name)
    modules: list[Any] = []
    for _ in range(4 if encoding.module else 0):
        first = modules[0] if modules else None
        modules.append(encoding.bias.build(heads, width=24, first=first, constants=constants))
    assert sum(map(count, modules)) == encoding.learned(4, heads)


LAYERS, WIDTH, HEADS, LENGTH, ROWS = 3, 128, 4, 192, 2
TOKENS = torch.ones(ROWS, LENGTH, dtype=torch.long)
SMALL = {
    "num_hidden_layers": LAYERS, "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 512
}  # fmt: skip


def small(position: str, kernel: str, variant: str = "sa-softmax") -> Any:
    config = stock(NEOX, SMALL, 500)
    free(config, position)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    swap(model, variant, kernel=kernel)
    attach(model, *get_encoding(position), 0)
    return model.train()


def pairwise(position: str) -> Pairwise:
    encoding, _ = get_encoding(position)
    return Pairwise(encoding.products(HEADS), encoding.kept(HEADS), not encoding.by_row)


@pytest.mark.parametrize("position", ["rope", "kerple", "dape-kerple", "dapev2-kerple"])
def test_flops_are_those_that_torch_counts(position: str) -> None:
    model = small(position, "reference")
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.ones(ROWS, LENGTH, dtype=torch.long), use_cache=False).logits
        logits.sum().backward()
    expected = scale.flops_per_token(
        shape(SMALL, 500).multiplied, layers=LAYERS, width=WIDTH, length=LENGTH, pairwise=pairwise(position)
    )
    counted = counter.get_total_flops() / (ROWS * LENGTH)
    if POSITIONS[position].by_row:  # reads the scores, which are computed once more for it
        expected += 6 * LAYERS * LENGTH * WIDTH
    assert math.isclose(counted, expected, rel_tol=0.02), counted / expected


def test_flops_of_125m_by_hand() -> None:
    """6 of the body and the output's table, 12 of layers, features and tokens."""
    found = scale.flops_per_token(
        shape(DECODERS["125m"], 50_257).multiplied, layers=12, width=768, length=512
    )
    assert found == 6 * (85_056_000 + 768 * 50_257) + 12 * 12 * 768 * 512


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("position", "kernel"),
    [
        ("rope", "auto"),
        ("kerple", "auto"),
        ("rope", "reference"),
        ("fire", "auto"),
        ("dapev2-kerple", "auto"),
    ],
)
def test_activations_are_those_that_torch_keeps(position: str, kernel: str, half: bool) -> None:
    model = small(position, kernel)
    copies = 2 * half * shape(SMALL, 500).body  # of the weights, which are counted with them
    found = kept_bytes(model.base_model, half, input_ids=TOKENS) - copies
    batch = Batch(ROWS, LENGTH, half, False, kernel == "auto", pairwise(position))
    paper = scale.activation_bytes(shape(SMALL, 0), batch, checkpointing=False)
    assert math.isclose(found, paper, rel_tol=0.2), found / paper
    again = scale.activation_bytes(shape(SMALL, 0), batch, checkpointing=True)
    assert paper / LAYERS < again < paper
    model.activation_checkpointing_enable({"use_reentrant": False})
    inputs = again - paper / LAYERS
    after = 4 * ROWS * LENGTH * WIDTH  # the input of the LayerNorm after the last layer
    assert math.isclose(kept_bytes(model.base_model, half, input_ids=TOKENS) - after, inputs, rel_tol=0.2)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_the_output_takes_what_torch_allocates(half: bool) -> None:
    """The peak of the output layer and the loss that is trained on, forward and backward."""
    vocabulary, tokens, width = 5_000, 192, 16
    layer = torch.nn.Linear(width, vocabulary, bias=False)
    hidden = torch.randn(tokens, width, requires_grad=True)
    labels = torch.arange(tokens)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = summed_loss(layer(hidden), labels, 0.0)
        loss.backward()

    step()  # gradients are there from then on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    peak = max(accumulate(changes))
    batch = Batch(1, tokens, half, False, True)
    paper = scale.activation_bytes(Shape(0, width, 1, 1, vocabulary), batch, checkpointing=False)
    assert math.isclose(peak, paper, rel_tol=0.2), peak / paper


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H200", 989), ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312), ("NVIDIA L40S", 362), ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA H100 PCIe", None), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("2 x NVIDIA H200", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("cpu", None),
    ],
)  # fmt: skip
def test_peaks_are_of_whole_devices_that_are_known(device: str, peak: float | None) -> None:
    assert scale.peak_tflops(device) == peak


def test_utilization_needs_a_peak_in_the_same_precision() -> None:
    assert scale.utilization(98.9e12, "NVIDIA H200", "bfloat16") == pytest.approx(0.1)
    assert scale.utilization(98.9e12, "NVIDIA H200", "float32") is None
    assert scale.utilization(98.9e12, "cpu", "bfloat16") is None


@pytest.mark.parametrize("position", ["own", "t5", "dape-kerple"])
def test_a_model_that_is_built_costs_what_its_configuration_says(position: str) -> None:
    config = config_of(position=position, name="scratch:mini", vocab_size=700)
    objective = objectives.get("causal")
    stock_config = stock(NEOX, DECODERS["mini"], 700)
    free(stock_config, position)
    model = AutoModelForCausalLM.from_config(stock_config)
    swap(model, "softmax")
    attach(model, *get_encoding(position), 0)
    workload = objective.workload(config)
    assert workload is not None and workload.model.parameters == count(model)
    whole = objective.flops_per_token(config, model)
    assert whole is not None and whole == pytest.approx(workload.flops_per_token)
    for weights in model.base_model.layers.parameters():
        weights.requires_grad = False
    frozen = objective.flops_per_token(config, model)
    assert frozen is not None and 0.65 * whole < frozen < 0.9 * whole


@pytest.mark.parametrize("size", ["mini", "modernbert-mini"])
def test_a_masked_model_that_is_built_costs_what_its_configuration_says(size: str) -> None:
    config = config_of("masked", name=f"scratch:{size}", vocab_size=700)
    objective = objectives.get("masked")
    model = AutoModelForMaskedLM.from_config(stock(BERT, ENCODERS[size], 700))
    workload = objective.workload(config)
    assert workload is not None and workload.model.parameters == count(model)
    # Positions, segments and the bias of the output are added, not multiplied by.
    assert objective.flops_per_token(config, model) == pytest.approx(workload.flops_per_token, rel=0.05)


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_every_kind_has_its_scratch_sizes_on_paper(kind: str) -> None:
    objective = objectives.get(kind)
    assert objective.sizes == objective.scratch.sizes
