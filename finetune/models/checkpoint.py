"""A run folder <-> its model: writes what a model needs beside its weights, and loads all of it again.

A checkpoint on disk names its variant, but not what proves it, nor its scope and kernel: a run folder keeps
its configuration beside it, and ``load_run`` swaps again. Adapters stand on a base model that the folder does
not hold: it is named with the size and SHA-256 of its files, and only that very model is taken.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from finetune.attention.calibrate import RowSums, fold
from finetune.config.build import build
from finetune.config.identity import as_dict
from finetune.config.loading import read_yaml, yaml_text
from finetune.config.schema import RunConfig
from finetune.data.tokenizing import settle
from finetune.errors import UserError
from finetune.models import own_code
from finetune.models.adapters import load_adapters
from finetune.models.builder import Built, ModelObjective, head_options, settle_and_swap
from finetune.models.languages import set_languages
from finetune.models.pretrained import explain, load_pretrained
from finetune.records import store
from finetune.system.checksum import sha256
from finetune.system.files import write_text

CONFIG_FILE = "finetune.yaml"
ORIGIN_FILE = "origin.yaml"
CALIBRATION_FILE = "calibration.json"
# The files that decide the weights of a base model in a folder.
BASE_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")


def save_origin(
    config: RunConfig, labels: Sequence[str] | None, info: Mapping[str, Any], folder: Path
) -> None:
    """Writes what ``load_run`` starts from: the merged configuration and the origin of the model.

    ``info`` are the facts of the built model. The origin holds what adapters do not: the class names, the
    commit of a base model on the Hub, the place and files of one in a folder; and of a model that began from
    a run, which one that was.
    Raises ``UserError`` where adapters that are to go on were trained on other files.
    """
    base: dict[str, Any] | None = None
    began = info.get("pretrained")
    place = Path(began["folder"] if began else config.model.name)
    if config.model.lora.rank and place.is_dir():  # of a base model on the Hub its commit says all
        path = place.resolve()
        relative = os.path.relpath(path, folder.resolve())
        base = {"path": str(path), "relative": relative, "files": _files(path)}
    begun = any(path.name.startswith(store.CHECKPOINTS) for path in folder.iterdir())
    if base and (folder / ORIGIN_FILE).is_file() and begun:
        before = (read_yaml(folder / ORIGIN_FILE).get("base") or {}).get("files", base["files"])
        _check_unchanged(folder, Path(base["path"]), before, base["files"])
    origin = {"labels": list(labels) if labels else None, "revision": info["revision"], "base": base}
    if began:
        origin["pretrained"] = began
    for name, content in ((CONFIG_FILE, as_dict(config)), (ORIGIN_FILE, origin)):
        write_text(folder / name, [yaml_text(content)])


def save_calibration(sums: RowSums, folder: Path) -> None:
    """Writes the row sums that ``load_run`` folds into a base model again: adapters do not hold them."""
    write_text(folder / CALIBRATION_FILE, [json.dumps(sums, indent=1), "\n"])


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run in ``folder``."""
    return build(read_yaml(folder / CONFIG_FILE))


def load_run(folder: Path, config: RunConfig, objective: ModelObjective) -> Built:
    """The model of a run's folder *with its attention variant*, adapters included, in evaluation mode.

    ``config`` is the run's (``read_config``), ``objective`` that of its kind of task. Raises ``UserError``
    where a weight is in no file, where adapters lack the base model that they were trained on, and for a
    trial.
    """
    if config.trial:
        raise UserError(
            f"the run in {folder} is a trial of a tuning, which keeps no model: name one with the values "
            "that were chosen"
        )
    with explain(str(folder)):
        own_code.refuse_tokenizer(str(folder), {}, {})
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    settle(tokenizer)
    set_languages(tokenizer, config.pair)  # which no tokenizer saves
    if config.model.lora.rank:  # the folder holds adapters, and says which model they stand on
        origin = read_yaml(folder / ORIGIN_FILE)
        place, revision = _base_place(config, origin, folder), origin.get("revision") or config.model.revision
        heads = head_options(origin.get("labels"))
        loaded = load_pretrained(config, objective.auto_model, place, revision, heads)
    else:
        loaded = load_pretrained(config, objective.auto_model, str(folder), None, {})
        lacking = loaded.facts["new_weights"]
        if lacking:
            raise UserError(
                f"the files in {folder} lack {len(lacking)} weights, e.g. {lacking[0]}: run it again"
            )
    model, facts = loaded.model, loaded.facts
    swapped = settle_and_swap(loaded, tokenizer, objective, config)
    if config.model.lora.rank:
        calibration = folder / CALIBRATION_FILE
        if calibration.is_file():  # a whole model has it in its weights
            try:
                sums: RowSums = json.loads(calibration.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{calibration} is truncated or no JSON: run it again") from error
            fold(model, sums)
        model = load_adapters(model, folder, config.model.lora, facts["new_weights"])
    return Built(model.eval(), loaded.model, tokenizer, swapped, facts)


def _files(path: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the files that decide the weights of a base model."""
    files = sorted({file for pattern in BASE_FILES for file in path.glob(pattern)})
    return {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}


def _base_place(config: RunConfig, origin: Mapping[str, Any], folder: Path) -> str:
    """The Hub id or the folder of the base model. Raises ``UserError`` where it is gone or has changed."""
    name, known = config.model.name, origin.get("base")
    if origin.get("revision"):
        return name
    if known is not None and not (isinstance(known, Mapping) and isinstance(known.get("path"), str)):
        raise UserError(f"{folder / ORIGIN_FILE} must say 'base: {{path: /where/the/base/model/is}}'")
    places = [Path(name)]  # all that earlier versions wrote down
    if known:  # where it was, or beside the run if both were moved, or as the configuration names it
        places = [Path(known["path"]), folder / known.get("relative", known["path"]), Path(name)]
    there = [place for place in places if place.is_dir()]
    if not there:
        raise UserError(
            f"the base model of {folder} is not at {places[0]}: put it back there, or write where it is as "
            f"base.path ('base: {{path: /...}}') into {folder / ORIGIN_FILE}"
        )
    wanted = (known or {}).get("files")
    if not wanted:
        return str(there[0])
    for place in there:
        if _files(place) == wanted:
            return str(place)
    _check_unchanged(folder, there[0], wanted, _files(there[0]))
    raise AssertionError  # the files differ, which raises


def _check_unchanged(folder: Path, place: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where the files of a base model are others than adapters were trained on."""
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise UserError(
            f"the base model {place} has changed since the adapters in {folder} were trained on it "
            f"({', '.join(changed)}): put the old files back, or train in another folder (--output)"
        )
