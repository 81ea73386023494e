"""Which calibrator to use: the simplest method that the data cannot tell from the best one, among those that keep what
the user wants kept; or none, if none gains.

Every method is fitted on all cases and again without each fold of groups, over shared passes; every case is scored by
the fit without its group, all methods in one more pass. A method is allowed if all its fits, on all cases and without
each fold, are proven to keep what is asked: the label of every voxel; on request, invariance to an offset of the
logits. What counts are the guarantees of the fitted maps, not names. The uncalibrated scores are allowed too, as the
method without a parameter. The allowed one of lowest mean NLL over cases is the best. Chosen is the one with fewest
identifiable parameters whose NLL is above the best one's by no more than the standard error of that paired difference,
clustered by group, or by less than a thousandth of the uncalibrated NLL; the scores themselves tie up to a hundredth of
it, since among a dozen methods one gains that much by luck. Where the choice would be the scores, a method with no more
than one parameter a part of the head (a temperature) goes before them if its mean gain is that hundredth: it can hardly
over-fit, and with few cases a standard error hides gains that are there. Otherwise the answer is "no gain"; the
calibrator then is the identity, which is saved and applied as any other, so that what comes after a fit need not ask.

With few groups a standard error is itself uncertain: it is widened to the quantile of Student's t that has the
probability of one standard error under a normal (1.14 times for 5 groups). What the choice gains is told out of sample,
the choice included: each fold is scored by what the rule chooses on the other folds, fitted on them. Below three groups
no gain is told. Source: the one-standard-error rule of Breiman
et al. (1984). Methods for which memory is too short are left out, and the reasons say so. Costs: the passes of the
hardest fit and one survey. Cases of one group only: UsageError, as nothing can be held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.cohort import Cohort
from segcal.engine.engine import Engine
from segcal.engine.need import spoken
from segcal.errors import ShapeError, UsageError
from segcal.methods.calibrator import Calibrator, Solution
from segcal.methods.guarantees import weakest
from segcal.methods.method import FOLDS, SEED, AnyMethod, Fit, fit_methods, need_of
from segcal.methods.registry import methods as registered
from segcal.methods.temperature import ScaleMap
from segcal.metrics.statistics.clustered import one_standard_error, paired_difference
from segcal.metrics.statistics.estimate import Estimate
from segcal.metrics.statistics.verdict import LEAST_GROUPS
from segcal.metrics.summary import Summary
from segcal.tasks.evaluate import Evaluation, crossfitted
from segcal.tasks.scoring import room_to_score

UNCALIBRATED = "uncalibrated"
FREE = ", free"
"""Ends the name of a region head's method whose probabilities may cross 0.5."""

NOTICEABLE = 1e-3
"""Differences between methods below this share of the uncalibrated NLL count as none, however certain they are."""

WORTHWHILE = 1e-2
"""A gain over the uncalibrated scores below this share of their NLL counts as none."""

FEW_GROUPS = 10
"""Below so many groups the reasons say that standard errors are uncertain."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One method compared. `parameters`: identifiable ones, of all parts of the head. `keeps_map`, `invariant`: proven
    for all its fits. `allowed`: it keeps what is asked.

    `evaluation`: its cross-fitted numbers. `excess`: its NLL minus that of the best allowed method, over cases. `fit`
    is None for the uncalibrated scores.
    """

    name: str
    parameters: int
    keeps_map: bool
    invariant: bool
    allowed: bool
    evaluation: Evaluation
    excess: Estimate
    fit: Fit | None

    @property
    def nll(self) -> float:
        """Mean over cases of the cross-fitted NLL."""
        return float(self.after.block["nll"])

    @property
    def after(self) -> Summary:
        """Its numbers."""
        assert self.evaluation.calibrated is not None
        return self.evaluation.calibrated

    @property
    def ties(self) -> bool:
        """Whether its NLL is above the best allowed one's by no more than one standard error, or by less than anyone
        would notice.
        """
        return _ties(self.name, self.excess, float(self.evaluation.uncalibrated.block["nll"]))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        names = ("nll", "ece", "ace", "classwise_ece", "dice", "flip_rate")
        return {
            "name": self.name,
            "parameters": self.parameters,
            "keeps_map": self.keeps_map,
            "invariant": self.invariant,
            "allowed": self.allowed,
            "within_one_standard_error": self.ties,
            **{name: self.after.block[name] for name in names},
            "differences": {
                name: self.evaluation.differences[name].to_json() for name in ("nll", "ece", "dice", "flip_rate")
            },
            "excess": self.excess.to_json(),
        }


