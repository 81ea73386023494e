"""What vector, matrix, constrained matrix scaling and Dirichlet calibration share: one convex problem in [W | b],
penalised, solved to its optimum.

Options as in `segcal.methods.penalised`. At lambda = mu = 0 the methods nest (definitions 9.4) up to the ridge.
Certificate: rigorous by the strong convexity of penalty and ridge. Curvature of [W | b] has C^2 (C + 1)^2 numbers:
where every entry is free and there are more than `LIMITED` classes it is not formed, and the descent is one of limited
memory, to the same certificate (decision 20). A diagonal W has a curvature of its own, of 4 C^2 numbers, at any number
of classes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from segcal.engine import accumulate
from segcal.engine.ask import Ask, Level
from segcal.engine.need import HANDED, Need
from segcal.errors import ScoreError
from segcal.fitting.evaluation import Evaluation, Vector
from segcal.fitting.penalties import Penalty, odir, ridge, scaled_identity, towards_temperature
from segcal.fitting.plans import Binding, Plan, Subset, Task
from segcal.fitting.solvers.limited import LimitedNewton
from segcal.fitting.solvers.newton import Newton, strong_convexity_gap
from segcal.fitting.solvers.query import Query, Solved
from segcal.methods.affine.map import AffineMap, ConstrainedMatrix, Dirichlet, Matrix, VectorModule
from segcal.methods.affine.sums import AffineNLL, FactoredCurvature, Factors, VectorNLL
from segcal.methods.method import FittedMap
from segcal.methods.parameterisation import Parameterisation
from segcal.methods.penalised import EXTREME, MODELS, NUMBER, PASSING, Penalised, extent
from segcal.methods.strengths import PATH, Chosen, Optimum, Walk
from segcal.methods.temperature import certificate

FULL_CURVATURE = 5
"""Up to this many classes the exact curvature of all voxels, C^2 (C + 1)^2 numbers, costs little beside reading them.
"""

LIMITED = 24
"""Above this many classes no curvature of [W | b] is formed: its C^2 (C + 1)^2 numbers are 2.9 MB at 24 classes and 1.6
GB at 118, for every fit of a cross-validation at once."""


@dataclass(frozen=True, eq=False)
class AffineProblem:
    """NLL plus penalty in the variables of a family: [W | b] = design @ theta; without a design, its entries. `unit`:
    as for `AffineNLL`.
    """

    classes: int
    logits: bool
    design: Vector | None
    penalty: Penalty
    unit: float = 1.0

    def matrix(self, theta: Vector) -> Vector:
        """[W | b], flat."""
        return theta if self.design is None else np.asarray(self.design @ theta)

    def accumulator(self, query: Query) -> AffineNLL | VectorNLL:
        """The NLL at [W | b]."""
        return AffineNLL(self.classes, tuple(self.matrix(query.theta).tolist()), query.order, self.logits, self.unit)

    def evaluated(self, query: Query, found: Evaluation) -> Evaluation:
        """With the penalty, in the family's variables."""
        if found.curvature is not None and not np.isfinite(found.curvature).all():
            raise ScoreError(
                "scores",
                found="scores so large that sums of their squares overflow",
                expected="scores of a size that is not thousands of times their differences",
                do=(
                    "Fit a method that does not see a common offset (dc, ms-c, ts), or divide the scores by a constant"
                    " before fitting and applying."
                ),
            )
        matrix = self.matrix(query.theta)
        pull = self.penalty.gradient(matrix)
        gradient = self._of_data(found.gradient) + (pull if self.design is None else self.design.T @ pull)
        curvature = None if found.curvature is None else self._of_data(found.curvature) + self.convexity
        return Evaluation(found.value + self.penalty.value(matrix), gradient, curvature, found.voxels)

    def _of_data(self, found: Vector) -> Vector:
        """Gradient or curvature of the NLL in the family's variables."""
        if self.design is None:
            return found
        return np.asarray(self.design.T @ found if found.ndim == 1 else self.design.T @ found @ self.design)

    @property
    def convexity(self) -> Vector:
        """Curvature of the penalty in the family's variables."""
        if self.design is None:
            return np.diag(self.penalty.curvature)
        return np.asarray(self.design.T * self.penalty.curvature @ self.design)


