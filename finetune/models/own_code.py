"""Refuses a model whose files bring code to run, or are adapters of another model, before they are loaded.

Reads the settings as text, and does nothing with them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name
from transformers.utils import find_adapter_config_file

from finetune.errors import UserError
from finetune.system.text import reason

PICKLE = "its weights are a pickle that holds more than weights, or a damaged one, and are not read"
INSTEAD = "choose a model of an architecture that transformers has (--model.name)"


def refuse(name: str, files: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for a model that is a program of its own, or adapters of another model.

    ``files`` say which commit of a Hub id is meant. A model that transformers has by its name is read by
    transformers' own class, whatever ``auto_map`` says.
    """
    if find_adapter_config_file(name, **files):
        raise UserError(
            f"'{name}' holds adapters (adapter_config.json), and the model that they change may be anywhere: "
            "merge the two with peft's merge_and_unload and save_pretrained, and give that folder"
        )
    content, _ = PreTrainedConfig.get_config_dict(name, **files)
    if "auto_map" in content and content.get("model_type") not in CONFIG_MAPPING:
        raise _refused(name, "auto_map in its config.json")
    if any("auto_map" in part for part in _parts(content)):
        raise _refused(name, "auto_map in a part of its config.json")
    refuse_tokenizer(name, files, content)


def refuse_tokenizer(name: str, files: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for a tokenizer that is code of its own; ``config`` is what config.json holds."""
    content = get_tokenizer_config(name, **files)
    maps = [each.get("auto_map") or {} for each in (content, config)]
    # Older files have a list there, of a tokenizer's two classes.
    own = any(isinstance(auto_map, list) or "AutoTokenizer" in auto_map for auto_map in maps)
    known = content.get("tokenizer_class")
    if own and not (known and tokenizer_class_from_name(known.removesuffix("Fast"))):
        raise UserError(
            f"the tokenizer of '{name}' is code of its own (auto_map), which is never run here, and another "
            f"would make other tokens: {INSTEAD}"
        )


def forget_kernels(config: PreTrainedConfig) -> None:
    """Takes no implementation of attention or experts from a model's files: one may be code on the Hub.

    The attention is swapped anyway, and which one would stand in its place until then decides nothing.
    """
    config._attn_implementation = config._experts_implementation = None


def unreadable_file(folder: Path) -> str:
    """The first text file of a model's folder that no library can read, and why; empty without one."""
    for path in sorted(path for path in folder.glob("*") if path.suffix in (".json", ".jinja", ".txt")):
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            kind = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else "JSON"
            return f"{path.name} is no {kind} ({reason(error)})."
    return ""


def _refused(name: str, where: str) -> UserError:
    return UserError(
        f"the model '{name}' brings code of its own ({where}), which is never run here: {INSTEAD}"
    )


def _parts(content: Any) -> list[Mapping[str, Any]]:
    """Every mapping inside ``content``, at any depth."""
    inside = (
        content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    )
    mappings = [each for each in inside if isinstance(each, Mapping)]
    return mappings + [part for each in inside for part in _parts(each)]
