"""What a worker of an engine has for a study: asked for on the worker, judged where the study is started.

``finetune study STUDY --output ROOT --check`` prints one line of JSON (``look_around``) and exits with 1
where something is missing there. ``ask`` has a worker run that, with a token in the folder of the runs which
proves that both see the same folder; ``faults`` compares the answer with this machine.
"""

import json
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import finetune
from finetune.config.lineage import SCRATCH, source_of
from finetune.errors import UserError
from finetune.models import place
from finetune.records import pretraining
from finetune.studies import devices
from finetune.studies.executors.base import Executor
from finetune.studies.file import Study
from finetune.studies.grid import Cell
from finetune.system import environment
from finetune.system.cache import cache_folder
from finetune.system.text import one_line
from finetune.tasks import get_task

WAIT_S = 10.0  # that a file of another machine may take to be seen
MARK = "finetune_worker"  # the key by which the line is known among others
FOUND = 1  # the exit status where something is missing

Report = Mapping[str, Any]


class Kind(StrEnum):
    """What is wrong on a worker."""

    FOLDER = "folder"  # of the runs: not seen, or not writable
    CODE = "code"  # another version of this program
    DATA = "data"
    MODEL = "model"
    CACHE = "cache"
    MEMORY = "memory"
    BATCH = "batch"  # a step that the processes of a run cannot share


@dataclass(frozen=True)
class Fault:
    """Something that would stop a run on a worker; ``text`` says what, and what helps."""

    kind: Kind
    text: str


# On the worker


def machine() -> dict[str, Any]:
    """The devices of this machine, ready for JSON."""
    return {
        "host": platform.node(),
        "cores": environment.cores(),
        "memory_gib": devices.host_memory_gib(),
        "gpus": [asdict(gpu) for gpu in devices.gpus_with_memory()],
        "cpu_alone": devices.cpu_alone(),
    }


def look_around(study: Study, token: str | None = None) -> dict[str, Any]:
    """What this machine has for ``study``, ready for JSON."""
    return {
        MARK: finetune.__version__,
        **machine(),
        "versions": environment.versions(),
        "git": environment.git(Path(finetune.__file__).parent),
        "folder": _folder(study.root.absolute(), token),
        "cache": _writable(cache_folder()),
        "data": [_data(cell) for cell in _different(study.cells, _rows)],
        "models": [_model(cell) for cell in _different(study.cells, _files) if _has_files(cell)],
    }


def is_fine(report: Report) -> bool:
    """Whether nothing is missing on the machine of ``report``, compared with none."""
    parts = [report["folder"], report["cache"], *report["data"], *report["models"]]
    return all(part["fault"] is None for part in parts)


def _folder(root: Path, token: str | None) -> dict[str, Any]:
    """Whether the folder of the runs is there and takes files; with a ``token`` it must be in it."""
    found: dict[str, Any] = {**_writable(root, make=token is None), "same": None}
    if token is not None:
        found["same"] = _read(_token_file(root, token)) == token
        if found["same"] and found["fault"] is None:
            _answer_file(root, token).write_text(token, encoding="utf-8")
        elif not found["same"]:
            found["fault"] = "not there" if not root.is_dir() else "another folder of the same name"
    return found


def _writable(folder: Path, *, make: bool = True) -> dict[str, Any]:
    """Whether files can be made in ``folder``, or where it would be."""
    probe = folder / f".probe-{secrets.token_hex(4)}"
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    fault = None
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
    except OSError as error:
        fault = error.strerror or type(error).__name__
    with suppress(OSError):
        probe.unlink(missing_ok=True)
        for each in made:
            each.rmdir()
    return {"path": str(folder), "fault": fault}


def _read(file: Path) -> str | None:
    """The text of a file that another machine has just written; ``None`` where it does not come."""
    end = time.monotonic() + WAIT_S
    while True:
        with suppress(OSError):
            return file.read_text(encoding="utf-8")
        if time.monotonic() > end:
            return None
        time.sleep(0.1)


