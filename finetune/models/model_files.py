"""Checks the files of a pretrained model against its architecture, so that no weight is random in silence."""

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from finetune.data.labels import finder
from finetune.errors import UserError
from finetune.system.files import LFS_POINTER, refuse_pointer

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
# Files that the weights of a model may be in; the first is taken where there are several.
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
NEVER_READ = {".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite", ".md", ".xml"}
"""Endings of files beside the weights of PyTorch: those of other frameworks, and prose."""
NARROW = ("F8", "F6", "F4", "E8", "C64")
"""Beginnings of safetensors' names of numbers that no weight can be trained from as it stands."""
ROUNDING = 1e-2
"""Relative difference that a weight in half precision may have from the same weight in float32."""
RENEWED = "new: the head in its files tells"
"""Beginning of the fact on a trained head that was replaced, since its classes are not the task's."""
CAPITALS = 0.05
"""Share of a vocabulary that has capital letters, from which on it is one of a cased text."""


def check_files(folder: Path) -> None:
    """Raises ``UserError`` where a model's folder holds no whole model, or two.

    Git-LFS pointers whose content is to come, a cut pickled file, weights too narrow to be trained, and two
    sets of weights that differ.
    """
    safe = any((folder / name).is_file() for name in WEIGHTS[:2])
    for path in sorted(folder.iterdir()):
        if path.suffix in NEVER_READ or (safe and path.suffix == ".bin") or not path.is_file():
            continue
        with path.open("rb") as file:
            beginning = file.read(len(LFS_POINTER))
        refuse_pointer(path, beginning)
        if path.suffix == ".bin" and beginning.startswith(b"PK") and not zipfile.is_zipfile(path):
            raise UserError(f"{path} is cut off or damaged: fetch it again")
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118  the file is no mapping
                kind = weights.get_slice(key).get_dtype()
                if kind.startswith(NARROW):
                    raise UserError(
                        f"the weight {key} in {path} is kept as {kind}, and weights are trained in float32 "
                        "here: choose the model that it was made of"
                    )
    _check_one_set(folder)


def _check_one_set(folder: Path) -> None:
    """Raises ``UserError`` where several files hold the weights, and hold different ones."""
    there = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if len(there) < 2:
        return
    taken, *others = there
    first = _tensors(taken)
    for other in others:
        with other.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                continue
        for key, weights in _tensors(other).items():
            if key in first and not _equal_but_for_rounding(first[key], weights):
                raise UserError(
                    f"{folder} holds two models: {key} differs between {taken.name} and {other.name}. "
                    f"Remove the one that is not meant ({taken.name} would be read)"
                )


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file, or in the shards that an index names."""
    if path.suffix == ".json":
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        return {key: weights for shard in shards for key, weights in _tensors(path.parent / shard).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    # weights_only: a pickle may hold code, and none of it is run.
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _equal_but_for_rounding(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one, other = one.float(), other.float()
    scale = float(one.abs().max()) if one.numel() else 0.0
    return bool(torch.allclose(one, other, rtol=ROUNDING, atol=ROUNDING * scale, equal_nan=True))


def check_tokenizer(name: str, tokenizer: Any) -> None:
    """Raises ``UserError`` for a tokenizer that cannot be the model's own.

    One that has special tokens alone, numbers two entries alike, or puts every text into small letters though
    its vocabulary is of cased text.
    """
    entries = tokenizer.get_vocab()
    vocabulary = set(entries) - set(tokenizer.all_special_tokens)
    if not vocabulary:
        raise no_tokenizer(name)
    if tokenizer.is_fast and len(set(entries.values())) < len(entries):
        raise UserError(f"the tokenizer of '{name}' has several entries of one number: fetch its files anew")
    cased = [word for word in vocabulary if len(word) > 2 and re.search("[A-Z]", word)]
    tried = [re.sub("[^A-Za-z]", "", word) for word in sorted(cased)[:100]]
    read = {piece for word in tried for piece in tokenizer.tokenize(word)} - set(tokenizer.all_special_tokens)
    if len(cased) > CAPITALS * len(vocabulary) and read and not any(re.search("[A-Z]", p) for p in read):
        raise UserError(
            f"the tokenizer of '{name}' puts every text into small letters, and {len(cased)} entries of its "
            "vocabulary have capitals, which no text can reach: set do_lower_case to false in its "
            "tokenizer_config.json, or give the tokenizer that the model was trained with"
        )


def no_tokenizer(name: str) -> UserError:
    """The error for a model whose tokenizer's files are missing."""
    return UserError(
        f"the model '{name}' has no tokenizer: its vocabulary, such as tokenizer.json, is missing: "
        "save its tokenizer into the folder (tokenizer.save_pretrained)"
    )


def check_sizes(described_by: str, stock: Any, architecture: Any) -> None:
    """Raises ``UserError`` where a configuration describes no model, or one that this machine cannot hold.

    ``architecture`` is the auto class that builds it; it is built without memory for its weights.
    """
    values = stock.to_dict()  # and not what the class makes of them: XLNet's limit of -1 is in no file
    for size in SIZES:
        value = values.get(stock.attribute_map.get(size, size))
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{described_by} says {size}: {value!r}; it takes a whole number from 1")
        most = MOST_LAYERS if "layer" in size else MOST
        if value > most:
            raise UserError(f"{described_by} says {size}: {value}; it takes at most {most}")
    with torch.device("meta"):
        model = architecture.from_config(stock)
    needed, there = 4 * sum(p.numel() for p in model.parameters()), psutil.virtual_memory().total
    if needed > there:
        raise UserError(
            f"{described_by} describes a model of {needed / 2**30:,.1f} GiB in float32, and "
            f"this machine has {there / 2**30:,.1f} GiB of memory: choose a smaller model, or mend its sizes"
        )


