"""What each verb of the ``finetune`` command does. Heavy imports wait inside, so --help is quick."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finetune.config.identity import flatten
from finetune.config.loading import merge, read_preset, read_yaml
from finetune.config.schema import RunConfig
from finetune.errors import UserError, shown, unknown
from finetune.studies import cell_file
from finetune.studies.axes import Point
from finetune.studies.grid import Cell, plan, seed_numbers, variant_names
from finetune.studies.run import compare_grid, run_grid
from finetune.system.text import clean, say
from finetune.tasks import TASK_TYPES, get_task

VERBS = {task_type.verb: kind for kind, task_type in TASK_TYPES.items()}
OPTIONS = {
    "task",
    "pair",
    "attention",
    "seeds",
    "preset",
    "config",
    "data",
    "model",
    "output",
    "diagnose",
    "rehearse",
}


def train(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Run a grid of one task: a preset, with files and options laid over it, by its variants and seeds."""
    kind, task = VERBS[options.verb], get_task(options.task)
    if task.kind != kind:
        raise UserError(f"'{task.name}' is a {task.kind} task: use finetune {task.verb}")
    values = read_preset(kind, options.preset)
    for path in options.config:
        values = merge(values, read_yaml(path))
    values = merge(values, overrides)
    if options.attention is not None:
        values["variants"] = _names(options.attention)
    if options.seeds is not None:
        values["seeds"] = [
            _number(word, "--seeds takes whole numbers from 0, e.g. 0,1,2") for word in _names(options.seeds)
        ]
    for section, key, value in (
        ("data", "source", options.data_source),
        ("model", "name", options.model_name),
    ):
        if value is not None:
            values = merge(values, {section: {key: value}})
    _refuse_unknown_sections(values, overrides)

    variants, seeds = variant_names(values.pop("variants", None)), seed_numbers(values.pop("seeds", None))
    point = Point(options.task, options.pair, values, options.output)
    cells = plan([point], variants, seeds, diagnosed=seeds if options.diagnose else ())
    if options.rehearse:
        return _rehearse(cells)
    status = run_grid(cells, options.command)
    compare_grid(cells)
    next_command = _next_command(options, task.hub_id)
    if next_command:
        say(f"The real thing, on a GPU: {next_command}")
    return status


