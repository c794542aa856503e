"""The files of a pretrained model, against what its architecture needs: no weight is random unsaid."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

from finetune.errors import UserError
from finetune.files import LFS_POINTER
from finetune.labels import finder

# The sizes of an architecture, under whatever names it keeps them; each is a whole number from 1.
SIZES = (
    "vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings",
    "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
    "dim", "hidden_dim", "n_layers", "n_heads", "n_embd", "n_layer", "n_head", "n_positions", "n_inner",
    "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
    "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
MOST, MOST_LAYERS = 2**31 - 1, 1000
"""A size and a number of layers that no model has; beyond them a configuration is a slip."""
# Whatever a tokenizer is kept in; some need no vocabulary, but all leave one of these.
TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges.txt", "*.model", "*.spm", "*.bpe", "*.tiktoken",
    "special_tokens_map.json", "added_tokens.json", "spiece*", "sentencepiece*", "bpe.codes",
)  # fmt: skip
ZEROS = "final_logits_bias"
"""A buffer of BART's and its kin that is zero where a checkpoint lacks it."""


def check_files(folder: Path) -> None:
    """Raise ``UserError`` where a file in a model's folder is a git-LFS pointer, its content to come."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(LFS_POINTER):
            raise UserError(
                f"{path} is a git-LFS pointer and not the file itself: type 'git lfs pull' in {folder}"
            )


def check_tokenizer(name: str, tokenizer: Any) -> None:
    """Raise ``UserError`` for a tokenizer that knows nothing but its special tokens."""
    if not set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids):
        raise no_tokenizer(name)


def no_tokenizer(name: str) -> UserError:
    """What is said of a model whose tokenizer's files are missing."""
    return UserError(
        f"the model '{name}' has no tokenizer: its vocabulary, such as tokenizer.json, is missing: "
        "save its tokenizer into the folder (tokenizer.save_pretrained)"
    )


def check_sizes(name: str, stock: Any, architecture: Any) -> None:
    """Raise ``UserError`` where a configuration describes no model, or one that this machine cannot hold.

    ``architecture`` is the auto class that builds it; it is built without memory for its weights.
    """
    for size in SIZES:
        value = getattr(stock, size, None)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"the config.json of '{name}' says {size}: {value!r}; it takes a whole number from 1"
            )
        most = MOST_LAYERS if "layer" in size else MOST
        if value > most:
            raise UserError(f"the config.json of '{name}' says {size}: {value}; it takes at most {most}")
    with torch.device("meta"):
        model = architecture.from_config(stock)
    needed, there = 4 * sum(p.numel() for p in model.parameters()), psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"the config.json of '{name}' describes a model of {needed / 2**30:,.1f} GiB in float32, and "
            f"this machine has {there / 2**30:,.1f} GiB of memory: choose a smaller model, or mend its sizes"
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds any file of a tokenizer."""
    return any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES)


def new_weights(name: str, model: PreTrainedModel, report: Mapping[str, Any], new_head: bool) -> list[str]:
    """The weights that were in no file and were drawn at random: those of a new head, where one is allowed.

    ``report`` is the loading information of ``from_pretrained``. Raises ``UserError`` where anything else is
    missing, has another shape, or belongs to layers that the configuration lacks.
    """
    missing = set(report["missing_keys"])
    mismatched = {key: shapes for key, *shapes in report["mismatched_keys"]}
    unexpected = sorted(report["unexpected_keys"])
    lacking = sorted(key for key in missing if not _may_be_new(key, model, new_head))
    architecture = type(model).__name__
    if lacking:
        prefix = _foreign_prefix(lacking, unexpected, model)
        advice = "give a whole checkpoint"
        if prefix:
            advice = f"their names carry the prefix '{prefix}': save the model without its wrapper"
        raise UserError(
            f"the files of '{name}' lack {len(lacking)} of the {len(model.state_dict())} weights of "
            f"{architecture}, e.g. {lacking[0]}, which would be random; {advice}"
        )
    for key, shapes in sorted(mismatched.items()):
        if not _may_be_new(key, model, new_head):
            found, wanted = (tuple(shape) for shape in shapes)
            raise UserError(
                f"the weight {key} of '{name}' has the shape {found} and its config.json asks for {wanted}: "
                "the two belong to different models"
            )
    inside = f"{model.base_model_prefix}."  # which files of a base model alone leave out
    known = {_unnumbered(name) for key in model.state_dict() for name in (key, key.removeprefix(inside))}
    for key in unexpected:
        if _unnumbered(key) != key and _unnumbered(key) in known:
            raise UserError(
                f"the files of '{name}' hold {key}, a layer that its config.json does not have: the two "
                "belong to different models"
            )
    if report["error_msgs"]:
        raise UserError(f"cannot load the weights of '{name}': {' '.join(report['error_msgs'])[:300]}")
    return sorted(missing | set(mismatched))


def check_finite(name: str, model: nn.Module) -> None:
    """Raise ``UserError`` for weights that are NaN or infinite before the first step."""
    for key, weights in model.state_dict().items():
        if weights.is_floating_point() and not torch.isfinite(weights).all():
            count = int((~torch.isfinite(weights)).sum())
            raise UserError(
                f"the weight {key} of '{name}' holds {count} values that are NaN or infinite: "
                "its file is spoilt"
            )


def check_unquantised(name: str, stock: Any) -> None:
    """Raise ``UserError`` for a model whose weights were made smaller than they can be trained in."""
    if getattr(stock, "quantization_config", None):
        raise UserError(
            f"the model '{name}' is quantised (quantization_config in its config.json), and weights are "
            "trained in float32 here: choose the model that it was made of"
        )


def check_fractions(name: str, model: nn.Module) -> None:
    """Raise ``UserError`` for a matrix of whole numbers: a quantised model's, without their scale."""
    for key, weights in model.named_parameters():
        differing = weights.ndim == 2 and weights.numel() > 1 and bool((weights != weights[0, 0]).any())
        if differing and torch.equal(weights, weights.round()):
            raise UserError(
                f"the weight {key} of '{name}' holds whole numbers alone, as of a quantised model whose "
                "scale is not applied: choose the model that it was made of"
            )


