"""Boundary temperature scaling: p = S(x / T), 1/T(v) = sum_k w_k phi_k(v), phi_k hat functions of the distance to the
predicted boundary, of the neighbours' mean entropy, or of both, shared by all classes or with a table for each.

The NLL is convex in w, so the fit is an optimum: Newton under the bounds w >= `LEAST` times an even share, certified.
It is shrunk, by lambda towards the mean over classes and by mu of that mean towards temperature scaling
(`segcal.methods.boundary.problem`); mu = lambda where there is one table, else `SHARED` lambda, so that classes that
are rare follow the field that the others have in common. Strengths as in `segcal.methods.strengths`. Within the
calibration halves of real ensembles three knots or ten change the NLL by at most .0005 (docs/results/boundary.md).

Distances are in mm, and knots in voxels of the cohort's middle case, where the scores of every case come with a spacing
(it has to be known where there are no labels, too); else, or with unit="voxels", in voxels. Ignored voxels are decided
like any other and may lie beside a boundary: where a calibrator is applied, nobody knows which they are. A case without
a boundary: the last knot. Tables of rows: ShapeError. Source: ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from segcal.data.cohort import Cohort
from segcal.data.files.reading import shown
from segcal.data.surroundings import check_neighbours
from segcal.engine.ask import Ask, Level
from segcal.engine.need import HANDED, Need
from segcal.errors import UsageError
from segcal.fitting.evaluation import Vector
from segcal.fitting.plans import Binding, Plan, Subset, Task
from segcal.fitting.solvers.bounded import BoundedNewton, bounded_gap
from segcal.fitting.solvers.query import Solved
from segcal.methods.boundary.look import GROUPINGS, MOST_REACH, Grouping, Look
from segcal.methods.boundary.map import BoundaryMap
from segcal.methods.boundary.on_top import base_of, on_top
from segcal.methods.boundary.problem import BoundaryProblem, shrinkage
from segcal.methods.boundary.sums import BoundaryNLL, Looked
from segcal.methods.composed import Composed
from segcal.methods.maps import PartMap
from segcal.methods.method import FittedMap, Method
from segcal.methods.numbers import check_choices
from segcal.methods.parameterisation import ParameterCount
from segcal.methods.penalised import MODELS, NUMBER, PASSING
from segcal.methods.strengths import Chosen, Optimum, Shrunk, Walk
from segcal.methods.temperature import BETA, certificate

DISTANCES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Knots of the distance, in voxels."""

ENTROPIES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
"""Knots of the mean entropy, in parts of log C."""

SHARED = 0.1
"""mu in parts of lambda where classes have tables of their own."""

LEAST = BETA[0]
"""Smallest 1/T: that of temperature scaling."""

FAR = 1e2
"""Weights beyond this, in multiples of 1/T, are not bounded by the data."""


