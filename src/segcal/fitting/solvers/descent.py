"""What descents share: how far to go along a direction, and when to end.

Armijo backtracking, the value never rises beyond rounding. A descent ends when a step's predicted gain is below its
tolerance and the certified gap below what is wanted, or when rounding ends it, which is said; of the points that
rounding cannot tell apart the best certified is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np

from segcal.fitting.solvers.query import Evaluated, Query, Solved, Vector

Gap = Callable[[Vector, Vector], tuple[float, str]]

POLISH = 8
"""Most steps whose predicted gain is below the rounding of the value: they can only tighten the certificate."""

ROUNDING = "rounding ends the descent"


@dataclass
class Ending:
    """Of one descent."""

    tolerance: float
    certify: float
    gap: Gap
    polished: int = 0
    best: tuple[float, Vector, Evaluated] | None = None

    def reached(self, x: Vector, found: Evaluated, gain: float) -> tuple[str, ...] | None:
        """What is to be said of an end at x, where a step promises `gain`; None: it is not reached."""
        if gain <= self.tolerance and (gain <= 1e-19 or self.gap(x, found.gradient)[0] <= self.certify):
            return ()
        if gain <= 1e-16 * max(1.0, abs(found.value)):
            self.polished += 1
            bound = self.gap(x, found.gradient)[0]
            if self.best is None or bound < self.best[0]:
                self.best = bound, x, found
            if self.polished > POLISH:
                return (ROUNDING,)
        return None

    def solved(
        self,
        x: Vector,
        found: Evaluated,
        count: int,
        said: tuple[bool, tuple[str, ...]],
        residual: Callable[[Vector, Vector], float] = lambda x, g: float(np.abs(g).max()),
        model: Vector | None = None,
    ) -> Solved:
        """The solution at x or the best before it; `said`: whether it converged, and notes."""
        if self.best is not None and self.best[0] < self.gap(x, found.gradient)[0]:
            x, found = self.best[1], self.best[2]
        bound, proof = self.gap(x, found.gradient)
        return Solved(x, found.value, residual(x, found.gradient), bound, proof, said[0], count, model, said[1])


def backtrack(
    x: Vector,
    found: Evaluated,
    direction: Vector,
    gain: float,
    most: int,
    feasible: Callable[[Vector], Vector] = lambda trial: trial,
) -> Generator[Mapping[str, Query], Mapping[str, Evaluated], tuple[Vector, Evaluated | None, float, int]]:
    """Along `direction`, in at most so many evaluations: where it was accepted and what was found there (None:
    nowhere), the step, and how many it took.
    """
    step, count, slope = 1.0, 0, float(found.gradient @ direction)
    while count < most and step > 1e-9:
        trial = feasible(x + step * direction)
        answer = (yield {"f": Query(trial, 1)})["f"]
        count += 1
        if accept(found, answer, direction, step, slope):
            return trial, answer, step, count
        step = shorter(found, answer, step, slope)
        if gain <= 1e-15 * max(1.0, abs(found.value)):
            break
    return x, None, step, count


def accept(old: Evaluated, new: Evaluated, direction: Vector, step: float, slope: float) -> bool:
    """Armijo's condition, or, where rounding hides it, a smaller slope along the step."""
    if not (np.isfinite(new.value) and np.isfinite(new.gradient).all()):
        return False
    if new.value <= old.value + 1e-4 * step * slope:
        return True
    # near the optimum values agree to rounding; there the slope along the step decides
    close = abs(new.value - old.value) <= 1e-13 * max(1.0, abs(old.value))
    return close and abs(float(new.gradient @ direction)) <= 0.9 * abs(slope)


def shorter(old: Evaluated, new: Evaluated, step: float, slope: float) -> float:
    """Minimiser of the parabola through what is known, kept within [0.1, 0.5] of the step."""
    if not np.isfinite(new.value):
        return 0.1 * step
    bend = new.value - old.value - step * slope
    return float(np.clip(-slope * step**2 / (2 * bend), 0.1 * step, 0.5 * step)) if bend > 0 else 0.5 * step
