"""The verb ``push``: a finished run on the Hub."""

import argparse
from typing import Any

from finetune.cli.options import Overrides, add_verb, place
from finetune.system.text import say


def add(verbs: Any) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "push",
        "put a finished run on the Hub: model, record and model card",
        "finetune push runs/agnews/scratch-tiny/sa-softmax/seed-0 --to org/name --private",
    )
    parser.add_argument("folder", type=place, metavar="RUN", help="folder of a run, e.g. runs/.../seed-0")
    parser.add_argument("--to", required=True, metavar="org/name", help="the repository, made if need be")
    parser.add_argument("--private", action="store_true", help="make it private (default: the owner's)")
    parser.set_defaults(function=push)


def push(options: argparse.Namespace, overrides: Overrides) -> None:
    """Uploads the run, and prints how to load it again."""
    from finetune.publishing.push import push as upload

    address = upload(options.folder, options.to, options.private)
    say(f"pushed {options.folder} to {address}")
    print(f'load it with: finetune.load("{options.to}")')
