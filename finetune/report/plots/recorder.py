"""What matplotlib draws, recorded as lines and texts in a few numbers, for any form of a figure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_hex
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Transform

TENTHS = 10  # of a CSS pixel: the unit of all coordinates that are kept
NEAR = 10  # tenths: a point that is as near to the one before it shows nothing
FLAT = 0.2  # pixels: so far may a point lie from the line that is drawn without it
Point = tuple[int, int]


class Stroke(NamedTuple):
    """How lines look, or shapes without a line."""

    color: str  # #rrggbb
    opacity: float
    width: float  # 0: filled
    dash: tuple[float, ...] = ()
    dots: bool = False  # each point is a round dot as wide as the line


class Line(NamedTuple):
    """Points to the right and down, in tenths of a pixel."""

    points: tuple[Point, ...]
    closed: bool = False


class Label(NamedTuple):
    """One line of text that begins at, is around, or ends at a point of its base line."""

    x: int
    y: int
    text: str
    color: str
    anchor: str  # left, center or right
    bold: bool


class Recorder(RendererBase):
    """Takes the place of a renderer of matplotlib; a pixel is a point of its 72 to the inch."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.lines: list[tuple[Stroke, list[Line]]] = []
        self.labels: list[Label] = []

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self.width, self.height

    def points_to_pixels(self, points: Any) -> Any:
        return points

    def draw_path(
        self,
        gc: GraphicsContextBase,
        path: Path,
        transform: Transform,
        rgbFace: Any = None,  # noqa: N803
    ) -> None:
        if rgbFace is not None:
            self._add(self._stroke(gc, rgbFace, filled=True), list(self._pieces(path, transform, None)))
        if gc.get_linewidth() and gc.get_rgb()[3]:
            clip = gc.get_clip_rectangle()
            # A line that is cut off by its axes needs no clipping later; a little beyond them it is whole.
            box = clip.padded(0.5).extents if clip else None
            self._add(self._stroke(gc, gc.get_rgb()), list(self._pieces(path, transform, box)))

    def draw_markers(  # noqa: PLR0917
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        rgbFace: Any = None,  # noqa: N803
    ) -> None:
        places = [self._point(*place) for place in trans.transform(path.vertices) if np.isfinite(place).all()]
        low, high = marker_path.get_extents(marker_trans).get_points()
        color = gc.get_rgb() if rgbFace is None else rgbFace
        width = gc.get_linewidth()
        if Path.CURVE4 in _codes(marker_path):  # round
            stroke = self._stroke(gc, color)._replace(
                width=round(float(high[0] - low[0]) + width, 1), dash=(), dots=True
            )
            self._add(stroke, [Line((place,)) for place in places])
            return
        # The marker's own line is of the same color: it is drawn larger instead.
        grown = 1 + width / max(1.0, float(max(high - low)))
        filled = rgbFace is not None and rgbFace[3] > 0
        for line in self._pieces(marker_path, marker_trans, None):
            shape = [(x, y - TENTHS * self.height) for x, y in line.points]
            moved = [
                Line(tuple((x + round(grown * dx), y + round(grown * dy)) for dx, dy in shape), filled)
                for x, y in places
            ]
            self._add(self._stroke(gc, gc.get_rgb(), filled=filled), moved)

    def draw_text(  # noqa: PLR0917
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: FontProperties,
        angle: float,
        ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:
        anchor = "left"
        if mtext is not None:  # where the text was asked to be, for its width is that of another font
            x, _ = mtext.get_transform().transform(mtext.get_unitless_position())
            anchor = mtext.get_horizontalalignment()
        bold = prop.get_weight() == "bold"
        self.labels.append(Label(round(TENTHS * x), round(TENTHS * y), s, to_hex(gc.get_rgb()), anchor, bold))

    def _stroke(self, gc: GraphicsContextBase, color: Any, *, filled: bool = False) -> Stroke:
        opacity = gc.get_alpha() if gc.get_forced_alpha() else (color[3] if len(color) > 3 else 1.0)
        dashes: Any = gc.get_dashes()[1] or ()
        dash = () if filled else tuple(round(float(each), 1) for each in dashes)
        width = 0.0 if filled else round(float(gc.get_linewidth()), 1)
        return Stroke(to_hex(color), round(float(opacity), 2), width, dash)

    def _add(self, stroke: Stroke, lines: list[Line]) -> None:
        """Adds ``lines``, to those before them where these look the same."""
        if not (lines and stroke.opacity):
            return
        if self.lines and self.lines[-1][0] == stroke:
            self.lines[-1][1].extend(lines)
        else:
            self.lines.append((stroke, lines))

    def _pieces(self, path: Path, transform: Transform, clip: Any) -> Iterator[Line]:
        """Lines of a path, without what would not be seen."""
        closed = Path.CLOSEPOLY in _codes(path)
        path = Path(path.vertices, path.codes)
        path.simplify_threshold = FLAT
        points: list[Point] = []
        for vertices, code in path.iter_segments(
            transform, remove_nans=True, clip=clip, simplify=not closed, curves=False
        ):
            if code == Path.MOVETO:
                if len(points) > 1:
                    yield Line(_thinned(points))
                points = [self._point(*vertices)]
            elif code == Path.LINETO:
                points.append(self._point(*vertices))
            elif code == Path.CLOSEPOLY and points:
                yield Line(tuple(points), closed=True)
                points = []
        if len(points) > 1:
            yield Line(_thinned(points))

    def _point(self, x: float, y: float) -> Point:
        return round(TENTHS * float(x)), round(TENTHS * (self.height - float(y)))


def _codes(path: Path) -> list[int]:
    return [] if path.codes is None else np.asarray(path.codes).tolist()


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    """The points of a line without those that are near the one before; its ends stay."""
    kept = points[:1]
    for point in points[1:-1]:
        if max(abs(point[0] - kept[-1][0]), abs(point[1] - kept[-1][1])) >= NEAR:
            kept.append(point)
    return (*kept, points[-1])
