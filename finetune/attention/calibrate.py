"""A fair start for a swapped model: how large each head's weights are, and folding that into the weights.

A row of softmax weights sums to 1, a row of sa-softmax weights to less (about .6 to .96), so swapping a
trained model rescales the output of every head at once. Dividing the columns of the output projection that
read a head by the head's mean row sum undoes that on average: the model then starts close to the one it came
from.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune.attention.interface import LayerAttention, Watcher
from finetune.attention.kernels.inputs import Inputs
from finetune.attention.kernels.reference import scores_of
from finetune.attention.probe import observe
from finetune.attention.swap import attention_layers, blend
from finetune.errors import UserError

RowSums = dict[str, list[float]]  # attention module -> mean row sum of each head
SMALLEST = 0.05
"""A mean row sum below this is not inverted: a few rows would decide the weights of that head."""


@torch.no_grad()
def row_sums(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> RowSums:
    """The mean sum of a row of the variant's weights, for each head of each swapped module.

    Measured where the model comes from: it computes softmax meanwhile, and each variant sees the scores of
    the trained model. Rows of padding do not count, nor rows without a key.
    """
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        targets = _targets(model, batch)
        with _watching(model, lambda name, layer: _sum_rows(parts.setdefault(name, []), layer, targets)):  # noqa: B023
            for _ in _pass(model, [batch], share=0.0):
                pass
    totals = {name: torch.stack(each).sum(0) for name, each in parts.items() if each}
    return {name: (total[0] / total[1]).tolist() for name, total in totals.items()}


@torch.no_grad()
def fold(model: Any, sums: Mapping[str, Sequence[float]]) -> None:
    """Divide what each output projection reads from a head by that head's mean row sum, in place.

    ``UserError`` where a module has no output projection of its own, or a row sum is too close to 0.
    """
    projections = output_projections(model)
    for name, values in sums.items():  # all of them before the first weight is changed
        if name not in projections:
            raise UserError(
                f"attention.start calibrated finds no output projection behind {name} of "
                f"{type(model).__name__}: use cold or annealed"
            )
        smallest = min(values, key=abs)
        if not abs(smallest) >= SMALLEST:
            raise UserError(
                f"attention.start calibrated cannot divide by the mean row sum {smallest:.3g} of a head of "
                f"{name} (at least {SMALLEST} is needed): use cold or annealed"
            )
    for name, values in sums.items():
        projection = projections[name]
        columns = projection.weight if isinstance(projection, Conv1D) else projection.weight.T
        heads = columns.reshape(len(values), -1, columns.shape[-1])  # (heads, width, out)
        factors = torch.tensor(values, device=heads.device, dtype=torch.float64).reciprocal()
        scaled = (heads * factors[:, None, None].to(heads.dtype)).reshape(columns.shape)
        projection.weight.copy_(scaled if isinstance(projection, Conv1D) else scaled.T)


def output_projections(model: Any) -> dict[str, Any]:
    """The linear map that reads the output of each attention module, by the module's name.

    Found by a dry pass: the first linear map whose input is the memory that attention returned.
    """
    outputs: dict[int, tuple[str, Tensor]] = {}  # keeps each output alive, so that no address is used twice
    projections: dict[str, Any] = {}

    def note(name: str, _: LayerAttention) -> Watcher:
        return lambda inputs, output: outputs.update({_address(output): (name, output)})

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        name, _ = outputs.pop(_address(arguments[0]), ("", None)) if arguments else ("", None)
        if name:
            projections.setdefault(name, module)

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Linear | Conv1D):
                stack.callback(module.register_forward_pre_hook(look).remove)
        stack.enter_context(_watching(model, note))
        observe(model)
    return projections


@torch.no_grad()
def pooled(model: Any, batches: Iterable[Mapping[str, Tensor]], share: float) -> Tensor:
    """Mean last hidden state of each row, (rows, width), with ``share`` of the variant, the rest of softmax.

    Over the tokens of the text; in an encoder-decoder over those of the target.
    """
    rows = []
    for batch, output in _pass(model, batches, share, output_hidden_states=True):
        kept = _targets(model, batch)
        if kept is not None:
            states = output["decoder_hidden_states"][-1]
        else:
            states, mask = output["hidden_states"][-1], batch.get("attention_mask")
            # Windows of a text come without a mask: their padding is what has no label.
            kept = batch["labels"] >= 0 if mask is None else mask.bool()
        weights = kept.to(states)[..., None]
        rows.append((states * weights).sum(1) / weights.sum(1).clamp(min=1))
    return torch.cat(rows)


def cosine(first: Tensor, second: Tensor) -> float:
    """Mean cosine of the rows of two (rows, width) tensors."""
    return float(nn.functional.cosine_similarity(first.double(), second.double()).mean())


def _sum_rows(parts: list[Tensor], layer: LayerAttention, targets: Tensor | None) -> Watcher:
    """Add (2, heads) to ``parts`` at every call: the sum of the row sums, and how many rows there were.

    ``targets``, bool, (batch, target), of an encoder-decoder are those that are no padding, which its decoder
    has no mask for.
    """

    def watch(inputs: Inputs, output: Tensor) -> None:
        allowed = inputs.all_allowed()
        sums = layer.variant.weigh(scores_of(inputs), allowed).sum(-1)  # (batch, heads, query)
        # Rows count that see a key, in self-attention themselves: (batch or 1, 1, query).
        counted = sums.new_ones(1, 1, sums.shape[-1], dtype=torch.bool)
        if allowed is not None:
            full = allowed.expand(*allowed.shape[:-2], inputs.query.shape[-2], inputs.key.shape[-2])
            counted = full.any(-1)
            if layer.kind != "cross":
                counted = counted & full.diagonal(dim1=-2, dim2=-1)
        if targets is not None and layer.kind != "encoder":
            counted = counted & targets.to(counted.device)[:, None]
        counted = counted.expand_as(sums)
        total = (sums * counted).sum((0, 2), dtype=torch.float64)
        parts.append(torch.stack([total, counted.sum((0, 2)).to(total)]))

    return watch


def _targets(model: Any, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Which tokens of a decoder beside an encoder count, bool, (batch, target): all that are no padding.

    A classifier's decoder reads the text itself. ``None`` where there is one stack alone, or no label.
    """
    labels = batch.get("labels")
    if labels is None or not model.config.is_encoder_decoder:
        return None
    return labels >= 0 if labels.ndim == 2 else batch["attention_mask"].bool()


def _pass(
    model: Any, batches: Iterable[Mapping[str, Tensor]], share: float, **options: Any
) -> Iterator[tuple[Mapping[str, Tensor], Any]]:
    """Each batch on the model's device, with the output for it, in evaluation mode."""
    training = model.training
    model.eval()
    blend(model, share)
    try:
        for batch in batches:
            there = {key: tensor.to(model.device) for key, tensor in batch.items()}
            yield there, model(**there, **options)
    finally:
        blend(model, 1.0)
        model.train(training)


@contextmanager
def _watching(model: Any, make: Callable[[str, LayerAttention], Watcher]) -> Iterator[None]:
    """Have every attention module that computes a variant watched by what ``make`` makes for it."""
    chosen = {name: layer for name, layer in attention_layers(model).items() if layer.swapped}
    watchers = {name: make(name, layer) for name, layer in chosen.items()}
    for name, layer in chosen.items():
        layer.watchers.append(watchers[name])
    try:
        yield
    finally:
        for name, layer in chosen.items():
            layer.watchers.remove(watchers[name])


def _address(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr()) if isinstance(tensor, Tensor) else -1