class VectorProblem(AffineProblem):
    """NLL plus penalty of a and b, whose NLL is summed as such."""

    def accumulator(self, query: Query) -> VectorNLL:
        """The NLL at a and b."""
        return VectorNLL(self.classes, tuple(query.theta.tolist()), query.order, self.logits, self.unit)

    def _of_data(self, found: Vector) -> Vector:
        """As it is."""
        return found


@dataclass(frozen=True)
class PenalisedAffine(Penalised):
    """One affine map for all voxels."""

    problem: ClassVar[type[AffineProblem]] = AffineProblem

    @classmethod
    @abstractmethod
    def variables(cls, classes: int) -> int:
        """What the family varies in [W | b]."""

    @staticmethod
    @abstractmethod
    def design(classes: int) -> Vector | None:
        """(C (C + 1), d): how the family's variables make [W | b]; None: they are its entries."""

    @classmethod
    def summed(cls, classes: int) -> int:
        """Numbers whose curvature is summed over voxels: the entries of [W | b]."""
        return classes * (classes + 1)

    @classmethod
    def limited(cls, classes: int) -> bool:
        """Whether the descent is one of limited memory."""
        del classes
        return False

    @staticmethod
    @abstractmethod
    def entries(classes: int) -> int:
        """Free entries of W the penalty is averaged over."""

    @staticmethod
    @abstractmethod
    def on_logits(logits: bool) -> bool:
        """Whether it acts on raw logits, where they are known."""

    def need(self, task: Task) -> Need:
        """Curvature of what is summed, of every subset at once, and in the family's variables; of limited memory, the
        steps remembered, and an end for each strength.
        """
        if self.solver is not None:
            return Need()
        variables, live = self.variables(task.classes), len(self._walked(task))
        if self.limited(task.classes):
            kept = 2 * LimitedNewton.memory + len(PATH) + PASSING
            return Need(NUMBER * variables * live * kept, (HANDED * live + 3) * 3 * 2 * NUMBER * variables)
        summed = self.summed(task.classes)
        state, own = 2 * NUMBER * summed**2, NUMBER * variables**2
        design = NUMBER * task.classes * (task.classes + 1) * variables
        return Need(
            live * (state + MODELS * own) + PASSING * (NUMBER * summed**2 + own) + design, (HANDED * live + 3) * state
        )

    def path(self, task: Task, subset: Subset, walk: Walk) -> Plan[dict[float, Vector]]:
        """Ends are variables of the family."""
        theta, ends = self._start(task, walk.beta), {}
        if self.limited(task.classes):
            factors = yield from self._factors(task, subset, walk.beta)
            for strength in walk.strengths:
                problem = self._problem(task, strength, walk.beta, walk.extra)
                solver = LimitedNewton(tolerance=walk.tolerance, certify=np.inf)
                solved = yield from self._descent(task, subset, Level.SAMPLE, problem, solver, theta, factors)
                theta = ends[strength] = solved.theta
            return ends
        model: Vector | None = None
        for strength in walk.strengths:
            problem = self._problem(task, strength, walk.beta, walk.extra)
            # the data's curvature carries over from one strength to the next; only the penalty's changes
            begin = None if model is None else model + problem.convexity
            steps = Newton(tolerance=walk.tolerance, certify=np.inf).solve(
                theta, strong_convexity_gap(problem.convexity), begin
            )
            solved = yield from Binding(task, subset, Level.SAMPLE, Level.CURVATURE, problem).run(steps)
            theta = ends[strength] = solved.theta
            assert solved.model is not None
            model = solved.model - problem.convexity
        return ends

    def nll_asks(self, task: Task, beta: float, end: Vector, level: Level) -> Mapping[Hashable, Ask]:
        """One ask."""
        return {"nll": Ask(self._problem(task, 0.0, beta).accumulator(Query(end, 0)), task.part, level=level)}

    def optimum(self, task: Task, subset: Subset, scale: Solved, lambda_: float, start: Vector) -> Plan[Optimum]:
        """Newton on all voxels; above a few classes the curvature comes from a sample. With limited memory, fits that
        cases are held out of end by the gain that a step promises, without a certificate.
        """
        beta = float(scale.theta[0])
        problem = self._problem(task, lambda_, beta)
        if self.limited(task.classes):
            factors = yield from self._factors(task, subset, beta)
            solver = LimitedNewton(1e-12, 1e-7) if subset == () else LimitedNewton(1e-7, np.inf)
            solved = yield from self._descent(task, subset, Level.ALL, problem, solver, start, factors)
        else:
            small = self.summed(task.classes) <= FULL_CURVATURE * (FULL_CURVATURE + 1)
            steps = Newton(rough=not small).solve(start, strong_convexity_gap(problem.convexity))
            rough = Level.ALL if small else Level.SAMPLE
            solved = yield from Binding(task, subset, Level.ALL, rough, problem).run(steps)
        nll = solved.value - problem.penalty.value(problem.matrix(solved.theta))
        return Optimum(solved.theta, solved.value, nll, certificate(solved), solved.converged, solved.notes)

    def _factors(self, task: Task, subset: Subset, beta: float) -> Plan[Factors]:
        """What stands for the curvature, from the sample."""
        accumulator = FactoredCurvature(task.classes, beta, self.on_logits(task.logits), unit_of(beta))
        answers = yield {"factors": task.ask(accumulator, subset, Level.SAMPLE)}
        factors: Factors = accumulate.result(accumulator, answers["factors"])
        return factors

    def _descent(
        self,
        task: Task,
        subset: Subset,
        level: Level,
        problem: AffineProblem,
        solver: LimitedNewton,
        start: Vector,
        factors: Factors,
    ) -> Plan[Solved]:
        """Of limited memory, along what stands for the curvature and the penalty's own, its mean over the rows."""
        curvature = problem.penalty.curvature
        added = curvature.reshape(task.classes, -1).mean(0)
        first = factors.inverse(np.maximum(added, 1e-12))
        steps = solver.solve(start, strong_convexity_gap(curvature), first)
        return (yield from Binding(task, subset, level, level, problem).run(steps))

    def temperature_end(self, task: Task, beta: float) -> Vector:
        """beta I in the family's variables."""
        return self._start(task, beta)

    def mean_end(self, ends: Sequence[Vector], weights: Sequence[float]) -> Vector:
        """Mean variables."""
        return np.average(ends, axis=0, weights=weights)

    def map_at(self, task: Task, end: Vector) -> AffineMap:
        """[W | b]."""
        weight, bias = self._parameters(task, end)
        return AffineMap(weight, bias, self.on_logits(task.logits))

    def remarks(self, task: Task, end: Vector, scale: Solved) -> tuple[bool, list[str]]:
        """Parameters that go beyond all bounds."""
        weight, bias = self._parameters(task, end)
        extreme = extent(weight.numpy(), bias.numpy(), scale)
        notes = self._kept(task)
        if extreme > EXTREME:
            notes.append(f"parameters reach {extreme:.3g}: {self.unbounded('a class absent, or separable')}")
        return extreme > EXTREME, notes

    def temperature_map(self, task: Task, scale: Solved, chosen: Chosen) -> FittedMap:
        """W = beta I."""
        weight = float(scale.theta[0]) * torch.eye(task.classes, dtype=torch.float64)
        bias = torch.zeros(task.classes, dtype=torch.float64)
        return FittedMap(
            AffineMap(weight, bias, self.on_logits(task.logits)),
            self.at_temperature(scale, chosen, task.unit, self._kept(task)),
        )

    def _problem(self, task: Task, lambda_: float, beta: float, extra: float = 0.0) -> AffineProblem:
        c = task.classes
        mu = self.bias_strength(lambda_)
        share = c * c / self.entries(c)
        if self.penalty == "ts":
            shrink = towards_temperature(c, lambda_ * share, mu, beta)
        elif self.entries(c) == c:
            shrink = towards_temperature(
                c, lambda_ * share, mu, 1.0
            )  # a diagonal family has no off-diagonal: the papers' form is mean (a - 1)^2
        else:
            shrink = odir(c, lambda_, mu)
        total = shrink + ridge(c, self.eps)
        if extra:
            total = total + towards_temperature(c, extra, extra, beta)
        return self.problem(c, self.on_logits(task.logits), _design(type(self), c), total, unit_of(beta))

    def _parameters(self, task: Task, end: Vector) -> tuple[torch.Tensor, torch.Tensor]:
        c = task.classes
        design = _design(type(self), c)
        matrix = torch.from_numpy((end if design is None else design @ end).reshape(c, c + 1).copy())
        return matrix[:, :c], matrix[:, c]

    def _start(self, task: Task, beta: float) -> Vector:
        design, whole = _design(type(self), task.classes), scaled_identity(task.classes, beta)
        return whole if design is None else np.asarray(np.linalg.lstsq(design, whole, rcond=None)[0])

    def _kept(self, task: Task) -> list[str]:
        if self.on_logits(True) and not task.logits:
            return ["only probabilities are known: on log-probabilities it coincides with its canonical form"]
        return []


