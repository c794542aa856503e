"""The test rows of a run, read again from where it read them: what a page shows beside its predictions.

Nothing is fetched: rows come from a folder or file of the user's own, the cache of the Hub's client, or the
built-in sample, and count only if their fingerprint is the recorded one.
"""

from collections.abc import Mapping
from pathlib import Path

from finetune import objectives
from finetune.config import build
from finetune.data import dataset, hub, sources
from finetune.data.sources import Source
from finetune.errors import UserError
from finetune.records.run import Run
from finetune.tasks import TASKS, get_task
from finetune.tasks.base import Task

Texts = Mapping[int, str]
"""Row id -> the input."""


class OtherRowsError(UserError):
    """What lies where a run read its test rows holds others."""


def inputs(run: Run, root: Path, wanted: str | None = None) -> Texts:
    """Reads the inputs of the test rows of ``run``, which was found below ``root``.

    ``wanted`` is where they are, if not where the record says. Raises ``UserError`` where they cannot be had
    without a network, and ``OtherRowsError`` where they are others by now.
    """
    config = build.build(run.config)
    if (
        not config.data.columns and config.task not in TASKS
    ):  # a record names a file, which is no word to run it
        raise UserError(
            f"the task of {run.folder} is declared in a file of your own, which is not run for a page"
        )
    task = get_task(config.task, config.data, config.pair)
    objective = objectives.get(config.kind)
    source = sources.resolve(task, run.pair, wanted) if wanted else _source(run, task, root)
    train_bytes = objective.train_bytes(config)
    loaded = dataset.load(task, run.pair, source, config.data, objective.sample, train_bytes=train_bytes)
    now, then = loaded.info["splits"]["test"]["fingerprint"], run.splits["test"]["fingerprint"]
    if now != then:
        raise OtherRowsError(
            f"the test rows in {source.location} are not those that {run.folder} was tested on"
        )
    test = loaded.splits["test"]
    column = next(iter(task.texts(run.pair)))  # of a translation the source, which comes before the target
    return dict(zip(test["row"], test[column], strict=True))


def _source(run: Run, task: Task, root: Path) -> Source:
    """Where the rows are by now: a relative folder is looked for here, then above the runs."""
    kind, location = run.data["kind"], str(run.data["location"])
    if kind == "sample":
        return sources.resolve(task, run.pair, "sample")
    if kind == "local":
        places = [Path(location), *(above / location for above in root.resolve().parents)]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise UserError(f"the rows of {run.folder} were read from {location}, which is not here")
        return sources.resolve(task, run.pair, str(place))
    commit = hub.cached_commit(task, run.pair)
    if task.streamed or commit is None or commit != run.data["revision"]:
        raise UserError(f"the rows of {run.folder} come from the Hub, and its cache here does not hold them")
    return Source("cache", location, commit)
