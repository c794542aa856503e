"""A result -> one figure for each width of a head: time and memory against length, on logarithmic axes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from finetune.bench.cases import MASK_TITLES
from finetune.bench.tables import device, groups, name
from finetune.system.text import clean

# One color a kernel, which differ in grey too (Okabe and Ito, 2008); marker and dashes tell the variants.
COLORS = {
    "sdpa": "#000000", "reference": "#E69F00", "blocked": "#56B4E9", "native": "#009E73", "triton": "#D55E00"
}  # fmt: skip
STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o", "linestyle": ":"}, {"marker": "s", "linestyle": "-"}, {"marker": "^", "linestyle": "--"},
    {"marker": "D", "linestyle": "-."}, {"marker": "v", "linestyle": (0, (1, 3))},
)  # fmt: skip

STYLE = {"svg.hashsalt": "finetune", "text.parse_math": False}  # a name with two dollar signs is a name


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """``attention-64.svg`` and ``.png`` in ``folder`` for heads of 64, and so on; the files."""
    if not result["attention"]:
        return []
    by_mask = groups(result["attention"]["rows"])
    files = []
    for width in dict.fromkeys(width for _, width in by_mask):
        panels = {mask: rows for (mask, of_width), rows in by_mask.items() if of_width == width}
        with style.context(["default", STYLE]):  # and so without a matplotlibrc of the working folder
            figure = _figure(result, panels, width)
            for kind in ("svg", "png"):
                files.append(folder / f"attention-{width}.{kind}")
                # No date and fixed names inside, so that the same result makes the same file.
                figure.savefig(files[-1], dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return files


def _figure(
    result: Mapping[str, Any], panels: Mapping[str, Sequence[Mapping[str, Any]]], width: int
) -> Figure:
    has_memory = {mask: any(row["memory_ratio"] for row in rows) for mask, rows in panels.items()}
    figure = Figure(figsize=(max(7.0, 3.6 * len(panels)), 7.2), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, sharex="col", sharey="row")
    for column, (mask, rows) in enumerate(panels.items()):
        _panel(axes[0][column], rows, lambda row: ((row["both"] or {}).get("ratio") or {}).get("median"))
        axes[0][column].set_title(MASK_TITLES[mask])
        if has_memory[mask]:
            _panel(axes[1][column], rows, lambda row: row["memory_mib"])
        else:
            axes[1][column].set_axis_off()
            axes[0][column].tick_params(labelbottom=True)
        axes[1 if has_memory[mask] else 0][column].set_xlabel("length (tokens)")
    axes[0][0].set_ylabel("time, forward and backward\n(ratio to SDPA)")
    axes[1][0].set_ylabel("peak extra memory (MiB)")
    rows = [row for each in panels.values() for row in each]
    figure.suptitle(
        f"Attention on {clean(device(result))}\n"
        f"{rows[0]['heads']} heads of {width}, {clean(rows[0]['dtype'])}, "
        f"{result['settings']['tokens']:,} tokens in a batch"
    )
    lines = {line.get_label(): line for each in axes.flat for line in each.get_lines()}
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _panel(
    axis: Axes, rows: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]
) -> None:
    """Draws a line for each implementation that has a figure."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for label in dict.fromkeys(map(name, rows)):
        same = [row for row in rows if name(row) == label]
        points = [(row["length"], figure) for row in same if (figure := value(row))]
        line = STYLES[variants.index(same[0]["variant"]) % len(STYLES)]
        color = COLORS.get(same[0]["kernel"], "#999999")
        if points:
            axis.plot(*zip(*points, strict=True), label=clean(label), markersize=5, color=color, **line)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        each.set_minor_formatter(NullFormatter())
    axis.grid(True, which="major", linewidth=0.4, alpha=0.6)
