"""A finished run's folder -> a model repository on the Hub, which ``finetune.load`` takes by its id.

Only the model, its tokenizer, what ``load`` needs, the record and the card are published (``pushed.FILES``):
no checkpoint, no log, no prediction (those of a translation hold the data set's texts) and no probability, no
absolute path.
"""

import json
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from transformers.utils import logging as transformers_logging

from finetune.config.loading import read_yaml
from finetune.data import hub
from finetune.errors import UserError
from finetune.models.checkpoint import CONFIG_FILE, ORIGIN_FILE
from finetune.publishing import card, eval_results
from finetune.publishing.load import load
from finetune.publishing.metadata import base_model, has_adapters
from finetune.publishing.pushed import FILES, HUB_ID
from finetune.records import store
from finetune.records.run import Run
from finetune.system import files
from finetune.system.paths import without_paths
from finetune.system.text import one_line

LOGIN = "set HF_TOKEN to a token that may write there, or type: hf auth login"
UNTOUCHED = (".gitattributes", card.FILE)  # what the Hub's web page puts into a new repository


def push(folder: Path, name: str, private: bool) -> str:
    """Publishes the run in ``folder`` as ``name`` (``org/name``); the address of the commit.

    What was pushed there before is replaced. Raises ``UserError`` for a run that is not finished, or of the
    synthetic sample, or that others could not load, and where the Hub refuses.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    entry = _publishable(folder)
    if not HUB_ID.fullmatch(name):
        raise UserError(f"--to takes the id of a Hub repository, such as org/name, not '{name}'")
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set: unset it to push")
    if get_token() is None:
        raise UserError(f"nobody is logged in to {constants.ENDPOINT}: {LOGIN}")
    with TemporaryDirectory() as stage:
        _lay_out(folder, entry, name, Path(stage))
        transformers_logging.disable_progress_bar()
        try:
            load(Path(stage))  # what is published has been loaded once, with its attention
        except Exception as error:  # whatever damaged files make the libraries raise
            reason = error if isinstance(error, UserError) else hub.cause(error)
            raise UserError(f"{folder} cannot be loaded as it would be published: {reason}") from error
        try:
            return _upload(Path(stage), name, private)
        except UserError:
            raise
        except Exception as error:  # errors of the client and of httpx, which have no common parent
            reason = hub.cause(error)
            if isinstance(error, HfHubHTTPError):
                refused = error.response.status_code in (401, 403, 404)
                reason = one_line(error.server_message or reason) + (f"; {LOGIN}" if refused else "")
            raise UserError(f"cannot push to {name}: {reason}") from error


def _publishable(folder: Path) -> store.Record:
    """Reads the record of a run that is fit to be published; raises ``UserError`` for any other."""
    if not (folder / store.FILE).is_file():
        raise UserError(f"{folder} is no run folder: it holds no {store.FILE}; try runs/.../seed-0")
    entry = store.read(folder)
    if entry["status"] != "finished" or entry["data"] is None:
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        raise UserError(
            f"the run in {folder} is {entry['status']}{reason}: only a finished one is pushed; run it again"
        )
    run = Run(folder, entry)
    if run.trial:
        raise UserError(
            f"the run in {folder} is a trial of a tuning, which keeps no model: push one with the values "
            "that were chosen"
        )
    if run.sample:
        raise UserError(
            f"the run in {folder} was trained on the synthetic SAMPLE, which says nothing about any method: "
            "only a run on real data is pushed"
        )
    if has_adapters(run) and base_model(run) is None:
        raise UserError(
            f"the run in {folder} is adapters of {entry['config']['model']['name']}, which is no model on "
            "the Hub, so no one else could load them: train on a Hub id, or without LoRA (model.lora.rank 0)"
        )
    return entry


def _lay_out(folder: Path, entry: store.Record, name: str, stage: Path) -> None:
    """Fills ``stage`` with what is published: links to the files of the run, and its texts without paths.

    Raises ``UserError`` for a link that leads out of the run.
    """
    unpublished = {"predictions": None, "probabilities": None, "diagnostics": None}
    shared = without_paths(entry) | unpublished
    texts = {
        file: yaml.safe_dump(without_paths(read_yaml(folder / file)), sort_keys=False, allow_unicode=True)
        for file in (CONFIG_FILE, ORIGIN_FILE)
    }
    texts |= {
        store.FILE: json.dumps(shared, indent=1, ensure_ascii=False) + "\n",
        card.FILE: card.text(entry, name),
        **eval_results.files(Run(folder, without_paths(entry)), name),
    }
    for file, text in texts.items():
        files.write_text(stage / file, [text])
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in texts and any(fnmatch(path.name, kind) for kind in FILES):
            if not path.resolve().is_relative_to(folder.resolve()):  # nobody asked for what lies there
                raise UserError(
                    f"{path} is a link to {path.resolve()}, outside the run, and would be published: put a "
                    "copy in its place, or remove it"
                )
            (stage / path.name).symlink_to(path.resolve())


def _upload(stage: Path, name: str, private: bool) -> str:
    """Makes the repository where there is none, and has it hold what ``stage`` holds and nothing else."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(name, private=private or None, exist_ok=True)
    repository = api.model_info(name)
    held = {file.rfilename for file in repository.siblings or []} - set(UNTOUCHED)
    if held and CONFIG_FILE not in held:
        raise UserError(
            f"{name} holds something else ({', '.join(sorted(held)[:3])}), which a push would replace: give "
            "another name with --to"
        )
    if private and not repository.private:
        raise UserError(f"{name} is there already and public: make it private there, or give another name")
    done = api.upload_folder(
        repo_id=name, folder_path=stage, commit_message="Push a finished run", delete_patterns="*"
    )
    return str(done.commit_url)