@dataclass(frozen=True)
class BoundaryTemperatureScaling(Shrunk):
    """Boundary temperature scaling: p = S(z / T), 1/T a sum of hat functions of the distance to the predicted boundary,
    exact.

    `of`: what T is read off, the "distance", the neighbours' mean "entropy", or "both"; `by`: one table for "all"
    classes, one for each "side" (background or not), or one for each predicted "class"; `unit` of distances: "mm",
    "voxels", or "auto": mm where the scores of every case come with a spacing; `on`: another method, whose
    probabilities T divides, fitted first; `outputs`: for cases its fit did not see, fold by fold, or for those it was
    fitted on; `knots` of the distance, in voxels; `reach`: voxels on each side whose entropy counts; `slice_axis`:
    spatial axis of a volume that planes of neighbours are slices of. `lambda_`, `mu`, `eps` as `Shrunk`: see the
    module. UsageError for values out of range.
    """

    name: ClassVar[str] = "bts"
    evaluations: ClassVar[int] = 180
    of: Literal["distance", "entropy", "both"] = field(
        default="distance", metadata={"help": "what T is read off: distance, entropy (of the neighbours), or both"}
    )
    by: Grouping = field(
        default="all", metadata={"help": "one table of temperatures for all classes, one a side, or one a class"}
    )
    unit: Literal["auto", "mm", "voxels"] = field(
        default="auto", metadata={"help": "of distances; auto: mm where scores come with a voxel size"}
    )
    on: str = field(
        default="",
        metadata={"help": "a method, such as cms-op, that is fitted first and whose answer T divides"},
    )
    outputs: Literal["held-out", "fitted"] = field(
        default="held-out",
        metadata={"help": "of that method: held-out (its fit did not see the case) or fitted"},
    )
    knots: tuple[float, ...] = DISTANCES
    reach: int = field(default=1, metadata={"help": "voxels on each side whose entropy counts; 0: a voxel's own alone"})
    slice_axis: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(
            self,
            of=("distance", "entropy", "both"),
            by=GROUPINGS,
            unit=("auto", "mm", "voxels"),
            outputs=("held-out", "fitted"),
            reach=range(MOST_REACH + 1),
            slice_axis=(0, 1, 2),
        )
        if not _rising(self.knots):
            raise UsageError(
                "knots",
                found=shown(self.knots),
                expected="two numbers of 0 or more at least, each above the one before",
                do="Leave it out for the default.",
            )
        if self.on:
            base_of(self.on)

    @classmethod
    def variants(cls) -> Mapping[str, Mapping[str, Any]]:
        """By what T is read off, and for whom."""
        return {
            "bts": {"of": "distance", "by": "all"},
            "bts-class": {"of": "distance", "by": "class"},
            "bts-both": {"of": "both", "by": "class"},
        }

    @property
    def method(self) -> str:
        """`bts-both` where entropies are looked at, `bts-class` where classes have tables of their own."""
        if self.of != "distance":
            return "bts-both"
        return "bts" if self.by == "all" else "bts-class"

    @property
    def what(self) -> str:
        """With what T is read off."""
        read = {
            "distance": "distance to the predicted boundary",
            "entropy": "entropy around",
            "both": "distance to the predicted boundary and entropy around",
        }[self.of]
        own = {"all": "", "side": ", for background and the rest", "class": ", for each predicted class"}[self.by]
        return f"Boundary temperature scaling: p = S(z / T), 1/T linear in hat functions of the {read}{own}"

    def drawn(self, classes: int) -> PartMap | None:
        """With random weights, in voxels."""
        weight = 0.2 + torch.rand(self._size(classes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        field = BoundaryMap(weight, self._anywhere, classes)
        first = None if self._base is None else self._base.drawn(classes)
        return field if first is None else Composed(first, field)

    def identifiable(self, classes: int) -> int:
        """All weights; of two quantities a constant may move from one table to the other, a group at a time."""
        own = self._size(classes) - (self._anywhere.numbers - 1) * self._anywhere.groups(classes)
        return own + (0 if self._base is None else self._base.identifiable(classes))

    def counted(self, classes: int) -> ParameterCount | None:
        """Weights, and the parameters of what they stand on."""
        own = ParameterCount(self._size(classes), self.identifiable(classes), self._size(classes), math.inf)
        if self._base is None:
            return own
        first = self._base.counted(classes)
        return None if first is None else replace(own, optimised=own.optimised + first.optimised, exact=None)

    def contexts(self, task: Task) -> frozenset[Looked]:
        """Distances, entropies."""
        return frozenset(Looked(one, task.part) for one in self._at(task).quantities)

    def check(self, cohort: Cohort) -> None:
        """Voxels must lie somewhere."""
        super().check(cohort)
        check_neighbours(cohort, self.slice_axis, 0 if self.of == "distance" else self.reach)

    def need(self, task: Task) -> Need:
        """Curvature in all weights, of every subset at once."""
        matrix, live = NUMBER * self._size(task.classes) ** 2, len(self._walked(task))
        own = Need((live * (2 + MODELS) + PASSING) * matrix, (2 * HANDED * live + PASSING) * matrix)
        return own if self._base is None else own + self._base.need(task)

    def plan(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """The optimum on every subset, of the scores or of what another method makes of them."""
        base = self._base
        if base is None:
            return (yield from self.exact(task))
        return (yield from on_top(self.on, base, self.exact, task, held_out=self.outputs == "held-out"))

    def bias_strength(self, lambda_: float) -> float:
        """mu: of the field that all classes share."""
        if self.mu is None or self.mu == "cv":
            return lambda_ if self.by == "all" else SHARED * lambda_
        return float(self.mu)

    def path(self, task: Task, subset: Subset, walk: Walk) -> Plan[dict[float, Vector]]:
        """Ends are weights."""
        theta, ends = self.temperature_end(task, walk.beta), {}
        for strength in walk.strengths:
            problem = self._problem(task, strength, walk.beta, walk.extra)
            steps = BoundedNewton(tolerance=walk.tolerance, certify=math.inf).solve(
                theta - problem.least, bounded_gap(problem.penalty.convexity)
            )
            solved = yield from Binding(task, subset, Level.SAMPLE, Level.CURVATURE, problem).run(steps)
            theta = ends[strength] = problem.least + solved.theta
        return ends

    def nll_asks(self, task: Task, beta: float, end: Vector, level: Level) -> Mapping[Hashable, Ask]:
        """One ask."""
        del beta
        return {"nll": Ask(BoundaryNLL(self._at(task), task.part, tuple(end.tolist()), 0), task.part, level=level)}

    def optimum(self, task: Task, subset: Subset, scale: Solved, lambda_: float, start: Vector) -> Plan[Optimum]:
        """Newton on all voxels, whose curvature costs no more than their gradient."""
        problem = self._problem(task, lambda_, float(scale.theta[0]))
        steps = BoundedNewton(rough=False).solve(start - problem.least, bounded_gap(problem.penalty.convexity))
        solved = yield from Binding(task, subset, Level.ALL, Level.ALL, problem).run(steps)
        end = problem.least + solved.theta
        nll = solved.value - problem.penalty.value(end)
        return Optimum(end, solved.value, nll, certificate(solved), solved.converged, solved.notes)

    def temperature_end(self, task: Task, beta: float) -> Vector:
        """The same temperature everywhere."""
        look = self._at(task)
        return np.asarray(np.maximum(look.spread(beta, task.classes).numpy(), LEAST / look.numbers))

    def mean_end(self, ends: Sequence[Vector], weights: Sequence[float]) -> Vector:
        """Mean weights."""
        return np.asarray(np.average(ends, axis=0, weights=weights))

    def map_at(self, task: Task, end: Vector) -> BoundaryMap:
        """All weights."""
        return BoundaryMap(torch.from_numpy(end.copy()), self._at(task), task.classes)

    def remarks(self, task: Task, end: Vector, scale: Solved) -> tuple[bool, list[str]]:
        """Weights that go beyond all bounds."""
        far = float(end.max()) * self._at(task).numbers / float(scale.theta[0])
        if far <= FAR or scale.notes:
            return False, []
        return True, [f"1/T reaches {far:.3g} times that of temperature scaling: {self.unbounded('all voxels right')}"]

    def temperature_map(self, task: Task, scale: Solved, chosen: Chosen) -> FittedMap:
        """The same weight everywhere."""
        end = self.temperature_end(task, float(scale.theta[0]))
        return FittedMap(self.map_at(task, end), self.at_temperature(scale, chosen, task.unit, []))

    @property
    def _base(self) -> Method | None:
        return base_of(self.on) if self.on else None

    @property
    def _anywhere(self) -> Look:
        """What is looked at, wherever that is."""
        return self._look(1.0 if self.unit == "mm" else None, 0)

    def _size(self, classes: int) -> int:
        return self._anywhere.size(classes)

    def _at(self, task: Task) -> Look:
        """What is looked at in the cases of a task."""
        if self.by == "side" and task.background is None:
            raise UsageError(
                "by",
                found="'side' for classes none of which is the background",
                expected="a background, whose side is told from the other",
                do="Name it with --background, or take by='class'.",
            )
        return self._look(task.voxel_size, task.background)

    def _look(self, voxel_size: float | None, background: int | None) -> Look:
        """What is looked at in a cohort whose voxels have this size, in mm."""
        if self.unit == "mm" and voxel_size is None:
            raise UsageError(
                "unit",
                found="'mm' for scores that come without a voxel spacing",
                expected="a spacing beside the scores of every case",
                do="Leave it out: distances are then in voxels.",
            )
        mm = self.unit != "voxels" and voxel_size is not None
        size = voxel_size if mm and voxel_size is not None else 1.0
        return Look(
            tuple(size * float(knot) for knot in self.knots) if self.of != "entropy" else (),
            ENTROPIES if self.of != "distance" else (),
            self.by,
            mm and self.of != "entropy",
            0 if background is None else background,
            self.slice_axis,
            self.reach,
        )

    def _problem(self, task: Task, lambda_: float, beta: float, extra: float = 0.0) -> BoundaryProblem:
        look = self._at(task)
        penalty = shrinkage(look, task.classes, beta, lambda_, self.bias_strength(lambda_), self.eps + extra)
        return BoundaryProblem(look, task.part, penalty, LEAST / look.numbers)


def _rising(knots: object) -> bool:
    if not (isinstance(knots, tuple) and len(knots) >= 2 and all(isinstance(k, Real) for k in knots)):
        return False
    return knots[0] >= 0 and all(a < b for a, b in itertools.pairwise(knots)) and math.isfinite(knots[-1])
