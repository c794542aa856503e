"""Watches the attention calls of one forward and backward pass, and changes nothing in them.

Nothing is drawn from a random generator, and the gradient hooks return nothing, so that a pass gives the same
numbers with a recorder and without.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from finetune.attention.diagnostics import statistics
from finetune.attention.interface import LayerAttention, Watcher
from finetune.attention.kernels.inputs import Inputs
from finetune.attention.position_bias import encoding_of
from finetune.attention.swap import attention_layers

ROWS = 8
"""Rows of a batch, at most, whose weights are computed again; gradient norms are of the whole batch."""
QUERIES = 128
"""Queries of a row whose weights are computed again, evenly spaced; keys are never left out."""
TENSORS = ("query", "key", "value", "output")


@dataclass
class _WatchedCall:
    """One attention call, filled in as the pass goes on."""

    module: str
    layer: LayerAttention
    part: statistics.Part
    share: float  # of the variant in the weights, softmax having the rest
    hooked: bool = False  # its gradients will be noted
    upstream: Tensor | None = None  # dLoss/dOutput of the part
    norms: dict[str, Tensor] = field(default_factory=dict)  # of the gradients, by TENSORS

    def hook(self, inputs: Inputs, output: Tensor) -> None:
        """Have the gradients noted when they come."""
        for name, tensor in zip(TENSORS, (inputs.query, inputs.key, inputs.value, output), strict=True):
            if tensor.requires_grad:
                tensor.register_hook(partial(self._note, name))
        self.hooked = True

    def _note(self, name: str, gradient: Tensor) -> None:
        gradient = gradient.detach()
        wide = torch.promote_types(gradient.dtype, torch.float32)
        self.norms[name] = torch.linalg.vector_norm(gradient, dtype=wide)
        if name == "output":
            self.upstream = self.part.of_output(gradient)


@dataclass(frozen=True)
class Layer:
    """What one attention call of a pass gave."""

    module: str
    kind: str
    rows: int  # of the batch, whose weights were computed again
    share: float
    gradient: dict[str, float]  # L2 norms by TENSORS, over the whole batch; one without a gradient lacks
    columns: statistics.Columns
    learned: dict[str, list[float]] = field(default_factory=dict)  # of its positional encoding


class Recorder:
    """Records the next pass of ``model`` between ``start`` and ``stop``.

    Activation checkpointing runs a layer again during the backward pass. What a call was given is then that
    of its first run; where that had no gradient (the reentrant form), its gradients are those of the second.
    """

    def __init__(self, model: Any, rows: int = ROWS, queries: int = QUERIES) -> None:
        self.model, self.rows, self.queries = model, rows, queries
        self.attention_layers = attention_layers(model)
        self.variants = statistics.compared([layer.variant for layer in self.attention_layers.values()])
        self._calls: list[_WatchedCall] = []
        self._watchers: dict[str, Watcher] = {}
        self._forward_hook: Any = None
        self._forward_over = False

    @property
    def variant(self) -> str:
        """The variant of the model; softmax where that is everywhere."""
        names = [layer.variant.name for layer in self.attention_layers.values() if layer.swapped]
        return names[0] if names else "softmax"

    def start(self) -> None:
        """Watch from here on."""
        self._calls, self._forward_over = [], False
        # Of tensors that live inside a compiled graph no hook hears: such a pass runs as it is written.
        torch.compiler.set_stance("force_eager")
        self._forward_hook = self.model.register_forward_hook(self._end_forward)
        for name, layer in self.attention_layers.items():
            self._watchers[name] = partial(self._watch, name, layer)
            layer.watchers.append(self._watchers[name])

    def stop(self, loss_scale: float = 1.0) -> list[Layer]:
        """Watch no longer; the layers in the order of their calls. Gradients are divided by ``loss_scale``,
        as mixed precision in float16 multiplies the loss."""
        for name, layer in self.attention_layers.items():
            layer.watchers.remove(self._watchers.pop(name))
        self._forward_hook.remove()
        torch.compiler.set_stance("default")
        calls, self._calls = self._calls, []
        return [self._finished(call, loss_scale) for call in calls]

    def _end_forward(self, *_: Any) -> None:
        self._forward_over = True

    def _watch(self, name: str, layer: LayerAttention, inputs: Inputs, output: Tensor) -> None:
        if not self._forward_over:
            part = statistics.take(inputs, layer.kind, self.rows, self.queries)
            self._calls.append(_WatchedCall(name, layer, part, layer.blend.share))
        waiting = [call for call in self._calls if call.module == name and not call.hooked]
        if waiting and output.requires_grad:  # in a second run the last of them: layers run again backwards
            waiting[-1].hook(inputs, output)

    def _finished(self, call: _WatchedCall, loss_scale: float) -> Layer:
        upstream = None if call.upstream is None else call.upstream.float() / loss_scale
        columns = statistics.joined([
            statistics.row_statistics(
                part, None if upstream is None else upstream[row : row + 1], call.layer.variant, self.variants
            )
            for row, part in enumerate(call.part.by_row())
        ])  # fmt: skip
        gradient = {name: float(norm) / loss_scale for name, norm in call.norms.items()}
        encoding = encoding_of(self.model.get_submodule(call.module))
        learned = {} if encoding is None else encoding.learned()
        rows = len(call.part.real)
        return Layer(call.module, call.layer.kind, rows, call.share, gradient, columns, learned)


def layers_json(recorder: Recorder, passes: Sequence[Sequence[Layer]]) -> list[dict[str, Any]]:
    """The ``layers`` of a sample of diagnostics.json, over the passes of one loss that was taken in parts."""
    layers = []
    for index, parts in enumerate(zip(*passes, strict=True)):
        columns = statistics.joined([part.columns for part in parts])
        layers.append(
            {
                "layer": index,
                "module": parts[0].module,
                "kind": parts[0].kind,
                "gradient": {name: _norm([part.gradient.get(name) for part in parts]) for name in TENSORS},
                **statistics.summarize(columns, recorder.variants),
            }
        )
        if parts[0].learned:
            layers[-1]["learned"] = {
                name: [value if math.isfinite(value) else None for value in values]
                for name, values in parts[0].learned.items()
            }
    return layers


def _norm(norms: Sequence[float | None]) -> float | None:
    """The norm over all parts from the norm of each; None where a part has none, or no finite one."""
    known = [norm for norm in norms if norm is not None and math.isfinite(norm)]
    return math.hypot(*known) if len(known) == len(norms) else None