@dataclass(frozen=True)
class Standing:
    """How a candidate stands on some of the cases."""

    name: str
    parameters: int
    invariant: bool
    nll: float
    ties: bool


@dataclass(frozen=True, eq=False)
class Recommendation:
    """What was chosen, and why.

    `evaluation`: numbers of the choice, each fold scored by what the other folds choose (`by_fold`). `chosen`: a name
    of `candidates`, `UNCALIBRATED` where nothing gains. `best`: the allowed one of lowest NLL. `unconstrained`: what
    would be chosen if everything were allowed. `calibrator`: the chosen one, fitted on all cases; the identity where
    nothing gains. `reasons`: sentences for a person. `candidates`: by number of parameters, the uncalibrated scores
    first.
    """

    chosen: str
    best: str
    unconstrained: str
    calibrator: Calibrator
    candidates: Mapping[str, Candidate]
    evaluation: Evaluation
    by_fold: Sequence[str]
    reasons: Sequence[str]
    keep_map: bool
    invariant: bool
    folds: int
    seed: int

    @property
    def gains(self) -> bool:
        """Whether a calibrator was chosen, not the scores as they are."""
        return self.chosen != UNCALIBRATED

    def to_json(self) -> dict[str, Any]:
        """Everything but the calibrator, as plain data."""
        return {
            "chosen": self.chosen,
            "gains": self.gains,
            "best": self.best,
            "by_fold": list(self.by_fold),
            "unconstrained": self.unconstrained,
            "keep_map": self.keep_map,
            "invariant": self.invariant,
            "folds": self.folds,
            "seed": self.seed,
            "reasons": list(self.reasons),
            "candidates": [c.to_json() for c in self.candidates.values()],
        }


def recommend(
    cohort: Cohort,
    engine: Engine,
    *,
    keep_map: bool = True,
    invariant: bool = False,
    methods: Mapping[str, AnyMethod] | None = None,
    folds: int = FOLDS,
    seed: int = SEED,
) -> Recommendation:
    """Compare `methods` (None: every registered one that is fitted exactly, at its defaults) on a labelled cohort and
    choose one.

    `keep_map`: only methods proven to keep the label of every voxel. `invariant`: only methods proven invariant to an
    offset of all logits. No method, or one called `UNCALIBRATED`: UsageError; so are cases of one group.
    """
    compared, unsuited = _suited(automatic(), cohort) if methods is None else (dict(methods), ())
    if not compared or UNCALIBRATED in compared:
        raise UsageError(
            "methods",
            found=str(list(compared)),
            expected=f"at least one method, none called {UNCALIBRATED!r}",
            do="Leave it out to compare all of them.",
        )
    cohort = engine.scorable(cohort)
    compared, short = _fitting(compared, cohort, engine, folds, seed)
    room_to_score(cohort, 1 + len(compared) * (2 if cohort.head.can_keep_decision else 1), engine)
    fits = fit_methods(compared, cohort, engine, crossfit=True, folds=folds, seed=seed)
    classes = [len(cohort.head.part_classes(part)) for part in range(len(cohort.head.parts))]
    parameters = {name: sum(method.identifiable(c) for c in classes) for name, method in compared.items()}
    if cohort.head.can_keep_decision:
        free = {name + FREE: _freed(fit) for name, fit in fits.items() if not _maps_keep(fit)}
        parameters |= {name + FREE: parameters[name] for name in fits}
        fits |= free
    evaluations = crossfitted(cohort, fits, engine)
    candidates = _candidates(cohort, fits, evaluations, parameters, keep_map, invariant)
    allowed = {name: c for name, c in candidates.items() if c.allowed}
    best, chosen = _best(allowed), _simplest(allowed, len(classes))
    unconstrained = _simplest(_against(cohort, candidates, _best(candidates)), len(classes))
    folds_of = next(iter(fits.values())).folds
    by_fold = _by_fold(cohort, allowed, folds_of, len(classes))
    freely = _by_fold(cohort, candidates, folds_of, len(classes))
    fit = candidates[chosen].fit
    told = _out_of_sample(cohort, candidates, chosen, by_fold, fits, engine)
    why = _reasons(cohort, candidates, best, chosen, keep_map, invariant)
    if fit is not None and len(set(cohort.groups)) >= LEAST_GROUPS:
        why += (_nested(told, chosen, by_fold),)
    if (keep_map or invariant) and len(allowed) < len(candidates):
        why += (_price(cohort, candidates, chosen, unconstrained, folds_of, by_fold, freely),)
    if len(set(cohort.groups)) < FEW_GROUPS:
        why += (_few(len(set(cohort.groups))),)
    why += (*short, *unsuited)
    calibrator = (
        fit.calibrator
        if fit is not None
        else _identity(cohort, next(iter(fits.values())).calibrator, candidates[UNCALIBRATED], why)
    )
    return Recommendation(
        chosen,
        best,
        unconstrained,
        calibrator,
        candidates,
        told,
        by_fold,
        why,
        keep_map,
        invariant,
        len(folds_of),
        seed,
    )


