"""Rows that see one key, rows with all scores near 0 and the largest gradients, as a table of a report."""

from collections.abc import Sequence

from finetune.records.diagnostics import Diagnostics, Snapshot
from finetune.report import cells
from finetune.report.plots.series import Sampled, known

HEADING = "Rows with one key, and rows with all scores near 0"


def extents(sampled: Sequence[Sampled], functions: Sequence[str]) -> cells.Cells:
    """Counts these rows, with the largest |dLoss/dscore| under each of ``functions``.

    Of each variant its first run, at its first, middle and last look, over all layers.
    """
    rows = [["attention", "step", "rows", "one key", "M - m near 0", "least M - m", *functions]]
    for each in sampled:
        for look in each.looks():
            rows += [[each.variant, str(look["step"]), *row] for row in _row(each.runs[0], look, functions)]
    return rows if len(rows) > 1 else []


def _row(run: Diagnostics, look: Snapshot, functions: Sequence[str]) -> list[list[str]]:
    """One row; none in a file of a version that counted no such rows."""
    count = sum(known(look, "extent", "rows"))
    if not count or "narrow" not in run:
        return []
    shares = [f"{100 * sum(known(look, 'extent', name)) / count:.2g}%" for name in ("single", "narrow")]
    sizes = [known(look, "largest", name) for name in functions]
    return [
        [
            f"{count:,.0f}",
            shares[0],
            f"{shares[1]} below {run['narrow']:g}",
            f"{min(known(look, 'extent', 'least')):.2g}",
            *(f"{max(found):.2g}" if found else "-" for found in sizes),
        ]
    ]
