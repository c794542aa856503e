"""Commands that are printed for a reader to type next, in the form in which the last one was typed."""

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

MAKEFILE = Path(__file__).parents[2] / "Makefile"
MAKE_TARGETS = ("classify", "translate", "pretrain", "compare", "view")  # verbs that it has a target for
NAME = "finetune"


def by_make(verb: str) -> bool:
    """Whether a verb is to be typed by ``make``: that was typed last, in its folder, and knows the verb."""
    typed = "MAKELEVEL" in os.environ  # which make sets for all that it runs
    return typed and verb in MAKE_TARGETS and MAKEFILE.is_file() and Path.cwd() == MAKEFILE.parent


def program() -> str:
    """What to type for this program: ``finetune``, or where it lies if no path leads to it."""
    called = Path(sys.argv[0])
    if called.name != NAME or shutil.which(NAME) or not called.is_file():
        return NAME
    return os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called)


def command(verb: str, runs: Path) -> str:
    """The command of a verb that takes a folder of runs, such as ``finetune compare runs``."""
    words = ["make", verb, f"OUTPUT={runs}"] if by_make(verb) else [program(), verb, str(runs)]
    return shlex.join(words)


def after_runs(runs: Path, folders: Iterable[Path] = ()) -> list[str]:
    """What to type once runs have ended: those in ``folders``, TASK/MODEL/VARIANT/seed-N below ``runs``."""
    report = f"next: {command('compare', runs)}  # writes the report, report.html among its forms"
    variants = dict.fromkeys(folder.parent for folder in folders)
    several = [place for place, count in Counter(each.parent for each in variants).items() if count > 1]
    below = f"next: {command('diff', several[0])}  # which predictions changed, and how" if several else ""
    return [report, *filter(None, [below]), *after_report(runs)]


def after_report(runs: Path) -> list[str]:
    """What to type once the report is there."""
    about = "one page of all runs: curves, answers, two side by side"
    return [f"next: {command('view', runs)}  # {about}"]