def run(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Make the run of a configuration file, or go on with it."""
    cell = cell_file.read(
        options.file, options.output, task=options.task, source=options.data_source, diagnose=options.diagnose
    )
    return _rehearse([cell]) if options.rehearse else run_grid([cell], options.command)


def _rehearse(cells: Sequence[Cell]) -> int:
    from finetune.studies.preflight import prepare

    prepare(cells)
    print("rehearsal: every kind of run that is not finished took a first step; none was begun")
    return 0


def _refuse_unknown_sections(values: dict[str, Any], overrides: dict[str, Any]) -> None:
    """A misspelt option such as --trian.max_steps is told by the sections there are."""
    sections = {*RunConfig.__dataclass_fields__, "variants", "seeds"} - {"kind", "task", "pair", "seed"}
    for key in values:
        if key not in sections and key in overrides:
            names = [f"--{name}" for name in sections | OPTIONS]
            raise unknown("option", f"--{key}", names, _meant(key, values, sections))
        if key not in sections:
            raise unknown("key", key, sections)


def _meant(key: str, values: Mapping[str, Any], sections: set[str]) -> str | None:
    """``--train.learning_rate`` of ``learning_rate``: the option below a section that an option is like."""
    below = flatten({name: value for name, value in values.items() if name in sections})
    options = {name.rpartition(".")[2]: f"--{name}" for name in below if "." in name}
    options |= {name: f"--{name}" for name in sections | OPTIONS}
    near = get_close_matches(key, options, 1, 0.5)
    return options[near[0]] if near else None


def _number(word: str, what: str, least: int = 0) -> int:
    """``word`` as a whole number; ``what`` begins the sentence that says what is taken instead."""
    digits = word.isascii() and word.isdigit() and len(word) < 20  # Python reads no thousands of digits
    if not (digits and int(word) >= least):
        raise UserError(f"{what}, not {shown(word)}")
    return int(word)


def _next_command(options: argparse.Namespace, hub_id: str | None) -> str:
    """What to type for the real thing; empty where this is it."""
    if options.preset == "full":
        return ""
    pair = f" PAIR={options.pair}" if options.pair else ""
    own = options.data_source if options.data_source not in (None, "auto", "sample") else None
    if own is None and hub_id is None:
        own = "path/to/folder"
    data = f" DATA={shlex.quote(own)}" if own else ""
    return f"make {options.verb} TASK={shlex.quote(options.task)}{pair}{data} PRESET=full OUTPUT=runs-full"


def compare(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.comparison.compare import compare as compare_runs
    from finetune.report import write

    if options.source is None:
        folders = options.folders or [Path("runs")]
        comparison, output = compare_runs(folders), options.output or folders[0]
        if not comparison.tables and not comparison.problems:
            where = " and ".join(map(str, folders))
            raise UserError(f"there is no run in {where}: give the folder that --output named")
    else:
        beside = options.source if options.source.is_dir() else options.source.parent
        folders = options.folders or [beside]
        comparison, output = write.read(options.source), options.output or beside
    print(write.text(comparison))
    for path in write.write(comparison, output, folders):
        say(f"wrote {path}")


def summary(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.report import summary as summaries

    text = summaries.markdown(summaries.read(options.file))
    if options.into is None:
        print(text, end="")
    else:
        summaries.insert(text, options.into, options.file)
        say(f"wrote {options.into}")


def bench(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from finetune.bench import run, tables
    from finetune.bench.settings import settings

    given = [
        name for name in ("quick", "device", "lengths", "only", "model", "data") if getattr(options, name)
    ]
    if options.source is not None and given:
        raise UserError(
            f"--from measures nothing, and --{given[0]} is about measuring: leave one of them out"
        )
    if options.source is not None:
        result = run.read(options.source)
        beside = options.source if options.source.is_dir() else options.source.parent
        folder = run.check(options.output or beside)
        files = run.write(result, folder, json_too=False)
    else:
        lengths = [
            _number(word, "--lengths takes numbers of tokens, e.g. 128,512")
            for word in _names(options.lengths)
        ]
        parts = _names(options.only or "")
        if options.only is not None and not parts:
            raise UserError("--only takes attention or steps: leave it out for both")
        chosen = settings(
            options.device,
            quick=options.quick,
            lengths=lengths,
            parts=parts,
            model=options.model,
            data=options.data,
        )
        folder = run.check(options.output or Path("bench"))
        result = run.measure(chosen, options.command)
        files = run.write(result, folder)
    print(tables.text(result))
    for path in files:
        say(f"wrote {path}")
    failures = tables.failures(result)
    for line in failures:
        print(clean(line), file=sys.stderr)
    return 1 if failures else 0


def diagnose(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    rows = _number(options.rows, "--rows takes a number of rows from 1, e.g. 64", least=1)
    from finetune.training.diagnosis import diagnose, table

    looked = diagnose(options.run, rows, options.data, options.task, options.attention)
    print(table(looked))
    say(f"wrote {looked.file}")


def study(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    from finetune.studies.file import load, workers_of
    from finetune.studies.rehearsal import rehearse
    from finetune.studies.run import commands, plan_text, run_study

    said = "--workers takes a whole number from 1, e.g. 2"
    workers = None if options.workers is None else workers_of(_number(options.workers, said, least=1))
    found = load(options.file, options.output)
    if options.plan:
        print(plan_text(found, workers))
    elif options.print:
        for command in commands(found):
            print(command)
    elif options.rehearse:
        print(rehearse(found))
    else:
        return run_study(found, workers)
    return 0


def push(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.publishing.push import push

    address = push(options.folder, options.to, options.private)
    say(f"pushed {options.folder} to {address}")
    print(f'load it with: finetune.load("{options.to}")')


def tasks(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.cli.listing import tasks_text

    print(tasks_text())


def variants(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.cli.listing import variants_text

    print(variants_text())


def validate(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    from finetune.studies.validation import validate

    if options.task is None and (options.pair or options.data):
        raise UserError("--pair and --data say which rows of a task to check: give --task too")
    for line in validate(options.task, options.pair, options.data or "auto"):
        say(line)


def env(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    import json

    from finetune.system.environment import environment

    print(json.dumps(environment(), indent=2))


def _names(text: str) -> list[str]:
    return text.replace(",", " ").split()
