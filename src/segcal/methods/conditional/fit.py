"""What the class-conditional methods share: one convex problem for each decided class, penalised, each solved to its
optimum (K26 3.2; definitions 4, 9.3).

Voxels are filed by expert, and sorted where ranks matter, once for all passes. The joint objective, sum over experts of
(N_i / N) L_i + R_i / C, separates: expert i minimises L_i + N / (C N_i) R_i, so rare experts are drawn to the penalty's
centre the more. `experts="independent"` leaves each R_i unscaled (fiducio's option). `penalty="ts"` (default): lambda
mean (A - I / T)^2 + mu mean g^2 with the temperature of all voxels. `penalty="odir"`: K26 Eq. 15 in the `gauge` "free"
(the paper's) or "pinned" (fiducio's); the experts of CDC have no gauge to choose. The ridge `eps` is inside the mean
over experts. An expert without a voxel gets temperature scaling ("ts") or the identity ("odir"); one with fewer voxels
than parameters is called thin. Both are said."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from segcal.engine import accumulate
from segcal.engine.ask import Ask, Level
from segcal.engine.need import HANDED, Need
from segcal.engine.pinned import SAMPLE_NUMBERS
from segcal.errors import UsageError
from segcal.fitting.evaluation import Evaluation, Vector
from segcal.fitting.penalties import (
    Penalty,
    SquaredResiduals,
    experts_odir,
    experts_towards_temperature,
    odir,
    ridge,
    scaled_identity,
    towards_temperature,
)
from segcal.fitting.plans import Binding, Plan, Problem, Subset, Task, together
from segcal.fitting.solvers.bounded import BoundedNewton, bounded_gap
from segcal.fitting.solvers.newton import Newton, strong_convexity_gap
from segcal.fitting.solvers.query import Query, Solved, Steps
from segcal.methods.affine.fit import AffineProblem, unit_of
from segcal.methods.conditional.map import (
    ArgmaxPreserving,
    ConditionalDirichlet,
    ConditionalMap,
    OrderPreserving,
    temperature_experts,
)
from segcal.methods.conditional.sums import (
    ConditionalNLL,
    Coordinates,
    Expert,
    ExpertFacts,
    Facts,
    Gaps,
    Margins,
    Scores,
)
from segcal.methods.method import FittedMap
from segcal.methods.parameterisation import Parameterisation
from segcal.methods.penalised import EXTREME, MODELS, NUMBER, PASSING, Penalised, extent
from segcal.methods.strengths import Chosen, Optimum, Walk

FULL_CURVATURE = 30
"""Up to this many parameters an expert the exact curvature of all voxels costs little beside reading them."""


@dataclass(frozen=True, eq=False)
class ConditionalProblem:
    """NLL plus penalty of one expert [A | g] in margins or gaps."""

    expert: Expert
    classes: int
    penalty: SquaredResiduals
    unit: float

    def accumulator(self, query: Query) -> ConditionalNLL:
        """The NLL at [A | g]."""
        return ConditionalNLL(
            self.expert, self.classes, tuple(query.theta.tolist()), query.order, query.free, self.unit
        )

    def evaluated(self, query: Query, found: Evaluation) -> Evaluation:
        """With the penalty."""
        curvature = None
        if found.curvature is not None:
            free = list(query.free)
            curvature = found.curvature + self.penalty.curvature[np.ix_(free, free)]
        return Evaluation(
            found.value + self.penalty.value(query.theta),
            found.gradient + self.penalty.gradient(query.theta),
            curvature,
            found.voxels,
        )


@dataclass(frozen=True, eq=False)
class Setting:
    """What an expert's problem depends on: whose it is, what is known of its voxels and of all `voxels`, and the
    temperature.
    """

    task: Task
    expert: Expert
    facts: Facts
    voxels: int
    beta: float

    @property
    def share(self) -> float:
        """N_i / N."""
        return self.facts.voxels / self.voxels


REFRESH = 0.8
"""Curvature of free experts is formed anew after a step along which the gradient changed unlike the model by more than
this share: where probabilities fall off exponentially even an exact one is wrong by 0.6, and a new one gains nothing.
"""


@dataclass(frozen=True)
class PenalisedConditional(Penalised):
    """An affine expert for each decided class."""

    evaluations: ClassVar[int] = 120
    coordinates: ClassVar[Coordinates]
    bounded: ClassVar[bool]
    experts: Literal["joint", "independent"] = "joint"

    @classmethod
    def variables(cls, classes: int) -> int:
        """[A | g] or [W | b] of every expert."""
        size = cls.coordinates.size(classes)
        return classes * size * (size + 1)

    def need(self, task: Task) -> Need:
        """Curvature of every expert and subset at once, in all its entries: how many bounds hold is not known before;
        and samples filed by expert.
        """
        if self.solver is not None:
            return Need()
        size = self.coordinates.size(task.classes)
        matrix, subsets = NUMBER * (size * (size + 1)) ** 2, len(self._walked(task))
        return Need(
            subsets * task.classes * (2 + MODELS) * matrix + PASSING * matrix + 8 * SAMPLE_NUMBERS,
            (2 * HANDED * subsets + PASSING) * matrix,
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts not in ("joint", "independent"):
            raise UsageError(
                "experts",
                found=repr(self.experts),
                expected="'joint' or 'independent'",
                do="'joint' weighs the penalty of an expert by N / (C N_i), as the paper's mean over experts does.",
            )

    @abstractmethod
    def problem(self, setting: Setting, lambda_: float, extra: float = 0.0) -> Problem:
        """The problem of one expert; `extra` strength towards temperature scaling on top."""

    @abstractmethod
    def steps(
        self,
        setting: Setting,
        problem: Problem,
        start: Vector,
        tolerance: float | None = None,
        data: Vector | None = None,
    ) -> Steps:
        """The solver of one expert: to its certificate, or until a step promises less than `tolerance`.

        `data`: the NLL's curvature, as far as it is known.
        """

    def data_curvature(self, problem: Problem, solved: Solved) -> Vector | None:
        """What a fit learnt of the NLL's curvature, if another strength can go on with it."""
        del problem, solved
        return None

    def penalty_of(self, problem: Problem, theta: Vector) -> float:
        """The penalty's share of an expert's objective."""
        assert isinstance(problem, ConditionalProblem | AffineProblem)
        return problem.penalty.value(theta)

    def path(self, task: Task, subset: Subset, walk: Walk) -> Plan[dict[float, dict[int, Vector]]]:
        """Ends are {expert: theta}."""
        settings = yield from self._settings(task, subset, Level.SAMPLE, walk.beta)
        along = yield from together({e: self._along(setting, subset, walk) for e, setting in settings.items()})
        return {strength: {e: ends[strength] for e, ends in along.items()} for strength in walk.strengths}

    def nll_asks(self, task: Task, beta: float, end: Mapping[int, Vector], level: Level) -> Mapping[Hashable, Ask]:
        """One ask an expert."""
        out: dict[Hashable, Ask] = {}
        for e, theta in end.items():
            expert = Expert(self.coordinates, e)
            problem = self.problem(Setting(task, expert, _NOTHING, 1, beta), 0.0)
            out[e] = Ask(problem.accumulator(Query(theta, 0)), task.part, level=level, group=expert.group)
        return out

    def optimum(
        self, task: Task, subset: Subset, scale: Solved, lambda_: float, start: Mapping[int, Vector]
    ) -> Plan[Optimum]:
        """Every expert on all its voxels."""
        settings = yield from self._settings(task, subset, Level.ALL, float(scale.theta[0]))
        problems = {e: self.problem(setting, lambda_) for e, setting in settings.items()}

        def solve(e: int) -> Plan[Solved]:
            setting = settings[e]
            small = setting.task.classes * (setting.task.classes + 1) <= FULL_CURVATURE
            binding = Binding(
                task, subset, Level.ALL, Level.ALL if small else Level.SAMPLE, problems[e], setting.expert.group
            )
            return (yield from binding.run(self.steps(setting, problems[e], start[e])))

        solved = yield from together({e: solve(e) for e, setting in settings.items() if setting.facts.voxels})
        end = {e: solved[e].theta if e in solved else self._fallback(setting) for e, setting in settings.items()}
        worst = max(solved.values(), key=lambda s: s.gradient)
        proven = {
            "gap": sum(settings[e].share * s.gap for e, s in solved.items()),
            "proof": worst.proof,
            "kkt": worst.gradient,
            "gradient": worst.gradient,
            "evaluations": max(s.evaluations for s in solved.values()),
        }
        return Optimum(
            end,
            sum(settings[e].share * s.value for e, s in solved.items()),
            sum(settings[e].share * (s.value - self.penalty_of(problems[e], end[e])) for e, s in solved.items()),
            proven,
            all(s.converged for s in solved.values()),
            tuple(self._notes(settings, solved)),
            tuple(self._told(settings[e], solved.get(e)) for e in sorted(settings)),
        )

    def temperature_end(self, task: Task, beta: float) -> dict[int, Vector]:
        """beta I for every expert."""
        size = self.coordinates.size(task.classes)
        return {e: scaled_identity(size, beta) for e in range(task.classes)}

    def mean_end(self, ends: Sequence[Mapping[int, Vector]], weights: Sequence[float]) -> dict[int, Vector]:
        """Mean parameters of each expert; those of bounded ones stay within their bounds, which are convex."""
        return {e: np.average([end[e] for end in ends], axis=0, weights=weights) for e in ends[0]}

    def map_at(self, task: Task, end: Mapping[int, Vector]) -> ConditionalMap:
        """All experts' parameters."""
        return ConditionalMap(*self._stacked(task.classes, end), self.coordinates)

    def remarks(self, task: Task, end: Mapping[int, Vector], scale: Solved) -> tuple[bool, list[str]]:
        """Experts whose parameters go beyond all bounds."""
        far = [e for e, theta in end.items() if self._extent(theta, scale) > EXTREME]
        return bool(far), (
            [f"parameters of expert {', '.join(map(str, far))} go beyond {EXTREME:g}: {self.unbounded()}"]
            if far
            else []
        )

    def details(self, end: Mapping[int, Vector], optima: Sequence[Optimum]) -> dict[str, Any]:
        """How the penalty is shared, and for every expert its voxels, its parameters at bounds, and the worst
        certificate of the fits averaged.
        """
        told = []
        for row in zip(*(o.experts for o in optima if o.experts), strict=True):
            worst = max(row, key=lambda r: -1.0 if r["kkt"] is None else float(r["kkt"]))
            told.append({**worst, "at_bounds": int((end[worst["class"]] == 0).sum()) if self.bounded else 0})
        return {"penalised": self.experts, "experts": told}

    def temperature_map(self, task: Task, scale: Solved, chosen: Chosen) -> FittedMap:
        """beta I for every expert."""
        weight, bias = temperature_experts(float(scale.theta[0]), task.classes, self.coordinates)
        return FittedMap(
            ConditionalMap(weight, bias, self.coordinates), self.at_temperature(scale, chosen, task.unit, [])
        )

    def weighted(self, setting: Setting) -> float:
        """What the penalty of one expert is multiplied by in its own problem."""
        return (
            1.0
            if self.experts == "independent" or not setting.facts.voxels
            else 1 / (setting.task.classes * setting.share)
        )

    def _settings(self, task: Task, subset: Subset, level: Level, beta: float) -> Plan[dict[int, Setting]]:
        experts = {e: Expert(self.coordinates, e) for e in range(task.classes)}
        accumulators = {e: ExpertFacts(expert) for e, expert in experts.items()}
        answers = yield {e: task.ask(accumulators[e], subset, level, expert.group) for e, expert in experts.items()}
        facts: dict[int, Facts] = {e: accumulate.result(accumulators[e], answers[e]) for e in experts}
        voxels = sum(f.voxels for f in facts.values())
        return {e: Setting(task, expert, facts[e], voxels, beta) for e, expert in experts.items()}

    def _along(self, setting: Setting, subset: Subset, walk: Walk) -> Plan[dict[float, Vector]]:
        theta, ends = self._fallback(setting), {}
        data: Vector | None = None
        for strength in walk.strengths:
            if setting.facts.voxels:
                problem = self.problem(setting, strength, walk.extra)
                binding = Binding(setting.task, subset, Level.SAMPLE, Level.CURVATURE, problem, setting.expert.group)
                solved = yield from binding.run(self.steps(setting, problem, theta, walk.tolerance, data))
                theta, data = solved.theta, self.data_curvature(problem, solved)
            ends[strength] = theta
        return ends

    def _fallback(self, setting: Setting) -> Vector:
        """Where a fit starts, and what an expert without voxels gets."""
        centred = self.penalty == "ts" or setting.facts.voxels
        return scaled_identity(self.coordinates.size(setting.task.classes), setting.beta if centred else 1.0)

    def _stacked(self, classes: int, thetas: Mapping[int, Vector]) -> tuple[torch.Tensor, torch.Tensor]:
        k = self.coordinates.size(classes)
        all_of = torch.from_numpy(np.stack([thetas[e].reshape(k, k + 1) for e in range(classes)]))
        return all_of[:, :, :k].contiguous(), all_of[:, :, k].contiguous()

    def _extent(self, theta: Vector, scale: Solved) -> float:
        k = int(np.sqrt(len(theta)))  # theta has k (k + 1) entries
        matrix = theta.reshape(k, k + 1)
        return extent(matrix[:, :k], matrix[:, k], scale)

    def _told(self, setting: Setting, solved: Solved | None) -> dict[str, Any]:
        size = self.coordinates.size(setting.task.classes)
        return {
            "class": setting.expert.index,
            "voxels": setting.facts.voxels,
            "parameters": size * (size + 1),
            "kkt": None if solved is None else solved.gradient,
            "gap": None if solved is None else solved.gap,
        }

    def _notes(self, settings: Mapping[int, Setting], solved: Mapping[int, Solved]) -> list[str]:
        notes = [
            f"expert {e}: {note}" for e, s in solved.items() for note in s.notes if note != "rounding ends the descent"
        ]
        empty = [str(e) for e in settings if e not in solved]
        if empty:
            notes.append(
                f"no voxel was decided for class {', '.join(empty)}:"
                f" {'temperature scaling' if self.penalty == 'ts' else 'the identity'} there"
            )
        thin = [
            f"{e} ({s.facts.voxels} voxels)"
            for e, s in settings.items()
            if 0 < s.facts.voxels < self.variables(s.task.classes) // s.task.classes
        ]
        if thin:
            notes.append(f"thin experts, fewer voxels than parameters, held by the penalty: {', '.join(thin)}")
        return notes


