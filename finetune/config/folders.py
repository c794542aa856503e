"""The folder of a run: a name for its task, its model, its attention and its seed."""

import hashlib
import re
from pathlib import Path

from finetune.config.lineage import source_of
from finetune.config.schema import OWN, AttentionConfig, ModelConfig, RunConfig

LONGEST = 200
"""Letters of a file's name. File systems take 255: there is room for an ending or a mark."""


def run_folder(root: Path, config: RunConfig) -> Path:
    """Names the folder of a run: ``root/<task>[-<pair>]/<model>/<attention>/seed-<n>``.

    For example ``runs/iwslt2017-de-en/scratch-small/sa-softmax-decoder/seed-0``.
    """
    task = task_slug(config.task, config.pair)
    return root / task / model_slug(config.model) / variant_slug(config.attention) / f"seed-{config.seed}"


def task_slug(name: str, pair: str | None) -> str:
    """Names a task with its language pair: ``iwslt2017-de-en``."""
    return _slug(f"{name}-{pair}" if pair else name)


def model_slug(model: ModelConfig) -> str:
    """Names a model: ``scratch-small``, ``org--name``, or a local folder's base name.

    A folder with a name that says nothing ("model", "checkpoint-500") takes its parent's name too, and the
    folder of a run ("seed-0") those of its model and its attention. ``-lora8``: with adapters of rank 8;
    ``-kerple``: with another positional encoding than its own. ``pretrained-books--scratch-small``: a model
    that begins from runs.
    """
    name = model.name
    if source := source_of(name):
        name = source.short.replace(":./", ":")
    elif Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).is_dir():
        folder = Path(name).expanduser().resolve()
        parts = 1
        if re.fullmatch(r"model|final|best|checkpoint(-.*)?", folder.name):
            parts = 2
        if re.fullmatch(r"seed-\d+", folder.name):
            parts = 3
        name = "-".join(folder.parts[-parts:])
    name = name.replace("/", "--").replace(":", "-")
    lora = f"-lora{model.lora.rank}" if model.lora.rank else ""
    position = f"-{position_label(model)}".rstrip("-")
    return _slug(f"{name}{lora}{position}")


def position_label(model: ModelConfig) -> str:
    """Names a positional encoding with its parameters: ``kerple``; nothing for the model's own."""
    parameters = "".join(f"-{name}{value:g}" for name, value in sorted(model.position_parameters.items()))
    return "" if model.position == OWN else f"{model.position}{parameters}"


def variant_slug(attention: AttentionConfig) -> str:
    """Names a variant with its settings, where they are not the default.

    ``sa-softmax``, ``sa-softmax-decoder`` for one scope, ``sa-softmax-eps1e-05`` for a parameter,
    ``sa-softmax-calibrated`` and ``sa-softmax-annealed0.3`` for a warm start. A variant of the user's own has
    the first digits of its file's SHA-256, as another formula is another variant.
    """
    file = "" if attention.file is None else f"-{attention.file.sha256[:8]}"
    scope = "" if attention.scope == "all" else f"-{attention.scope}"
    share = "" if attention.annealing_share is None else f"{attention.annealing_share:g}"
    start = "" if attention.start == "cold" else f"-{attention.start}{share}"
    parameters = "".join(f"-{name}{value:g}" for name, value in sorted(attention.parameters.items()))
    return _slug(f"{attention.variant}{file}{scope}{start}{parameters}")


def _slug(text: str) -> str:
    """Replaces what a file system or a shell may take amiss by a dash."""
    return file_name(re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "unnamed")


def file_name(text: str) -> str:
    """Cuts ``text`` where it is too long for a file's name, and adds eight digits that keep it distinct.

    >>> file_name("agnews"), len(file_name("x" * 1000))
    ('agnews', 200)
    """
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: LONGEST - 9]}-{digest}"
