"""Proves what of a window a model sees: no token that comes later and, where asked for, no other document."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finetune.data.packing import restarted
from finetune.errors import UserError

PROBE = 12  # tokens
TOLERANCE = 1e-4  # float error of sums in another order, relative to the largest value


@torch.no_grad()
def check(name: str, model: PreTrainedModel) -> None:
    """Raises ``UserError`` where the last token of a text shows in the logits of those before it.

    An encoder that is loaded as a decoder (BERT without ``is_decoder``) would see what it is to predict.
    """
    if model.config.is_encoder_decoder:
        raise UserError(f"'{name}' is an encoder-decoder, and a causal language model is a decoder alone")
    ids = _tokens(model)
    other = torch.cat([ids[:-1], ids[:1]])
    one, two = _logits(model, torch.stack([ids, other]))[:, :-1]
    if not _equal(one, two):
        raise UserError(
            f"'{name}' sees the tokens that it is to predict: it is no causal language model; choose a "
            "decoder (an encoder needs is_decoder in its config.json, and training as one)"
        )


@torch.no_grad()
def check_isolated(name: str, model: PreTrainedModel) -> None:
    """Raises ``UserError`` where a document in a window is read otherwise than alone.

    ``position_ids`` that begin anew are all that a model is told; one that takes no note of them, or has a
    mask of its own making, would see the documents before.
    """
    ids, half = _tokens(model), PROBE // 2
    starts = torch.zeros_like(ids, dtype=torch.bool)
    starts[half] = True
    inside = _logits(model, ids[None], position_ids=restarted(starts[None]))[0, half:]
    if not _equal(inside, _logits(model, ids[None, half:])[0]):
        raise UserError(
            f"'{name}' sees the documents before in the same window, whatever position_ids say: set "
            "--language.documents cross, or choose another model"
        )


def _tokens(model: PreTrainedModel) -> Tensor:
    embedding = model.get_input_embeddings().weight
    return torch.arange(1, PROBE + 1, device=embedding.device) % len(embedding)


def _logits(model: PreTrainedModel, ids: Tensor, **options: Tensor) -> Tensor:
    training = model.training
    logits: Tensor = model.eval()(input_ids=ids, use_cache=False, **options).logits.float()
    model.train(training)
    return logits


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE * float(one.abs().max()))
