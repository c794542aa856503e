"""What all plots share: their size, the look of each variant, and how they lie on their axes."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, NullLocator

from finetune.config.schema import BASELINE
from finetune.report.plots.colors import COLORS, INK, LINE, MUTED, SERIES, class_of
from finetune.report.plots.drawing import Drawing
from finetune.report.plots.fonts import SIZE
from finetune.system.text import clean

WIDTH, HEIGHT = 340, 190  # CSS pixels: what a phone shows at full size
ROW, STRIP = 40, 24  # of what lies below each other: pixels a row, and from its top to what is drawn
LETTER = 6.2  # pixels that a letter takes, about; the font is the reader's
LINE_HEIGHT = 14  # of one line of text
AROUND = 9 + 2 * LINE_HEIGHT  # above and below the axes of one panel that has no title
SIDE, GAP = 12, 10  # pixels right of the axes, where half of a tick's label may stand, and between panels
MARKERS, DASHES = "osD^vPX", ("-", "--", "-.", ":")
DASH_ARRAYS = {"-": "none", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}
SHAPES = {
    "o": "M18 2.5a3.5 3.5 0 1 0 .01 0z", "s": "M15 3h6v6h-6z", "D": "M18 2l4 4-4 4-4-4z",
    "^": "M18 2l4 7.5h-8z", "v": "M18 10l4-7.5h-8z",
    "P": "M16.5 2h3v2.5H22v3h-2.5V10h-3V7.5H14v-3h2.5z", "X": "M14 2h8l-8 8h8z",
}  # fmt: skip
STYLE: dict[str, Any] = {
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.size": SIZE,
    "text.color": INK,
    "figure.frameon": False,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlesize": SIZE,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "axes.titlepad": 5,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


@dataclass(frozen=True)
class Look:
    """How one variant is drawn; color, marker and dash each distinguish it from most others."""

    color: str
    marker: str
    dash: str


@dataclass(frozen=True)
class Plot:
    """A drawing with its caption, and the looks in it that a legend explains."""

    drawing: Drawing
    caption: str
    looks: Mapping[str, Look] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.drawing.key

    @property
    def heading(self) -> str:
        return self.drawing.title

    @cached_property
    def svg(self) -> Markup:
        """Its element in a page, where a legend is beside it."""
        return self.drawing.page()

    def alone(self) -> Drawing:
        """What a file of its own holds: the drawing, its legend, and its caption among its words."""
        about = f"{self.drawing.description}. {self.caption}"
        drawing = replace(self.drawing, description=about)
        return drawing.above(_legend(self.looks)) if self.looks else drawing


class Palette:
    """One look for each name in the whole page."""

    def __init__(self, names: Iterable[str]) -> None:
        self._looks: dict[str, Look] = {}
        for name in (BASELINE, *names):
            self[name]

    def __getitem__(self, name: str) -> Look:
        """The look of ``name``; the next free one where it is new."""
        if name not in self._looks:
            number = len(self._looks)
            color = (number - 1) % COLORS + 1 if number else 0
            dash = DASHES[max(0, number - 1) // COLORS % len(DASHES)]
            marker = MARKERS[number % len(MARKERS)]
            self._looks[name] = Look(SERIES[color], marker, dash)
        return self._looks[name]


def swatch(look: Look) -> Markup:
    """A line with a marker, for a legend beside plots; without axes, and so without matplotlib."""
    return Markup(
        '<svg class="swatch {}" viewBox="0 0 36 12" aria-hidden="true"><path d="M0 6H36" stroke-width="2" '
        'stroke-dasharray="{}"/><path d="{}"/></svg>'
    ).format(class_of(look.color), DASH_ARRAYS[look.dash], SHAPES[look.marker])


def draw(
    key: str,
    heading: str,
    label: str,
    caption: str,
    paint: Callable[[list[Axes]], None],
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    grid: tuple[int, int] = (1, 1),
    sharey: bool = False,
    looks: Mapping[str, Look] | None = None,
) -> Plot:
    """Has ``paint`` draw on ``grid`` (rows, columns) axes; ``looks`` are those that need a legend.

    ``key`` is unique in a report and names the plot's files. ``size`` is in CSS pixels. ``label`` says in
    words what is drawn, for readers who cannot see it.
    """
    # From the defaults, and so without a matplotlibrc of the working folder, which could have TeX run.
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # The reader's font draws the text, not the one that matplotlib measures with.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        axes = figure.subplots(*grid, squeeze=False, sharex=True, sharey=sharey)
        paint(list(axes.flat))
        _arrange(figure, axes)
        return Plot(Drawing.of(figure, key, heading, label), caption, dict(looks or {}))


def _legend(looks: Mapping[str, Look]) -> Drawing:
    """A line with a marker for each name, as many beside each other as fit."""
    places, x, y = [], 2.0, LINE_HEIGHT / 2
    for name in map(clean, looks):
        wide = 26 + LETTER * len(name)
        if x + wide > WIDTH and x > 2:
            x, y = 2.0, y + LINE_HEIGHT
        places.append((name, x, y))
        x += wide + GAP
    height = y + LINE_HEIGHT
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        axis.set_axis_off()
        for (name, x, y), look in zip(places, looks.values(), strict=True):
            axis.plot([x, x + 22], [y, y], look.dash, color=look.color, linewidth=2)
            axis.plot(x + 11, y, look.marker, color=look.color, markersize=5)
            axis.text(x + 26, y + 3.5, name)
        return Drawing.of(figure, "legend", "Legend", "")


def name_row(
    axis: Axes, y: float, name: str, value: str = "", *, bold: bool = False, color: str = MUTED
) -> None:
    """The name of a row in a line of its own above it, and its value at the end of that line."""
    where = axis.get_yaxis_transform()
    room = int(WIDTH / LETTER) - len(value) - 2
    shown = clean(name)
    if len(shown) > room:  # its end tells it from others as often as its beginning does
        shown = f"{shown[: room // 2 - 1]}…{shown[-room // 2 :]}"
    axis.text(0, y, shown, transform=where, fontweight="bold" if bold else "normal")
    if value:
        axis.text(1, y, value, transform=where, ha="right", color=color)


def only_rows(axis: Axes, pixels: float) -> None:
    """A vertical axis of ``pixels`` downward, of which nothing is shown."""
    axis.set_ylim(pixels, 0)
    axis.set_yticks([])
    axis.grid(False)


def number(value: float, _: Any = None) -> str:
    """The label of a tick, with a minus sign that is one.

    >>> number(-0.50), number(1e-06)
    ('−0.5', '1e−6')
    """
    return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


class OneTwoFive(Locator):
    """Ticks of a logarithmic axis: at powers of ten; also at 2 and 5 times these where that is few."""

    MOST = 6

    def __call__(self) -> list[float]:
        low, high = sorted(self.axis.get_view_interval())  # type: ignore[union-attr]
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            ticks = [factor * 10.0**power for power in powers for factor in factors]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) <= self.MOST:
                return ticks
        return ticks[:: math.ceil(len(ticks) / self.MOST)]


def log_scale(axis: Axes) -> None:
    """Logarithmic upward."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(OneTwoFive())
    axis.yaxis.set_minor_locator(NullLocator())


