"""The verbs ``compare`` and ``summary``: reports of recorded runs."""

import argparse
from pathlib import Path
from typing import Any

from finetune.cli.options import Overrides, add_verb, folder_of, place
from finetune.errors import UserError
from finetune.metrics.registry import own_margins
from finetune.system import hints
from finetune.system.sheet import terminal_width
from finetune.system.text import say


def add(verbs: Any) -> None:
    """Adds the two verbs."""
    parser = add_verb(
        verbs,
        "compare",
        "compare recorded runs; writes report.html and other forms",
        "finetune compare runs",
        "finetune compare runs-a runs-b --output report",
        "finetune compare --from results/cpu --output report     needs no predictions",
        "finetune compare runs --margin 0.5     differences of less do not matter",
        "finetune compare runs --margin accuracy=1,perplexity=2%",
    )
    parser.add_argument("folders", nargs="*", type=place, help="folders with runs (default: runs)")
    parser.add_argument("--output", type=place, help="where the report goes (default: the first folder)")
    parser.add_argument(
        "--from", dest="source", type=place, help="remake the report of a report.json; needs no predictions"
    )
    about = "differences of less do not matter: in points, in percent of softmax's score, or METRIC=SIZE,..."
    known = ", ".join(f"{name}={size}" for name, size in own_margins().items())
    parser.add_argument("--margin", metavar="SIZE", help=f"{about} (default: {known})".replace("%", "%%"))
    parser.set_defaults(function=compare)
    parser = add_verb(
        verbs,
        "summary",
        "one short Markdown table from a report.json",
        "finetune summary runs/report.json",
        "finetune summary runs/report.json --into README.md",
    )
    parser.add_argument("file", type=place, help="a report.json")
    parser.add_argument("--into", type=place, help="a document with a marked place for it, e.g. README.md")
    parser.set_defaults(function=summary)


def compare(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints a comparison and writes it in every form."""
    from finetune.comparison import margins as read_margins
    from finetune.comparison.compare import compare as compare_runs
    from finetune.comparison.compare import judged
    from finetune.report import write

    margins = None if options.margin is None else read_margins.parse(options.margin)

    if options.source is None:
        folders = options.folders or [Path("runs")]
        comparison, output = compare_runs(folders, margins), options.output or folders[0]
        if not comparison.tables and not comparison.problems:
            where = " and ".join(map(str, folders))
            raise UserError(f"there is no run in {where}: give the folder that --output named")
    else:
        beside = folder_of(options.source)
        folders = options.folders or [beside]
        comparison, output = judged(write.read(options.source), margins), options.output or beside
    print(write.text(comparison, terminal_width()))
    for path in write.write(comparison, output, folders):
        say(f"wrote {path}")
    for hint in hints.after_report(folders[0]) if options.source is None else ():
        say(hint)


def summary(options: argparse.Namespace, overrides: Overrides) -> None:
    """Prints a summary, or inserts it into a document."""
    from finetune.report import summary as summaries

    text = summaries.markdown(summaries.read(options.file))
    if options.into is None:
        print(text, end="")
    else:
        summaries.insert(text, options.into, options.file)
        say(f"wrote {options.into}")
