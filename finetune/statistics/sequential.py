"""Group-sequential looks: seeds that are added until a difference is known, without more false alarms.

Whoever looks at the results after every few seeds, and stops when they are significant, is wrong far more
often than 5% of the time. So the seeds at which one looks are planned, and the 5% are spent look by look:
after the share t of the planned seeds, 5% times t^2 of them (the power family of Kim & DeMets 1987,
doi:10.1093/biomet/74.1.149; spending: Lan & DeMets 1983, doi:10.1093/biomet/70.3.659). The level of each look
is what is left for it, where the differences of seeds add up as a Brownian motion does; it is applied to the
p of any test of that look (Jennison & Turnbull 2000, Group Sequential Methods, sections 3.3 and 7). The noise
that all looks share, of the test rows, makes them more alike, which errs on the safe side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, special

from finetune.statistics.over_seeds import ALPHA

POINTS = 513  # of a density between two bounds; with 257 the levels differ by less than 1e-7


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds after which one looks: ``first``, then every ``step``, and ``most`` at the end."""

    first: int  # two or more
    most: int
    step: int = 2

    @property
    def seeds(self) -> tuple[int, ...]:
        """The number of seeds at each look, the last of them ``most``: (3, 5, 7, 8)."""
        return (*range(self.first, self.most, self.step), self.most)

    @property
    def levels(self) -> tuple[float, ...]:
        """The two-sided level of each look: a difference of equal methods is below it at any in 5%."""
        return _levels(self)

    def look_of(self, place: int) -> int:
        """The look, from 0, for which the seed at ``place``, from 0, is run."""
        return sum(count <= place for count in self.seeds)

    def level(self, seeds: int) -> float:
        """The level after so many seeds, those that failed too: that of the last look that they allow."""
        passed = sum(count <= seeds for count in self.seeds)
        return self.levels[max(0, passed - 1)]


def looks_of(plan: Mapping[str, Any]) -> Looks:
    """The looks of a configuration's ``until``."""
    return Looks(plan["first"], plan["most"], plan["step"])


@cache  # every variant of a table asks for those of one plan
def _levels(looks: Looks) -> tuple[float, ...]:
    shares = np.array(looks.seeds) / looks.most
    spent = np.diff(ALPHA * shares**2, prepend=0.0)
    levels: list[float] = []
    density: _Density | None = None
    for share, before, alpha in zip(shares, [0.0, *shares], spent, strict=False):
        bound = _bound(density, share, share - before, alpha)
        levels.append(2 * float(special.ndtr(-bound)))
        density = _going_on(density, bound * np.sqrt(share), share - before)
    return tuple(levels)


@dataclass(frozen=True)
class _Density:
    """A Brownian motion that has not crossed a bound yet: its density at ``points``, evenly spaced."""

    points: NDArray[np.float64]
    values: NDArray[np.float64]


def _bound(density: _Density | None, share: float, added: float, alpha: float) -> float:
    """The bound of |B(share)| / sqrt(share) that is crossed first at this look with probability ``alpha``."""
    if density is None:
        return float(-special.ndtri(alpha / 2))

    def crossed(bound: float) -> float:
        end, spread = bound * np.sqrt(share), np.sqrt(added)
        at = density.points
        beyond = special.ndtr((at - end) / spread) + special.ndtr((-end - at) / spread)
        return float(integrate.simpson(density.values * beyond, x=at))

    return float(optimize.brentq(lambda bound: crossed(bound) - alpha, 0.0, 12.0))


def _going_on(density: _Density | None, end: float, added: float) -> _Density:
    """The density of what stays within ``end`` at a look that comes ``added`` after the last."""
    points, spread = np.linspace(-end, end, POINTS), np.sqrt(added)
    if density is None:
        return _Density(points, np.exp(-((points / spread) ** 2) / 2) / spread / np.sqrt(2 * np.pi))
    steps = (points[:, None] - density.points) / spread
    kernel = np.exp(-(steps**2) / 2) / spread / np.sqrt(2 * np.pi)
    return _Density(points, integrate.simpson(density.values * kernel, x=density.points, axis=1))