def unit_of(beta: float) -> float:
    """A power of two that brings scores of inverse temperature `beta` near 1."""
    return min(1.0, 2.0 ** math.floor(math.log2(beta)))


@lru_cache(maxsize=32)
def _design(family: type[PenalisedAffine], classes: int) -> Vector | None:
    return family.design(classes)


@dataclass(frozen=True)
class FreeAffine(PenalisedAffine):
    """Every entry of [W | b] is free."""

    def identifiable(self, classes: int) -> int:
        """C^2 - 1."""
        return classes**2 - 1

    @classmethod
    def variables(cls, classes: int) -> int:
        """Every entry of [W | b]."""
        return classes * (classes + 1)

    @staticmethod
    def design(classes: int) -> None:
        """None."""
        del classes

    @classmethod
    def limited(cls, classes: int) -> bool:
        """Above `LIMITED`."""
        return classes > LIMITED

    @classmethod
    def at_length(cls, classes: int) -> bool:
        """With limited memory, whose descents are long."""
        return cls.limited(classes)

    @staticmethod
    def entries(classes: int) -> int:
        """All of W."""
        return classes**2


@dataclass(frozen=True)
class MatrixScaling(FreeAffine):
    """Matrix scaling (K26 Eq. 5): p = S(W z + b), W and b free; on raw logits where they are known.

    Not translation-invariant: it depends on the logits' offset, which the loss never fixed (K26 3.1). From
    probabilities it coincides with Dirichlet calibration.

    C (C + 1) parameters, C^2 - 1 identifiable.
    """

    name: ClassVar[str] = "ms"
    papers: ClassVar[Mapping[str, str]] = {"MS": "ms"}
    parameterisation: ClassVar[type[Parameterisation]] = Matrix

    @staticmethod
    def on_logits(logits: bool) -> bool:
        """Where they are known."""
        return logits


