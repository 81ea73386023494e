"""What penalised methods share: their options, and the strength of the penalty chosen by case-wise cross-validation.

Objective: mean NLL + penalty + ridge. `penalty="ts"` (default) shrinks to temperature scaling, `"odir"` is K26 Eq. 15. `lambda_` and `mu` are numbers,
or `lambda_="cv"`: the strength (mu = lambda) is chosen by case-wise cross-validation along the path 1e4 ... 1e-4, warm-started, on an even sample
of the voxels; of the strengths whose NLL is within one standard error of the lowest (of the paired difference over cases) the strongest is taken, and temperature scaling is the
strongest of all. The final fit uses every voxel. Where validation cases are given they take the place of the folds: one path instead of one a fold (K26 4.1).
`eps` is the ridge that makes the optimum unique and finite. Fewer than two groups of cases to judge by: "cv" keeps temperature scaling and says so.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal

import numpy as np

from segcal import accumulate
from segcal.calibrators import Solution
from segcal.engines import Ask, Level
from segcal.errors import UsageError
from segcal.fitting import Plan, Subset, Task, together
from segcal.methods.method import FittedMap, Published
from segcal.methods.temperature_scaling import certificate, refined_temperatures, sampled_temperatures
from segcal.objectives import ScaleNLL
from segcal.solvers import Solved
from segcal.statistics import clustered_mean, one_standard_error

PATH = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)

EXTREME = 1e2
"""Parameters beyond this, weights in multiples of 1/T where that is above 1, are called degenerate."""


def extent(weight: Any, bias: Any, scale: Solved) -> float:
    """The largest parameter, weights in multiples of 1/T where scores are so small that every weight must be large; not where the data do not bound the temperature itself."""
    unit = 1.0 if scale.notes else max(1.0, float(scale.theta[0]))
    return max(float(np.abs(weight).max()) / unit, float(np.abs(bias).max()))


@dataclass(frozen=True, eq=False)
class Chosen:
    """A strength: `lambda_` (None: temperature scaling), what to start from, the table it was chosen from, and why."""

    lambda_: float | None
    start: Any
    table: tuple[Mapping[str, Any], ...]
    why: str


@dataclass(frozen=True)
class Walk:
    """How a subset is fitted on the sample along `strengths`, each started from the one before, until a step promises less than `tolerance`.

    `beta`: the subset's inverse temperature; `extra` strength towards that temperature is added throughout.
    """

    beta: float
    strengths: tuple[float, ...]
    tolerance: float = 1e-7
    extra: float = 0.0

    @classmethod
    def to_start(cls, beta: float, strength: float) -> Walk:
        """To a start only: the sample's optimum is off by its own noise, and an unpenalised one may lie far out where the whole cohort's does not."""
        return cls(beta, (strength,), 1e-5, 1e-4)


@dataclass(frozen=True)
class Penalised(Published):
    """`lambda_`, `mu` >= 0 or both "cv"; `mu` None: as lambda. UsageError for anything else.

    With the recipe for a solver, lambda and mu of "odir" are chosen by its own search.
    """

    lambda_: float | Literal["cv"] = "cv"
    mu: float | Literal["cv"] | None = None
    penalty: Literal["ts", "odir"] = "ts"
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.penalty not in ("ts", "odir"):
            raise UsageError("penalty", found=repr(self.penalty), expected="'ts' or 'odir'", do="'ts' shrinks to temperature scaling, 'odir' is the papers' penalty.")
        for name in ("lambda_", "mu", "eps"):
            if not isinstance(getattr(self, name), Real | str | None):
                raise UsageError(name, found=repr(getattr(self, name)), expected="a number or 'cv'", do="Leave it out for the default.")
        unset = {"lambda_": self.lambda_ == "cv", "mu": self.mu is None or self.mu == "cv", "eps": False}
        for name, chosen_by_data in unset.items():
            value = getattr(self, name)
            if not (chosen_by_data or (isinstance(value, Real) and 0 <= float(value) < math.inf)):
                raise UsageError(name, found=repr(value), expected="a number of 0 or more" + (" or 'cv'" if name != "eps" else ""), do="Leave it out for the default.")
        if (self.lambda_ == "cv") != (self.mu == "cv") and self.mu is not None:
            found = f"{self.mu!r} beside lambda_={self.lambda_!r}"
            raise UsageError("mu", found=found, expected="both numbers, or both 'cv'", do="Cross-validation sets mu = lambda; give lambda_ a number to choose mu.")
        if self.solver is not None:
            for option in fields(self):
                value = getattr(self, option.name)
                if option.name != "solver" and value != option.default:
                    raise UsageError(
                        option.name,
                        found=f"{value!r} beside the recipe",
                        expected="nothing: the recipe has the papers' penalty and searches its strengths",
                        do="Leave it out, or leave the solver out (it is then exact).",
                    )

    @property
    def cross_validates(self) -> bool:
        """With lambda_="cv", unless the recipe chooses."""
        return self.lambda_ == "cv" and self.solver is None

    @property
    def takes_validation(self) -> bool:
        """To choose the strength by, unless it is given."""
        return self.solver is not None or self.lambda_ == "cv"

    @property
    def needs_every_class(self) -> bool:
        """Without a penalty."""
        return self.lambda_ == 0

    @abstractmethod
    def path(self, task: Task, subset: Subset, walk: Walk) -> Plan[dict[float, Any]]:
        """What the fit of a subset on the sample ends at for each strength."""

    @abstractmethod
    def held_out(self, task: Task, beta: float, end: Any) -> Mapping[Hashable, Ask]:
        """Asks about the sample whose evaluations add up to the NLL at an end of a path."""

    @abstractmethod
    def final(self, task: Task, subset: Subset, scale: Solved, chosen: Chosen) -> Plan[FittedMap]:
        """Fit a subset on all voxels at the strength chosen, which is not None."""

    @abstractmethod
    def temperature_map(self, task: Task, scale: Solved, chosen: Chosen) -> FittedMap:
        """Temperature scaling as a map of this family."""

    def exact(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """Temperatures, strengths, then the fit on all voxels, for every subset."""
        rough = yield from sampled_temperatures(task, sorted(self._walked(task)))
        chosen = yield from self._choose(task, {s: float(found.theta[0]) for s, found in rough.items()})
        # "odir" does not know the temperature: there the sample's is enough to start from, unless it is what is fitted or undetermined
        needed = [s for s in task.subsets if self.penalty == "ts" or chosen[s].lambda_ is None or rough[s].notes]
        scales = rough | (yield from refined_temperatures(task, {s: rough[s] for s in needed}))
        fitted = {s: self.temperature_map(task, scales[s], chosen[s]) for s in task.subsets if chosen[s].lambda_ is None}
        fitted |= yield from together({s: self.final(task, s, scales[s], chosen[s]) for s in task.subsets if s not in fitted})
        return fitted

    def bias_strength(self, lambda_: float) -> float:
        """The mu that goes with a lambda."""
        return lambda_ if self.mu is None or self.mu == "cv" else float(self.mu)

    def settings(self, scale: Solved, chosen: Chosen) -> dict[str, Any]:
        """Penalty and strengths as used."""
        lambda_ = chosen.lambda_
        mu = None if lambda_ is None else self.bias_strength(lambda_)
        return {"penalty": self.penalty, "eps": float(self.eps), "strength": chosen.why, "temperature": 1 / float(scale.theta[0]), "lambda": lambda_, "mu": mu}

    def at_temperature(self, scale: Solved, chosen: Chosen, notes: list[str]) -> Solution:
        """The solution of a fit that kept temperature scaling."""
        message = "; ".join([f"T = {1 / float(scale.theta[0]):.4g}", chosen.why, *scale.notes, *notes])
        status = "degenerate" if scale.notes else "optimal" if scale.converged else "stopped"
        return Solution(scale.value, scale.value, status, message, 0, certificate(scale), self.settings(scale, chosen), chosen.table)

    def _walked(self, task: Task) -> set[Subset]:
        """The subsets asked for, and with "cv" those that are judged."""
        judged = [fitted for s in task.subsets for fitted, _ in _judges(task, s)] if self.lambda_ == "cv" else []
        return {*task.subsets, *judged}

    def _choose(self, task: Task, betas: Mapping[Subset, float]) -> Plan[dict[Subset, Chosen]]:
        if self.lambda_ != "cv":
            given = float(self.lambda_)
            ends = yield from together({s: self.path(task, s, Walk.to_start(betas[s], given)) for s in task.subsets})
            return {s: Chosen(given, ends[s][given], (), "as given") for s in task.subsets}
        judges = {s: _judges(task, s) for s in task.subsets}
        needed = {fitted for found in judges.values() for fitted, _ in found} | {s for s, found in judges.items() if found}
        paths = yield from together({s: self.path(task, s, Walk(betas[s], PATH)) for s in sorted(needed)})
        asks: dict[Any, Ask] = {}
        for s, found in judges.items():
            for k, (fitted, cases) in enumerate(found):
                asks[s, k, None, None] = Ask(ScaleNLL(betas[fitted]), task.part, cases, Level.SAMPLE, by_case=True)
                for strength, end in paths[fitted].items():
                    for name, ask in self.held_out(task, betas[fitted], end).items():
                        asks[s, k, strength, name] = ask.about(cases, by_case=True)
        answers = (yield asks) if asks else {}
        sums: dict[tuple[Subset, float | None], dict[int, list[float]]] = {}
        for key, states in answers.items():
            of = sums.setdefault((key[0], key[2]), {})
            for case, state in states.items():
                one = accumulate.result(asks[key].accumulator, state)
                total = of.setdefault(case, [0.0, 0.0])
                total[0] += one.value * one.voxels
                total[1] += one.voxels
        out = {}
        for s, found in judges.items():
            if not found:
                out[s] = Chosen(None, None, (), "temperature scaling: fewer than two groups of cases to judge by")
                continue
            nll = {lam: {case: value / voxels for case, (value, voxels) in sums[s, lam].items()} for lam in (None, *PATH)}
            out[s] = _best(task, nll, paths[s])
        return out


def _judges(task: Task, subset: Subset) -> list[tuple[Subset, frozenset[int]]]:
    """Which fits are judged on which cases: one on the validation cases, else one a fold. Fewer than two groups to judge by: none."""
    if task.validation:
        return [(subset, task.validation)] if len({task.groups[i] for i in task.validation}) >= 2 else []
    return [(tuple(sorted((*subset, k))), frozenset(task.folds[k])) for k in task.inner(subset)]


def _best(task: Task, nll: Mapping[float | None, Mapping[int, float]], path: Mapping[float, Any]) -> Chosen:
    """The strongest penalty, temperature scaling the strongest of all, whose NLL is above the lowest by no more than the standard error of that paired difference over cases."""
    base = nll[None]
    how = "chosen on validation cases" if task.validation else "cross-validated over cases"
    cases = sorted(base)
    groups = [task.groups[i] for i in cases]
    mean = {strength: float(np.mean([found[i] for i in cases])) for strength, found in nll.items()}
    best = min(mean, key=lambda s: mean[s])
    gain = {strength: clustered_mean([base[i] - found[i] for i in cases], groups) for strength, found in nll.items()}
    excess = {strength: clustered_mean([found[i] - nll[best][i] for i in cases], groups) for strength, found in nll.items()}
    table = tuple(
        {
            "lambda": s,
            "nll": mean[s],
            "gain": gain[s].mean,
            "standard_error": gain[s].standard_error,
            "excess": excess[s].mean,
            "excess_standard_error": excess[s].standard_error,
        }
        for s in nll
    )
    chosen = next(s for s in nll if s == best or excess[s].mean <= one_standard_error(excess[s]))
    if chosen is None:
        return Chosen(None, None, table, f"temperature scaling: {how}, no gain beyond its standard error")
    why = f"{how}: NLL {gain[chosen].mean:.4g} +- {gain[chosen].standard_error:.2g} below temperature scaling"
    if chosen != best:
        why += f"; the strongest within a standard error of lambda = {best:g}"
    return Chosen(chosen, path[chosen], table, why)
