"""Every figure of a report as files of its own, SVG and PDF, for papers and slides."""

from collections.abc import Iterable
from pathlib import Path, PurePath

from finetune.errors import UserError
from finetune.report.plots import fonts
from finetune.report.plots.figures import Plot
from finetune.system.files import write_bytes, write_text

FOLDER, INDEX = "figures", "index.txt"  # in the folder of a report, and there
KINDS = (".svg", ".pdf")


def write_figures(plots: Iterable[Plot], folder: Path) -> Path:
    """Writes ``figures/NAME.svg`` and ``.pdf`` of each plot into the ``folder`` of a report.

    The index, whose path is returned, has a line for each: its name, what it shows, its caption. Figures of
    an earlier index that are no more are removed; nothing else is. Raises ``UserError`` where a file cannot
    be written.
    """
    figures, index = list(plots), folder / FOLDER / INDEX
    gone = _listed(index) - {plot.name for plot in figures}
    lines = [f"{plot.name}\t{plot.heading}\t{plot.caption}\n" for plot in figures]
    # Listed first, so that what is broken off leaves no figure that a later report would not know.
    write_text(index, [*lines, *(f"{name}\n" for name in sorted(gone))])
    drawings = [plot.alone() for plot in figures]
    with fonts.holding(label.text for drawing in drawings for label in drawing.labels) as held:
        for drawing in drawings:
            write_text(index.with_name(f"{drawing.key}.svg"), [drawing.file()])
            write_bytes(index.with_name(f"{drawing.key}.pdf"), [drawing.pdf(held)])
    for name in gone:
        for kind in KINDS:
            index.with_name(f"{name}{kind}").unlink(missing_ok=True)
    return write_text(index, lines)


def _listed(index: Path) -> set[str]:
    """The names in an index of before; only of files that lie beside it."""
    try:
        lines = index.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {index}, the list of the figures of an earlier report: {error}"
        ) from error
    names = {line.partition("\t")[0] for line in lines}
    return {name for name in names if name and PurePath(name).name == name}
