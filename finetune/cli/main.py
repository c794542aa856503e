"""The ``finetune`` command: reads its words, runs one verb, and says what went wrong in one line."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress

import finetune
from finetune.cli import bench, diagnose, info, push, reports, study, terminal, train
from finetune.cli.options import Overrides, Parser, add_quiet, read_overrides
from finetune.errors import UserError, shown, unknown
from finetune.system.redaction import redact
from finetune.system.text import clean, quietly

EXAMPLES = """examples:
  finetune classify                                     two minutes on a CPU: both variants, built-in rows
  finetune classify --task yelp --preset full --seeds 0,1,2
  finetune study my-study.yaml --plan                   what it would run, and for how long
  finetune compare runs                                 the report of what was run

Each verb has more in its own --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status.

    1 after a failed run, 2 for a user's mistake, 75 where another process is at it, 130 on Ctrl-C.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # threads that spin starve each other on a busy machine
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what it reports, it also raises
    if argv is None:
        terminal.prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options, overrides = _parse(words)
        with quietly() if options.quiet else nullcontext():
            status = int(options.function(options, overrides) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk shows here
        return status
    except UserError as error:
        _complain(error)
        return error.exit_status
    except OSError as error:
        if error.errno is None:  # of a library that says by it more than the system does
            raise
        place = "the output" if error.filename is None else shown(str(error.filename)).strip("'")
        _complain(f"{error.strerror}: {place}")
        return 2
    except KeyboardInterrupt:
        print("finetune: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the command, and those of its verbs by their names."""
    command = Parser(
        prog="finetune",
        description="Compare attention functions on downstream tasks: fine-tune, record, compare.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    command.add_argument("--version", action="version", version=f"finetune {finetune.__version__}")
    add_quiet(command, default=False)
    verbs = command.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (train, study, reports, info, diagnose, bench, push):
        module.add(verbs)
    return command, verbs.choices


def _parse(words: list[str]) -> tuple[argparse.Namespace, Overrides]:
    """The command line -> options of the verb, and the overrides of the configuration."""
    command, verbs = parser()
    if words and not words[0].startswith("-") and words[0] not in verbs:
        raise unknown("verb", words[0], verbs)
    for word in words:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make a list of it
            raise UserError(f"{word[:-3]} needs a value, and -- is none")
    options, rest = command.parse_known_args(words)
    if rest and options.verb not in train.KINDS:
        raise UserError(f"finetune {options.verb} takes no '{rest[0]}'; see finetune {options.verb} --help")
    options.command = shlex.join(["finetune", *words])
    return options, read_overrides(rest)


def _complain(error: object) -> None:
    """On one line, without secrets, and without the control characters that a terminal would obey."""
    with suppress(OSError, AttributeError):
        sys.stdout.flush()  # of a full disk, which is no second thing to say at the end
    print(f"finetune: error: {redact(clean(error))}", file=sys.stderr)
