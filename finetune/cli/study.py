"""The verb ``study``: the runs of a study file, as processes of their own."""

import argparse
import json
import math
from typing import Any

from finetune.cli.options import Overrides, add_plan, add_verb, number, place, speed
from finetune.config.loading import parse_value
from finetune.errors import UserError, shown
from finetune.studies.engines import ENGINES, LOCAL, Given, choose, given_on
from finetune.studies.executors.base import Engine
from finetune.system.sheet import Sheet, terminal_width
from finetune.system.text import say

VERB = "study"
NOTES = """\
--print writes the configuration of each run into OUTPUT/configs, and prints what the study itself
would execute: finetune run on that file. --plan writes nothing; with --on ENGINE it has a worker look for
data, models, the folder of the runs and room for each of them. A study that is stopped goes on with
the same command; runs that another process is making are left to it.
Each engine has options of its own, --ENGINE.OPTION VALUE, such as --local.retries 1 --local.timeout 2h;
the section on: of the study file holds them too. What was said last is kept in OUTPUT/on.yaml."""


def add(verbs: Any) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        VERB,
        "run every cell of a study file, several at a time",
        "finetune study quick",
        "finetune study my-study.yaml --plan",
        "finetune study my-study.yaml --workers 4 --output runs/mine",
        "finetune study my-study.yaml --until 0.5 --most-seeds 11    more seeds, until each answer is known",
        "finetune study my-study.yaml --print > cells.txt     a line a run, for a Slurm array or xargs",
        notes=NOTES,
    )
    shipped = "quick, tuned, cpu, churn, language, downstream, ablation, paper or pretrain-then-finetune"
    parser.add_argument("file", help=f"a YAML file, or a shipped study: {shipped}")
    mode = parser.add_mutually_exclusive_group()
    add_plan(parser, mode, "what is done, what is left, how long it takes")
    mode.add_argument("--print", action="store_true", help="one command line a run that is not done")
    mode.add_argument("--rehearse", action="store_true", help="take a first step of every kind of run")
    mode.add_argument("--check", action="store_true", help="look for all that it needs here, and print JSON")
    mode.add_argument("--cancel", action="store_true", help="end the jobs that go on without the study")
    about = "; ".join(f"{engine.name}: {engine.about}" for engine in ENGINES.values())
    parser.add_argument("--on", metavar="ENGINE", help=f"{about} (default: the study's, or local)")
    parser.add_argument("--token", metavar="WORD", help="with --check: of a file in OUTPUT that must be seen")
    known = "with --rehearse: do not look again whether runs fit into the memory"
    parser.add_argument("--fits", action="store_true", help=known)
    parser.add_argument("--workers", help="runs at a time (default: the study's; one a GPU, or by cores)")
    parser.add_argument("--output", type=place, help="folder of the runs (default: runs/NAME-OF-THE-STUDY)")
    known = "add seeds until a difference is known within MARGIN, or shown to be better, worse or equivalent"
    parser.add_argument("--until", metavar="MARGIN", help=known)
    most = "with --until: the budget, in seeds of a variant"
    parser.add_argument("--most-seeds", metavar="N", help=most)
    parser.set_defaults(function=study)


def _until(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the study's ``until``."""
    given: dict[str, Any] = {}
    if options.until is not None:
        margin = parse_value(options.until, "until")
        if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < math.inf:
            what = "--until takes a difference in the units of the metric, e.g. 0.5 points of accuracy"
            raise UserError(f"{what}, not {shown(options.until)}")
        given["margin"] = float(margin)
    if options.most_seeds is not None:
        what = "--most-seeds takes a whole number from 3, e.g. 11"
        given["most"] = number(options.most_seeds, what, least=3)
    return given


def takes_steps(options: argparse.Namespace) -> bool:
    """Whether a command takes steps of runs in this process, as several processes may do together."""
    return options.verb == VERB and (options.rehearse or (options.time_one and not options.plan))


def _check_together(options: argparse.Namespace, engine: Engine, given: Given) -> None:
    """Raises ``UserError`` for options that say nothing beside each other."""
    if options.token is not None and not options.check:
        raise UserError("--token is for a worker that is checked: give --check too, or leave it out")
    if options.fits and not options.rehearse:
        raise UserError("--fits is for a rehearsal: give --rehearse too, or leave it out")
    modes = ("print", "rehearse", "check", "cancel", "dry-run")
    others = [mode for mode in modes if getattr(options, mode.replace("-", "_"))]
    if options.time_one and others:
        raise UserError(f"--time-one is for a plan: give --plan in the place of --{others[0]}")
    here = [mode for mode in others if mode != "cancel"]
    if given and here:
        raise UserError(f"--{here[0]} is of this machine, whatever the engine: leave out what names one")
    if options.workers and engine is not LOCAL and not here:
        raise UserError(f"--workers is for runs on this machine: {engine.name} has options of its own")


def study(options: argparse.Namespace, overrides: Overrides) -> int:
    """Plans, prints, rehearses or runs a study. Returns the exit status."""
    from finetune.studies import dry_run
    from finetune.studies.check import FOUND, is_fine, look_around, refuse
    from finetune.studies.file import grown, load, workers_of
    from finetune.studies.rehearsal import rehearse
    from finetune.studies.run import (
        cancel,
        commands,
        plan_text,
        run_study,
        time_one,
        workers_text,
    )
    from finetune.studies.timing import line, measure

    what = "--workers takes a whole number from 1, e.g. 2"
    workers = None if options.workers is None else workers_of(number(options.workers, what, least=1))
    how_fast = speed(options)
    given = given_on(options.on, overrides)
    loaded = grown(load(options.file, options.output, _until(options)))
    chosen = choose(loaded, given)  # a mistake in its options is told at once
    _check_together(options, chosen.engine, given)
    if options.plan:
        timed = time_one(loaded, workers, chosen) if options.time_one else ()
        print(plan_text(loaded, workers, how_fast, timed, terminal_width()))
        if given:
            text, faults = workers_text(loaded, workers, chosen)
            print("\n" + "\n".join(map(Sheet(terminal_width()).prose, text.splitlines())))
            refuse(faults)
    elif options.time_one:
        for each in measure(loaded.cells):
            print(line(each), flush=True)
    elif options.dry_run:
        print(dry_run.text(loaded, dry_run.of_study(loaded), terminal_width()))
    elif options.check:
        report = look_around(loaded, options.token)
        print(json.dumps(report))
        return 0 if is_fine(report) else FOUND
    elif options.print:
        for command in commands(loaded):
            print(command)
    elif options.rehearse:
        say(rehearse(loaded, fits=options.fits))
    elif options.cancel:
        cancel(loaded, chosen)
    else:
        return run_study(loaded, workers, chosen)
    return 0
