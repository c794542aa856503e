"""A drawing of lines and texts in each of its forms: SVG in a page, and SVG and PDF as files of their own.

In a page, classes give the colors, and so its theme does; a file has the light ones, on white.
"""

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby, pairwise
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

from finetune.report.plots import colors
from finetune.report.plots.fonts import SIZE, Fonts
from finetune.report.plots.recorder import TENTHS, Label, Line, Point, Recorder, Stroke
from finetune.system.text import clean

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"  # of an SVG file, the first there is
ANCHORS = {"center": "middle", "right": "end"}


@dataclass(frozen=True)
class Drawing:
    """What was drawn, in order; all lines lie below all texts."""

    key: str  # unique among the figures of a report; names its files
    title: str
    description: str  # what is drawn, in words, for readers who cannot see it
    width: int  # CSS pixels; points in print
    height: int
    lines: Sequence[tuple[Stroke, Sequence[Line]]]
    labels: Sequence[Label]

    @classmethod
    def of(cls, figure: Figure, key: str, title: str, description: str) -> "Drawing":
        """Records a figure of 72 pixels to the inch."""
        width, height = (round(float(side)) for side in figure.bbox.size)
        recorder = Recorder(width, height)
        figure.draw(recorder)
        return cls(key, title, description, width, height, recorder.lines, recorder.labels)

    def above(self, other: "Drawing") -> "Drawing":
        """This one with another below it."""
        down = TENTHS * self.height
        lines = [
            (stroke, [Line(tuple((x, y + down) for x, y in line.points), line.closed) for line in group])
            for stroke, group in other.lines
        ]
        labels = [label._replace(y=label.y + down) for label in other.labels]
        return replace(
            self,
            height=self.height + other.height,
            lines=[*self.lines, *lines],
            labels=[*self.labels, *labels],
        )

    def page(self) -> Markup:
        """An element of a page whose style has ``colors.rules()``."""
        parts = [
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-labelledby="{self.key}-t {self.key}-d">'
            f'<title id="{self.key}-t">{_text(self.title)}</title>'
            f'<desc id="{self.key}-d">{_text(self.description)}</desc>'
        ]
        for stroke, lines in self.lines:
            kind = "f" if not stroke.width else "o" if stroke.dots else ""
            classes = f"{colors.class_of(stroke.color)} {kind}".strip()
            parts.append(f'<path class="{classes}"{_look(stroke)} d="{_data(lines)}"/>')
        for (color, anchor, bold), labels in groupby(self.labels, key=lambda label: label[3:]):
            aligned = {"left": "", "center": "c", "right": "e"}[anchor]
            classes = " ".join(filter(None, (colors.class_of(color), aligned, "b" if bold else "")))
            parts.append(f'<g class="{classes}">{_texts(labels)}</g>')
        return Markup("".join([*parts, "</svg>"]))

    def file(self) -> str:
        """The text of an SVG file."""
        size = f'width="{self.width}" height="{self.height}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {self.width} {self.height}"',
            f' role="img" aria-labelledby="t d" font-family="{FONTS}" font-size="{SIZE}" fill="none"',
            ' stroke-linejoin="round">',
            f'<title id="t">{_text(self.title)}</title><desc id="d">{_text(self.description)}</desc>',
            f'<rect {size} fill="#ffffff"/>',
        ]
        for stroke, lines in self.lines:
            painted = "stroke" if stroke.width else "fill"
            cap = ' stroke-linecap="round"' if stroke.dots else ""
            parts.append(f'<path {painted}="{stroke.color}"{cap}{_look(stroke)} d="{_data(lines)}"/>')
        for (color, anchor, bold), labels in groupby(self.labels, key=lambda label: label[3:]):
            aligned = f' text-anchor="{ANCHORS[anchor]}"' if anchor in ANCHORS else ""
            weight = ' font-weight="700"' if bold else ""
            parts.append(f'<g fill="{color}"{aligned}{weight}>{_texts(labels)}</g>')
        return "\n".join([*parts, "</svg>\n"])

    def pdf(self, fonts: Fonts) -> bytes:
        """The bytes of a PDF file of one page, with its fonts in it."""
        figure = Figure(figsize=(self.width / 72, self.height / 72), dpi=72)
        figure.add_artist(_Replay(self, fonts))
        stream = io.BytesIO()
        about = {
            "Title": clean(self.title),
            "Subject": clean(self.description),
            "CreationDate": None,
            "Creator": None,
            "Producer": None,
        }
        # TrueType, as journals ask for. A letter that the font lacks is a box.
        with rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
            figure.savefig(stream, format="pdf", metadata=about)
        return stream.getvalue()


