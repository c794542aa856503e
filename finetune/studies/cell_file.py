"""Files of cells: each a whole configuration for ``finetune run``, and the command that runs it.

A study writes one a run into ``ROOT/configs``; a kept run holds such a file itself (``finetune.yaml``). In it
``task`` may be a declaration file, as on the command line; what is no configuration is an option there.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune import objectives
from finetune.attention.variants import find_variant
from finetune.config.build import build
from finetune.config.folders import run_folder
from finetune.config.identity import as_dict, flatten
from finetune.config.loading import merge, read_yaml, yaml_text
from finetune.config.schema import BY_TUNING, RunConfig
from finetune.errors import UserError, shown, unknown
from finetune.studies.grid import Cell, check_secrets, task_of
from finetune.studies.keys import unknown_key
from finetune.system.files import write_text
from finetune.system.processes import python_module
from finetune.tasks import check_kind, check_pair

FOLDER = "configs"


def place(cell: Cell) -> Path:
    """The path of the file of a study's cell."""
    assert cell.root is not None
    return cell.root / FOLDER / f"{cell.name}.yaml"


def write(cells: Iterable[Cell]) -> None:
    """Writes the file of each cell of a study, unless it is there already. Raises ``UserError``."""
    for cell in cells:
        # An unchanged file is left alone: a process may be reading it.
        file, text = place(cell), yaml_text(as_dict(cell.config) | {"task": cell.task})
        if not (file.is_file() and file.read_text(encoding="utf-8", errors="replace") == text):
            write_text(file, [text])


def command(cell: Cell) -> list[str]:
    """The command that makes the run of a study's cell."""
    words = [*python_module("finetune"), "run", str(place(cell)), "--output", str(cell.output)]
    return [*words, "--diagnose"] if cell.diagnose else words


def read(
    file: Path,
    output: Path,
    *,
    task: str | None = None,
    source: str | None = None,
    variant: str | None = None,
    diagnose: bool = False,
) -> Cell:
    """Reads the cell that a file describes, with its run below ``output``.

    ``task``, ``source`` and ``variant`` replace those of the file: a kept run does not record where the
    declaration of its task and its local rows are, and a variant's file may have moved. Raises ``UserError``.
    """
    values = read_yaml(file)
    try:
        return cell_of(values, output, task=task, source=source, variant=variant, diagnose=diagnose)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def cell_of(
    values: Mapping[str, Any],
    output: Path,
    *,
    task: str | None = None,
    source: str | None = None,
    variant: str | None = None,
    diagnose: bool = False,
) -> Cell:
    """Builds the cell of a whole configuration; see ``read``. Raises ``UserError``."""
    for key, one in (("variants", "attention.variant"), ("seeds", "seed")):
        if key in values:
            raise UserError(
                f"one run has no {key}: give {one}, or run a grid with finetune classify --config FILE"
            )
    for name in flatten(values):
        if name.partition(".")[0] not in RunConfig.__dataclass_fields__:
            typed = RunConfig.__dataclass_fields__.keys() - BY_TUNING
            raise unknown_key("key", name, typed, elsewhere={})
    if source is not None:
        values = merge(values, {"data": {"source": source}})
    if variant is not None:
        values = merge(values, {"attention": {"file": {"path": variant}}})
    word = task or values.get("task")
    if not isinstance(word, str):
        raise UserError(f"task must be a name or the file of a declaration, not {shown(word)}")
    declared = task_of(word, values, values.get("pair"))
    kind = check_kind(declared, values.get("kind"))
    whole = {**values, "kind": kind, "task": declared.name}
    whole["pair"] = check_pair(declared, values.get("pair"))
    check_secrets(whole)
    objectives.get(kind).check(whole)
    config = build(whole)
    known = find_variant(config.attention).parameters
    for name in config.attention.parameters:
        if name not in known:
            raise unknown(f"parameter of {config.attention.variant}", name, known)
    return Cell(word, config, output, run_folder(output, config), diagnose)
