"""Safeguarded Newton for a convex function of one bounded variable.

Keeps a bracket of the minimiser from the signs of the slope; a step that leaves it is replaced by the bracket's middle
(in the logarithm). Certificate, by convexity: gap <= |slope| * width of the bracket. A flat function (slope and
curvature 0) stays at its start and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segcal.fitting.solvers.query import Query, Solved, Steps

_CONSTANT = "the objective does not depend on the temperature: all scores are equal"
_FLAT = "the objective is flat from here on: the data do not bound the temperature"


@dataclass(frozen=True)
class ScalarNewton:
    """On [low, high], 0 < low; until the certified gap is below `certify` and a step's predicted gain below
    `tolerance`.
    """

    low: float = 1e-4
    high: float = 1e4
    certify: float = 1e-10
    tolerance: float = 1e-16
    most: int = 100

    def solve(self, start: float) -> Steps:
        """Minimise from `start`."""
        low, high, x = self.low, self.high, min(max(start, self.low), self.high)
        best = (x, np.inf, np.inf)
        notes: tuple[str, ...] = ()
        converged, count = False, 0
        while count < self.most:
            found = (yield {"f": Query(np.array([x]), 2)})["f"]
            count += 1
            assert found.curvature is not None
            slope, curvature = float(found.gradient[0]), float(found.curvature[0, 0])
            if abs(slope) <= abs(best[2]):
                best = (x, found.value, slope)
            # flat: doubling x would change the value by less than exact sums of few terms resolve
            if abs(slope) * x <= 1e-11 * max(1.0, abs(found.value)) and curvature * x**2 <= 1e-11:
                constant = count == 1 and curvature * x**2 <= 1e-20
                notes, converged = (_CONSTANT if constant else _FLAT,), True
                break
            if (x >= self.high and slope <= 0) or (x <= self.low and slope >= 0):
                side = "upper" if x >= self.high else "lower"
                best, notes, converged = (
                    (x, found.value, 0.0),
                    (f"the {side} bound of 1/T is active: the data do not bound it",),
                    True,
                )
                break
            if slope > 0:
                high = min(high, x)
            else:
                low = max(low, x)
            settled = curvature > 0 and best[2] ** 2 <= 2 * curvature * self.tolerance
            if (settled and abs(best[2]) * (high - low) <= self.certify) or high - low <= 1e-14 * high:
                converged = True
                break
            step = -slope / curvature if curvature > 0 else np.inf * -np.sign(slope)
            # a small step with the bracket still wide open ahead goes twice as far: it lands beyond the minimum and
            # closes the bracket
            ahead = high - x if step > 0 else x - low
            x = self._inside(
                x + (2 * step if abs(step) < 1e-3 * x and ahead > 8 * abs(step) else step), low, high, count
            )
        gap = abs(best[2]) * (high - low)
        notes = notes if converged else ("stopped at the limit of steps",)
        return Solved(
            np.array([best[0]]), best[1], abs(best[2]), gap, "convexity on the bracket", converged, count, notes=notes
        )

    def _inside(self, x: float, low: float, high: float, count: int) -> float:
        """The step itself, at most tenfold; the bracket's middle, or an end of the interval that was never tried, where
        it leaves the bracket.
        """
        x = min(max(x, low / 10, self.low), high * 10, self.high)
        if low < x < high:
            return x
        tried = low > self.low and high < self.high
        return float(np.sqrt(low * high)) if tried or count < 3 else (self.high if x >= high else self.low)
