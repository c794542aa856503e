"""Commands that are printed for a reader to type next: by make where that works, else by ``finetune``."""

import shlex
from pathlib import Path

MAKEFILE = Path(__file__).parents[2] / "Makefile"
MAKE_TARGETS = ("classify", "translate", "pretrain", "compare")  # verbs that it has a target for


def by_make(verb: str) -> bool:
    """Whether ``make`` knows ``verb`` in the working folder; there no ``finetune`` need be on the path."""
    return verb in MAKE_TARGETS and MAKEFILE.is_file() and Path.cwd() == MAKEFILE.parent


def comparing(runs: Path) -> str:
    """The command that compares the runs below a folder."""
    words = (
        ["make", "compare", f"OUTPUT={runs}"] if by_make("compare") else ["finetune", "compare", str(runs)]
    )
    return shlex.join(words)
