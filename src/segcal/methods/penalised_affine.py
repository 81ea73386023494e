"""What vector, matrix, constrained matrix scaling and Dirichlet calibration share: one convex problem in [W | b], penalised, solved to its optimum.

Objective: mean NLL + penalty + ridge. `penalty="ts"` (default) shrinks to temperature scaling, `"odir"` is K26 Eq. 15. `lambda_` and `mu` are numbers,
or `lambda_="cv"`: the strength (mu = lambda) is chosen by case-wise cross-validation along the path 1e4 ... 0.01, warm-started, on an even sample
of the voxels; temperature scaling is kept unless the paired gain over cases exceeds its standard error. The final fit uses every voxel.
`eps` is the ridge that makes the optimum unique and finite. At lambda = mu = 0 the methods nest (definitions 9.4) up to that ridge.
Certificate: rigorous by the strong convexity of penalty and ridge. Fewer than two groups of cases: "cv" keeps temperature scaling and says so.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch

from segcal import accumulate
from segcal.calibrators import AffineMap, Solution
from segcal.engines import Ask, Level
from segcal.errors import ScoreError, UsageError
from segcal.fitting import Binding, Plan, Subset, Task, together
from segcal.methods.method import FittedMap, Method
from segcal.methods.temperature_scaling import certificate, temperature, temperatures
from segcal.objectives import AffineNLL, Evaluation, Penalty, ScaleNLL, odir, ridge, towards_temperature
from segcal.objectives.evaluation import Vector
from segcal.objectives.penalty import scaled_identity
from segcal.solvers import Newton, Query, Solved
from segcal.solvers.newton import strong_convexity_gap
from segcal.statistics import clustered_mean

PATH = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01)
FULL_CURVATURE = 5
"""Up to this many classes the exact curvature of all voxels, C^2 (C + 1)^2 numbers, costs little beside reading them."""

EXTREME = 1e2
"""Parameters beyond this are called degenerate."""


@dataclass(frozen=True, eq=False)
class AffineProblem:
    """NLL plus penalty in the variables of a family: [W | b] = design @ theta. `unit`: as for `AffineNLL`."""

    classes: int
    logits: bool
    design: Vector
    penalty: Penalty
    unit: float = 1.0

    def accumulator(self, query: Query) -> AffineNLL:
        """The NLL at [W | b]."""
        return AffineNLL(self.classes, tuple((self.design @ query.theta).tolist()), query.order, self.logits, self.unit)

    def evaluated(self, query: Query, found: Evaluation) -> Evaluation:
        """With the penalty, in the family's variables."""
        matrix = self.design @ query.theta
        if found.curvature is not None and not np.isfinite(found.curvature).all():
            raise ScoreError(
                "scores",
                found="scores so large that sums of their squares overflow",
                expected="scores of a size that is not thousands of times their differences",
                do="Fit a method that does not see a common offset (dc, ms-c, ts), or divide the scores by a constant before fitting and applying.",
            )
        curvature = None if found.curvature is None else self.design.T @ found.curvature @ self.design + self.convexity
        gradient = self.design.T @ (found.gradient + self.penalty.gradient(matrix))
        return Evaluation(found.value + self.penalty.value(matrix), gradient, curvature, found.voxels)

    @property
    def convexity(self) -> Vector:
        """Curvature of the penalty in the family's variables."""
        return np.asarray(self.design.T * self.penalty.curvature @ self.design)


@dataclass(frozen=True, eq=False)
class Chosen:
    """A cross-validated strength: `lambda_` (None: temperature scaling), where to start, and the table it was chosen from."""

    lambda_: float | None
    start: Vector
    table: tuple[Mapping[str, Any], ...]
    why: str


