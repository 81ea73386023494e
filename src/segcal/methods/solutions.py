"""What is said of a fit beyond its solver: what its rows hold whatever is fitted, a status that follows the
certificate, and one solution for all parts of a head.

`Overview` costs no pass of its own. No voxel: no class has a label, and the magnitude is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segcal.engine import accumulate
from segcal.engine.ask import Level
from segcal.fitting.labels import LabelCount
from segcal.fitting.magnitude import Magnitude
from segcal.fitting.plans import Plan, Subset, Task
from segcal.methods.calibrator import Solution

CERTIFIED = 1e-6
"""A fit is called optimal where what its certificate leaves open is at most this share of the objective."""


@dataclass(frozen=True)
class Overview:
    """What is known of a subset's rows whatever is fitted: classes without a label, and the mean over voxels of the
    largest |log-probability|.
    """

    absent: frozenset[int]
    magnitude: float


def overview(task: Task) -> Plan[dict[Subset, Overview]]:
    """An overview of each subset; waits for the first pass that somebody else needs."""
    count, magnitude = LabelCount(task.classes), Magnitude()
    found = yield {(s, a): task.ask(a, s, Level.ALL) for s in task.subsets for a in (count, magnitude)}
    return {
        s: Overview(
            frozenset(np.flatnonzero(accumulate.result(count, found[s, count]) == 0).tolist()),
            float(accumulate.result(magnitude, found[s, magnitude])),
        )
        for s in task.subsets
    }


def judged(s: Solution, sensitivity: float | None, magnitude: float) -> Solution:
    """The solution with a status that follows its certificate, and what rounding rows to float32 can hide from that.

    NLL changes by at most the map's `sensitivity` times the mean rounding, 2^-24 of the largest log-probability.
    """
    gap = s.certificate["gap"]
    if sensitivity is not None and gap is not None:
        s = replace(s, certificate={**s.certificate, "rounding": sensitivity * magnitude * 2.0**-24})
    if s.status != "optimal" or gap is None or gap <= CERTIFIED * max(s.objective, 1e-3):
        return s
    return replace(s, status="stopped", message=f"{s.message}; not proven optimal: the bound leaves {gap:.2g}")


def combined(solutions: Sequence[Solution], names: Sequence[str], passes: int) -> Solution:
    """One solution for all parts: means of objectives, the worst status, the largest gap."""
    if len(solutions) == 1:
        s = solutions[0]
        return Solution(s.objective, s.nll, s.status, s.message, passes, s.certificate, s.settings, s.selection)
    rank = ("optimal", "trained", "degenerate", "stopped")
    worst = max(solutions, key=lambda s: rank.index(s.status))
    loosest = max(solutions, key=lambda s: math.inf if s.certificate["gap"] is None else float(s.certificate["gap"]))
    n = len(solutions)
    return Solution(
        sum(s.objective for s in solutions) / n,
        sum(s.nll for s in solutions) / n,
        worst.status,
        "; ".join(f"{name}: {s.message}" for name, s in zip(names, solutions, strict=True)),
        passes,
        loosest.certificate,
        {},
        (),
        dict(zip(names, solutions, strict=True)),
    )