def _suited(methods: Mapping[str, AnyMethod], cohort: Cohort) -> tuple[dict[str, AnyMethod], tuple[str, ...]]:
    """Those that can be fitted on such cases and do not take too long there, and what is to be said of the others."""
    inside, outside, long = dict[str, AnyMethod](), list[str](), list[str]()
    classes = max(len(cohort.head.part_classes(part)) for part in range(len(cohort.head.parts)))
    for name, method in methods.items():
        try:
            method.check(cohort)
        except ShapeError:
            outside.append(name)
        else:
            if method.at_length(classes):
                long.append(name)
            else:
                inside[name] = method
    said = [f"Not compared, since they need images or volumes: {', '.join(outside)}."] if outside else []
    if long:
        said.append(f"Not compared for the time they take with {classes} classes: {', '.join(long)}.")
    return inside, tuple(said)


def _fitting(
    methods: Mapping[str, AnyMethod], cohort: Cohort, engine: Engine, folds: int, seed: int
) -> tuple[dict[str, AnyMethod], tuple[str, ...]]:
    """Those for which memory is enough, and a sentence about the others. None left: UsageError that names the memory
    needed.
    """
    needs = {name: need_of(m, cohort, crossfit=True, folds=folds, seed=seed) for name, m in methods.items()}
    inside = {name: m for name, m in methods.items() if engine.fits(cohort, needs[name], 1, fitting=True)}
    if not inside:
        name = min(needs, key=lambda name: engine.least(cohort, needs[name], fitting=True))
        engine.room_for(cohort, needs[name], f"--method {name}", "another method, such as ts", fitting=True)
    outside = [name for name in methods if name not in inside]
    if not outside:
        return inside, ()
    all_of_them = max(engine.least(cohort, needs[name], fitting=True) for name in outside)
    return inside, (
        f"Not compared for want of memory: {', '.join(outside)}; with {cohort.head.channels} classes"
        f" --max-memory {spoken(all_of_them)} has room for {'it' if len(outside) == 1 else 'them'}.",
    )


def automatic() -> dict[str, AnyMethod]:
    """The methods compared unless told otherwise."""
    return {name: named() for name, named in registered().items() if named.kind.automatic}


def _candidates(
    cohort: Cohort,
    fits: Mapping[str, Fit],
    evaluations: Mapping[str, Evaluation],
    parameters: Mapping[str, int],
    keep_map: bool,
    invariant: bool,
) -> dict[str, Candidate]:
    first = next(iter(evaluations.values()))
    plain = first.unchanged()
    found = [Candidate(UNCALIBRATED, 0, True, True, True, plain, plain.differences["nll"], None)]
    for name, fit in fits.items():
        given = weakest([c.guarantees() for c in (fit.calibrator, *fit.held_out)])
        keeps, offsets = given.preserves_argmax == "proven", given.translation_invariant == "proven"
        allowed = (keeps or not keep_map) and (offsets or not invariant)
        found.append(
            Candidate(
                name,
                parameters[name],
                keeps,
                offsets,
                allowed,
                evaluations[name],
                evaluations[name].differences["nll"],
                fit,
            )
        )
    by_name = {c.name: c for c in sorted(found, key=lambda c: c.parameters)}
    return _against(cohort, by_name, _best({name: c for name, c in by_name.items() if c.allowed}))


def _ties(name: str, excess: Estimate, uncalibrated: float) -> bool:
    least = WORTHWHILE if name == UNCALIBRATED else NOTICEABLE
    return excess.mean <= max(one_standard_error(excess), least * uncalibrated)


def _columns(cohort: Cohort, candidates: Mapping[str, Candidate]) -> dict[str, NDArray[np.float64]]:
    """NLL of each case, in the cohort's order."""
    out = {}
    for name, c in candidates.items():
        rows = {row["case"]: row["nll"] for row in c.after.per_case}
        out[name] = np.array([rows[case.id] for case in cohort])
    return out


