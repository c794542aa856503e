"""A pretrained model and its tokenizer as they come from a folder, the Hub or its cache."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from finetune.attention import position_bias
from finetune.config.lineage import SCRATCH
from finetune.config.schema import RunConfig
from finetune.data import hub
from finetune.data.tokenizing import prefixed, settle
from finetune.errors import UserError
from finetune.models import model_files, own_code
from finetune.models.languages import set_languages
from finetune.models.scratch import Recipe, train_tokenizer
from finetune.positions import attach as positions
from finetune.system.text import reason

CLASSES = "single_label_classification"
# The names under which architectures keep their dropout rates.
HIDDEN_DROPOUT = (
    "hidden_dropout_prob",
    "dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
    "hidden_dropout",
    "embedding_dropout",
    "embed_dropout",
    "mlp_dropout",
    "resid_dropout",
    "residual_dropout",
)
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def build_tokenizer(config: RunConfig, recipe: Recipe, texts: Iterator[str]) -> PreTrainedTokenizerBase:
    """The model's own tokenizer; for a scratch model one trained on ``texts`` by ``recipe``."""
    name = config.model.name
    if name.startswith(SCRATCH):
        tokenizer = train_tokenizer(recipe, texts, config.model.vocab_size)
        settle(tokenizer)
        prefixed(tokenizer, config.data.prefix)
        return tokenizer
    with explain(name):
        if Path(name).is_dir():
            model_files.check_files(Path(name))
            if not model_files.has_tokenizer(Path(name)):
                raise model_files.no_tokenizer(name)
        files = files_of(name, config.model.revision)
        own_code.refuse(name, files)
        tokenizer = AutoTokenizer.from_pretrained(name, **files, trust_remote_code=False)
        model_files.check_tokenizer(name, tokenizer)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"the tokenizer of {name} has neither a padding nor an end token: choose another model"
            )
        tokenizer.pad_token = tokenizer.eos_token
    set_languages(tokenizer, config.pair)
    with explain(name):  # it reads a few words, and damaged files show
        settle(tokenizer)
    prefixed(tokenizer, config.data.prefix)  # refuses a language that the model lacks before its weights load
    return tokenizer


@cache
def files_of(name: str, revision: str | None) -> dict[str, Any]:
    """Options that choose the files of a model: a folder's, those of a commit on the Hub, or of its cache.

    Asked once, in bounded time: transformers alone would try each file again and again without a network.
    """
    if Path(name).is_dir():
        return {}
    commit, _ = hub.probe_model(name, revision)
    if commit:
        with explain(name):  # by the branch's name too, under which the cache is asked without the Hub
            hf_hub_download(name, "config.json", revision=revision)
        return {"revision": commit}
    return {"revision": revision or "main", "local_files_only": True}


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a model on the Hub; ``None`` for a folder or a scratch model."""
    if name.startswith(SCRATCH) or Path(name).is_dir():
        return None
    kept = try_to_load_from_cache(name, "config.json", revision=files_of(name, revision)["revision"])
    return Path(kept).parent.name if isinstance(kept, str) else None


@dataclass(frozen=True)
class Pretrained:
    """A model as its files hold it, and ``facts`` for the record: which weights and which head are new."""

    model: PreTrainedModel
    facts: dict[str, Any]
    weights: list[Path] = field(default_factory=list)
    """Files that hold the weights of a positional encoding of finetune's; none where it has none."""