@dataclass(frozen=True)
class PenalisedAffine(Method):
    """`lambda_`, `mu` >= 0 or both "cv"; `mu` None: as lambda. UsageError for anything else."""

    lambda_: float | Literal["cv"] = "cv"
    mu: float | Literal["cv"] | None = None
    penalty: Literal["ts", "odir"] = "ts"
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.penalty not in ("ts", "odir"):
            raise UsageError("penalty", found=repr(self.penalty), expected="'ts' or 'odir'", do="'ts' shrinks to temperature scaling, 'odir' is the papers' penalty.")
        unset = {"lambda_": self.lambda_ == "cv", "mu": self.mu is None or self.mu == "cv", "eps": False}
        for name, chosen_by_data in unset.items():
            value = getattr(self, name)
            if not (chosen_by_data or (isinstance(value, Real) and 0 <= float(value) < math.inf)):
                raise UsageError(name, found=repr(value), expected="a number of 0 or more" + (" or 'cv'" if name != "eps" else ""), do="Leave it out for the default.")
        if (self.lambda_ == "cv") != (self.mu == "cv") and self.mu is not None:
            found = f"{self.mu!r} beside lambda_={self.lambda_!r}"
            raise UsageError("mu", found=found, expected="both numbers, or both 'cv'", do="Cross-validation sets mu = lambda; give lambda_ a number to choose mu.")

    @property
    def cross_validates(self) -> bool:
        """With lambda_="cv"."""
        return self.lambda_ == "cv"

    @property
    def needs_every_class(self) -> bool:
        """Without a penalty."""
        return self.lambda_ == 0

    @staticmethod
    @abstractmethod
    def design(classes: int) -> Vector:
        """(C (C + 1), d): how the family's variables make [W | b]."""

    @staticmethod
    @abstractmethod
    def entries(classes: int) -> int:
        """Free entries of W the penalty is averaged over."""

    @staticmethod
    @abstractmethod
    def on_logits(logits: bool) -> bool:
        """Whether it acts on raw logits, where they are known."""

    def plan(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """Temperatures, strengths, then the fit on all voxels, for every subset."""
        scales = yield from temperatures(task)
        chosen = yield from self._choose(task, scales)

        def final(subset: Subset) -> Plan[Solved | None]:
            strength = chosen[subset].lambda_
            if strength is None:
                return None
            problem = self._problem(task, strength, float(scales[subset].theta[0]))
            small = task.classes <= FULL_CURVATURE
            level = Level.ALL if small else Level.SAMPLE
            steps = Newton(rough=not small).solve(chosen[subset].start, strong_convexity_gap(problem.convexity))
            return (yield from Binding(task, subset, Level.ALL, level, problem).run(steps))

        solved = yield from together({s: final(s) for s in task.subsets})
        return {s: self._fitted(task, scales[s], chosen[s], solved[s]) for s in task.subsets}

    def _problem(self, task: Task, lambda_: float, beta: float, extra: float = 0.0) -> AffineProblem:
        c = task.classes
        mu = self._bias_strength(lambda_)
        share = c * c / self.entries(c)
        if self.penalty == "ts":
            shrink = towards_temperature(c, lambda_ * share, mu, beta)
        elif self.entries(c) == c:
            shrink = towards_temperature(c, lambda_ * share, mu, 1.0)  # a diagonal family has no off-diagonal: the papers' form is mean (a - 1)^2
        else:
            shrink = odir(c, lambda_, mu)
        total = shrink + ridge(c, self.eps)
        if extra:
            total = total + towards_temperature(c, extra, extra, beta)
        unit = min(1.0, 2.0 ** math.floor(math.log2(beta)))
        return AffineProblem(c, self.on_logits(task.logits), _design(type(self), c), total, unit)

    def _bias_strength(self, lambda_: float) -> float:
        return lambda_ if self.mu is None or self.mu == "cv" else float(self.mu)

    def _start(self, task: Task, beta: float) -> Vector:
        design = _design(type(self), task.classes)
        return np.asarray(np.linalg.lstsq(design, scaled_identity(task.classes, beta), rcond=None)[0])

    def _path(self, task: Task, subset: Subset, strengths: tuple[float, ...], extra: float = 0.0) -> Plan[tuple[float, dict[float, Vector]]]:
        """Beta and the solution at each strength, each started from the one before, on the sample."""
        beta = float((yield from temperature(task, subset, Level.SAMPLE)).theta[0])
        theta, out = self._start(task, beta), {}
        model: Vector | None = None
        for strength in strengths:
            problem = self._problem(task, strength, beta, extra)
            # the data's curvature carries over from one strength to the next; only the penalty's changes
            begin = None if model is None else model + problem.convexity
            steps = Newton(tolerance=1e-7, certify=np.inf).solve(theta, strong_convexity_gap(problem.convexity), begin)
            solved = yield from Binding(task, subset, Level.SAMPLE, Level.CURVATURE, problem).run(steps)
            theta = out[strength] = solved.theta
            assert solved.model is not None
            model = solved.model - problem.convexity
        return beta, out

    def _choose(self, task: Task, scales: Mapping[Subset, Solved]) -> Plan[dict[Subset, Chosen]]:
        if self.lambda_ != "cv":
            # a start only: on a sample, an unpenalised optimum may lie far out where the whole cohort's does not
            paths = yield from together({s: self._path(task, s, (float(self.lambda_),), 1e-4) for s in task.subsets})
            return {s: Chosen(float(self.lambda_), paths[s][1][float(self.lambda_)], (), "as given") for s in task.subsets}
        possible = [s for s in task.subsets if task.inner(s)]
        needed = set(possible) | {tuple(sorted((*s, k))) for s in possible for k in task.inner(s)}
        paths = yield from together({s: self._path(task, s, PATH) for s in sorted(needed)})
        asks: dict[Any, Ask] = {}
        for s in possible:
            for k in task.inner(s):
                beta, path = paths[tuple(sorted((*s, k)))]
                cases = frozenset(task.folds[k])
                asks[s, k, None] = Ask(ScaleNLL(beta), task.part, cases, Level.SAMPLE, by_case=True)
                for strength, theta in path.items():
                    asks[s, k, strength] = Ask(self._problem(task, strength, beta).accumulator(Query(theta, 0)), task.part, cases, Level.SAMPLE, by_case=True)
        answers = (yield asks) if asks else {}
        nll: dict[tuple[Subset, float | None], dict[int, float]] = {}
        for (s, _, strength), states in answers.items():
            ask = asks[s, _, strength]
            nll.setdefault((s, strength), {}).update({case: accumulate.result(ask.accumulator, state).value for case, state in states.items()})
        out = {}
        for s in task.subsets:
            if s not in possible:
                out[s] = Chosen(None, np.zeros(0), (), "temperature scaling: fewer than two groups of cases to cross-validate on")
                continue
            out[s] = _best(task, {lam: nll[s, lam] for lam in (None, *PATH)}, paths[s][1])
        return out

    def _fitted(self, task: Task, scale: Solved, chosen: Chosen, solved: Solved | None) -> FittedMap:
        c = task.classes
        kept = self._kept(task)
        beta = float(scale.theta[0])
        settings: dict[str, Any] = {"penalty": self.penalty, "eps": float(self.eps), "strength": chosen.why, "temperature": 1 / beta}
        if solved is None or chosen.lambda_ is None:
            message = "; ".join([f"T = {1 / beta:.4g}", chosen.why, *scale.notes, *kept])
            status = "degenerate" if scale.notes else "optimal" if scale.converged else "stopped"
            weight = beta * torch.eye(c, dtype=torch.float64)
            solution = Solution(scale.value, scale.value, status, message, 0, certificate(scale), {**settings, "lambda": None, "mu": None}, chosen.table)
            return FittedMap(AffineMap(weight, torch.zeros(c, dtype=torch.float64), self.on_logits(task.logits)), solution)
        problem = self._problem(task, chosen.lambda_, beta)
        flat = problem.design @ solved.theta
        matrix = torch.from_numpy(flat.reshape(c, c + 1).copy())
        extreme = float(np.abs(flat).max())
        notes = [*solved.notes, *(f"temperature alone: {note}" for note in scale.notes), *kept]
        if extreme > EXTREME:
            bound = "penalty and ridge do" if self.eps > 0 else "nor does a ridge (eps = 0): the infimum is not attained, the descent ended here"
            notes.append(f"parameters reach {extreme:.3g}: the data do not bound them (a class absent, or separable); {bound}")
        status = "stopped" if not solved.converged else "degenerate" if extreme > EXTREME else "optimal"
        settings |= {"lambda": chosen.lambda_, "mu": self._bias_strength(chosen.lambda_)}
        message = "; ".join([f"lambda = {chosen.lambda_:g} ({chosen.why}), gap <= {solved.gap:.1e}", *notes])
        nll = solved.value - problem.penalty.value(flat)
        solution = Solution(solved.value, nll, status, message, 0, certificate(solved), settings, chosen.table)
        return FittedMap(AffineMap(matrix[:, :c], matrix[:, c], self.on_logits(task.logits)), solution)

    def _kept(self, task: Task) -> list[str]:
        if self.on_logits(True) and not task.logits:
            return ["only probabilities are known: on log-probabilities it coincides with its canonical form"]
        return []


@lru_cache(maxsize=32)
def _design(family: type[PenalisedAffine], classes: int) -> Vector:
    return family.design(classes)


def _best(task: Task, nll: Mapping[float | None, Mapping[int, float]], path: Mapping[float, Vector]) -> Chosen:
    """The strength of lowest mean NLL over cases, if its paired gain over temperature scaling exceeds its standard error; else temperature scaling."""
    base = nll[None]
    cases = sorted(base)
    groups = [task.groups[i] for i in cases]
    mean = {strength: float(np.mean([found[i] for i in cases])) for strength, found in nll.items()}
    gain = {strength: clustered_mean([base[i] - found[i] for i in cases], groups) for strength, found in nll.items()}
    table = tuple({"lambda": s, "nll": mean[s], "gain": gain[s].mean, "standard_error": gain[s].standard_error} for s in nll)
    best = min(mean, key=lambda s: mean[s])
    if best is None or not gain[best].mean > gain[best].standard_error:
        return Chosen(None, np.zeros(0), table, "temperature scaling: cross-validation over cases found no gain beyond its standard error")
    why = f"cross-validated over cases: NLL {gain[best].mean:.4g} +- {gain[best].standard_error:.2g} below temperature scaling"
    return Chosen(best, path[best], table, why)
