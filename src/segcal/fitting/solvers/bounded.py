"""Newton under bounds x >= 0, for a smooth convex function that is dear to evaluate and most of whose variables end at
their bound.

Each step minimises the quadratic model over the bounds; the curvature is asked for only where variables are or want to
be free, mostly from a sample (`rough`), and is corrected by BFGS updates from the exact gradients of the steps made.
Every trial point is feasible, Armijo backtracking, the value never rises beyond rounding. Stops when the predicted gain
of a step is below `tolerance` and the certificate below `certify`, or when rounding ends the descent, which it says.
`residual` of what is returned is the KKT residual max_i |min(x_i / unit_i, unit_i g_i)|, or |unit_i g_i| where g_i < 0,
with the units the caller gives (feature size one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from segcal.fitting.solvers.descent import ROUNDING, Ending, backtrack
from segcal.fitting.solvers.newton import STALLS, bfgs
from segcal.fitting.solvers.query import Evaluated, Query, Steps, Vector


@dataclass(frozen=True)
class BoundedNewton:
    """Options as for `Newton`."""

    tolerance: float = 1e-14
    certify: float = 1e-9
    most: int = 300
    rough: bool = True
    refresh: float = 0.3

    def solve(
        self, start: Vector, gap: Callable[[Vector, Vector], tuple[float, str]], unit: Vector | None = None
    ) -> Steps:
        """Minimise over x >= 0 from `start` (d,). `gap(x, gradient)` bounds what remains and names its proof."""
        x = np.maximum(np.asarray(start, float), 0)
        units = np.ones_like(x) if unit is None else unit
        known: NDArray[np.intp] = np.zeros(0, np.intp)
        model: Vector = np.zeros((0, 0))
        found: Evaluated = (yield {"f": Query(x, 1)})["f"]
        ending = Ending(self.tolerance, self.certify, gap)
        count, stale, stalls = 1, True, 0
        said: tuple[bool, tuple[str, ...]] = (False, ("stopped at the limit of steps",))
        while count < self.most:
            wanted = np.flatnonzero((x > 0) | (found.gradient < 0))
            if stale or not np.isin(wanted, known).all():
                known = wanted if stale else np.union1d(wanted, known)
                if len(known):
                    curved = (yield {"h": Query(x, 2, self.rough and stalls < STALLS, tuple(known.tolist()))})["h"]
                    assert curved.curvature is not None
                    model = np.asarray(curved.curvature)
                stale, fresh = False, True
            else:
                fresh = False
            direction = np.zeros_like(x)
            direction[known] = _step(model, found.gradient[known], x[known])
            slope = float(found.gradient @ direction)
            gain = -slope - float(direction[known] @ model @ direction[known]) / 2 if len(known) else 0.0
            if (notes := ending.reached(x, found, gain)) is not None:
                said = (True, notes)
                break
            left = self.most - count
            trial, answer, _, taken = yield from backtrack(x, found, direction, gain, left, lambda t: np.maximum(t, 0))
            count += taken
            if answer is None:
                if count >= self.most:
                    break
                scale = max(1.0, abs(found.value))
                if fresh or gain <= 1e-15 * scale:
                    said = (gain <= 1e-12 * scale, (ROUNDING,))
                    break
                stale, stalls = True, stalls + 1
                continue
            moved, change = trial - x, answer.gradient - found.gradient
            surprise = float(np.linalg.norm(change[known] - model @ moved[known])) / max(
                float(np.linalg.norm(change[known])), 1e-300
            )
            x, found = trial, answer
            if surprise > self.refresh and gain > 1e3 * self.tolerance:
                stale, stalls = True, stalls + 1 if fresh else 0
            else:
                model = bfgs(model, moved[known], change[known])
        return ending.solved(x, found, count, said, lambda x, g: kkt_residual(x, g, units))


def kkt_residual(x: Vector, gradient: Vector, unit: Vector) -> float:
    """The largest violation of x >= 0, g >= 0, x g = 0, in variables x / unit."""
    g = gradient * unit
    return float(np.where(g > 0, np.minimum(g, x / unit), -g).max(initial=0.0))


def _step(model: Vector, gradient: Vector, x: Vector) -> Vector:
    """Minimiser d of g d + d M d / 2 over x + d >= 0, by projected Newton on the small dense problem, in variables of
    unit curvature.
    """
    if not len(x):
        return np.zeros(0)
    diagonal = np.diag(model)
    unit = 1 / np.sqrt(np.where(diagonal > 0, diagonal, max(float(diagonal.max()), 1.0)))
    m, g, low = model * unit[:, None] * unit, gradient * unit, -x / unit
    d = np.zeros_like(x)
    slope, value = g, 0.0
    for _ in range(100):
        held = (d <= low + 1e-14) & (slope > 0)
        d[held] = low[held]
        free = np.flatnonzero(~held)
        slope = g + m @ d
        value = float((g + slope) @ d) / 2
        if not len(free) or float(np.abs(slope[free]).max()) <= 1e-13 * float(np.abs(g).max()):
            break
        towards = -_solve(m[np.ix_(free, free)], slope[free])
        t, moved = 1.0, False
        while t > 1e-10:
            trial = d.copy()
            trial[free] = np.maximum(d[free] + t * towards, low[free])
            new = g + m @ trial
            lower = float((g + new) @ trial) / 2
            if lower < value - 1e-4 * float(-slope[free] @ (trial - d)[free]):
                moved = True
                break
            t /= 2
        if not moved:
            break
        d, slope, value = trial, new, lower
    return np.asarray(np.maximum(d * unit, -x))


def _solve(matrix: Vector, right: Vector) -> Vector:
    """matrix^-1 right, damped as little as makes the matrix positive definite."""
    damping = 0.0
    while True:
        try:
            return np.asarray(
                scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix + damping * np.eye(len(right))), right)
            )
        except np.linalg.LinAlgError:
            damping = max(10 * damping, 1e-14)


def bounded_gap(convexity: Vector, box: float = 1e4) -> Callable[[Vector, Vector], tuple[float, str]]:
    """A rigorous bound over x >= 0, from lower bounds of the penalty's curvature along each variable (d,): minus the
    minimum of g (y - x) + w (y - x)^2 / 2, one by one.

    Where a curvature is zero: over y <= `box` there.
    """

    def bound(x: Vector, gradient: Vector) -> tuple[float, str]:
        curved = convexity > 0
        move = np.where(curved, -gradient / np.where(curved, convexity, 1.0), np.where(gradient > 0, -x, box))
        move = np.maximum(move, -x)
        return float(-(gradient * move + convexity * move**2 / 2).sum()), proof

    proof = (
        "strong convexity of the penalty, over the bounds"
        if (convexity > 0).all()
        else f"convexity, over 0 <= theta <= {box:g}"
    )
    return bound
