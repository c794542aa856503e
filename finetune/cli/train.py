"""The verbs of the types of task, such as ``classify``, and ``run``: runs in this process, in turn."""

import argparse
import functools
import itertools
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finetune.cli.options import (
    TABLE_COLUMNS,
    Overrides,
    add_columns,
    add_plan,
    add_verb,
    add_verbose,
    names,
    number,
    place,
    speed,
)
from finetune.config.identity import as_dict, flatten
from finetune.config.loading import merge, nest, parse_value, preset_names, read_preset, read_yaml
from finetune.errors import UserError, shown, unknown
from finetune.studies import axes, cell_file, dry_run, timing, tuning
from finetune.studies.axes import Point
from finetune.studies.dry_run import Origins, layered
from finetune.studies.file import Study, with_trials
from finetune.studies.grid import plan, seed_numbers, seeds_in, task_of, variant_names
from finetune.studies.keys import ELSEWHERE, unknown_key
from finetune.studies.run import compare_grid, plan_text, run_grid
from finetune.system import hints, world
from finetune.system.sheet import terminal_width
from finetune.system.text import clean, say
from finetune.tasks import TABLE, TASK_TYPES, Task, get_task

TYPES = {task_type.verb: task_type for task_type in TASK_TYPES.values()}
"""Verb -> type of task."""
# Options that are short for a key of the configuration.
SHORT = {"data": "data.source", "model": "model.name"} | {
    column: f"data.columns.{column}" for column in TABLE_COLUMNS
}
ALIASES = {
    "lr": "train.learning_rate",
    "epochs": "train.num_train_epochs",
    "batch_size": "train.per_device_train_batch_size",
}
"""Options by the names that other programs have -> the keys that they are short for; files have none."""
SECTIONS = axes.SECTIONS | {"variants", "seeds"}
TYPED = {key: "attention" if given == "variants" else given for key, given in ELSEWHERE.items()}
"""Keys of the configuration -> the options that decide them."""
OPTIONS = {
    "task", "pair", "name", "objective", "attention", "seeds", "preset", "config", "output", "diagnose",
    "rehearse", "tune", "tune-seeds",
    "plan", "dry-run", "time-one", "peak_tflops", "mfu", *SHORT, *ALIASES,
    *(name for task_type in TYPES.values() for name in task_type.numbers),
}  # fmt: skip
NOTES = """\
Every key of the configuration is an option too: --data.train_rows 4000 --model.lora.rank 8
--attention.scope cross --attention.parameters.eps 1e-5, and every field of transformers'
TrainingArguments under --train., e.g. --train.learning_rate 3e-5. The presets list them all."""
EXAMPLES = {
    "classify": (
        "finetune classify --task yelp --preset full --seeds 0,1,2",
        "finetune classify --attention softmax,sa-softmax-raw --model distilbert/distilbert-base-uncased",
        "finetune classify --task csv --data reviews.csv --text review --label stars",
        "finetune classify --attention path/to/mine.py --output runs-mine",
        "finetune classify --tune train.learning_rate=3e-4,1e-3,3e-3    each variant with its own best rate",
    ),
    "translate": (
        "finetune translate --pair de-en --preset full",
        "finetune translate --attention softmax,sa-softmax --attention.scope cross",
        "finetune translate --task csv --data pairs.tsv --pair de-en --source de --target en",
    ),
    "pretrain": (
        "finetune pretrain --task books --preset small --data path/to/folder --seeds 0,1,2",
        "finetune pretrain --preset full --model scratch:350m --plan --peak_tflops 312",
        "finetune pretrain --model.position kerple --eval_lengths 512,1024,2048",
        "finetune pretrain --task csv --data corpus.parquet --text text",
    ),
}

TUNE = (
    "try these values for every variant, on validation rows alone, and run each with its own best beside the "
    "common ones, e.g. train.learning_rate=1e-4,3e-4,1e-3; several make a product"
)
TUNE_SEEDS = f"with --tune: seeds of the trials (default: {', '.join(map(str, tuning.SEEDS))})"

VERBS = frozenset({*TYPES, "run"})
"""The verbs that train in this process, and which several processes may run together."""