_NOTHING = Facts(0, 0.0)


@dataclass(frozen=True)
class BoundedExperts(PenalisedConditional):
    """Experts in margins or gaps, A >= 0 and g >= 0.

    `gauge`: of the papers' penalty; UsageError for another than "free" and "pinned".
    """

    bounded: ClassVar[bool] = True
    gauge: Literal["free", "pinned"] = "free"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gauge not in ("free", "pinned"):
            raise UsageError(
                "gauge",
                found=repr(self.gauge),
                expected="'free' or 'pinned'",
                do="'free' is the paper's, 'pinned' is fiducio's; both concern penalty='odir' only.",
            )

    def identifiable(self, classes: int) -> int:
        """C^2 (C - 1)."""
        return classes**2 * (classes - 1)

    def problem(self, setting: Setting, lambda_: float, extra: float = 0.0) -> ConditionalProblem:
        """With the bounded expert's own penalty."""
        c, k = setting.task.classes, self.coordinates.size(setting.task.classes)
        mu = self.bias_strength(lambda_)
        if self.penalty == "ts":
            total = experts_towards_temperature(k, lambda_, mu, setting.beta)
        else:
            base = _odir(c, self.coordinates.ranked, self.gauge == "pinned")
            total = base[0].times(lambda_) + base[1].times(mu)
        total = total + experts_towards_temperature(k, self.eps, self.eps, 1.0)
        if extra:
            total = total + experts_towards_temperature(k, extra, extra, setting.beta)
        return ConditionalProblem(setting.expert, c, total.times(self.weighted(setting)), unit_of(setting.beta))

    def steps(
        self,
        setting: Setting,
        problem: Problem,
        start: Vector,
        tolerance: float | None = None,
        data: Vector | None = None,
    ) -> Steps:
        """Bounded Newton, which knows curvature of free entries only and asks for its own."""
        del data
        assert isinstance(problem, ConditionalProblem)
        k = self.coordinates.size(setting.task.classes)
        unit = np.append(np.full(k, 1 / max(setting.facts.rms, 1e-12)), 1.0)
        gap = bounded_gap(problem.penalty.convexity)
        to_certificate = BoundedNewton(rough=setting.task.classes * (setting.task.classes + 1) > FULL_CURVATURE)
        solver = to_certificate if tolerance is None else BoundedNewton(tolerance=tolerance, certify=np.inf)
        return solver.solve(start, gap, np.tile(unit, k))


