"""The verbs ``ls`` and ``show``: the runs that are there, and one of them."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune.cli.options import Overrides, add_verb, place
from finetune.errors import UserError
from finetune.system.sheet import terminal_width
from finetune.system.text import clean

ORDERS = ("newest", "folder", "score")
"""The names of ``run_list.SORTS``, known without importing what reads records."""


def add(verbs: Any) -> None:
    """Adds the two verbs."""
    parser = add_verb(
        verbs,
        "ls",
        "list recorded runs with their status, score and age",
        "finetune ls",
        "finetune ls runs results/cpu --sort score",
        "finetune ls runs --json",
    )
    parser.add_argument("folders", nargs="*", type=place, metavar="FOLDER", help="with runs (default: runs)")
    orders = ", ".join(ORDERS)
    parser.add_argument("--sort", choices=ORDERS, default="newest", help=f"{orders} (default: newest)")
    parser.add_argument("--json", action="store_true", help="print all that is listed, and more, as JSON")
    parser.set_defaults(function=ls)
    parser = add_verb(
        verbs,
        "show",
        "show one run: configuration, scores, data, model, attention, cost, curve and files",
        "finetune show runs/agnews/scratch-tiny/sa-softmax/seed-0",
        "finetune show runs/agnews/scratch-tiny/sa-softmax/seed-0 --json",
    )
    parser.add_argument("folder", type=place, metavar="RUN", help="folder of a run, e.g. runs/.../seed-0")
    parser.add_argument("--json", action="store_true", help="print its record")
    parser.set_defaults(function=show)


def ls(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints a line for each run, and one for each record that cannot be read."""
    from finetune.records.run import find_runs
    from finetune.report import run_list

    folders = options.folders or [Path("runs")]
    runs, problems = find_runs(folders)
    ordered, now = run_list.SORTS[options.sort](runs), datetime.now(UTC)
    if options.json:
        print(json.dumps({"runs": run_list.to_json(ordered, now), "problems": problems}, indent=1))
        return
    if not runs and not problems:
        raise UserError(
            f"there is no run in {' and '.join(map(str, folders))}: give the folder that --output named"
        )
    if runs:
        print(run_list.text(ordered, folders[0] if len(folders) == 1 else None, now, terminal_width()))
    for problem in problems:
        print(clean(problem))


def show(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints what the record of a run says, or the record itself."""
    from finetune.records import store
    from finetune.report import one_run

    folder = options.folder
    if folder.is_dir() and not (folder / store.FILE).is_file():
        below = f"finetune ls {folder} lists the runs below it"
        raise UserError(f"{folder} is no run folder: it holds no {store.FILE}; {below}")
    if options.json:
        print(json.dumps(store.read(folder), indent=1, ensure_ascii=False))
    else:
        print(one_run.text(one_run.read(folder), datetime.now(UTC), terminal_width()))