def add(verbs: Any) -> None:
    """Adds a verb for each type of task, and ``run``."""
    for verb, task_type in TYPES.items():
        about = f"{task_type.purpose}, one run for each variant and seed"
        parser = add_verb(verbs, verb, about, *EXAMPLES.get(verb, ()), notes=NOTES)
        example = task_type.example
        presets = ", ".join(preset_names(task_type.kind))
        add_option = parser.add_argument
        add_option("--task", default=example, help=f"a task, its file, or csv (default: {example})")
        has_pairs = bool(get_task(example).pairs)
        pair_help = "language pair, source first, e.g. de-en" if has_pairs else argparse.SUPPRESS
        add_option("--pair", help=pair_help)
        add_columns(parser, task_type.columns)
        add_option("--name", help="with --task csv: what to call it (default: as the file)")
        kinds = ", ".join(task_type.kinds)
        one = argparse.SUPPRESS if len(task_type.kinds) == 1 else f"{kinds} (default: {task_type.kind})"
        add_option("--objective", metavar="KIND", help=one)
        for name, key in task_type.numbers.items():
            add_option(f"--{name}", metavar="N,N", help=f"{key}, e.g. 512,1024 (default: the preset's)")
        add_option(
            "--attention", help="variants or their files, e.g. softmax,sa-softmax (default: the preset's)"
        )
        add_option("--seeds", help="integers and ranges, e.g. 0,1,2 or 0-5 (default: the preset's)")
        add_option("--preset", default="quick", help=f"{presets} (default: quick)")
        add_option("--config", type=place, action="append", default=[], help="YAML laid over the preset")
        add_option("--data", help="auto, hub, sample or a folder; with --task csv a file or folder")
        add_option("--model", help="a Hub id, a folder, scratch:SIZE or pretrained:FOLDER of runs")
        add_option("--tune", metavar="KEY=V,V", action="append", default=[], help=TUNE)
        add_option("--tune-seeds", metavar="N,N", help=TUNE_SEEDS)
        for alias, key in ALIASES.items():
            spelled = dict.fromkeys([alias, alias.replace("_", "-")])
            add_option(*(f"--{each}" for each in spelled), metavar="N", help=f"short for --{key}")
        _add_run_options(parser, "take a first step of every kind of run, and begin none")
        parser.set_defaults(function=train)
    parser = add_verb(
        verbs,
        "run",
        "make the one run that a configuration file describes, or go on with it",
        "finetune run runs/agnews/scratch-tiny/softmax/seed-0/finetune.yaml",
        "finetune run runs/agnews/scratch-tiny/softmax/seed-0/finetune.yaml --output runs-again",
        notes="A run keeps its whole configuration as finetune.yaml; a study writes that of every run into\n"
        "ROOT/configs. The run goes to OUTPUT/TASK/MODEL/VARIANT/seed-N.",
    )
    parser.add_argument("file", type=place, metavar="FILE", help="a whole configuration")
    parser.add_argument("--task", help="a task or its file (default: the file's)")
    parser.add_argument("--data", help="auto, hub, sample or a folder (default: the file's)")
    parser.add_argument("--attention", help="the declaration file, for a variant of your own that has moved")
    _add_run_options(parser, "take a first step, and begin nothing")
    parser.set_defaults(function=run)


def _add_run_options(parser: argparse.ArgumentParser, rehearse: str) -> None:
    parser.add_argument(
        "--output", type=place, default=Path("runs"), help="folder of the runs (default: runs)"
    )
    parser.add_argument(
        "--diagnose", action="store_true", help="look at the attention of ten steps (diagnostics.json)"
    )
    add_verbose(parser)
    mode = parser.add_mutually_exclusive_group()
    add_plan(parser, mode, "say what is done and what each run takes on paper, and begin none")
    mode.add_argument("--rehearse", action="store_true", help=rehearse)


