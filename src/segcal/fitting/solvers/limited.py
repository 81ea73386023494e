"""Newton's method with a curvature that is never written down, for a smooth convex function of so many variables that a
matrix of them would not fit: limited-memory BFGS (Nocedal 1980; Liu and Nocedal 1989).

The last `memory` steps correct an approximate inverse curvature that the caller knows (`first`), scaled to the last of
them. Armijo backtracking as in `segcal.fitting.solvers.newton`, with its ends and its certificate: only the way there
is another, and takes more evaluations, each of a gradient alone. Memory: two vectors a remembered step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segcal.fitting.solvers.descent import ROUNDING, Ending, backtrack
from segcal.fitting.solvers.query import Evaluated, Query, Steps, Vector


@dataclass(frozen=True)
class LimitedNewton:
    """Stops when a step's predicted gain is below `tolerance` and the certified gap below `certify`, or when rounding
    ends the descent; after `most` evaluations it says that it was stopped.
    """

    tolerance: float = 1e-14
    certify: float = 1e-9
    most: int = 2000
    memory: int = 20

    def solve(
        self,
        start: Vector,
        gap: Callable[[Vector, Vector], tuple[float, str]],
        first: Callable[[Vector], Vector] = lambda gradient: gradient,
    ) -> Steps:
        """Minimise from `start` (d,). `gap(theta, gradient)` bounds what remains and names its proof; `first(gradient)`
        is the gradient times a positive definite guess of the inverse curvature.
        """
        x = np.asarray(start, float)
        found: Evaluated = (yield {"f": Query(x, 1)})["f"]
        ending, count = Ending(self.tolerance, self.certify, gap), 1
        said: tuple[bool, tuple[str, ...]] = (False, ("stopped at the limit of steps",))
        pairs: deque[tuple[Vector, Vector]] = deque(maxlen=self.memory)
        while count < self.most:
            direction = -inverse(pairs, first, found.gradient)
            gain, scale = -float(found.gradient @ direction) / 2, max(1.0, abs(found.value))
            if (notes := ending.reached(x, found, gain)) is not None:
                said = (True, notes)
                break
            trial, answer, _, taken = yield from backtrack(x, found, direction, gain, self.most - count)
            count += taken
            if answer is not None:
                moved, change = trial - x, answer.gradient - found.gradient
                if moved @ change > 1e-12 * float(np.linalg.norm(moved) * np.linalg.norm(change)):
                    pairs.append((moved, change))
                x, found = trial, answer
            elif count < self.most and pairs and gain > 1e-15 * scale:
                pairs.clear()  # what was remembered misleads
            elif count < self.most:
                said = (gain <= 1e-12 * scale, (ROUNDING,))
                break
        return ending.solved(x, found, count, said)


def inverse(pairs: deque[tuple[Vector, Vector]], first: Callable[[Vector], Vector], gradient: Vector) -> Vector:
    """The inverse curvature that `first` and the steps and changes of the gradient in `pairs`, latest last, amount to,
    times `gradient`: the two loops of Nocedal (1980).
    """
    q, along = gradient, []
    for moved, change in reversed(pairs):
        along.append(float(moved @ q) / float(moved @ change))
        q = q - along[-1] * change
    if pairs:
        moved, change = pairs[-1]
        seen = first(change)
        r = first(q) * (float(moved @ change) / float(change @ seen))
    else:
        r = first(q)
    for (moved, change), a in zip(pairs, reversed(along), strict=True):
        r = r + moved * (a - float(change @ r) / float(moved @ change))
    return np.asarray(r)
