"""The verb ``diagnose``: the attention of a finished run."""

import argparse
from typing import Any

from finetune.cli.options import Overrides, add_verb, number, place
from finetune.system.sheet import terminal_width
from finetune.system.text import say


def add(verbs: Any) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "diagnose",
        "look at the attention of a finished run (diagnostics.json)",
        "finetune diagnose runs/agnews/scratch-tiny/sa-softmax/seed-0 --rows 256",
    )
    parser.add_argument("run", type=place, help="the folder of the run, e.g. runs/.../seed-0")
    parser.add_argument("--rows", default="64", help="rows of its validation split (default: 64)")
    parser.add_argument("--length", help="tokens of a row, more than it was trained on (default: as many)")
    parser.add_argument("--data", help="auto, hub, sample or a folder (default: the source of the run)")
    parser.add_argument("--task", help="the declaration file, for a task of your own")
    parser.add_argument("--attention", help="the declaration file, for a variant of your own")
    parser.set_defaults(function=diagnose)


def diagnose(options: argparse.Namespace, overrides: Overrides) -> None:
    """Measures the attention of the run, prints a table and records it."""
    rows = number(options.rows, "--rows takes a number of rows from 1, e.g. 64", least=1)
    length = None
    if options.length is not None:
        length = number(options.length, "--length takes a number of tokens, e.g. 1024", least=1)
    from finetune.training import diagnosis

    measured = diagnosis.diagnose(
        options.run, rows, options.data, options.task, attention=options.attention, length=length
    )
    print(diagnosis.table(measured, terminal_width()))
    say(f"wrote {measured.file}")
