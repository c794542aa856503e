"""Parser, options and readers of words that the verbs of the command share."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from finetune.config.loading import merge, nest, parse_value
from finetune.errors import UserError, shown
from finetune.studies.on_paper import USUAL, Speed
from finetune.tasks import TASK_TYPES, TASKS

Overrides = Mapping[str, Any]
"""The options that are keys of the configuration, as a nested mapping."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises mistakes as ``UserError`` and takes no shortened options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def add_verb(verbs: Any, name: str, about: str, *examples: str, notes: str = "") -> argparse.ArgumentParser:
    """Adds the parser of a verb, whose help ends with ``notes`` and then ``examples``, which are commands."""
    shown_examples = "\n".join(["examples:", *(f"  {example}" for example in examples)]) if examples else ""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=about,
        description=about[:1].upper() + about[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n\n".join(filter(None, [notes, shown_examples])),
    )
    add_quiet(parser, default=argparse.SUPPRESS)  # or it would undo a --quiet before the verb
    return parser


def add_quiet(parser: argparse.ArgumentParser, default: Any) -> None:
    """Adds ``--quiet``, which may stand before a verb or after it."""
    about = "print results and errors alone, no progress and no notes"
    parser.add_argument("--quiet", "-q", action="store_true", default=default, help=about)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Adds ``--verbose``, for verbs that train in this process."""
    about = "print Trainer's own bars and dictionaries, in the place of a line of progress"
    parser.add_argument("--verbose", "-v", action="store_true", help=about)


TABLE_COLUMNS = tuple(dict.fromkeys(column for each in TASK_TYPES.values() for column in each.columns))
"""Every option that names a column of a table of the user's own."""
COLUMNS = {
    "text": "column of the text, or several that are joined: title,body",
    "label": "column of the class",
    "source": "column of the sentence",
    "target": "column of its translation",
}


def add_columns(parser: argparse.ArgumentParser, columns: Sequence[str]) -> None:
    """Adds the options that name columns of a table of the user's own, by the keys of ``data.columns``."""
    for column in columns:
        about = f"with --task csv: {COLUMNS.get(column, f'column of the {column}')}"
        if column == "text":
            parser.add_argument("--text", metavar="COLUMN", nargs="+", action=_Names, help=about)
        else:
            parser.add_argument(f"--{column}", metavar="COLUMN", help=about)


class _Names(argparse.Action):
    """Reads ``title,body`` or ``title body`` as two names; a quoted name may have spaces in it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, [name.strip() for word in values for name in word.split(",")])


def place(text: str) -> Path:
    """Reads the path of a file or folder."""
    # An empty one, as of a shell variable that is not set, would be the working folder.
    if not text.strip():
        raise argparse.ArgumentTypeError("a name is missing (. is the working folder)")
    return Path(text)


def folder_of(source: Path) -> Path:
    """The folder of a file, or ``source`` itself where it is a folder."""
    return source if source.is_dir() else source.parent


def add_plan(parser: argparse.ArgumentParser, alone: Any, about: str) -> None:
    """``--plan`` and ``--dry-run`` in the group ``alone``, and for the first how fast devices are."""
    alone.add_argument("--plan", action="store_true", help=about)
    dry = "print the configuration, where each value is from, and every run; begin none"
    alone.add_argument("--dry-run", action="store_true", help=dry)
    one = "with --plan: measure a few steps of each kind of run, and plan with that"
    parser.add_argument("--time-one", action="store_true", help=one)
    peak = "with --plan: hours on a device of so many TFLOP/s (default: on each that is known)"
    parser.add_argument("--peak_tflops", metavar="N", help=peak)
    share = f"with --plan: share of its peak that is reached (default: {USUAL.mfu})"
    parser.add_argument("--mfu", metavar="SHARE", help=share)


def speed(options: argparse.Namespace) -> Speed:
    """What hours are planned for. Raises ``UserError``."""
    given: dict[str, float] = {}
    for name, most, what in (
        ("peak_tflops", 1e6, "takes the TFLOP/s of a device, e.g. 312"),
        ("mfu", 1.0, "takes a share of the peak above 0, e.g. 0.4"),
    ):
        word = getattr(options, name)
        if word is None:
            continue
        if not options.plan:
            raise UserError(f"--{name} says what hours are planned for: give --plan too, or leave it out")
        value = parse_value(word, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise UserError(f"--{name} {what}, not {shown(word)}")
        given[name] = float(value)
    return Speed(given.get("peak_tflops"), given.get("mfu", USUAL.mfu))


def names(text: str) -> list[str]:
    """Reads ``softmax,sa-softmax`` or ``softmax sa-softmax`` as a list of names."""
    return text.replace(",", " ").split()


def number(word: str, what: str, least: int = 0) -> int:
    """Reads ``word`` as a whole number; ``what`` begins the error message and says what the option takes."""
    digits = word.isascii() and word.isdigit() and len(word) < 20  # Python reads no thousands of digits
    if not (digits and int(word) >= least):
        raise UserError(f"{what}, not {shown(word)}")
    return int(word)


def read_overrides(words: Sequence[str]) -> Overrides:
    """Reads ``["--train.max_steps", "5", "--data.source=hub"]`` as a nested mapping."""
    nested: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        name, equals, value = remaining.pop(0).partition("=")
        if name in TASKS:
            raise UserError(f"a task is an option: type --task {name}")
        if not name.startswith("--") or len(name) == 2:
            raise UserError(f"cannot make sense of '{name}': options look like --train.learning_rate 3e-5")
        # A single dash begins a negative number, two begin the next option.
        if not equals and remaining and not remaining[0].startswith("--"):
            value = remaining.pop(0)
        if not value.strip():
            raise UserError(f"{name} needs a value (null where it takes none)")
        nested = merge(nested, nest(name[2:], parse_value(value, name[2:])))
    return nested
