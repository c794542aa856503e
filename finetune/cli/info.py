"""The verbs ``tasks``, ``variants``, ``validate`` and ``env``: lists, checks, and facts of the machine."""

import argparse
import json
from typing import Any

from finetune.cli.options import TABLE_COLUMNS, Overrides, add_columns, add_verb
from finetune.errors import UserError
from finetune.system.sheet import Sheet, terminal_width
from finetune.tasks import TABLE, TASK_TYPES, TASKS


def add(verbs: Any) -> None:
    """Adds the four verbs."""
    add_verb(verbs, "tasks", "list the tasks").set_defaults(function=tasks)
    add_verb(verbs, "variants", "list the attention variants and the positional encodings").set_defaults(
        function=variants
    )
    parser = add_verb(
        verbs,
        "validate",
        "check the presets and tasks, and with --task its rows",
        "finetune validate",
        "finetune validate --task path/to/mine.py --data path/to/folder",
    )
    parser.add_argument("--task", help="a task or a declaration file")
    parser.add_argument("--pair", help="language pair")
    parser.add_argument("--data", help="auto, hub, sample or a folder (default: auto)")
    add_columns(parser, TABLE_COLUMNS)
    parser.set_defaults(function=validate)
    add_verb(verbs, "env", "print versions and hardware").set_defaults(function=env)


def tasks(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints a block a task: its title, shape, source and licence."""
    for name, task in sorted(TASKS.items()):
        where = f"Hub: {task.hub_id} at {task.revision}" if task.hub_id else "local files only (DATA=folder)"
        licence = f"licence: {task.licence}; {task.source}"
        _print_block(f"{name}: {task.title}", task.shape, where, licence)
    tables = []
    for task_type in dict.fromkeys(TASK_TYPES.values()):
        columns = " ".join(f"--{column} COLUMN" for column in task_type.columns)
        tables.append(f"finetune {task_type.verb} --task {TABLE} {columns} --data FILE")
    _print_block(f"{TABLE}: a table of your own, without a declaration", *tables)


def variants(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints a block a variant: its formula, parameters and paper, and whether it is a control; then one a
    positional encoding."""
    from finetune.attention.variants import VARIANTS
    from finetune.positions import POSITIONS

    for name, variant in VARIANTS.items():
        parameters = ", ".join(f"{key}={value:g}" for key, value in variant.parameters.items()) or "none"
        control = "control, not from the paper on Self-Adjust Softmax" if variant.control else ""
        equation = f"weights: {variant.equation}"
        heading = f"{name}: {variant.summary}"
        _print_block(heading, equation, f"parameters: {parameters}", variant.paper, control)
    print()
    _print_block("positional encodings of decoders (--model.position):")
    for name, encoding in POSITIONS.items():
        constants = ", ".join(f"{key}={value:g}" for key, value in encoding.parameters.items())
        lines = [encoding.equation, constants and f"parameters: {constants}", encoding.paper]
        _print_block(f"{name}: {encoding.summary}", *lines)


def _print_block(heading: str, *lines: str) -> None:
    """Prints a heading and below it, indented, the lines that are not empty; both fit the terminal."""
    sheet = Sheet(terminal_width())
    print("\n".join([sheet.prose(heading), *(sheet.prose(line, "  ") for line in lines if line)]))


def validate(options: argparse.Namespace, overrides: Overrides) -> None:
    """Checks presets and tasks, and the rows of a given task."""
    from finetune.studies.validation import validate as checked
    from finetune.system.text import visible

    if options.task is None and (options.pair or options.data):
        raise UserError("--pair and --data say which rows of a task to check: give --task too")
    given = {column: value for column in TABLE_COLUMNS if (value := getattr(options, column)) is not None}
    sheet = Sheet(terminal_width())
    for line in checked(options.task, options.pair, options.data or "auto", given):
        print(sheet.prose(visible(line)))


def env(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints versions and hardware as JSON."""
    from finetune.system.environment import environment

    print(json.dumps(environment(), indent=2))