@dataclass(frozen=True)
class VectorScaling(PenalisedAffine):
    """Vector scaling (Guo et al. 2017; K26 Eq. 4): p = S(a * z + b), one factor and one bias a class; on raw logits
    where they are known.

    Translation-invariant iff all factors are equal; from log-probabilities always (then it is diagonal Dirichlet
    calibration).

    2 C parameters, 2 C - 1 identifiable.
    """

    name: ClassVar[str] = "vs"
    suggested: ClassVar[bool] = True
    evaluations: ClassVar[int] = 60
    parameterisation: ClassVar[type[Parameterisation]] = VectorModule
    problem: ClassVar[type[AffineProblem]] = VectorProblem

    def identifiable(self, classes: int) -> int:
        """2 C - 1."""
        return 2 * classes - 1

    @classmethod
    def variables(cls, classes: int) -> int:
        """A factor and a bias a class."""
        return 2 * classes

    @classmethod
    def summed(cls, classes: int) -> int:
        """Its own variables."""
        return 2 * classes

    @staticmethod
    def design(classes: int) -> Vector:
        """Variables: a, b."""
        out = np.zeros((classes, classes + 1, 2 * classes))
        for k in range(classes):
            out[k, k, k] = 1
            out[k, classes, classes + k] = 1
        return out.reshape(classes * (classes + 1), -1)

    @staticmethod
    def entries(classes: int) -> int:
        """The diagonal."""
        return classes

    @staticmethod
    def on_logits(logits: bool) -> bool:
        """Where they are known."""
        return logits


