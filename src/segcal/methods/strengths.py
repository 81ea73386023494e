"""What methods share that are shrunk towards temperature scaling or another simple map: the strength of their penalty,
chosen by case-wise cross-validation.

Objective: mean NLL + penalty + ridge. `lambda_` and `mu` are numbers, or `lambda_="cv"`: the strength (mu = lambda) is
chosen by case-wise cross-validation along the path 1e4 ... 1e-4, warm-started, on an even sample of the voxels. Which
strength is best is uncertain with few cases, so none is picked: each, temperature scaling among them as the strongest
of all, gets as its weight the probability that its NLL is the lowest (Bayesian bootstrap over groups of cases, Rubin
1981), and the parameters of the fits are averaged. NLL is convex in them, so on any data the average's is at most the
average NLL, which picking at random by those weights would give. Weights below `LEAST` are dropped. The final fits use
every voxel. Where validation cases are given they take the place of the folds: one path instead of one a fold (K26
4.1). `eps` is the ridge that makes the optimum unique and finite. Fewer than two groups of cases to judge by: "cv"
keeps temperature scaling and says so.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcal.engine import accumulate
from segcal.engine.ask import Ask, Level
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task, together
from segcal.fitting.solvers.query import Solved
from segcal.methods.calibrator import Solution
from segcal.methods.maps import PartMap
from segcal.methods.method import FittedMap, Method
from segcal.methods.numbers import at_least_0
from segcal.methods.temperature import ScaleNLL, certificate, refined_temperatures, sampled_temperatures
from segcal.metrics.statistics.clustered import clustered_mean, lowest_probabilities
from segcal.metrics.statistics.verdict import LEAST_GROUPS

PATH = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)

LEAST = 0.05
"""A strength less probable than this is not fitted on all voxels, which leaves one to three fits as a rule; what is
dropped moves the average little.
"""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The weight of each strength (None: temperature scaling), what a fit at each starts from, the table they were
    chosen from, and why. Weights sum to 1.
    """

    weights: Mapping[float | None, float]
    starts: Mapping[float, Any]
    table: tuple[Mapping[str, Any], ...]
    why: str

    @property
    def strengths(self) -> list[float]:
        """Those that are not temperature scaling, in the path's order."""
        return [strength for strength in self.weights if strength is not None]


@dataclass(frozen=True, eq=False)
class Optimum:
    """A fit on all voxels at one strength: the `end` it came to, objective `value` and its `nll`, its certificate,
    whether it `converged`, what is to be said.

    And what is told of its experts, if there are any.
    """

    end: Any
    value: float
    nll: float
    certificate: Mapping[str, Any]
    converged: bool
    notes: tuple[str, ...]
    experts: tuple[Mapping[str, Any], ...] = ()


def in_words(strengths: Sequence[Mapping[str, Any]]) -> str:
    """Strengths and weights as a solution's settings hold them: "0.01", "0.01 and mu = 0.1", "ts (38 %), 0.01
    (62 %)".
    """

    def name(row: Mapping[str, Any]) -> str:
        lambda_, mu = row["lambda"], row["mu"]
        return "ts" if lambda_ is None else f"{lambda_:.4g}" if mu == lambda_ else f"{lambda_:.4g} and mu = {mu:.4g}"

    return (
        name(strengths[0])
        if len(strengths) == 1
        else ", ".join(f"{name(row)} ({100 * row['weight']:.0f} %)" for row in strengths)
    )


@dataclass(frozen=True)
class Walk:
    """How a subset is fitted on the sample along `strengths`, each started from the one before, until a step promises
    less than `tolerance`.

    `beta`: the subset's inverse temperature; `extra` strength towards that temperature is added throughout.
    """

    beta: float
    strengths: tuple[float, ...]
    tolerance: float = 1e-7
    extra: float = 0.0

    @classmethod
    def to_start(cls, beta: float, strength: float) -> Walk:
        """To a start only: the sample's optimum is off by its own noise, and an unpenalised one may lie far out where
        the whole cohort's does not.
        """
        return cls(beta, (strength,), 1e-5, 1e-4)