def _different(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> list[Cell]:
    return list({key(cell): cell for cell in cells}.values())


def _rows(cell: Cell) -> tuple[Any, ...]:
    return cell.task, cell.config.pair, cell.config.data.source


def _files(cell: Cell) -> tuple[Any, ...]:
    model = cell.config.model
    # Each run of a variant or a seed may begin from another one.
    own = (cell.config.seed, cell.config.attention.variant) if source_of(model.name) else ()
    return model.name, model.revision, _has_files(cell), *own


def _has_files(cell: Cell) -> bool:
    """Whether the model of a run is there before its study begins."""
    return not cell.config.model.name.startswith(SCRATCH) and cell.origin is None


def _data(cell: Cell) -> dict[str, Any]:
    """Where the rows of a run come from on this machine."""
    from finetune.data import sources

    config = cell.config
    part = {"task": config.task, "pair": config.pair, "wanted": config.data.source}
    try:
        task = get_task(cell.task, config.data, config.pair)
        source = sources.resolve(task, config.pair, config.data.source)
    except UserError as error:
        return {**part, "kind": None, "location": None, "fault": one_line(error)}
    return {**part, "kind": source.kind, "location": source.location, "fault": None}


def _model(cell: Cell) -> dict[str, Any]:
    """Whether this machine has the pretrained model of a run, or reaches it on the Hub."""
    name, revision = cell.config.model.name, cell.config.model.revision
    fault = None
    try:
        if source_of(name) is not None:
            pretraining.resolve(cell.config)
        elif not place.here(name, revision):
            fault = _away(name, revision)
    except UserError as error:
        fault = one_line(error)
    return {"name": name, "revision": revision, "fault": fault}


def _away(name: str, revision: str | None) -> str | None:
    """Why a model that is not on this machine cannot be had; ``None`` where the Hub has it."""
    from finetune.data import hub

    if place.is_folder(name):
        return f"there is no model in the folder {name}"
    commit, why = hub.probe_model(name, revision)
    return None if commit else f"it is not in the Hub's cache, and the Hub is out of reach ({why})"


def _token_file(root: Path, token: str) -> Path:
    return root / f".check-{token}"


def _answer_file(root: Path, token: str) -> Path:
    return root / f".check-{token}.answer"


# Where the study is started


def ask(study: Study, executor: Executor) -> Report:
    """Has a worker look around, and returns what it says, with ``folder.answered`` by what is seen here.

    Raises ``UserError`` where no worker answers. Leaves nothing in the folder of the runs.
    """
    root, token = study.root.absolute(), secrets.token_hex(8)
    made = [each for each in (root, *root.parents) if not each.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        _token_file(root, token).write_text(token, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write runs to {root}: {error.strerror}") from error
    try:
        called = executor.call(study.command("--check", "--token", token, "--quiet"))
        report = _parsed(called.output)
        if report is None:
            raise UserError(
                f"a worker cannot look around for the study (status {called.exit_status}): "
                f"{called.complaint()}"
            )
        answered = bool(report["folder"]["same"]) and _read(_answer_file(root, token)) == token
        report["folder"]["answered"] = answered
        return report
    finally:
        for file in (_token_file(root, token), _answer_file(root, token)):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # an engine keeps files of its own there
            for each in made:
                each.rmdir()


def _parsed(output: str) -> dict[str, Any] | None:
    """The report among all that a command has printed; ``None`` where there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith("{") and MARK in line:
            with suppress(ValueError):
                report: dict[str, Any] = json.loads(line)
                return report
    return None


def faults(mine: Report, theirs: Report) -> list[Fault]:
    """What would stop the runs of a study on the worker of ``theirs``; ``mine`` is of this machine."""
    host, found = theirs["host"], list[Fault]()
    folder, cache = theirs["folder"], theirs["cache"]
    if folder["fault"] is not None or not folder["answered"]:
        why = folder["fault"] or "what is written there is not seen here"
        found.append(
            Fault(
                Kind.FOLDER,
                f"the folder of the runs, {folder['path']}, cannot be used on {host} ({why}): give one that "
                "this machine and all workers share, with --output",
            )
        )
    commits = {_commit(report) for report in (mine, theirs)} - {None}  # an installed program knows none
    if theirs[MARK] != mine[MARK] or len(commits) > 1:
        found.append(
            Fault(
                Kind.CODE,
                f"{host} has another version of this program, {_version(theirs)}, than this machine, "
                f"{_version(mine)}: install the same one there",
            )
        )
    if cache["fault"] is not None:
        found.append(
            Fault(
                Kind.CACHE,
                f"the cache {cache['path']} cannot be written on {host} ({cache['fault']}): set "
                "FINETUNE_CACHE there to a folder that can",
            )
        )
    here = {_data_key(part): part for part in mine["data"]}
    for part in theirs["data"]:
        found += _data_faults(host, here.get(_data_key(part)), part)
    found += [
        Fault(Kind.MODEL, f"the model {part['name']} cannot be had on {host}: {part['fault']}")
        for part in theirs["models"]
        if part["fault"] is not None
    ]
    return found


def _data_key(part: Report) -> tuple[Any, ...]:
    return part["task"], part["pair"], part["wanted"]


def _data_faults(host: str, mine: Report | None, theirs: Report) -> list[Fault]:
    """Rows that are missing on a worker, or that would be the sample there and real ones here."""
    title = theirs["task"] + (f" {theirs['pair']}" if theirs["pair"] else "")
    if theirs["fault"] is not None:
        return [Fault(Kind.DATA, f"the rows of {title} cannot be had on {host}: {theirs['fault']}")]
    if theirs["kind"] == "sample" and mine is not None and mine["kind"] not in ("sample", None):
        return [
            Fault(
                Kind.DATA,
                f"the rows of {title} would be the built-in SAMPLE on {host}, and are at {mine['location']} "
                "here: put them where the worker finds them, or say data.source",
            )
        ]
    return []


def refuse(found: Sequence[Fault]) -> None:
    """Raises ``UserError`` where something would stop a run."""
    if found:
        more = f" (and {len(found) - 1} more: see --plan)" if len(found) > 1 else ""
        raise UserError(found[0].text + more)


def notes(mine: Report, theirs: Report) -> list[str]:
    """What differs on a worker and stops no run: versions of other packages, and code that was changed."""
    differing = [
        f"{name} {version} ({mine['versions'].get(name)} here)"
        for name, version in theirs["versions"].items()
        if version != mine["versions"].get(name) and name != "softmax-finetune"
    ]
    found = [f"note: {theirs['host']} has {', '.join(differing)}"] if differing else []
    if theirs["git"] != mine["git"]:
        found.append(f"note: whether {theirs['host']} has the very code of this machine cannot be told")
    return found


def devices_note(cells: Iterable[Cell], theirs: Report, how_to_ask: str) -> list[str]:
    """What to say where a worker shows no GPU to runs of ``cells`` that are not said to compute on the CPU.

    ``how_to_ask``: what is typed for a GPU; "" where the study's options speak of it.
    """
    unsaid = any(not cell.config.train.get("use_cpu") for cell in cells)
    if theirs["gpus"] or not how_to_ask or not unsaid:
        return []
    # Not by ``cpu_alone``: a device that a job may not open still has its file there.
    return [
        f"note: {theirs['host']} shows no GPU, and a run without one computes on the CPU: "
        f"{how_to_ask} asks for one"
    ]


def summary(report: Report) -> str:
    """``node1: 16 cores, 128 GiB of memory, 4 x NVIDIA A100-SXM4-80GB of 80 GiB``."""
    gpus: dict[tuple[str, str], int] = {}
    for gpu in report["gpus"]:
        size = "unknown memory" if gpu["memory_gib"] is None else f"{gpu['memory_gib']:g} GiB"
        gpus[gpu["name"], size] = gpus.get((gpu["name"], size), 0) + 1
    none = "no GPU" if report.get("cpu_alone") else "GPUs unknown"
    parts = [f"{report['cores']} cores", f"{report['memory_gib']:g} GiB of memory"]
    parts += [f"{count} x {name} of {size}" for (name, size), count in gpus.items()] or [none]
    return f"{report['host']}: {', '.join(parts)}"


def _commit(report: Report) -> str | None:
    return report["git"]["commit"] if report["git"] else None


def _version(report: Report) -> str:
    commit = _commit(report)
    return report[MARK] + (f" at {commit[:12]}" if commit else "")
