"""A finished run, in its folder or on the Hub -> its model and tokenizer, with its attention."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune import objectives
from finetune.attention import VARIANTS, register_variant
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.models.builder import Built
from finetune.models.checkpoint import CONFIG_FILE, load_run, read_config
from finetune.publishing import pushed
from finetune.system import user_file


def load(
    folder: str | Path, revision: str | None = None, *, attention: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a finished run *with its attention variant*, LoRA adapters included, in evaluation mode.

    ``folder`` is a run's, or the id of a Hub repository that ``finetune push`` made, with a ``revision``
    (commit, tag or branch) if need be. ``attention`` is the file of a variant of the user's own, where it is
    not where the run found it, or where the run comes from the Hub. Raises ``UserError`` where there is no
    finished run, where a weight is in no file, where that file lacks or is another, and where adapters lack
    the base model that they were trained on.
    """
    built = open_run(folder, revision, attention=attention)
    return built.model, built.tokenizer


def open_run(
    folder: str | Path, revision: str | None = None, *, attention: str | Path | None = None
) -> Built:
    """Loads a finished run as ``load`` does, together with what the swap of the attention proved."""
    if attention is not None:
        register_variant(attention)
    place = pushed.fetch(folder, revision, CONFIG_FILE)
    config = read_config(place)
    _refuse_file(place, config, is_local=place == Path(folder))
    return load_run(place, config, objectives.of(config))


def _refuse_file(folder: Path, config: RunConfig, is_local: bool) -> None:
    """Raises ``UserError`` rather than run a file that came with a model: only its user may ask for that."""
    file, variant = config.attention.file, config.attention.variant
    if file is None or variant in VARIANTS:
        return
    path, _ = user_file.split(file.path)
    if not is_local or path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"the run {folder} computes '{variant}' of a file, {path.name}, which is not run by itself: look "
            f'at it, and pass finetune.load(..., attention="path/to/{path.name}")'
        )