class _Replay(Artist):
    """Draws a drawing on a renderer of matplotlib, whose vertical axis points up."""

    def __init__(self, drawing: Drawing, fonts: Fonts) -> None:
        super().__init__()
        self.drawing, self.fonts = drawing, fonts

    def draw(self, renderer: Any) -> None:
        top = self.drawing.height
        for stroke, lines in self.drawing.lines:
            gc = renderer.new_gc()
            gc.set_alpha(stroke.opacity)
            gc.set_foreground(stroke.color)
            gc.set_joinstyle("round")
            filled = stroke.dots or not stroke.width
            gc.set_linewidth(0 if filled else stroke.width)
            if stroke.dash:
                gc.set_dashes(0, stroke.dash)
            face = (*gc.get_rgb()[:3], stroke.opacity) if filled else None
            renderer.draw_path(gc, _path(stroke, lines, top), IdentityTransform(), face)
            gc.restore()
        for label in self.drawing.labels:
            gc = renderer.new_gc()
            gc.set_foreground(label.color)
            font = self.fonts.bold if label.bold else self.fonts.normal
            width, _, _ = renderer.get_text_width_height_descent(label.text, font, ismath=False)
            x = label.x / TENTHS - {"left": 0, "center": width / 2, "right": width}[label.anchor]
            renderer.draw_text(gc, x, top - label.y / TENTHS, label.text, font, 0)
            gc.restore()


def _path(stroke: Stroke, lines: Iterable[Line], top: int) -> Path:
    """One path of all ``lines``, upside down; of dots, circles."""
    pieces = []
    for line in lines:
        points = [(x / TENTHS, top - y / TENTHS) for x, y in line.points]
        if stroke.dots:
            pieces += [Path.circle(point, stroke.width / 2) for point in points]
        elif line.closed:
            pieces.append(Path([*points, points[0]], closed=True))
        else:
            pieces.append(Path(points))
    return Path.make_compound_path(*pieces)


def _text(words: str) -> str:
    return escape(clean(words))


def _look(stroke: Stroke) -> str:
    """Attributes of a line, where they are not the usual."""
    width = f' stroke-width="{stroke.width:g}"' if stroke.width not in (0, 1) else ""
    dash = f' stroke-dasharray="{" ".join(f"{each:g}" for each in stroke.dash)}"' if stroke.dash else ""
    return f"{width}{dash}" + (f' opacity="{stroke.opacity:g}"' if stroke.opacity < 1 else "")


def _texts(labels: Iterable[Label]) -> str:
    return "".join(
        f'<text x="{_number(label.x)}" y="{_number(label.y)}">{escape(label.text)}</text>' for label in labels
    )


def _data(lines: Iterable[Line]) -> str:
    """Path data: from each beginning, steps to the next point.

    >>> _data([Line(((5, 10), (25, 10), (25, -3)), closed=True), Line(((0, 0),))])
    'M.5 1h2v-1.3zM0 0h0'
    """
    return "".join(
        f"M{_joined(*line.points[0])}{_steps(line.points)}{'z' if line.closed else ''}" for line in lines
    )


def _steps(points: Sequence[Point]) -> str:
    steps, letter = [], ""
    for (x, y), (next_x, next_y) in pairwise(points):
        across, down = next_x - x, next_y - y
        if not down:
            steps.append(f"h{_number(across)}")
            letter = "h"
        elif not across:
            steps.append(f"v{_number(down)}")
            letter = "v"
        else:  # the letter holds for what follows
            step = _joined(across, down)
            apart = "" if letter != "l" else " " if step[0] != "-" else ""
            steps.append(f"{'l' if letter != 'l' else apart}{step}")
            letter = "l"
    return "".join(steps) or "h0"


def _joined(x: int, y: int) -> str:
    second = _number(y)
    return f"{_number(x)}{'' if second[0] == '-' else ' '}{second}"


def _number(tenths: int) -> str:
    """A number of pixels with at most one decimal, without zeros that say nothing.

    >>> _number(-5), _number(120), _number(0), _number(1234)
    ('-.5', '12', '0', '123.4')
    """
    whole, part = divmod(abs(tenths), TENTHS)
    digits = f"{whole or ''}.{part}" if part else str(whole)
    return f"-{digits}" if tenths < 0 else digits