def check_architecture(name: str, stock: Any) -> None:
    """Raises ``UserError`` where a configuration names two families.

    RoBERTa's layers would hold BERT's weights as well, and count their positions otherwise.
    """
    listed = isinstance(stock.architectures, list) and stock.architectures
    architecture = stock.architectures[0] if listed else None
    theirs = getattr(getattr(transformers, str(architecture), None), "config_class", None)
    if theirs is not None and not (isinstance(stock, theirs) or issubclass(theirs, type(stock))):
        raise UserError(
            f"the config.json of '{name}' says model_type {stock.model_type} and architectures "
            f"{architecture}, which is of {theirs.model_type}: mend the one that is wrong"
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
            actual, wanted = (tuple(shape) for shape in shapes)
            raise UserError(
                f"the weight {key} of '{name}' has the shape {actual} and its config.json asks for {wanted}: "
                "the two belong to different models"
            )
    inside = f"{model.base_model_prefix}."  # which files of a base model alone leave out
    known = {_unnumbered(form) for key in model.state_dict() for form in (key, key.removeprefix(inside))}
    # A weight unknown but for the number of its layer is of a deeper model; others may be another head's.
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
    """Raises ``UserError`` for weights that are NaN or infinite before the first step."""
    for key, weights in model.state_dict().items():
        if weights.is_floating_point() and not torch.isfinite(weights).all():
            count = int((~torch.isfinite(weights)).sum())
            raise UserError(
                f"the weight {key} of '{name}' holds {count} values that are NaN or infinite: "
                "its file is spoilt"
            )


def check_unquantized(name: str, stock: Any) -> None:
    """Raises ``UserError`` for a model whose weights were made smaller than they can be trained in."""
    if getattr(stock, "quantization_config", None):
        raise UserError(
            f"the model '{name}' is quantized (quantization_config in its config.json), and weights are "
            "trained in float32 here: choose the model that it was made of"
        )


def check_fractions(name: str, model: nn.Module, new: Iterable[str]) -> None:
    """Raises ``UserError`` for a matrix of one number, or of whole numbers alone.

    The first was never filled, the second is a quantized model's without its scale. Those that are ``new``
    may hold anything.
    """
    for key, weights in model.named_parameters():
        if weights.ndim != 2 or weights.numel() == 1 or key in new:
            continue
        differing = bool((weights != weights[0, 0]).any())
        if not differing and min(weights.shape) > 1 and "token_type" not in key:  # unused, it may be zero
            raise UserError(
                f"the weight {key} of '{name}' holds {weights[0, 0].item():g} everywhere: its file is "
                "spoilt, or was saved before it was filled"
            )
        if differing and torch.equal(weights, weights.round()):
            raise UserError(
                f"the weight {key} of '{name}' holds whole numbers alone, as of a quantized model whose "
                "scale is not applied: choose the model that it was made of"
            )


def head_note(model: PreTrainedModel, own: Sequence[str], labels: Sequence[str], fresh: Any) -> str:
    """Fits a head that came with the files to the task's ``labels``; returns the fact for the record.

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
        # The last layer: the weight whose rows are classes, and its bias.
        last = [key for key, weights in head.items() if weights.ndim == 2][-1]
        assert head[last].shape[0] == len(labels), f"{last} has no row for each of {len(labels)} classes"
        with torch.no_grad():
            for key in {last, last.removesuffix("weight") + "bias"} & head.keys():
                head[key].copy_(head[key][order])
        return f"kept: its labels stood in the order {', '.join(own)}, and its rows were put into the task's"
    return renewed(model, own, fresh)


def renewed(model: PreTrainedModel, own: Sequence[str], fresh: Any) -> str:
    """Replaces a head by that of a new model, as ``fresh`` makes one; returns the fact for the record."""
    drawn = fresh().state_dict()
    with torch.no_grad():
        for key, weights in head_weights(model).items():
            weights.copy_(drawn[key])
    return f"{RENEWED} {', '.join(own)} apart, which are not the task's labels"


def head_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a classifier beyond its base model, by name."""
    inside = f"{model.base_model_prefix}."
    return {key: weights for key, weights in model.state_dict().items() if not key.startswith(inside)}


def _may_be_new(key: str, model: PreTrainedModel, new_head: bool) -> bool:
    """Whether a weight may be in no file: a head's, or the pooler's, which language models lack."""
    if not new_head:
        return key == ZEROS
    return not key.startswith(f"{model.base_model_prefix}.") or "pooler" in key.split(".")


def _foreign_prefix(lacking: Iterable[str], unexpected: Iterable[str], model: PreTrainedModel) -> str:
    """``module.`` where the files hold ``module.bert.x`` (or ``module.x``) for ``bert.x``; else nothing."""
    for key in lacking:
        for ending in (key, key.removeprefix(f"{model.base_model_prefix}.")):
            for other in unexpected:
                if other != ending and other.endswith(f".{ending}"):
                    return other.removesuffix(ending)
    return ""


def _unnumbered(key: str) -> str:
    """The name of a weight without the numbers of its layers."""
    return re.sub(r"\.\d+\.", ".N.", key)