@dataclass(frozen=True)
class ConstrainedMatrixScaling(PenalisedAffine):
    """Constrained matrix scaling (K26 3.2): matrix scaling with equal row sums, W 1 = s 1, hence translation-invariant.

    W = [W_free, s 1 - W_free 1]. s is a pure gauge of the NLL and moves through the penalty only. The penalty acts on
    the whole W, its dependent last column included, as in fiducio. It gives the same probabilities from logits and from
    log-probabilities; the better conditioned log-probabilities are used.

    C^2 + 1 parameters, C (C - 1) identifiable.
    """

    name: ClassVar[str] = "ms-c"
    papers: ClassVar[Mapping[str, str]] = {"MSc": "ms-c"}
    suggested: ClassVar[bool] = True
    parameterisation: ClassVar[type[Parameterisation]] = ConstrainedMatrix

    def identifiable(self, classes: int) -> int:
        """C (C - 1)."""
        return classes * (classes - 1)

    @classmethod
    def variables(cls, classes: int) -> int:
        """Free entries, their common sum, biases."""
        return classes * (classes - 1) + 1 + classes

    @staticmethod
    def design(classes: int) -> Vector:
        """Variables: W_free (C, C - 1) row-major, s, b."""
        c = classes
        out = np.zeros((c, c + 1, c * (c - 1) + 1 + c))
        for i in range(c):
            for j in range(c - 1):
                out[i, j, i * (c - 1) + j] = 1
                out[i, c - 1, i * (c - 1) + j] = -1
            out[i, c - 1, c * (c - 1)] = 1
            out[i, c, c * (c - 1) + 1 + i] = 1
        return out.reshape(c * (c + 1), -1)

    @staticmethod
    def entries(classes: int) -> int:
        """All of W."""
        return classes**2

    @staticmethod
    def on_logits(logits: bool) -> bool:
        """It makes no difference."""
        del logits
        return False


@dataclass(frozen=True)
class DirichletCalibration(FreeAffine):
    """Dirichlet calibration (Kull et al. 2019; K26 Eq. 10): p = S(W log S(z) + b), W and b free; translation-invariant
    by construction.

    Not order-preserving. A label that never occurs sends W_kk to infinity whatever lambda and mu; the ridge bounds it
    (definitions 16).

    C (C + 1) parameters, C^2 - 1 identifiable.
    """

    name: ClassVar[str] = "dc"
    papers: ClassVar[Mapping[str, str]] = {"DC": "dc"}
    suggested: ClassVar[bool] = True
    parameterisation: ClassVar[type[Parameterisation]] = Dirichlet

    @staticmethod
    def on_logits(logits: bool) -> bool:
        """Never: it sees log-probabilities."""
        del logits
        return False
