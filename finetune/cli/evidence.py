"""``finetune bench --evidence``, also where a run's own packages are missing (``python -m finetune``).

Imports neither torch nor pydantic: a machine that is lent with a GPU has torch, Triton and transformers, and
a plain checkout of this project.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from finetune.errors import UserError
from finetune.system.text import clean, is_quiet, quietly

BUDGET = 540  # seconds, as finetune.bench.evidence.plan says
INTERRUPTED = 130
LEAVE_OUT = "--evidence has sizes of its own: leave out --{}, which is about the other measurement"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what goes with ``--evidence``."""
    parser.add_argument(
        "--evidence",
        action="store_true",
        help="on a GPU, what its first minutes decide: kernels' errors, times against torch's, tiles, whole "
        "steps, memory (needs torch, Triton and transformers alone)",
    )
    parser.add_argument("--toy", action="store_true", help="with --evidence: tiny sizes, to try its path")
    about = f"with --evidence: seconds that it may take (default: {BUDGET})"
    parser.add_argument("--budget", metavar="SECONDS", help=about)


def asked(words: Sequence[str]) -> bool:
    """Whether the words of a command line are ``bench`` with ``--evidence``, and not with ``--help``."""
    verb = next((word for word in words if not word.startswith("-")), None)
    return verb == "bench" and "--evidence" in words and not {"--help", "-h"} & set(words)


def main(words: Sequence[str]) -> int:
    """Reads the command line by itself and measures. Returns the exit status, as the command does."""
    parser = _Parser(prog="finetune bench", allow_abbrev=False)
    parser.add_argument("verb", choices=["bench"])
    parser.add_argument("--device")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quiet", "-q", action="store_true")
    add_options(parser)
    try:
        options = parser.parse_args(words)
        options.command = shlex.join(["finetune", *words])
        with quietly() if options.quiet else nullcontext():
            return measure(options)
    except (UserError, OSError) as error:
        print(f"finetune: error: {clean(error)}", file=sys.stderr)
        return UserError.exit_status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; with --evidence go --device, --toy, --budget, --quiet and --output")


def measure(options: argparse.Namespace) -> int:
    """Takes the evidence; 1 where a kernel failed or is wrong, 130 on Ctrl-C."""
    for name in ("quick", "full", "lengths", "only", "model", "data", "source"):
        if getattr(options, name, None):
            raise UserError(LEAVE_OUT.format("from" if name == "source" else name))
    from finetune.bench.evidence import page, run
    from finetune.bench.evidence.plan import plan
    from finetune.system.environment import cores

    try:
        budget = float(options.budget or BUDGET)
    except ValueError:
        raise UserError(f"--budget takes a number of seconds, e.g. 540, not '{options.budget}'") from None
    chosen = plan(options.device or "cuda", toy=options.toy, budget=budget, cores=cores())
    folder = options.output or Path("evidence")
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"cannot write to {folder}: choose another --output")
    files = [str(folder / name) for name in (run.FILE, run.PAGE)]
    try:
        result = run.measure(chosen, folder, options.command, _progress)
    except KeyboardInterrupt:
        print(f"finetune: interrupted; what was measured is in {' and '.join(files)}", file=sys.stderr)
        return INTERRUPTED
    failed = page.failures(result)
    _progress(clean(f"wrote {' and '.join(files)}"))
    for line in failed:
        print(clean(line), file=sys.stderr)
    return 1 if failed else 0


def _progress(line: str) -> None:
    if not is_quiet():
        print(line, file=sys.stderr, flush=True)
