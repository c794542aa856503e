"""A model of any architecture on paper: a step of it is traced with shapes alone, without memory for them."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from finetune.config.schema import DataConfig, RunConfig
from finetune.models import admission, own_code
from finetune.models.adapters import adapted_model
from finetune.models.builder import head_options
from finetune.models.pretrained import ATTENTION_DROPOUT, explain, set_dropout
from finetune.models.scale import OUTPUT
from finetune.models.workload import Anatomy
from finetune.positions import attach as positions

ROWS = 2
"""Rows that are traced: a single one takes another way through some architectures."""
DEFINITION = 16
"""Bytes a head, query and key that the definition of a variant keeps."""
LAYERDROP = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")


class TracedObjective(Protocol):
    """The part of an objective that says which model is built, and how long its rows are."""

    adapter_task: str
    trains_head: bool

    @property
    def auto_model(self) -> Any:
        """transformers' auto class of the model."""

    def target_length(self, data: DataConfig) -> int | None:
        """Tokens of a target at most."""


class Trace(NamedTuple):
    """What a step of a model on ``ROWS`` rows takes."""

    parameters: int
    trained: int
    layer: int  # parameters of the largest layer; 0 where none is marked as one
    in_layers: int  # parameters of all layers
    flops: float
    kept: float  # bytes for the backward pass
    kept_again: float  # the same with activation checkpointing
    pairs: int  # of a head, a query and a key, over all layers
    layers: int


def anatomy(
    config: RunConfig, objective: TracedObjective, labels: Sequence[str], *, half: bool, fused: bool
) -> Anatomy | None:
    """A pretrained model that is here on paper, for rows of the lengths of a run.

    ``fused``: its attention keeps no weights of queries and keys. ``None`` where the way through the model
    depends on more than shapes. Raises ``UserError`` for files that are damaged, and for dropouts or adapters
    that do not fit it.
    """
    stock = _stock(config.model.name, config.model.revision)
    for name, value in head_options(labels).items():
        setattr(stock, name, value)
    set_dropout(stock, config)
    positions.free(stock, config.model.position)
    encoding, _ = positions.wanted(stock, config.model.position, config.model.position_parameters)
    # For a trace alone: attention as a fused kernel has it, without dropout of its own, and every layer.
    for name in (*ATTENTION_DROPOUT, *LAYERDROP):
        if name in stock.to_dict():
            setattr(stock, name, 0.0)
    length, target = config.data.max_length, objective.target_length(config.data)
    key = (stock.to_json_string(use_diff=False), repr(config.model.lora), length, target, half)
    if key not in _traces:
        _traces[key] = _trace(stock, objective, config, half=half)
    trace = _traces[key]
    if trace is None:
        return None
    heads = stock.num_attention_heads
    learned = encoding.learned(trace.layers, heads) if encoding.module else 0
    pairs = trace.layers * length * length  # of decoders, which alone have an encoding
    shared = 4.0 * encoding.kept(heads) * pairs
    at_pairs = encoding.by_row * shared + (0 if fused else DEFINITION * trace.pairs / ROWS)
    return Anatomy(
        parameters=trace.parameters + learned,
        trained=trace.trained + learned * (not config.model.lora.rank),
        layer=trace.layer,
        outside=trace.parameters - trace.in_layers,
        row_flops=trace.flops / ROWS + 6.0 * encoding.products(heads) * pairs,
        row_bytes=trace.kept / ROWS + at_pairs,
        row_bytes_again=trace.kept_again / ROWS + at_pairs / trace.layers,
        batch_bytes=0.0 if encoding.by_row else shared,
    )


_traces: dict[tuple[Any, ...], Trace | None] = {}


def _stock(name: str, revision: str | None) -> Any:
    """The configuration of a model in a folder or in the Hub's cache, which is not asked for another one."""
    files: dict[str, Any] = {} if Path(name).is_dir() else {"local_files_only": True, "revision": revision}
    with explain(name):
        own_code.refuse(name, files)
        return AutoConfig.from_pretrained(name, **files, trust_remote_code=False)


