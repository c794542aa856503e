"""matplotlib -> SVG that stands in a page: readable in its light and its dark theme, and on a phone.

Colors are drawn as placeholders and become the page's CSS variables; text stays text; ids are unique.
"""

import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from finetune.config.schema import BASELINE
from finetune.system.text import clean

WIDTH, HEIGHT = 340, 200  # CSS pixels: what a phone shows at full size
ROW = 40  # of one variant among several below each other, its name above its line
LONGEST = 34  # letters of a name that fit above its line
LONGEST_HEADING = 54  # letters where no value stands on the same line
# matplotlib takes no CSS variable for a color: these stand for them. Black itself would be left out.
INK, MUTED, LINE = "#000003", "#000001", "#000002"  # text, lesser text, rules
MARKERS, DASHES = "osD^vPX", ("-", "--", "-.", ":")
NUMBERS = ("d", "x", "y", "width", "height")  # attributes that hold coordinates
COLORS = 7  # of variants but the baseline; further ones take them again with other dashes
_SERIES = [f"#0001{number:02x}" for number in range(COLORS + 1)]
_DEPTHS = [f"#0002{percent:02x}" for percent in range(101)]
CSS = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)"}
CSS |= {color: f"var(--variant-{number})" for number, color in enumerate(_SERIES)}
CSS |= {
    color: f"color-mix(in srgb, var(--deep) {percent}%, var(--shallow))"
    for percent, color in enumerate(_DEPTHS)
}
DASH_ARRAYS = {"-": "none", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}
SHAPES = {
    "o": "M18 2.5a3.5 3.5 0 1 0 .01 0z", "s": "M15 3h6v6h-6z", "D": "M18 2l4 4-4 4-4-4z",
    "^": "M18 2l4 7.5h-8z", "v": "M18 10l4-7.5h-8z",
    "P": "M16.5 2h3v2.5H22v3h-2.5V10h-3V7.5H14v-3h2.5z", "X": "M14 2h8l-8 8h8z",
}  # fmt: skip
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.h_pad": 0.04,
}


@dataclass(frozen=True)
class Plot:
    """A drawing with its heading and caption."""

    svg: Markup
    heading: str
    caption: str


@dataclass(frozen=True)
class Look:
    """How one variant is drawn; color, marker and dash each distinguish it from most others."""

    color: str
    marker: str
    dash: str


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
            self._looks[name] = Look(_SERIES[color], marker, dash)
        return self._looks[name]


def swatch(look: Look) -> Markup:
    """A line with a marker, for a legend beside plots; without axes, and so without matplotlib."""
    style = f"stroke: {CSS[look.color]}; fill: {CSS[look.color]}"
    return Markup(
        '<svg viewBox="0 0 36 12" aria-hidden="true" style="{}"><path d="M0 6H36" stroke-width="2" '
        'stroke-dasharray="{}"/><path d="{}"/></svg>'
    ).format(style, DASH_ARRAYS[look.dash], SHAPES[look.marker])


def depth(share: float) -> str:
    """The color of a layer, 0 for the first to 1 for the last."""
    return _DEPTHS[round(100 * min(1.0, max(0.0, share)))]


def draw(
    key: str,
    label: str,
    paint: Callable[[list[Axes]], None],
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    grid: tuple[int, int] = (1, 1),
    sharey: bool = False,
) -> Markup:
    """Has ``paint`` draw on ``grid`` (rows, columns) axes; the SVG, for a page in which ``key`` is unique.

    ``size`` is in CSS pixels. ``label`` says in words what is drawn, for readers who cannot see it.
    """
    # From the defaults, and so without a matplotlibrc of the working folder, which could have TeX run.
    with style.context(["default", STYLE | {"svg.hashsalt": key}]), warnings.catch_warnings():
        # The page's font draws the text, not the one that matplotlib measures with.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        axes = figure.subplots(*grid, squeeze=False, sharex=True, sharey=sharey)
        paint(list(axes.flat))
        stream = io.StringIO()
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    return _inline(stream.getvalue(), key, label)


def name_row(axis: Axes, name: str, value: str, y: float, *, bold: bool = False) -> None:
    """The name of a row above it, its value at the end of the same line."""
    where = axis.get_yaxis_transform()
    most, weight = (LONGEST_HEADING, "bold") if bold else (LONGEST, "normal")
    shown = name if len(name) <= most else f"{name[: most - 1]}…"
    axis.text(0, y + 0.3, clean(shown), transform=where, fontsize=10, va="bottom", fontweight=weight)
    axis.text(1, y + 0.3, value, transform=where, fontsize=10, va="bottom", ha="right", color=MUTED)


def log_scale(axis: Axes) -> None:
    """Logarithmic, with tick labels that need no mathematical type."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(numticks=5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def by_step(axis: Axes, **labels: str) -> None:
    """The training steps across, from the start; once every line is drawn on this and all axes beside it."""
    axis.set_xlim(left=0)
    axis.set(xlabel="step", **labels)


def only_rows(axis: Axes, count: int) -> None:
    """One unit of height for each row; no vertical axis."""
    axis.set_ylim(-count + 0.5, 0.75)
    axis.set_yticks([])
    axis.grid(axis="x", color=LINE)
    axis.spines["left"].set_visible(False)
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=6)


def _inline(text: str, key: str, label: str) -> Markup:
    """Turns matplotlib's file into an element of a page, with the page's colors and font."""
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) == "style"]:
            parent.remove(child)  # it would hold for the whole page; page.css has the same for figures
    attributes = [{_local(name): value for name, value in element.attrib.items()} for element in root.iter()]
    # matplotlib makes these names from the hash salt, which is the key, and so no two figures share one.
    named = {each["href"].removeprefix("#") for each in attributes if "href" in each}
    named |= {each["clip-path"][len("url(#") : -1] for each in attributes if "clip-path" in each}
    for element, values in zip(root.iter(), attributes, strict=True):
        element.tag = _local(element.tag)
        element.attrib.clear()
        for name, value in values.items():
            if name == "style":
                declared = (declaration.partition(": ") for declaration in value.split("; "))
                # Placeholders become the page's colors; the font of a text is the page's.
                kept = (
                    f"{what}: {CSS.get(color, color)}" for what, _, color in declared if what != "font-family"
                )
                element.set(name, "; ".join(kept))
            elif name in NUMBERS:
                # Hundredths of a pixel are enough and a third of the size; letters of a path stay.
                words = (f"{float(word):.2f}" if "." in word else word for word in value.split())
                element.set(name, " ".join(words))
            # matplotlib turns all text, most of it by nothing
            elif not (name == "id" and value not in named) and not value.startswith("rotate(-0 "):
                element.set(name, value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", clean(label))
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """A name without its XML namespace, which HTML does not write."""
    return name.rpartition("}")[2]
