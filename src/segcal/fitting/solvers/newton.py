"""Newton with a model of the curvature, for a smooth convex function that is dear to evaluate.

The curvature may come from a sample of the data (`rough`) and is then corrected by BFGS updates from the exact
gradients of the steps made, so that convergence is superlinear although the exact curvature is never formed. Armijo
backtracking; the value never rises beyond rounding. Stops when the predicted gain of a step is below `tolerance`, or
when rounding ends the descent, which it says; of the points that rounding cannot tell apart it returns the best
certified. The certificate is the caller's: it knows how convex its objective is (`strong_convexity_gap`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from segcal.fitting.solvers.descent import ROUNDING, Ending, backtrack
from segcal.fitting.solvers.query import Evaluated, Query, Steps, Vector

STALLS = 2
"""Failures of a model formed from a sample before the curvature is taken from everything."""


@dataclass(frozen=True)
class Newton:
    """Stops when a step's predicted gain is below `tolerance` and the certified gap below `certify`. `rough`: take
    curvature from a sample.

    `refresh`: form the curvature anew after a step along which the gradient changed unlike the model by more than this
    share; where a model just formed fails so `STALLS` times in a row, the sample is not telling and exact curvature is
    asked for.
    """

    tolerance: float = 1e-14
    certify: float = 1e-9
    most: int = 300
    rough: bool = True
    refresh: float = 0.3

    def solve(
        self, start: Vector, gap: Callable[[Vector, Vector], tuple[float, str]], model: Vector | None = None
    ) -> Steps:
        """Minimise from `start` (d,).

        `gap(theta, gradient)` bounds what remains and names its proof; `model` (d, d) is a curvature to begin with.
        """
        x = np.asarray(start, float)
        if model is None:
            both = yield self._queries(x)
            found, model, formed_here = both["f"], _curvature_of(both), True
        else:
            found, formed_here = (yield {"f": Query(x, 1)})["f"], False
        ending = Ending(self.tolerance, self.certify, gap)
        count, stalls = 1, 0
        said: tuple[bool, tuple[str, ...]] = (False, ("stopped at the limit of steps",))
        while count < self.most:
            direction = _descent(model, found.gradient)
            gain = -float(found.gradient @ direction) / 2
            if (notes := ending.reached(x, found, gain)) is not None:
                said = (True, notes)
                break
            trial, answer, step, taken = yield from backtrack(x, found, direction, gain, self.most - count)
            count += taken
            if answer is None:
                if count >= self.most:
                    break
                scale = max(1.0, abs(found.value))
                if formed_here or gain <= 1e-15 * scale:
                    said = (gain <= 1e-12 * scale, (ROUNDING,))
                    break
                stalls += 1
                both = yield self._queries(x, self.rough and stalls < STALLS)
                count += 1
                found, model, formed_here = both["f"], _curvature_of(both), True
                continue
            moved, change = trial - x, answer.gradient - found.gradient
            surprise = float(np.linalg.norm(change - step * (model @ direction))) / max(
                float(np.linalg.norm(change)), 1e-300
            )
            x, found = trial, answer
            if surprise > self.refresh and gain > 1e3 * self.tolerance:
                stalls = stalls + 1 if formed_here else 0
                model, formed_here = _curvature_of((yield {"h": Query(x, 2, self.rough and stalls < STALLS)})), True
            else:
                model, formed_here = bfgs(model, moved, change), False
        return ending.solved(x, found, count, said, model=model)

    def _queries(self, x: Vector, rough: bool | None = None) -> dict[str, Query]:
        return (
            {"f": Query(x, 1), "h": Query(x, 2, True)}
            if (self.rough if rough is None else rough)
            else {"f": Query(x, 2)}
        )


def _curvature_of(answers: Mapping[str, Evaluated]) -> Vector:
    found = answers["h"] if "h" in answers else answers["f"]
    assert found.curvature is not None
    return np.asarray(found.curvature)


def _descent(model: Vector, gradient: Vector) -> Vector:
    """-model^-1 gradient, damped as little as makes the model positive definite; in variables that give it a unit
    diagonal, so that units do not matter.
    """
    diagonal = np.diag(model)
    unit = 1 / np.sqrt(np.where(diagonal > 0, diagonal, max(float(diagonal.max()), 1.0)))
    scaled = model * unit[:, None] * unit
    damping = 0.0
    while True:
        try:
            factor = scipy.linalg.cho_factor(scaled + damping * np.eye(len(gradient)))
        except np.linalg.LinAlgError:
            damping = max(10 * damping, 1e-14)
            continue
        step: Vector = -unit * scipy.linalg.cho_solve(factor, unit * gradient)
        return step


def bfgs(model: Vector, moved: Vector, change: Vector) -> Vector:
    """BFGS update of the curvature from one step; left as it is where the step saw no curvature."""
    along = float(moved @ change)
    pushed = model @ moved
    seen = float(moved @ pushed)
    if along <= 1e-12 * float(np.linalg.norm(moved) * np.linalg.norm(change)) or seen <= 0:
        return model
    return model - np.outer(pushed, pushed) / seen + np.outer(change, change) / along


def strong_convexity_gap(curvature: Vector, box: float = 1e4) -> Callable[[Vector, Vector], tuple[float, str]]:
    """A rigorous bound from the penalty's own curvature (d, d), or its diagonal (d,) where it has no more: gap <= g'
    curvature^-1 g / 2.

    Where that is singular: convexity within |theta| <= `box`.
    """
    proof = "strong convexity of the penalty"
    if curvature.ndim == 1 and (curvature > 0).all():
        return lambda theta, g: (float((g / curvature) @ g / 2), proof)
    try:
        if curvature.ndim == 1:
            raise np.linalg.LinAlgError
        factor = scipy.linalg.cho_factor(curvature)
    except np.linalg.LinAlgError:
        return lambda theta, g: (float(np.abs(g) @ (np.abs(theta) + box)), f"convexity within |theta| <= {box:g}")
    return lambda theta, g: (float(g @ scipy.linalg.cho_solve(factor, g) / 2), proof)
