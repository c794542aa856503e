"""The axis of differences: tenths can be told apart on it, and no value lies outside."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.axes import Axes

from finetune.report.plots.figures import WIDTH, number

LINEAR = 4.0  # times the unit: an axis that reaches no further is linear throughout
SHARE = 0.5  # of the axis for the linear part of one that reaches further
FEWEST = 34.0  # pixels from one tick to the next
PAD = 0.04  # of the axis, left and right of all that is drawn


@dataclass(frozen=True)
class Scale:
    """Linear between plus and minus ``unit``, logarithmic beyond; linear throughout where ``unit`` is None.

    ``low`` and ``high`` are what it reaches, in reported units.
    """

    low: float
    high: float
    unit: float | None

    @classmethod
    def over(cls, values: Iterable[float], unit: float) -> "Scale":
        """The axis of ``values`` of which differences of ``unit`` must still be easy to tell apart."""
        known = [0.0, *values]
        low, high = min(known), max(known)
        if max(-low, high) <= LINEAR * unit:
            return cls(min(low, -unit), max(high, unit), None)
        return cls(min(low, -1.2 * unit), max(high, 1.2 * unit), unit)

    def at(self, value: float) -> float:
        """Where a value lies: 0 for the left end, 1 for the right."""
        left, right = self._stretched(self.low), self._stretched(self.high)
        return PAD + (1 - 2 * PAD) * (self._stretched(value) - left) / (right - left)

    def ticks(self, pixels: float) -> list[float]:
        """Round values with room for their labels on an axis that is so wide; 0 is one of them."""
        if self.unit is None:
            step = next(
                size
                for size in _rounded(self.high - self.low)
                if (self.at(size) - self.at(0)) * pixels >= FEWEST
            )
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            return [step * number for number in range(first, last + 1)]
        # The ends of the linear part come first, then the outermost of each side, then what has room between.
        outer = [size for size in _rounded(max(-self.low, self.high)) if size > self.unit]
        candidates = [sign * size for size in (self.unit, self.unit / 2) for sign in (1, -1)]
        for side in (1, -1):
            inside = [side * size for size in outer if self.low <= side * size <= self.high]
            candidates += [*inside[-1:], *inside]
        ticks = [0.0]
        for value in candidates:
            if all(abs(self.at(value) - self.at(tick)) * pixels >= FEWEST for tick in ticks):
                ticks.append(value)
        return sorted(ticks)

    def across(self, axis: Axes, label: str, center: float = 0.0) -> None:
        """Makes this the axis to the right, with the labels of values around ``center``."""
        ticks = self.ticks(WIDTH)
        axis.set_xlim(0, 1)
        axis.set_xticks([self.at(tick) for tick in ticks], [number(center + tick) for tick in ticks])
        around = number(center) if center else ""
        beyond = f" (logarithmic beyond {around}±{number(self.unit)})" if self.unit else ""
        axis.set_xlabel(f"{label}{beyond}")

    def _stretched(self, value: float) -> float:
        """A value on the linear part as it is, in units; beyond it, its decades, each as long as fits."""
        if self.unit is None:
            return value
        units = value / self.unit
        if abs(units) <= 1:
            return units
        return math.copysign(1 + self._decade * math.log10(abs(units)), units)

    @property
    def _decade(self) -> float:
        """The length of a decade beside a unit's, which gives the linear part its share of the axis."""
        assert self.unit is not None
        decades = sum(math.log10(max(1.0, end / self.unit)) for end in (-self.low, self.high))
        return 2 * (1 - SHARE) / SHARE / decades


def telling(differences: Iterable[float], margins: Iterable[float]) -> float:
    """What must be told apart on an axis: twice the margin, or else differences of the usual size."""
    margins = list(margins)
    sizes = [2 * max(margins)] if margins else sorted(abs(each) for each in differences if each) or [1.0]
    return nice(sizes[len(sizes) // 2])


def nice(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten.

    >>> nice(0.3), nice(5), nice(1001)
    (0.5, 5.0, 2000.0)
    """
    return next(size for size in _rounded(value, reach=0) if size >= value * (1 - 1e-9))


def _rounded(value: float, reach: int = 4) -> list[float]:
    """1, 2 and 5 times powers of ten, from ``reach`` powers below ``value`` to above it."""
    power = math.floor(math.log10(value))
    return [float(f"{factor}e{each}") for each in range(power - reach, power + 2) for factor in (1, 2, 5)]