def train(options: argparse.Namespace, overrides: Overrides) -> int:
    """Runs a grid of one task: a preset, with files and options laid over it, by its variants and seeds."""
    task_type = TYPES[options.verb]
    kind = options.objective or task_type.kind
    if kind not in task_type.kinds:
        raise unknown("objective", kind, task_type.kinds)
    layers = _layers(options, overrides, kind)
    values = functools.reduce(merge, (layer for _, layer in layers))
    if "until" in values:
        raise UserError(
            "until adds seeds to a study: put it into a study file, or give --until to finetune study"
        )
    if options.name and options.task != TABLE:
        raise UserError(f"--name names a table of your own: leave it out, or give --task {TABLE}")
    word = options.name or options.task
    task = task_of(word, values, options.pair)
    if task.undeclared and set(task.columns) < set(task_type.columns):
        raise UserError(
            f"finetune {options.verb} takes {' and '.join(task_type.columns)} of a table, not "
            f"{' and '.join(task.columns)} alone"
        )
    if kind not in task.kinds:
        raise UserError(f"'{task.name}' is a {task.kind} task: use finetune {task.verb}")
    values["kind"] = kind

    variants, seeds = variant_names(values.pop("variants", None)), seed_numbers(values.pop("seeds", None))
    point = Point(word, options.pair, values, options.output)
    diagnosed = seeds if options.diagnose else ()
    tune = _tune(options, seeds)

    def planned() -> Study:
        """The runs by what is on record: those with chosen values follow from trials."""
        cells = plan([point], variants, seeds, diagnosed=diagnosed)
        study = Study(task.name, "", options.output, 1, tuple(cells))
        if tune is None:
            return study
        return with_trials(study, tuning.plan([point], variants, seeds, tune, diagnosed=diagnosed))

    study = planned()
    if _only_asked(study, options, layered(layers)):
        return 0
    status = run_grid(study.cells, options.command, (lambda: planned().cells) if tune else None)
    study = world.from_main(planned)
    compare_grid(study.cells)
    for line in (*study.notes, *study.untuned):
        print(clean(line))
    status = max(status, int(bool(study.untuned)))
    _say_next(options, study)
    if options.preset != "full":
        say(f"The real thing, on a GPU: {_full_command(options, task)}")
    return status


def _tune(options: argparse.Namespace, seeds: Sequence[int]) -> tuning.Tune | None:
    """What ``--tune`` asks for, as ``tune`` of a study's grid does; ``None`` without it."""
    if not options.tune:
        if options.tune_seeds is not None:
            raise UserError("--tune-seeds is of trials: give --tune too, or leave it out")
        return None
    values: dict[str, Any] = {}
    for word in options.tune:
        name, equals, listed = word.partition("=")
        if not equals or not name or not listed:
            raise UserError(
                "--tune takes a key and its values, e.g. train.learning_rate=1e-4,3e-4,1e-3, "
                f"not {shown(word)}"
            )
        key = ALIASES.get(name := name.replace("-", "_"), name)
        if key in values:
            raise UserError(f"--tune {key} is there twice: give all of its values in one")
        values[key] = [parse_value(each, key) for each in listed.split(",")]
    if options.tune_seeds is not None:
        values["seeds"] = seeds_in(options.tune_seeds, "--tune-seeds")
    return tuning.read(values, seeds)


