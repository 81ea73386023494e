"""Newton on the probability simplex, for a convex function of a few weights.

Each step minimises the quadratic model over the simplex by trying every face (seven for three weights), then backtracks
along the segment, so iterates stay feasible and the value never rises beyond rounding. Certificate (Frank-Wolfe): gap
<= max over corners e of gradient . (weights - e), rigorous by convexity.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from segcal.fitting.solvers.query import Evaluated, Query, Solved, Steps, Vector


@dataclass(frozen=True)
class SimplexNewton:
    """Until the Frank-Wolfe gap is at most `tolerance` in units of the objective."""

    tolerance: float = 1e-12
    most: int = 100

    def solve(self, start: Vector) -> Steps:
        """Minimise from `start`, weights >= 0 that sum to one."""
        x = np.asarray(start, float)
        found: Evaluated = (yield {"f": Query(x, 2)})["f"]
        count = 1
        while count < self.most:
            gap = self._gap(x, found)
            if gap <= self.tolerance:
                return Solved(x, found.value, float(np.abs(found.gradient).max()), gap, "Frank-Wolfe", True, count)
            direction = self._model(x, found) - x
            slope = float((found.gradient - found.gradient @ x) @ direction)
            if slope >= 0:
                return Solved(
                    x, found.value, float(np.abs(found.gradient).max()), gap, "Frank-Wolfe", gap <= 1e-9, count
                )
            step = 1.0
            while count < self.most:
                trial = np.maximum(x + step * direction, 0)
                trial /= trial.sum()
                answer = (yield {"f": Query(trial, 2)})["f"]
                count += 1
                if _finite(answer) and (
                    answer.value <= found.value + 1e-4 * step * slope or self._polishes(trial, answer, found, gap)
                ):
                    x, found = trial, answer
                    break
                if step < 1e-10 or -slope <= 1e-15 * max(1.0, abs(found.value)):
                    return Solved(
                        x,
                        found.value,
                        float(np.abs(found.gradient).max()),
                        gap,
                        "Frank-Wolfe",
                        gap <= 1e-9,
                        count,
                        notes=("rounding ends the descent",),
                    )
                step /= 4
        gap = self._gap(x, found)
        return Solved(
            x,
            found.value,
            float(np.abs(found.gradient).max()),
            gap,
            "Frank-Wolfe",
            gap <= self.tolerance,
            count,
            notes=("stopped at the limit of steps",),
        )

    def proven(self, x: Vector) -> Steps:
        """The certificate of given weights, by one evaluation."""
        found = (yield {"f": Query(x, 2)})["f"]
        return Solved(x, found.value, float(np.abs(found.gradient).max()), self._gap(x, found), "Frank-Wolfe", True, 1)

    @classmethod
    def _polishes(cls, trial: Vector, answer: Evaluated, found: Evaluated, gap: float) -> bool:
        """Whether values agree to rounding and the certified gap shrinks by at least half: there the gap decides."""
        return (
            abs(answer.value - found.value) <= 1e-14 * max(1.0, abs(found.value)) and cls._gap(trial, answer) <= gap / 2
        )

    @staticmethod
    def _gap(x: Vector, found: Evaluated) -> float:
        return max(0.0, float(found.gradient @ x - found.gradient.min()))

    @staticmethod
    def _model(x: Vector, found: Evaluated) -> Vector:
        """Minimiser over the simplex of g.(y - x) + (y - x) H (y - x) / 2, by faces."""
        assert found.curvature is not None
        n = len(x)
        h = found.curvature + 1e-12 * np.trace(found.curvature) / n * np.eye(n)
        # a constant in the gradient changes nothing on the simplex; without it, differences from x keep their digits
        gradient = found.gradient - found.gradient @ x
        linear = gradient - h @ x
        best, best_value = x, np.inf
        for size in range(1, n + 1):
            for face in combinations(range(n), size):
                index = np.array(face)
                system = np.zeros((size + 1, size + 1))
                system[:size, :size] = h[np.ix_(index, index)]
                system[:size, size] = system[size, :size] = 1
                weights = np.linalg.lstsq(system, np.append(-linear[index], 1.0), rcond=None)[0][:size]
                if (weights < -1e-12).any():
                    continue
                y = np.zeros(n)
                y[index] = np.maximum(weights, 0)
                y /= y.sum()
                value = float(gradient @ (y - x) + (y - x) @ h @ (y - x) / 2)
                if value < best_value:
                    best, best_value = y, value
        return best


def _finite(found: Evaluated) -> bool:
    """Whether a model can be made here: on the border a voxel may have no probability left."""
    return bool(
        np.isfinite(found.value)
        and np.isfinite(found.gradient).all()
        and found.curvature is not None
        and np.isfinite(found.curvature).all()
    )