def load_pretrained(
    config: RunConfig, auto_model: Any, name: str, revision: str | None, heads: Mapping[str, Any]
) -> Pretrained:
    """Loads a model by its auto class, in float32.

    ``heads`` name the classes of a head that may be new; empty where none may.
    Raises ``UserError`` where the files do not hold every other weight, finite and of the right shape.
    """
    files = files_of(name, revision)
    with explain(name):
        if Path(name).is_dir():
            model_files.check_files(Path(name))
        own_code.refuse(name, files)
        # Twice: as the files have it, and with the task's classes in the place of its own.
        own = AutoConfig.from_pretrained(name, **files, trust_remote_code=False)
        stock = AutoConfig.from_pretrained(name, **files, **heads, trust_remote_code=False)
        own_code.forget_kernels(stock)
        set_dropout(stock, config)
        positions.free(stock, config.model.position)
        stock.return_dict = True  # outputs are asked for by their names
        purpose = stock.problem_type if heads else None
        if heads:  # one class a row, whatever the model was trained for before
            stock.problem_type = purpose and CLASSES
        model_files.check_unquantized(name, stock)
        model_files.check_architecture(name, stock)
        model_files.check_sizes(f"the config.json of '{name}'", stock, auto_model)
        # A weight of another shape is in the report then, and not in an error that names no way out.
        model, report = auto_model.from_pretrained(
            name,
            config=stock,
            **files,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        new = model_files.new_weights(name, model, report, bool(heads))
        model_files.check_finite(name, model)
        model_files.check_fractions(name, model, new)
        facts: dict[str, Any] = {"new_weights": new}
        if heads:
            labels = list(heads["id2label"].values())
            before = [own.id2label[index] for index in sorted(own.id2label)]
            head, fresh = set(model_files.head_weights(model)), partial(auto_model.from_config, stock)
            facts["head"] = "new"
            if not head & set(new):
                facts["head"] = model_files.head_note(model, before, labels, fresh)
            elif head - set(new) and any(key in head for key, *_ in report["mismatched_keys"]):
                # Of another number of classes; a language model's own layers below the last are kept.
                facts["head"] = model_files.renewed(model, before, fresh)
            if facts["head"].startswith(model_files.RENEWED):
                facts["new_weights"] = sorted(head | set(new))
            if purpose not in (None, CLASSES):
                facts["problem_type"] = f"{CLASSES}, where its config.json says {purpose}"
        encoded = hasattr(stock, position_bias.RECORDED)
        weights = positions.weight_files(name, files) if encoded else []
    return Pretrained(model, facts, weights)


def set_dropout(stock: Any, config: RunConfig) -> None:
    """Sets the dropout rates that the configuration asks for, under whatever names the architecture has."""
    for key, wanted, names in (
        ("dropout", config.model.dropout, HIDDEN_DROPOUT),
        ("attention_dropout", config.model.attention_dropout, ATTENTION_DROPOUT),
    ):
        if wanted is None:
            continue
        present = [name for name in names if name in stock.to_dict()]
        if not present:
            raise UserError(
                f"{stock.model_type} has none of the dropouts {', '.join(names)}: leave it null "
                f"(--model.{key} null)"
            )
        for name in present:
            setattr(stock, name, wanted)


class explain:  # noqa: N801  used as a statement
    """Turns what transformers raises for a model that cannot be had into one clear line.

    transformers logs nothing meanwhile: the report of a loading is checked by ``load_pretrained``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.CRITICAL)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        logging.set_verbosity(self.verbosity)
        # The files are the user's, and what they may provoke in transformers is anything at all.
        if isinstance(error, Exception) and not isinstance(error, UserError):
            package = _missing_package(error)
            if package:
                raise UserError(
                    f"the files of the model '{self.name}' are read with the package {package}, which is "
                    f"missing: type 'pip install {package}'"
                ) from error
            if isinstance(error, UnpicklingError):  # torch's own words advise to run it
                why = own_code.PICKLE
            elif isinstance(error, OSError | ValueError):
                why = own_code.unreadable_file(Path(self.name)) or reason(error)
            else:
                why = reason(error, typed=True)
            raise UserError(
                f"cannot load the model '{self.name}': {why.rstrip('.')}. "
                "Give a Hub id, a local folder, scratch:SIZE or pretrained:FOLDER (--model.name)"
            ) from error


def _missing_package(error: Exception) -> str:
    """The package that an error asks for, in Python's words or in those of transformers; else empty."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name.partition(".")[0]
    match = re.search(r"requires the (\S+) library|pip install (?:-U )?[`'\"]?([\w-]+)", str(error))
    if not isinstance(error, ImportError) or not match:
        return ""
    return (match[1] or match[2]).lower()