@dataclass(frozen=True)
class Shrunk(Method):
    """`lambda_`, `mu` >= 0 or both "cv"; `mu` None: as lambda; `eps` >= 0. UsageError for anything else."""

    lambda_: float | Literal["cv"] = "cv"
    mu: float | Literal["cv"] | None = None
    eps: float = field(default=1e-8, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("lambda_", "mu", "eps"):
            if not isinstance(getattr(self, name), Real | str | None):
                raise UsageError(
                    name,
                    found=repr(getattr(self, name)),
                    expected="a number or 'cv'",
                    do="Leave it out for the default.",
                )
        unset = {"lambda_": self.lambda_ == "cv", "mu": self.mu is None or self.mu == "cv", "eps": False}
        for name, chosen_by_data in unset.items():
            value = getattr(self, name)
            if not (chosen_by_data or at_least_0(value)):
                raise UsageError(
                    name,
                    found=repr(value),
                    expected="a number of 0 or more" + (" or 'cv'" if name != "eps" else ""),
                    do="Leave it out for the default.",
                )
        if (self.lambda_ == "cv") != (self.mu == "cv") and self.mu is not None:
            found = f"{self.mu!r} beside lambda_={self.lambda_!r}"
            raise UsageError(
                "mu",
                found=found,
                expected="both numbers, or both 'cv'",
                do="Cross-validation sets mu = lambda; give lambda_ a number to choose mu.",
            )

    @property
    def cross_validates(self) -> bool:
        """With lambda_="cv"."""
        return self.lambda_ == "cv"

    @property
    def takes_validation(self) -> bool:
        """To choose the strength by, unless it is given."""
        return self.lambda_ == "cv"

    @property
    def centred(self) -> bool:
        """Whether the penalty pulls towards temperature scaling, and so has to know the temperature."""
        return True

    @abstractmethod
    def path(self, task: Task, subset: Subset, walk: Walk) -> Plan[dict[float, Any]]:
        """What the fit of a subset on the sample ends at for each strength."""

    @abstractmethod
    def nll_asks(self, task: Task, beta: float, end: Any, level: Level) -> Mapping[Hashable, Ask]:
        """Asks about all cases whose evaluations add up to the NLL at an end."""

    @abstractmethod
    def optimum(self, task: Task, subset: Subset, scale: Solved, lambda_: float, start: Any) -> Plan[Optimum]:
        """Fit a subset on all voxels at a strength."""

    @abstractmethod
    def temperature_end(self, task: Task, beta: float) -> Any:
        """Temperature scaling as an end."""

    @abstractmethod
    def mean_end(self, ends: Sequence[Any], weights: Sequence[float]) -> Any:
        """The ends' parameters, averaged."""

    @abstractmethod
    def map_at(self, task: Task, end: Any) -> PartMap:
        """The map of an end."""

    @abstractmethod
    def remarks(self, task: Task, end: Any, scale: Solved) -> tuple[bool, list[str]]:
        """Whether an end lies where the data do not bound it, and what is to be said of it."""

    def details(self, end: Any, optima: Sequence[Optimum]) -> dict[str, Any]:
        """More settings to tell of; none."""
        del end, optima
        return {}

    @abstractmethod
    def temperature_map(self, task: Task, scale: Solved, chosen: Chosen) -> FittedMap:
        """Temperature scaling as a map of this family."""

    def exact(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """Temperatures, strengths, then the fit on all voxels, for every subset."""
        rough = yield from sampled_temperatures(task, sorted(self._walked(task)))
        chosen = yield from self._choose(task, {s: float(found.theta[0]) for s, found in rough.items()})
        # a penalty that does not know the temperature needs no more than the sample's to start from, unless it is what
        # is fitted or undetermined
        needed = [s for s in task.subsets if self.centred or None in chosen[s].weights or rough[s].notes]
        scales = rough | (yield from refined_temperatures(task, {s: rough[s] for s in needed}))
        fitted = {s: self.temperature_map(task, scales[s], chosen[s]) for s in task.subsets if not chosen[s].strengths}
        fitted |= yield from together(
            {s: self._averaged(task, s, scales[s], chosen[s]) for s in task.subsets if s not in fitted}
        )
        return fitted

    def bias_strength(self, lambda_: float) -> float:
        """The mu that goes with a lambda."""
        return lambda_ if self.mu is None or self.mu == "cv" else float(self.mu)

    def unbounded(self, because: str = "") -> str:
        """What is said of parameters that go beyond all bounds."""
        bound = (
            "penalty and ridge do"
            if self.eps > 0
            else "nor does a ridge (eps = 0): the infimum is not attained, the descent ended here"
        )
        return f"the data do not bound them{f' ({because})' if because else ''}; {bound}"

    def settings(self, scale: Solved, chosen: Chosen, unit: float) -> dict[str, Any]:
        """Penalty and strengths as used, and the temperature of logits that were divided by `unit`, as given."""
        strengths = tuple(
            {"lambda": s, "mu": None if s is None else self.bias_strength(s), "weight": weight}
            for s, weight in chosen.weights.items()
        )
        return {
            "eps": float(self.eps),
            "strength": chosen.why,
            "temperature": unit / float(scale.theta[0]),
            "strengths": strengths,
        }

    def at_temperature(self, scale: Solved, chosen: Chosen, unit: float, notes: list[str]) -> Solution:
        """The solution of a fit that kept temperature scaling."""
        message = "; ".join([f"T = {unit / float(scale.theta[0]):.4g}", chosen.why, *scale.notes, *notes])
        status = "degenerate" if scale.notes else "optimal" if scale.converged else "stopped"
        return Solution(
            scale.value,
            scale.value,
            status,
            message,
            0,
            certificate(scale),
            self.settings(scale, chosen, unit),
            chosen.table,
        )

    def _averaged(self, task: Task, subset: Subset, scale: Solved, chosen: Chosen) -> Plan[FittedMap]:
        """Fits on all voxels at every strength that has a weight, and their mean."""
        beta = float(scale.theta[0])
        at = yield from together({s: self.optimum(task, subset, scale, s, chosen.starts[s]) for s in chosen.strengths})
        every, weights = [at[s] for s in chosen.strengths], [chosen.weights[s] for s in chosen.strengths]
        if None in chosen.weights:
            every.append(
                Optimum(
                    self.temperature_end(task, beta), scale.value, scale.value, certificate(scale), scale.converged, ()
                )
            )
            weights.append(chosen.weights[None])
        end, nll = every[0].end, every[0].nll
        if len(every) > 1:
            end = self.mean_end([o.end for o in every], weights)
            asks = {k: ask.about(task.members(subset)) for k, ask in self.nll_asks(task, beta, end, Level.ALL).items()}
            answers = yield asks
            sums = [accumulate.result(ask.accumulator, answers[k]) for k, ask in asks.items()]
            nll = sum(one.value * one.voxels for one in sums) / sum(one.voxels for one in sums)
        unbounded, remarks = self.remarks(task, end, scale)
        notes = list(
            dict.fromkeys(
                [note for o in every for note in o.notes]
                + [f"temperature alone: {note}" for note in scale.notes]
                + remarks
            )
        )
        status = "stopped" if not all(o.converged for o in every) else "degenerate" if unbounded else "optimal"
        proven = _certificate(every, weights)
        told = self.settings(scale, chosen, task.unit) | self.details(end, every)
        message = "; ".join(
            [f"lambda = {in_words(told['strengths'])} ({chosen.why}), gap <= {proven['gap']:.1e}", *notes]
        )
        return FittedMap(
            self.map_at(task, end),
            Solution(_mean([o.value for o in every], weights), nll, status, message, 0, proven, told, chosen.table),
        )

    def _walked(self, task: Task) -> set[Subset]:
        """The subsets asked for, and with "cv" those that are judged."""
        judged = [fitted for s in task.subsets for fitted, _ in _judges(task, s)] if self.lambda_ == "cv" else []
        return {*task.subsets, *judged}

    def _choose(self, task: Task, betas: Mapping[Subset, float]) -> Plan[dict[Subset, Chosen]]:
        if self.lambda_ != "cv":
            given = float(self.lambda_)
            ends = yield from together({s: self.path(task, s, Walk.to_start(betas[s], given)) for s in task.subsets})
            return {s: Chosen({given: 1.0}, ends[s], (), "as given") for s in task.subsets}
        judges = {s: _judges(task, s) for s in task.subsets}
        needed = {fitted for found in judges.values() for fitted, _ in found} | {
            s for s, found in judges.items() if found
        }
        paths = yield from together({s: self.path(task, s, Walk(betas[s], PATH)) for s in sorted(needed)})
        asks: dict[Any, Ask] = {}
        for s, found in judges.items():
            for k, (fitted, cases) in enumerate(found):
                asks[s, k, None, None] = Ask(ScaleNLL(betas[fitted]), task.part, cases, Level.SAMPLE, by_case=True)
                for strength, end in paths[fitted].items():
                    for name, ask in self.nll_asks(task, betas[fitted], end, Level.SAMPLE).items():
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
                out[s] = Chosen({None: 1.0}, {}, (), "temperature scaling: fewer than two groups of cases to judge by")
                continue
            nll = {
                lam: {case: value / voxels for case, (value, voxels) in sums[s, lam].items()} for lam in (None, *PATH)
            }
            fold = {case: k for k, (_, judged) in enumerate(found) for case in judged}
            out[s] = _weighed(task, nll, paths[s], fold)
        return out


def _judges(task: Task, subset: Subset) -> list[tuple[Subset, frozenset[int]]]:
    """Which fits are judged on which cases: one on the validation cases, else one a fold.

    Fewer than two groups to judge by: none.
    """
    if task.validation:
        return [(subset, task.validation)] if len({task.groups[i] for i in task.validation}) >= 2 else []
    return [(tuple(sorted((*subset, k))), frozenset(task.folds[k])) for k in task.inner(subset)]


def _weighed(
    task: Task, nll: Mapping[float | None, Mapping[int, float]], path: Mapping[float, Any], fold: Mapping[int, int]
) -> Chosen:
    """Each strength weighed by the probability that its NLL, mean over cases, is the lowest. `fold`: where each case
    was held out.
    """
    base = nll[None]
    # by name: draws do not depend on the order cases were given in
    cases = sorted(base, key=lambda i: (task.groups[i], i))
    groups = [task.groups[i] for i in cases]
    probable = lowest_probabilities([[found[i] for i in cases] for found in nll.values()], groups)
    kept = {strength: float(p) for strength, p in zip(nll, probable, strict=True) if p >= LEAST}
    weights = {strength: p / sum(kept.values()) for strength, p in kept.items()}
    mean = {strength: float(np.mean([found[i] for i in cases])) for strength, found in nll.items()}
    lowest = nll[min(mean, key=lambda s: mean[s])]
    gain = {strength: clustered_mean([base[i] - found[i] for i in cases], groups) for strength, found in nll.items()}
    excess = {
        strength: clustered_mean([found[i] - lowest[i] for i in cases], groups) for strength, found in nll.items()
    }
    table = tuple(
        {
            "lambda": s,
            "nll": mean[s],
            "gain": gain[s].mean,
            "standard_error": gain[s].standard_error,
            "excess": excess[s].mean,
            "excess_standard_error": excess[s].standard_error,
            "weight": weights.get(s, 0.0),
        }
        for s in nll
    )
    how = "chosen on validation cases" if task.validation else "cross-validated over cases"
    if set(weights) == {None}:
        return Chosen(weights, {}, table, f"temperature scaling: {how}, none is likely to gain on it")
    # validation cases had no part in any fit: there each group is a fold of its own
    apart = groups if task.validation else [fold[i] for i in cases]
    told = _told(np.array([[base[i] - found[i] for i in cases] for found in nll.values()]), groups, apart)
    return Chosen(weights, path, table, f"{how}{told}")


def _told(gains: NDArray[np.float64], groups: Sequence[Hashable], fold: Sequence[Hashable]) -> str:
    """What averaging gains on temperature scaling, from cases that had no part in the weights: those of each fold by
    weights of the other folds. NLL is convex, so the average gains at least this. `gains` (strengths, n); nothing is
    said below three groups.
    """
    if len(set(groups)) < LEAST_GROUPS:
        return ""
    out_of_sample = np.empty(gains.shape[1])
    for one in dict.fromkeys(fold):
        out = np.array([f == one for f in fold])
        probable = lowest_probabilities(-gains[:, ~out], [g for g, o in zip(groups, out, strict=True) if not o])
        kept = np.where(probable >= LEAST, probable, 0)
        out_of_sample[out] = kept @ gains[:, out] / kept.sum()
    bound = clustered_mean(out_of_sample, groups)
    found = f"{bound.low:.2g} to {bound.high:.2g} out of sample"
    if bound.low <= 0:
        return f": that it gains on temperature scaling cannot be told ({found})"
    return f": NLL at least {bound.mean:.4g} below temperature scaling ({found})"


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(w * v for w, v in zip(weights, values, strict=True))


def _certificate(optima: Sequence[Optimum], weights: Sequence[float]) -> Mapping[str, Any]:
    """Of the fits averaged: the mean gap, which bounds the mean objective minus the mean optimum; the worst of the
    rest.
    """
    if len(optima) == 1:
        return optima[0].certificate
    every = [o.certificate for o in optima]
    worst = max(every, key=lambda c: float(c["gap"]))
    shared = {
        name: max(c[name] for c in every if name in c)
        for name in ("kkt", "gradient", "evaluations")
        if any(name in c for c in every)
    }
    return {
        "gap": _mean([c["gap"] for c in every], weights),
        "proof": f"{worst['proof']}, for each of the {len(every)} fits averaged",
    } | shared
