"""Asks the Hub for the commit of a data set or model in bounded time, and reads what its client has kept."""

import re
import threading
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.system.redaction import redact
from finetune.system.text import reason
from finetune.tasks.base import PARQUET_BRANCH, Task

PROBE_SECONDS = 2.5
"""Time for the Hub to answer before it counts as out of reach; ``auto`` must notice within five."""

COMMIT = re.compile("[0-9a-f]{40}")


def probe(task: Task) -> tuple[str | None, str]:
    """The commit of the task's revision: ``(commit, "")``, or ``(None, why it is not known)``.

    Raises ``UserError`` where the Hub itself answers that it has no such data set or revision: that is no
    lack of a network, and nothing else may quietly take the place of the data set.
    """
    advice = "use DATA=sample, or a folder with its files"
    return _commit("data set", "dataset_info", task.hub_id or "", task.revision, advice)


def probe_model(name: str, revision: str | None) -> tuple[str | None, str]:
    """The commit of a model's revision, as ``probe`` gives it for a data set."""
    return _commit(
        "model", "model_info", name, revision, "give another Hub id, a local folder or scratch:SIZE"
    )


def _commit(what: str, question: str, name: str, revision: str | None, advice: str) -> tuple[str | None, str]:
    """The answer of ``probe`` about ``what``, by the client's method ``question``."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    answer = _ask(question, name, revision)
    place = redact(constants.ENDPOINT)  # a mirror may be asked with a password, and the reason is recorded
    if isinstance(answer, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        at = f" at revision '{revision}'" if revision else ""
        raise UserError(f"{place} has no {what} '{name}'{at} that you may read; {advice}")
    if isinstance(answer, Exception):
        return None, f"{place}: {cause(answer)}"
    return answer, ""


def _ask(question: str, name: str, revision: str | None) -> str | Exception:
    """The commit, or the error that came instead, within ``PROBE_SECONDS``."""
    from huggingface_hub import HfApi

    outcome: list[str | Exception] = []

    def ask() -> None:
        try:
            info = getattr(HfApi(), question)(name, revision=revision, timeout=PROBE_SECONDS)
            outcome.append(str(info.sha))
        except Exception as error:  # handed to the asking thread, which judges it
            outcome.append(error)

    # In a thread, because to look up the address of a host can hang, and no timeout of the client ends it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return outcome[0] if outcome else TimeoutError(f"no answer within {PROBE_SECONDS} seconds")


def config_name(task: Task, pair: str | None) -> str | None:
    """The name of the data set's configuration, where it has several."""
    return task.hub_config.format(pair=pair) if task.hub_config else None


def cache_dir(task: Task, pair: str | None) -> Path:
    """The folder in which ``datasets`` keeps this task's prepared rows."""
    import datasets

    # From the parquet branch one folder of the repository is read, and datasets files that under a hash which
    # it cannot find again without the Hub. So each such folder gets a cache of its own.
    root = Path(datasets.config.HF_DATASETS_CACHE)
    return root / f"parquet-branch-{config_name(task, pair)}" if task.revision == PARQUET_BRANCH else root


def cached_commit(task: Task, pair: str | None) -> str | None:
    """The commit of the newest prepared rows that satisfy the task's revision."""
    return next((folder.name for folder in _prepared(task, pair)), None)


def load_cached(task: Task, pair: str | None, commit: str) -> dict[str, Any]:
    """The prepared rows of a commit, by split, without asking the Hub."""
    from datasets.packaged_modules.cache.cache import Cache

    folder = next(folder for folder in _prepared(task, pair) if folder.name == commit)
    builder = Cache(
        cache_dir=str(cache_dir(task, pair)),
        repo_id=task.hub_id,
        dataset_name=(task.hub_id or "").rpartition("/")[2],
        config_name=folder.parts[-3],
        version=folder.parts[-2],
        hash=commit,
    )
    return dict(builder.as_dataset())


def _prepared(task: Task, pair: str | None) -> list[Path]:
    """Folders ``<data set>/<configuration>/<version>/<commit>`` of prepared rows, newest first."""
    from datasets.naming import camelcase_to_snakecase

    *owner, name = (task.hub_id or "").split("/")
    data_set = "___".join([*owner, camelcase_to_snakecase(name)])
    config = (config_name(task, pair) if task.revision != PARQUET_BRANCH else None) or "*"
    commit = task.revision if COMMIT.fullmatch(task.revision or "") else "*"
    infos = cache_dir(task, pair).glob(f"{data_set}/{config}/*/{commit}/dataset_info.json")
    folders = [path.parent for path in infos if COMMIT.fullmatch(path.parent.name)]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)


def cause(error: BaseException) -> str:
    """The innermost reason, on one line and without secrets."""
    while error.__cause__ is not None:
        error = error.__cause__
    return redact(reason(error, typed=True))
