"""The verb ``view``: one page of recorded runs, to look into."""

import argparse
from pathlib import Path
from typing import Any

from finetune.cli.options import Overrides, add_verb, place
from finetune.errors import UserError
from finetune.system.text import say


def add(verbs: Any) -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs,
        "view",
        "explore recorded runs in one offline page: sort, filter, curves, two runs side by side",
        "finetune view runs",
        "finetune view runs --output page.html --no-open",
        "finetune view runs --with-texts          the page then holds texts of the data set",
    )
    parser.add_argument(
        "folder", nargs="?", type=place, default=Path("runs"), help="folder with runs (default: runs)"
    )
    parser.add_argument("--output", type=place, help="file of the page (default: explore.html in the folder)")
    texts = "keep texts in the page: translations, and the inputs of rows that a run got wrong"
    parser.add_argument("--with-texts", action="store_true", help=texts)
    parser.add_argument("--no-open", action="store_true", help="write the page and open no browser")
    parser.set_defaults(function=view)


def view(options: argparse.Namespace, overrides: Overrides) -> None:
    """Writes the page, says what is in it, and opens it where there is a browser."""
    from finetune.explorer import browser, page

    file = options.output or options.folder
    if file.is_dir():
        file = file / page.FILE
    elif options.output and file.suffix.lower() not in {".html", ".htm"}:  # a browser would show its source
        raise UserError(
            f"--output {file}: the page is HTML: name a file such as {file}.html, or a folder that exists"
        )
    written = page.write(options.folder, file, texts=options.with_texts)
    for problem in written.problems:
        say(problem)
    size = file.stat().st_size / 1e6
    print(f"wrote {file}: {written.runs} runs, predictions of {written.predictions}, {size:.1f} MB")
    if not options.no_open:
        browser.show(file)