@lru_cache(maxsize=16)
def _odir(classes: int, ranked: bool, pinned: bool) -> tuple[SquaredResiduals, SquaredResiduals]:
    """The parts of lambda and of mu, each at strength 1."""
    return experts_odir(classes, 1.0, 0.0, ranked=ranked, pinned=pinned), experts_odir(
        classes, 0.0, 1.0, ranked=ranked, pinned=pinned
    )


@dataclass(frozen=True)
class FreeExperts(PenalisedConditional):
    """Experts in scores, without bounds.

    No entry is held there, so that curvature, (C (C + 1))^2 numbers, is dear: it is formed anew only where it has
    become quite wrong.
    """

    bounded: ClassVar[bool] = False

    def problem(self, setting: Setting, lambda_: float, extra: float = 0.0) -> AffineProblem:
        """As Dirichlet calibration's."""
        c, mu = setting.task.classes, self.bias_strength(lambda_)
        total = towards_temperature(c, lambda_, mu, setting.beta) if self.penalty == "ts" else odir(c, lambda_, mu)
        total = total + ridge(c, self.eps)
        if extra:
            total = total + towards_temperature(c, extra, extra, setting.beta)
        weight = self.weighted(setting)
        return AffineProblem(
            c,
            False,
            None,
            Penalty(total.weight * weight, total.centre, total.constant * weight),
            unit_of(setting.beta),
        )

    def steps(
        self,
        setting: Setting,
        problem: Problem,
        start: Vector,
        tolerance: float | None = None,
        data: Vector | None = None,
    ) -> Steps:
        """Newton."""
        assert isinstance(problem, AffineProblem)
        gap = strong_convexity_gap(problem.convexity)
        c = setting.task.classes
        solver = (
            Newton(rough=c * (c + 1) > FULL_CURVATURE, refresh=REFRESH)
            if tolerance is None
            else Newton(tolerance=tolerance, certify=np.inf, refresh=REFRESH)
        )
        return solver.solve(start, gap, None if data is None else data + problem.convexity)

    def data_curvature(self, problem: Problem, solved: Solved) -> Vector | None:
        """The curvature it last used, without the penalty's."""
        assert isinstance(problem, AffineProblem)
        return None if solved.model is None else solved.model - problem.convexity


