"""Margins of equivalence: how small is too small to matter, absolute or a share of the baseline's score."""

import math
import re
from dataclasses import dataclass

from finetune.errors import UserError


@dataclass(frozen=True)
class Margin:
    """Differences below it do not matter to the user; the same in both directions."""

    size: float  # in reported units or, where it is relative, a share of the baseline's score
    relative: bool = False

    def of(self, score: float) -> float:
        """In reported units, where the baseline scores ``score``.

        >>> Margin(0.5).of(90.0), Margin(0.01, relative=True).of(50.0)
        (0.5, 0.5)
        """
        return self.size * abs(score) if self.relative else self.size

    @property
    def text(self) -> str:
        """As a user types it: ``0.5``, ``1%``."""
        return f"{100 * self.size:g}%" if self.relative else f"{self.size:g}"


def parse(text: str) -> Margin:
    """Reads ``0.5`` or ``1%``; raises ``UserError`` for what is no number above 0.

    >>> parse("1%")
    Margin(size=0.01, relative=True)
    """
    number, percent = text.strip().removesuffix("%").rstrip(), text.rstrip().endswith("%")
    size = float(number) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", number, re.I) else math.nan
    if not 0 < size < math.inf:
        raise UserError(
            f"a margin is a number above 0 in the units of the metric, or a share of softmax's score, not "
            f"'{text.strip()}': type 0.5, 1% or accuracy=0.5"
        )
    if percent and size >= 100:
        raise UserError(f"a margin of {number}% of softmax's score leaves nothing out: give less than 100%")
    return Margin(size / 100, relative=True) if percent else Margin(size)