def head_note(model: PreTrainedModel, own: Sequence[str], labels: Sequence[str], fresh: Any) -> str:
    """Make a head that came with the files fit the task's ``labels``; what was done, for the record.

    ``own`` are the names of its classes, as many as ``labels``. Equal names keep it, in another order its
    rows are put into the task's order, and of other names nothing is known: ``fresh``, called without
    arguments, gives a new model whose head is taken instead.
    """
    numbers = list(map(finder(labels), own))
    if numbers == list(range(len(labels))):
        return "kept: its labels are the task's"
    head = head_weights(model)
    if set(numbers) == set(range(len(labels))):
        order = torch.tensor([numbers.index(number) for number in range(len(labels))])
        with torch.no_grad():
            for key in _class_rows(head, len(labels)):
                head[key].copy_(head[key][order])
        return f"kept: its labels stood in the order {', '.join(own)}, and its rows were put into the task's"
    drawn = fresh().state_dict()
    with torch.no_grad():
        for key, weights in head.items():
            weights.copy_(drawn[key])
    return f"new: the head in its files tells {', '.join(own)} apart, which are not the task's labels"


def head_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a classifier has beyond its base model, by name."""
    inside = f"{model.base_model_prefix}."
    return {key: weights for key, weights in model.state_dict().items() if not key.startswith(inside)}


def _class_rows(head: Mapping[str, torch.Tensor], classes: int) -> list[str]:
    """The last layer of a head: the weight whose rows are classes, and its bias."""
    last = [key for key, weights in head.items() if weights.ndim == 2][-1]
    bias = last.removesuffix("weight") + "bias"
    assert head[last].shape[0] == classes, f"{last} has no row for each of {classes} classes"
    return [key for key in (last, bias) if key in head]


def _may_be_new(key: str, model: PreTrainedModel, new_head: bool) -> bool:
    """A head, and the pooler below it, which language models are saved without."""
    if not new_head:
        return key == ZEROS
    return not key.startswith(f"{model.base_model_prefix}.") or "pooler" in key.split(".")


def _foreign_prefix(lacking: Iterable[str], unexpected: Iterable[str], model: PreTrainedModel) -> str:
    """``module.`` where the files hold ``module.bert.x`` (or ``module.x``) for ``bert.x``; else nothing."""
    for key in lacking:
        for ending in (key, key.removeprefix(f"{model.base_model_prefix}.")):
            for found in unexpected:
                if found != ending and found.endswith(f".{ending}"):
                    return found.removesuffix(ending)
    return ""


def _unnumbered(key: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", key)