def _by_fold(
    cohort: Cohort, candidates: Mapping[str, Candidate], folds: Sequence[Sequence[int]], parts: int
) -> tuple[str, ...]:
    """For each fold what the rule chooses on the cases of all others."""
    columns = _columns(cohort, candidates)
    before = _columns(cohort, {name: c for name, c in candidates.items() if c.fit is None})[UNCALIBRATED]
    chosen = []
    for fold in folds:
        rest = sorted(set(range(len(cohort))) - set(fold))
        groups = [cohort.groups[i] for i in rest]
        lowest = min(columns.values(), key=lambda x: float(x[rest].mean()))[rest]
        standings = {
            name: Standing(
                name,
                c.parameters,
                c.invariant,
                float(columns[name][rest].mean()),
                _ties(name, paired_difference(lowest, columns[name][rest], groups), float(before[rest].mean())),
            )
            for name, c in candidates.items()
        }
        chosen.append(_simplest(standings, parts))
    return tuple(chosen)


def _out_of_sample(
    cohort: Cohort,
    candidates: Mapping[str, Candidate],
    chosen: str,
    by_fold: Sequence[str],
    fits: Mapping[str, Fit],
    engine: Engine,
) -> Evaluation:
    """Numbers of the choice where each fold is scored by what the other folds chose: those at hand where all chose the
    same, else from one more pass. Nothing is claimed where nothing is chosen.
    """
    if chosen == UNCALIBRATED or set(by_fold) == {chosen}:
        return candidates[chosen].evaluation
    folds = next(iter(fits.values())).folds
    as_is = Calibrator(cohort.head, cohort.pooled_kind, [ScaleMap(1.0) for _ in cohort.head.parts], UNCALIBRATED)
    held_out = [as_is if name == UNCALIBRATED else fits[name].held_out[k] for k, name in enumerate(by_fold)]
    return crossfitted(cohort, {chosen: Fit(fits[chosen].calibrator, folds, tuple(held_out))}, engine)[chosen]


def _against(cohort: Cohort, candidates: Mapping[str, Candidate], best: str) -> dict[str, Candidate]:
    """Candidates with their excess over the one called `best`."""
    columns = _columns(cohort, candidates)
    return {
        name: replace(c, excess=paired_difference(columns[best], columns[name], cohort.groups))
        for name, c in candidates.items()
    }


def _best(candidates: Mapping[str, Candidate]) -> str:
    return min(candidates, key=lambda name: candidates[name].nll)


def _simplest(candidates: Mapping[str, Candidate] | Mapping[str, Standing], parts: int) -> str:
    """Fewest parameters among those that tie with the best; then invariant ones, then lower NLL.

    A temperature that gains in the mean goes before nothing at all.
    """
    tied = [c for c in candidates.values() if c.ties]
    first = min(tied, key=lambda c: (c.parameters, not c.invariant, c.nll))
    if first.name == UNCALIBRATED:
        light = [c for c in tied if 0 < c.parameters <= parts and c.nll < first.nll * (1 - WORTHWHILE)]
        return min(light, key=lambda c: c.nll).name if light else UNCALIBRATED
    return first.name


def _maps_keep(fit: Fit) -> bool:
    return all(c.guarantees().preserves_argmax == "proven" for c in map(_free, (fit.calibrator, *fit.held_out)))


def _freed(fit: Fit) -> Fit:
    return Fit(_free(fit.calibrator), fit.folds, tuple(_free(c) for c in fit.held_out))


def _free(c: Calibrator) -> Calibrator:
    """The same maps, whose probabilities may cross 0.5."""
    maps = c.maps
    return Calibrator(
        c.head,
        c.kind,
        maps,
        c.method,
        solution=c.solution,
        data=c.data,
        keep_decision=False,
        resolution=c.resolution,
        unit=c.unit,
    )


def _identity(cohort: Cohort, fitted: Calibrator, uncalibrated: Candidate, reasons: Sequence[str]) -> Calibrator:
    nll = uncalibrated.after.block["nll_pooled"]
    solution = Solution(
        nll,
        nll,
        "optimal",
        " ".join(r for r in reasons if r.startswith("No gain")),
        0,
        {"gap": 0.0, "proof": "nothing is fitted", "gradient": 0.0, "evaluations": 0},
    )
    return Calibrator(
        cohort.head,
        cohort.pooled_kind,
        [ScaleMap(1.0) for _ in cohort.head.parts],
        UNCALIBRATED,
        solution=solution,
        data=fitted.data,
    )