def _trace(stock: Any, objective: TracedObjective, config: RunConfig, *, half: bool) -> Trace | None:
    """Traces a step; ``None`` where the way through the model depends on more than shapes."""
    with torch.device("meta"):
        model = objective.auto_model.from_config(stock, attn_implementation="sdpa")
    with warnings.catch_warnings(action="ignore"):  # the run itself will say what peft has to say
        adapted = adapted_model(
            model, config.model.lora, [], task_type=objective.adapter_task, head=objective.trains_head
        )
    adapted.train()
    # Tensors without memory that are taken to be on a CPU: autocast knows none on the meta device.
    with FakeTensorMode():
        _give_device(adapted)
        places = admission.positions(model)  # a longer row would be refused
        length = min(config.data.max_length, places.read or config.data.max_length)
        rows = {"input_ids": torch.zeros(ROWS, length, dtype=torch.long)}
        if stock.is_encoder_decoder:
            target = objective.target_length(config.data) or length
            target = min(target, places.decoder or target)
            rows["decoder_input_ids"] = torch.zeros(ROWS, target, dtype=torch.long)
        try:
            return _step(model, adapted, rows, half)
        except DataDependentOutputException:
            return None


def _give_device(model: nn.Module) -> None:
    """Puts new tensors in the place of all weights and buffers, by the rules of the mode that is entered."""
    made: dict[Tensor, Tensor] = {}  # tied ones are made once

    def like(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")

    for module in model.modules():
        for name, weights in list(module.named_parameters(recurse=False)):
            new = nn.Parameter(like(weights), weights.requires_grad)
            setattr(module, name, made.setdefault(weights, new))
        for name, values in list(module.named_buffers(recurse=False)):
            setattr(module, name, made.setdefault(values, like(values)))


def _step(model: PreTrainedModel, adapted: nn.Module, rows: dict[str, Tensor], half: bool) -> Trace:
    """Traces the body of a model, and its output layer where each token has one."""
    weights = {each.untyped_storage()._cdata for each in adapted.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    def size() -> int:
        return sum(each.untyped_storage().nbytes() for at, each in kept.items() if at not in weights)

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    held, inputs, before = list[int](), list[int](), list[int]()

    def enter(module: nn.Module, arguments: Any, options: Any) -> None:
        hidden = next(each for each in (*arguments, *options.values()) if isinstance(each, Tensor))
        inputs.append(hidden.untyped_storage().nbytes())
        before.append(size())

    def leave(*_: Any) -> None:
        held.append(size() - before.pop())

    for layer in layers:
        layer.register_forward_pre_hook(enter, with_kwargs=True)
        layer.register_forward_hook(leave)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    pairs = _Pairs()
    with FlopCounterMode(display=False) as counter, pairs:
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = model.base_model(**rows, use_cache=False)[0]
            output = model.get_output_embeddings()
            if output is not None and model.base_model is not model:
                result = output(result)
            logits = 0 if output is None else result.numel()
        if any(each.requires_grad for each in adapted.parameters()):
            result.sum().backward()
    multiplied = [module.weight for module in adapted.modules() if isinstance(module, nn.Linear | Conv1D)]
    copies = 2 * half * sum(weight.numel() for weight in {id(each): each for each in multiplied}.values())
    whole = size() - copies + 4 * OUTPUT * logits
    numbers = [sum(each.numel() for each in layer.parameters()) for layer in layers]
    count = list(adapted.parameters())
    again = whole - sum(held) + sum(inputs) + max(held, default=0)
    return Trace(
        parameters=sum(each.numel() for each in count),
        trained=sum(each.numel() for each in count if each.requires_grad),
        layer=max(numbers, default=0),
        in_layers=sum(numbers),
        flops=counter.get_total_flops(),
        kept=whole,
        kept_again=again if held else whole,
        pairs=pairs.count,
        layers=max(1, len(held)),
    )


class _Pairs(TorchFunctionMode):
    """Counts the heads, queries and keys that meet in torch's attention."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            query, key = args[:2]
            self.count += query.shape[:-1].numel() * key.shape[-2]
        return function(*args, **(kwargs or {}))
