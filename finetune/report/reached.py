"""The gradient that reaches saturated, suppressed and faint scores, as a table of a report."""

import math
from collections.abc import Sequence

from finetune.config.schema import BASELINE
from finetune.records.diagnostics import Diagnostics, Snapshot
from finetune.records.run import is_number
from finetune.report import cells
from finetune.report.plots.series import Sampled, known

HEADING = "Gradient that reaches saturated and suppressed scores"
ZONES = {"saturated": "p > {:g}", "suppressed": "p < {:g}", "faint": "p < {:g} / n"}


def reached(sampled: Sequence[Sampled], functions: Sequence[str]) -> cells.Cells:
    """Lists the scores of each zone and the L2 norm of dLoss/dscore over them under each of ``functions``.

    Of each variant its first run, at its first, middle and last look; a norm is over all layers, and stands
    beside its ratio to that of softmax, at the same scores and the same gradient from above.
    """
    rows = [["attention", "step", "scores", "share", *functions]]
    for each in sampled:
        for look in each.looks():
            rows += [[each.variant, str(look["step"]), *row] for row in _zones(each.runs[0], look, functions)]
    return rows if len(rows) > 1 else []


def _zones(run: Diagnostics, look: Snapshot, functions: Sequence[str]) -> list[list[str]]:
    """A row a zone: what it is, its share of the scores, the norms; none where no layer has norms."""
    everything = sum(known(look, "counts", "all"))
    if not everything or not any("norm" in layer for layer in look["layers"]):
        return []
    rows = []
    for zone, mark in ZONES.items():
        limit = run.get(zone)
        if is_number(limit):
            norms = {name: known(look, "norm", name, zone) for name in functions}
            sizes = {name: math.hypot(*values) if values else None for name, values in norms.items()}
            shown = [
                _size(size, None if name == BASELINE else sizes.get(BASELINE)) for name, size in sizes.items()
            ]
            share = sum(known(look, "counts", zone)) / everything
            rows.append([f"{zone}, {mark.format(limit)}", f"{100 * share:.2g}%", *shown])
    return rows


def _size(norm: float | None, stock: float | None) -> str:
    """``1.2e-05 (1.83 x)``."""
    if norm is None:
        return "-"
    return f"{norm:.2g} ({norm / stock:.3g} x)" if stock else f"{norm:.2g}"
