"""A run that ``finetune push`` has put on the Hub: which files it has there, and how they come back."""

import re
from pathlib import Path

from finetune.data import hub
from finetune.errors import UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What a pushed run consists of, as patterns of file names. No pickles, no texts of a data set, no logs.
FILES = (
    "README.md", "record.json", "finetune.yaml", "origin.yaml", "calibration.json",
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json",
    "adapter_config.json", "adapter_model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "target_vocab.json", "merges.txt", "*.spm", "*.model", "chat_template.jinja",
)  # fmt: skip


def fetch(place: str | Path, revision: str | None, proof: str) -> Path:
    """Gives the folder of a run: ``place`` itself, or the copy of that Hub repository in the Hub's cache.

    A text like ``org/name`` that is no folder here is an id; ``revision`` is a commit, tag or branch there.
    Raises ``UserError`` where there is no such run: one whose folder holds the file ``proof``.
    """
    folder = Path(place)
    if isinstance(place, Path) or folder.is_dir() or not HUB_ID.fullmatch(place):
        if revision is not None:
            raise UserError(f"a revision is one of a repository on the Hub, not of {folder}: leave it out")
        if not (folder / proof).is_file():
            raise UserError(f"{folder} is not a run folder: it holds no {proof}")
        return folder
    return _download(place, revision, proof)


def _download(name: str, revision: str | None, proof: str) -> Path:
    """Brings a run into the Hub's cache; takes what is there where the Hub is out of reach."""
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    commit, reason = hub.probe_model(name, revision)
    try:
        # Before anything large; and by the name of the branch, by which the cache is asked without the Hub.
        folder = Path(hf_hub_download(name, proof, revision=revision, local_files_only=commit is None)).parent
        if commit:
            snapshot_download(name, revision=folder.name, allow_patterns=list(FILES))
        return folder
    except errors.LocalEntryNotFoundError as error:
        why = f"the Hub is out of reach ({reason})" if reason else hub.cause(error)
        raise UserError(f"'{name}' is no folder here, {why}, and its cache holds no such run") from error
    except errors.EntryNotFoundError as error:
        raise UserError(
            f"{name} on the Hub is not a run: it holds no {proof}; finetune push RUN --to {name} makes it one"
        ) from error
    except Exception as error:  # errors of the client and of httpx, which have no common parent
        raise UserError(f"cannot load {name} from the Hub: {hub.cause(error)}") from error