@dataclass(frozen=True)
class ClassConditionalDirichlet(FreeExperts):
    """Class-conditional Dirichlet calibration (K26 3.2): p = S(W_i log S(z) + b_i), i the decided class, W_i and b_i
    free.

    Translation-invariant by construction; it may flip labels. The unconstrained reference of the class-conditional
    methods: nested above Dirichlet calibration and CMS_ap.

    C^2 (C + 1) parameters, C (C^2 - 1) identifiable.
    """

    name: ClassVar[str] = "cdc"
    papers: ClassVar[Mapping[str, str]] = {"CDC": "cdc"}
    parameterisation: ClassVar[type[Parameterisation]] = ConditionalDirichlet

    def identifiable(self, classes: int) -> int:
        """C (C^2 - 1)."""
        return classes * (classes**2 - 1)

    coordinates: ClassVar[Coordinates] = Scores()


@dataclass(frozen=True)
class ArgmaxPreservingMatrixScaling(BoundedExperts):
    """Argmax-preserving class-conditional matrix scaling, CMS_ap (K26 3.2): u_winner = 0, u_k = -(A_i m + g_i)_k, m the
    margins to each competitor, A_i, g_i >= 0.

    Every label is kept, at every voxel; competitors may pass each other. Translation-invariant. Between temperature
    scaling and class-conditional Dirichlet calibration. Deviation: fitted without the gauge of the paper (definitions
    4.4) and with bounds where the paper takes softplus, so that zeros are reached.

    C^2 (C - 1) parameters, all identifiable; the paper optimises C (C^2 + 1).
    """

    name: ClassVar[str] = "cms-ap"
    papers: ClassVar[Mapping[str, str]] = {"CMSap": "cms-ap"}
    parameterisation: ClassVar[type[Parameterisation]] = ArgmaxPreserving

    coordinates: ClassVar[Coordinates] = Margins()


@dataclass(frozen=True)
class OrderPreservingMatrixScaling(BoundedExperts):
    """Order-preserving class-conditional matrix scaling, CMS_op (K26 3.2): u_(j) = -(sum of the first j - 1 entries of
    A_i m + g_i), m the gaps between ranks, A_i, g_i >= 0.

    The ranking of all classes is kept, at every voxel, up to ties. Translation-invariant. Only the first place has the
    identity of a class; the others are ranks. Deviation: fitted without the gauge of the paper (definitions 4.4) and
    with bounds where the paper takes softplus, so that zeros are reached.

    C^2 (C - 1) parameters, all identifiable; the paper optimises C (C^2 + 1).
    """

    name: ClassVar[str] = "cms-op"
    papers: ClassVar[Mapping[str, str]] = {"CMSop": "cms-op"}
    parameterisation: ClassVar[type[Parameterisation]] = OrderPreserving

    coordinates: ClassVar[Coordinates] = Gaps()
