"""The ``finetune`` command: parses the command line, runs one verb, and reports an error in one line."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress

import finetune
from finetune.cli import (
    bench,
    completion,
    diagnose,
    diff,
    info,
    push,
    reports,
    runs,
    study,
    terminal,
    train,
    view,
)
from finetune.cli.options import Overrides, Parser, add_quiet, read_overrides
from finetune.errors import PeerError, PreemptedError, UserError, shown, unknown
from finetune.system import peers, world
from finetune.system.files import says_full
from finetune.system.redaction import redact
from finetune.system.text import clean, quietly, reason, verbosely

EXAMPLES = """examples:
  finetune classify                                     two minutes on a CPU: both variants, built-in rows
  finetune classify --task yelp --preset full --seeds 0,1,2
  finetune pretrain --preset small --data my-texts      language models, on a folder of your own
  finetune study my-study.yaml --plan                   what it would run, and for how long
  finetune compare runs                                 the report of what was run

Each verb has more in its own --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status.

    1 after a failed run, 2 for a user's mistake, 75 where the same command can go on later (another process
    is at it, the run was preempted, or a disk is full), 130 on Ctrl-C.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Libraries read these when imported. Threads that spin starve each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # it raises all that it reports
    if argv is None:
        terminal.prepare()
    words = [_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        options, overrides = _parse(words)
        if world.launched() and not (options.verb in train.VERBS or study.takes_steps(options)):
            raise UserError(
                f"finetune {options.verb} is one process: type it without torchrun, accelerate launch or "
                f"srun, which are for {', '.join(sorted(train.VERBS))}"
            )
        with _printing(options.quiet, getattr(options, "verbose", False)):
            status = int(options.function(options, overrides) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk is still an error that can be reported
        return status
    except (UserError, PeerError) as error:
        return _ended(str(error), os.EX_TEMPFAIL if says_full(error) else error.exit_status)
    except OSError as error:
        if error.errno is None:  # a library's own use of the class: its traceback says more
            raise
        place = "the output" if error.filename is None else shown(str(error.filename)).strip("'")
        status = os.EX_TEMPFAIL if says_full(error) else UserError.exit_status
        return _ended(f"{error.strerror}: {place}", status)
    except PreemptedError as error:
        return _left(peers.End.PREEMPTED, str(error), error.exit_status)
    except KeyboardInterrupt:
        return _left(peers.End.INTERRUPTED, "", peers.INTERRUPTED)
    except Exception as error:
        peers.fail(reason(error, typed=True), 1, explained=False)
        raise


@contextmanager
def _printing(quiet: bool, verbose: bool) -> Iterator[None]:
    """Prints what a verb prints, in the first of several processes alone.

    ``quiet``: results alone; ``verbose``: what libraries print too.
    """
    if quiet and verbose:
        raise UserError("--quiet and --verbose ask for opposites: leave one of them out")
    with ExitStack() as stack:
        if not world.is_main():
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        if quiet or not world.is_main():
            stack.enter_context(quietly())
        if verbose:
            stack.enter_context(verbosely())
        yield


def _left(end: peers.End, reason: str, status: int) -> int:
    """Prints that the command is to be typed again, once for all processes, and returns ``status``."""
    if not peers.shared(status, end):
        peers.fail(reason, status, end=end)
    if world.is_main():
        print(peers.going_on(end, reason), file=sys.stderr)
    return status


def _ended(fault: str, status: int) -> int:
    """Prints why the command ends, once for all processes of a run, and returns ``status``.

    Before they have met none can tell another, and each prints its own.
    """
    if not peers.shared(status):
        with peers.recording(lambda failure: _complain(fault if failure.reason == fault else failure)):
            peers.fail(fault, status)
    if world.is_main():
        _complain(fault)
    elif not world.joined():
        _complain(f"rank {world.rank()}: {fault}")
    return status


def _home(word: str) -> str:
    """A word with the user's folder for a ``~`` that no shell has filled in, as between make's quotes."""
    option, equals, value = word.rpartition("=")
    return option + equals + os.path.expanduser(value) if value == "~" or value.startswith("~/") else word


def parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Builds the parser of the command, and those of its verbs by their names."""
    command = Parser(
        prog="finetune",
        description="Compare attention functions: pretrain or fine-tune with each, record, compare.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    command.add_argument("--version", action="version", version=f"finetune {finetune.__version__}")
    add_quiet(command, default=False)
    verbs = command.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (train, study, runs, reports, diff, view, info, diagnose, bench, push):
        module.add(verbs)
    completion.add(verbs, command)
    return command, verbs.choices


def _parse(words: list[str]) -> tuple[argparse.Namespace, Overrides]:
    """Parses the command line into options of the verb and overrides of the configuration."""
    command, verbs = parser()
    # Before argparse, whose message for an unknown verb names no nearest one.
    if words and not words[0].startswith("-") and words[0] not in verbs:
        raise unknown("verb", words[0], verbs)
    for word in words:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make a list of it
            raise UserError(f"{word[:-3]} needs a value, and -- is none")
    options, rest = command.parse_known_args(words)
    # Further options are keys of a configuration, or of a study's engine, which are dotted.
    if rest and options.verb not in train.TYPES and not (options.verb == study.VERB and "." in rest[0]):
        raise UserError(f"finetune {options.verb} takes no '{rest[0]}'; see finetune {options.verb} --help")
    options.command = shlex.join(["finetune", *words])
    return options, read_overrides(rest)


def _complain(error: object) -> None:
    """Prints an error on one line, without secrets and without control characters for the terminal."""
    with suppress(OSError, AttributeError):
        sys.stdout.flush()  # what it still holds comes first; a full disk fails here and not at exit
    print(f"finetune: error: {redact(clean(error))}", file=sys.stderr)