def by_step(axis: Axes, **labels: str) -> None:
    """The training steps across, from the start; once every line is drawn on this and all axes beside it."""
    axis.set_xlim(left=0)
    axis.set(xlabel="step", **labels)


def _arrange(figure: Figure, axes: Any) -> None:
    """Places the axes, and above and below them what they are of.

    The room for their labels comes of counted letters: to have matplotlib measure text takes longer than all
    else. What is drawn upward stands above the axes, and not turned beside them.
    """
    width, height = figure.bbox.size
    rows, columns = axes.shape
    shown = [axis for axis in axes.flat if axis.get_visible()]
    titled = any(axis.get_title(loc="left") for axis in shown)
    upward = axes[0][0].get_ylabel()
    inner = any(axis.xaxis.get_tick_params()["labelbottom"] for axis in axes[:-1].flat)
    top = 4 + LINE_HEIGHT * (bool(upward) + titled)
    bottom = 5 + LINE_HEIGHT * (1 + any(axis.get_xlabel() for axis in shown))
    between = GAP + LINE_HEIGHT * (titled + inner)
    high = (height - top - bottom - between * (rows - 1)) / rows

    def place(left: float) -> None:
        wide = (width - left - SIDE - GAP * (columns - 1)) / columns
        for at, axis in np.ndenumerate(axes):
            x, y = left + at[1] * (wide + GAP), height - top - high - at[0] * (high + between)
            axis.set_position((x / width, y / height, wide / width, high / height))

    for axis in shown:
        axis.yaxis.set_major_formatter(FuncFormatter(number))
    place(SIDE)  # how many ticks there are depends on the room that they have
    place(max(_labels_left(axis) for axis in axes[:, 0]))
    for axis in shown:
        if label := axis.get_xlabel():
            box = axis.get_position()
            middle = (box.x0 + box.x1) / 2
            figure.text(middle, box.y0 + (5 - bottom) / height, clean(label), ha="center", color=MUTED)
            axis.set_xlabel("")
    if upward:
        figure.text(1 / width, 1 - (LINE_HEIGHT - 3) / height, clean(upward), color=MUTED)
        axes[0][0].set_ylabel("")


def _labels_left(axis: Axes) -> float:
    """The room that the labels of the ticks upward take."""
    low, high = sorted(axis.get_ylim())
    ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
    return max([LETTER * len(number(tick)) + 6 for tick in ticks if axis.get_visible()], default=2)
