"""LoRA on a base model: small matrices beside its frozen weights, and a few modules that are trained whole.

A head, and whatever else no file of the base model holds, was drawn at random. It is trained whole and saved
with the adapters, or nobody could have the model back.
"""

import json
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.nn import Linear
from transformers import PreTrainedModel

from finetune.attention.position_bias import POSITION, encoding_of
from finetune.config.schema import LoraConfig
from finetune.errors import UserError, shown
from finetune.system.text import reason

ADAPTERS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
# Settings that peft makes by the model, and notes of where adapters came from, which it does not follow here.
FREE = {
    "target_modules", "modules_to_save", "fan_in_fan_out", "task_type", "inference_mode", "peft_version",
    "base_model_name_or_path", "revision", "auto_mapping",
}  # fmt: skip
OLD_NAME = "`is_gradient_checkpointing` is deprecated"
"""Beginning of transformers' warning of a name that peft uses."""


def adapted_model(
    model: PreTrainedModel, lora: LoraConfig, new_weights: Iterable[str], *, task_type: str, head: bool
) -> Any:
    """``model`` with its adapters, or as it is where ``lora.rank`` is 0.

    ``new_weights`` name those that came from no file; with ``head`` that is trained whole in any case.
    ``task_type`` is peft's. Raises ``UserError`` where LoRA does not fit the model.
    """
    if not lora.rank:
        return model
    from peft import LoraConfig as PeftLoraConfig
    from peft import TaskType, get_peft_model

    wanted = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        modules_to_save=whole_modules(model, new_weights, head=head),
        exclude_modules=_kept_out(model, lora),
        task_type=TaskType(task_type),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=OLD_NAME)
            return get_peft_model(model, wanted)
    except ValueError as error:
        raise UserError(f"LoRA does not fit this model: {error}. Set --model.lora.target_modules") from error


def _kept_out(model: PreTrainedModel, lora: LoraConfig) -> str | None:
    """A pattern of what "all-linear" must leave out: layers of positional encodings stay as pretrained."""
    encodings = filter(None, map(encoding_of, model.modules()))
    linear = any(isinstance(layer, Linear) for encoding in encodings for layer in encoding.modules())
    return rf".*\.{POSITION}\..*" if linear and lora.target_modules == "all-linear" else None


def whole_modules(model: PreTrainedModel, new_weights: Iterable[str], *, head: bool) -> list[str]:
    """The modules that are trained whole: those with a new weight, and the ``head`` of a classifier.

    Each is named by the largest module that holds nothing else: ``classifier`` for ``classifier.dense.bias``.
    """
    inside = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    whole = {*new_weights, *(name for name in names if head and not name.startswith(inside))}
    modules = set()
    for name in whole & set(names):
        owner = name.rpartition(".")[0]
        if not owner:
            raise UserError(f"LoRA cannot train the weight {name}, which no file of the base model holds")
        above = owner.rpartition(".")[0]
        # Up to the largest module whose weights are all trained whole.
        while above and whole.issuperset(n for n in names if n.startswith(f"{above}.")):
            owner, above = above, above.rpartition(".")[0]
        modules.add(owner)
    return sorted(modules)


def load_adapters(base: PreTrainedModel, folder: Path, lora: LoraConfig, new_weights: Sequence[str]) -> Any:
    """``base`` with the adapters that ``folder`` holds, which were trained as ``lora`` says.

    ``new_weights`` of the base came from no file. Raises ``UserError`` where the folder lacks one of them, or
    any other weight of the adapters, and where peft's settings in it are not those of the run.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils.other import ModulesToSaveWrapper
    from safetensors import SafetensorError, safe_open

    if not (folder / ADAPTERS).is_file():
        raise UserError(f"{folder} holds no {ADAPTERS}: the run is not whole; run it again")
    _check_settings(folder, lora, _kept_out(base, lora))
    try:
        with safe_open(folder / ADAPTERS, "pt") as file:
            held = set(file.keys())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # raises below
            warnings.filterwarnings("ignore", message=OLD_NAME)
            model = PeftModel.from_pretrained(base, str(folder))
    except KeyError as error:  # a module that was trained whole is not in the file
        raise _lacking(folder, {str(error.args[0])}) from error
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"cannot load the adapters in {folder}: {reason(error)}") from error
    lacking = set(get_peft_model_state_dict(model, save_embedding_layers=False)) - held
    wrapped = [key for key, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    whole = tuple(f"{key}." for key in wrapped)  # the modules that are trained whole
    lacking |= {name for name in new_weights if not f"base_model.model.{name}".startswith(whole)}
    if lacking:
        raise _lacking(folder, lacking)
    return model


def _check_settings(folder: Path, lora: LoraConfig, kept_out: str | None) -> None:
    """Raises ``UserError`` where the adapters' own file asks for more than this program writes into it.

    Some of peft's settings import a module or read a file that they name, and others make another model.
    """
    from peft import LoraConfig as PeftLoraConfig

    file = folder / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        changed = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
                   "exclude_modules": kept_out}  # fmt: skip
        wanted = {**PeftLoraConfig().to_dict(), **changed}
        other = sorted(key for key in settings.keys() & wanted.keys() - FREE if settings[key] != wanted[key])
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}: run it again") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is truncated or no JSON: run it again") from error
    if other:
        raise UserError(
            f"{file} is not what the run wrote: {other[0]} is {shown(settings[other[0]])}; run it again"
        )


def _lacking(folder: Path, names: Collection[str]) -> UserError:
    return UserError(
        f"{folder} lacks weights of its model ({len(names)}, e.g. {min(names)}), and no file of the base "
        "model holds them: the model that was measured cannot be had back; train the run again"
    )