def _reasons(
    cohort: Cohort,
    candidates: Mapping[str, Candidate],
    best: str,
    chosen: str,
    keep_map: bool,
    invariant: bool,
) -> tuple[str, ...]:
    groups = len(set(cohort.groups))
    top, choice = candidates[best], candidates[chosen]
    out = [
        f"{len(candidates) - 1} methods compared on {len(cohort)} cases in {groups} groups; every case was scored by a"
        " fit without its group."
    ]
    wanted = [
        word
        for word, asked in (("the label of every voxel", keep_map), ("invariance to the logits' offset", invariant))
        if asked
    ]
    barred = [name for name, c in candidates.items() if not c.allowed]
    if wanted:
        out.append(
            f"Must keep {' and '.join(wanted)}: "
            + (
                f"{', '.join(barred)} may not, and {'is' if len(barred) == 1 else 'are'} left out."
                if barred
                else "all of them do."
            )
        )
    if best != UNCALIBRATED:
        out.append(f"Lowest NLL: {best}, {top.nll:.4f} against {candidates[UNCALIBRATED].nll:.4f} uncalibrated.")
    if chosen == UNCALIBRATED:
        why = (
            f"{best}, the best, gains no more than one standard error, or a hundredth of the NLL"
            if best != UNCALIBRATED
            else "no method has a lower NLL on cases it did not see"
        )
        out.append(f"No gain: {why}. The scores are left as they are.")
    elif candidates[UNCALIBRATED].ties:
        out.append(
            f"Chosen: {chosen} ({counted(choice)}). That it gains is not certain; but so few can hardly over-fit."
        )
    elif chosen == best:
        out.append(f"Chosen: {chosen} ({counted(choice)}). No simpler one comes within one standard error of it.")
    else:
        above = f"{choice.excess.mean:.2g} +- {choice.excess.standard_error:.2g} above it"
        out.append(f"Chosen: {chosen} ({counted(choice)}), the simplest within one standard error of {best} ({above}).")
    return tuple(out)


def _few(groups: int) -> str:
    """What few groups mean."""
    if groups < LEAST_GROUPS:
        return f"With {groups} groups no gain can be told: that takes {LEAST_GROUPS} or more."
    return (
        f"With {groups} groups the standard errors are uncertain themselves: more cases would make the choice firmer."
    )


def _nested(told: Evaluation, chosen: str, by_fold: Sequence[str]) -> str:
    """What the choice gains, out of sample."""
    same = sum(name == chosen for name in by_fold)
    others = ", ".join(dict.fromkeys(name for name in by_fold if name != chosen))
    agreed = "all folds choose it" if not others else f"{same} of {len(by_fold)} folds choose it, others {others}"
    return f"Out of sample, the choice included, it {_gained(told.differences['nll'])} ({agreed})."


def _price(
    cohort: Cohort,
    candidates: Mapping[str, Candidate],
    chosen: str,
    unconstrained: str,
    folds: Sequence[Sequence[int]],
    by_fold: Sequence[str],
    freely: Sequence[str],
) -> str:
    """What giving up what is kept would gain and cost; the gain out of sample, as that of the choice."""
    other = candidates[unconstrained]
    if other.allowed:
        return (
            f"Giving that up would gain nothing: {unconstrained} would be chosen even so."
            if unconstrained == chosen
            else f"Giving that up would only move the choice to {unconstrained}."
        )
    gain = ""
    if len(set(cohort.groups)) >= LEAST_GROUPS:
        columns = _columns(cohort, candidates)
        sides = np.empty((2, len(cohort)))
        for k, fold in enumerate(folds):
            kept = UNCALIBRATED if chosen == UNCALIBRATED else by_fold[k]
            sides[:, list(fold)] = [columns[kept][list(fold)], columns[freely[k]][list(fold)]]
        gain = f"{_gained(paired_difference(sides[0], sides[1], cohort.groups))} over {chosen} out of sample, "
    dice, flips = other.evaluation.differences["dice"], 100 * other.after.block["flip_rate"]
    return (
        f"Without that, {unconstrained} ({counted(other)}) would be chosen: it {gain}moves Dice by {dice.mean:+.4f} and"
        f" changes {flips:.2g} % of labels."
    )


def counted(candidate: Candidate) -> str:
    """Its parameters, in words."""
    return f"{candidate.parameters:,} parameter" + ("" if candidate.parameters == 1 else "s")


def _gained(change: Estimate) -> str:
    """A gain in NLL with its interval."""
    return f"gains {-change.mean:.2g} ({-change.high:.2g} to {-change.low:.2g})"
