"""The fonts of a PDF: those of matplotlib, cut down once for all figures.

A PDF holds the letters that it shows. To take them out of a font of 6,000 takes longer than all drawing.
"""

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fontTools import subset
from matplotlib.font_manager import FontProperties, findfont

SIZE = 10  # of all text, in pixels
USUAL = frozenset(map(chr, range(32, 127))) | frozenset("±−·×…≈▲▼●○≡")


class Fonts(NamedTuple):
    normal: FontProperties
    bold: FontProperties


@contextmanager
def holding(texts: Iterable[str]) -> Iterator[Fonts]:
    """Fonts that have every letter of ``texts``, while this lasts."""
    letters = USUAL.union(*texts)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for weight in ("normal", "bold"):
            files.append(Path(folder) / f"{weight}.ttf")
            files[-1].write_bytes(_cut(weight, letters))
        yield Fonts(*(FontProperties(fname=file, size=SIZE) for file in files))


@cache
def _cut(weight: str, letters: frozenset[str]) -> bytes:
    """The file of a font with these letters alone, each by itself."""
    options = subset.Options(layout_features=[], hinting=False, notdef_outline=True)
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "kern", "FFTM"]
    font = subset.load_font(findfont(FontProperties(family="DejaVu Sans", weight=weight)), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=sorted(map(ord, letters)))
    subsetter.subset(font)
    stream = io.BytesIO()
    font.save(stream)
    font.close()
    return stream.getvalue()