def _layers(options: argparse.Namespace, overrides: Overrides, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and values that are laid over each other: of the preset, files and options; or ``UserError``."""
    layers = [(f"preset {options.preset}", read_preset(kind, options.preset))]
    _refuse_unknown_options(overrides, kind)
    for path in options.config:
        values = read_yaml(path)
        _refuse_unknown_keys(values, kind)
        layers.append((str(path), values))
    return [*layers, ("command line", merge(overrides, _in_short(options, overrides)))]


def _in_short(options: argparse.Namespace, overrides: Overrides) -> dict[str, Any]:
    """What the options say that are short for keys; raises ``UserError`` where a key is given as well."""
    values: dict[str, Any] = {}
    if options.attention is not None:
        values["variants"] = names(options.attention)
    if options.seeds is not None:
        values["seeds"] = seeds_in(options.seeds, "--seeds")
    in_full = flatten(overrides)
    for option, key in {**SHORT, **ALIASES, **TYPES[options.verb].numbers}.items():
        word = getattr(options, option, None)
        if word is None:
            continue
        if key in in_full:
            raise UserError(f"--{option} is short for --{key}: give one of them")
        if option in ALIASES:
            word = parse_value(word, key)
        elif option not in SHORT:
            what = f"--{option} takes whole numbers, e.g. 512,1024"
            word = [number(each, what, least=1) for each in names(word)]
        values = merge(values, nest(key, word))
    return values


def run(options: argparse.Namespace, overrides: Overrides) -> int:
    """Makes the run of a configuration file, or resumes it."""
    cell = cell_file.read(
        options.file,
        options.output,
        task=options.task,
        source=options.data,
        variant=options.attention,
        diagnose=options.diagnose,
    )
    origins = layered([(str(options.file), as_dict(cell.config))])
    study = Study(cell.config.task, "", options.output, 1, (cell,))
    if _only_asked(study, options, origins):
        return 0
    status = run_grid([cell], options.command)
    _say_next(options, study)
    return status


def _say_next(options: argparse.Namespace, study: Study) -> None:
    for hint in hints.after_runs(
        options.output, [cell.folder for cell in study.cells if not cell.config.trial]
    ):
        say(hint)


def _only_asked(study: Study, options: argparse.Namespace, origins: Origins) -> bool:
    """Plans, lists or rehearses the runs of one command where that is asked for, and says whether it is.

    ``origins``: where their configuration is from.
    """
    how_fast = speed(options)
    if options.time_one and not options.plan:
        raise UserError("--time-one says how hours are planned: give --plan too, or leave it out")
    if options.plan:
        timed = list(timing.measure(study.cells)) if options.time_one else ()
        print(plan_text(study, 1, how_fast, timed, terminal_width()))
    elif options.dry_run:
        print(dry_run.text(study, {"": origins}, terminal_width()))
    elif options.rehearse:
        from finetune.studies.preflight import prepare

        prepare(study.cells)
        say("rehearsal: every kind of run that is not finished took a first step; none was begun")
    return bool(options.plan or options.dry_run or options.rehearse)


def _refuse_unknown_options(overrides: Overrides, kind: str) -> None:
    """Raises ``UserError`` for an option of a section that does not exist, such as --trian.max_steps."""
    for name in flatten(overrides):
        section = name.partition(".")[0]
        if section in SECTIONS:
            continue
        known = [f"--{option}" for option in SECTIONS | OPTIONS]
        if get_close_matches(name, OPTIONS, 1, 0.8):  # a slip of the pen, for which nothing is imported
            raise unknown("option", f"--{name}", known)
        raise unknown_key("option", name, SECTIONS | OPTIONS, kinds=[kind], elsewhere=TYPED, dashes="--")


def _refuse_unknown_keys(values: Mapping[str, Any], kind: str) -> None:
    """Raises ``UserError`` for a section that no configuration has, in a file."""
    for name in flatten(values):
        if name.partition(".")[0] not in SECTIONS:
            raise unknown_key("key", name, SECTIONS, kinds=[kind])


def _full_command(options: argparse.Namespace, task: Task) -> str:
    """The command that runs the same task with the full preset, by make where it knows the verb."""
    data = options.data if options.data not in (None, "auto", "sample") else None
    if data is None and task.hub_id is None:
        data = "path/to/folder"
    settings = {"task": options.name or options.task, "pair": options.pair, "data": data}
    settings |= {"objective": options.objective, "preset": "full", "output": "runs-full"}
    settings = {name: value for name, value in settings.items() if value}
    columns: list[str] = []
    for name in task.columns:
        if value := getattr(options, name, None):
            columns += [f"--{name}", *([value] if isinstance(value, str) else value)]
    if hints.by_make(options.verb):
        words = ["make", options.verb, *(f"{name.upper()}={value}" for name, value in settings.items())]
        words += [f"ARGS={shlex.join(columns)}"] if columns else []
    else:
        words = [
            hints.program(),
            options.verb,
            *itertools.chain(*((f"--{n}", v) for n, v in settings.items())),
        ]
        words += columns
    return shlex.join(words)
