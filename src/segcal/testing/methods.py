"""Laws of methods: a fit is deterministic, complete, no worse than temperature scaling, and ends in a usable map
whatever the data.

The subject is a `Method`, options set. Costs: about thirty fits of a few hundred voxels, some seconds in all: the fit
that several laws look at is made once a method.
A method whose penalty or loss is not zero, or not the NLL, at temperature scaling says so with
`nests_temperature=False`; then that one law is left out. One that claims no optimum (Adam) says `exact=False`; then
neither law about how low the objective is applies. `check_method` also checks the calibrator it fits with the laws of
calibrators.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.engine.engine import Engine
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import LabelError, SegcalError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import AnyMethod, fit_methods
from segcal.methods.temperature import TemperatureScaling
from segcal.testing.calibrators import check_calibrator, fields_of
from segcal.testing.examples import (
    DEGENERATE,
    HEAD,
    field_of,
    learnable,
    learnable_cohort,
    learnable_regions,
    with_fields,
)
from segcal.testing.law import Law, check_all, law, require
from segcal.testing.watching import spilling

STATUSES = ("optimal", "trained", "degenerate", "stopped")


def fitted(method: AnyMethod, cohort: Cohort, engine: Engine | None = None, crossfit: bool = False) -> Calibrator:
    """The calibrator of a fit; of a cross-fit, the one on all cases."""
    return fit_methods({"it": method}, cohort, engine or Serial(), crossfit=crossfit)["it"].calibrator


def fit_bits(calibrator: Calibrator) -> tuple[dict[str, bytes], str]:
    """What makes two fits the same: the bits of all parameters, and the solution."""
    told = "" if calibrator.solution is None else json.dumps(calibrator.solution.to_json(), sort_keys=True)
    return {name: value.numpy().tobytes() for name, value in calibrator.state_dict().items()}, told


def _cohorts() -> dict[str, Cohort]:
    return {"softmax": learnable_cohort(), "regions": learnable_regions()}


@lru_cache(maxsize=64)
def _usual(method: AnyMethod, name: str = "softmax") -> Calibrator:
    """The fit that laws compare others with, or look at; none of them changes it."""
    return fitted(method, _cohorts()[name])


@law
def fitting_again_gives_the_same_bits(method: AnyMethod) -> None:
    """The same cohort gives the same parameters and solution, bit for bit."""
    for name, cohort in _cohorts().items():
        require(
            fit_bits(_usual(method, name)) == fit_bits(fitted(method, cohort)),
            f"a second fit gave other bits ({name})",
        )


@law
def workers_and_memory_change_no_bit(method: AnyMethod) -> None:
    """1, 2 and 4 workers, rows in memory or in files, give the same parameters and solution, bit for bit."""
    cohort = learnable_cohort()
    expected = fit_bits(_usual(method))
    for workers in (1, 2, 4):
        require(fit_bits(fitted(method, cohort, Threads(workers))) == expected, f"{workers} workers gave other bits")
    require(fit_bits(fitted(method, cohort, spilling(Threads(2)))) == expected, "rows kept in files gave other bits")


@law
def company_changes_no_bit(method: AnyMethod) -> None:
    """Fitted beside other methods, sharing their passes, it gives the same bits as alone."""
    cohort = learnable_cohort()
    alone = fit_bits(_usual(method))
    together = fit_methods({"other": TemperatureScaling(), "it": method, "twin": method}, cohort, Serial())
    parameters = [fit_bits(together[name].calibrator)[0] for name in ("it", "twin")]
    require(parameters == [alone[0], alone[0]], "beside other methods it gave other bits")


@law
def crossfits_do_not_see_their_fold(method: AnyMethod) -> None:
    """Each held-out calibrator equals, to 1e-5 in probability, a fit on the other cases alone; with options fixed, not
    chosen on folds.
    """
    cohort = learnable_cohort()
    found = fit_methods({"it": method}, cohort, Serial(), crossfit=True)["it"]
    require(
        len(found.folds) == len(found.held_out) >= 2, f"{len(found.held_out)} calibrators for {len(found.folds)} folds"
    )
    seen = sorted(i for fold in found.folds for i in fold)
    require(seen == list(range(len(cohort))), "a case is held out never, or twice")
    for fold, calibrator in zip(found.folds, found.held_out, strict=True):
        held = {cohort[i].id for i in fold}
        records = () if calibrator.data is None else calibrator.data.records
        require(
            bool(records) and not held & {r.id for r in records},
            "a held-out calibrator remembers a case of its own fold",
        )
        if not method.cross_validates:
            rest = fitted(method, cohort.select([c.id for c in cohort if c.id not in held]))
            require(_distance(calibrator, rest) <= 1e-5, "a held-out calibrator differs from a fit without its fold")


@law
def fitting_changes_no_input(method: AnyMethod) -> None:
    """Scores and labels are the same bits after a fit, and arrays, tensors and a cohort of them give the same fit."""
    z, y = learnable()
    scores, labels = torch.from_numpy(z.copy()), torch.from_numpy(y.copy())
    image: dict[str, Any] = {name: field_of(name, z) for name in method.fields}
    found = method.fit(scores, labels, engine=Serial(), **image)
    require(
        torch.equal(scores, torch.from_numpy(z)) and torch.equal(labels, torch.from_numpy(y)),
        "scores or labels were changed",
    )
    from_cohort = method.fit(cohort_from_arrays(z, y, kind="logits", fields=image), engine=Serial())
    require(
        fit_bits(found) == fit_bits(from_cohort) == fit_bits(method.fit(z, y, engine=Serial(), **image)),
        "arrays, tensors and a cohort of the same numbers give different fits",
    )


@law
def a_solution_is_complete(method: AnyMethod) -> None:
    """A fit carries objective, NLL, status, message, passes and a certificate, whose gap is not negative, or None where
    nothing is convex; regions carry one solution each.
    """
    for name, cohort in _cohorts().items():
        solution = _usual(method, name).solution
        require(solution is not None, "no solution")
        assert solution is not None
        _complete(method, solution.to_json())
        require(solution.passes >= 1, f"{solution.passes} passes")
        require(
            cohort.head.sums_to_one or set(solution.parts) == set(cohort.head.parts),
            f"solutions for {sorted(solution.parts)}",
        )
        if not method.convex:
            require(solution.status != "optimal", "an optimum is claimed of a problem that is not convex")
        for part in solution.parts.values():
            _complete(method, part.to_json())


@law
def learnable_data_end_in_a_certified_optimum(method: AnyMethod) -> None:
    """On data anything can be fitted to, a fit ends 'optimal' with a gap of at most 1e-6."""
    for name in _cohorts():
        solution = _usual(method, name).solution
        assert solution is not None
        require(
            solution.status == "optimal" and float(solution.certificate["gap"]) <= 1e-6,
            f"{solution.status} with gap {solution.certificate['gap']:.3g} on data anything can be fitted to",
        )


def _complete(method: AnyMethod, told: dict[str, object]) -> None:
    for name in ("objective", "nll"):
        value = told[name]
        require(isinstance(value, float) and math.isfinite(value), f"{name} = {value}")
    require(told["status"] in STATUSES, f"status {told['status']!r}")
    require(bool(told["message"]), "an empty message")
    certificate = told["certificate"]
    require(isinstance(certificate, dict) and {"gap", "proof"} <= set(certificate), f"certificate {certificate}")
    assert isinstance(certificate, dict)
    require(
        _honest(method, certificate["gap"]) and bool(certificate["proof"]),
        f"gap {certificate['gap']}, proof {certificate['proof']!r}",
    )


def _honest(method: AnyMethod, gap: float | None) -> bool:
    """A bound where the problem is convex and solved; where it is not, none or one that is not negative."""
    return (gap is None and not method.convex) or (gap is not None and float(gap) >= 0)


@law
def never_worse_than_temperature_scaling(method: AnyMethod) -> None:
    """The objective reached is not above temperature scaling's on the same data, by more than 1e-6."""
    for name in _cohorts():
        it, nested = _usual(method, name).solution, _usual(TemperatureScaling(), name).solution
        assert it is not None
        assert nested is not None
        require(
            it.objective <= nested.objective + 1e-6,
            f"objective {it.objective:.9g}, temperature scaling {nested.objective:.9g} ({name})",
        )


@law
def degenerate_data_end_in_a_usable_map(method: AnyMethod) -> None:
    """Data that determine too little end in finite parameters, a message, and probabilities for any scores."""
    for name, make in DEGENERATE.items():
        cohort = with_fields(make())
        calibrator = fitted(method, cohort)
        require(
            all(bool(torch.isfinite(v).all()) for v in calibrator.state_dict().values()),
            f"parameters that are not finite ({name})",
        )
        solution = calibrator.solution
        require(solution is not None and solution.status in STATUSES and bool(solution.message), f"no message ({name})")
        assert solution is not None
        require(
            math.isfinite(solution.objective) and _honest(method, solution.certificate["gap"]),
            f"objective {solution.objective}, gap {solution.certificate['gap']} ({name})",
        )
        scores = _test_scores(cohort)
        p = calibrator(scores, **fields_of(calibrator, scores))
        require(bool(((p >= 0) & (p <= 1)).all()), f"no probabilities ({name})")
        if cohort.head.sums_to_one:
            require(
                float((p.double().sum(1) - 1).abs().max()) <= 1e-6, f"probabilities that do not sum to one ({name})"
            )


def _test_scores(cohort: Cohort) -> torch.Tensor:
    z = torch.from_numpy(learnable(2, (7, 5), seed=9)[0])
    if not cohort.head.sums_to_one:
        return z[:, : cohort.head.channels].sigmoid()
    return z.softmax(1) if cohort.kind == "probs" else z


def _distance(a: Calibrator, b: Calibrator) -> float:
    z = torch.from_numpy(learnable(3, (8, 8), seed=5)[0])
    return float((a(z, **fields_of(a, z)) - b(z, **fields_of(b, z))).abs().max())


@law
def order_of_cases_does_not_matter(method: AnyMethod) -> None:
    """Cases given in another order give the same probabilities, to 1e-5."""
    cohort = learnable_cohort()
    turned = Cohort(tuple(reversed(cohort.cases)), cohort.head, cohort.kind, cohort.pool, cohort.provenance)
    off = _distance(_usual(method), fitted(method, turned))
    require(off <= 1e-5, f"another order of cases moves a probability by {off:.3g}")


@law
def offsets_do_not_matter_if_promised(method: AnyMethod) -> None:
    """Where the fitted map is proven translation-invariant, an offset added to each voxel's logits changes no fitted
    probability, to 1e-5.
    """
    z, y = learnable(offsets=False)
    shift = 5 * np.random.default_rng(3).normal(size=(len(z), 1, *z.shape[2:]))
    plain, moved = (
        fitted(method, with_fields(cohort_from_arrays(scores, y, kind="logits", head=HEAD)))
        for scores in (z, z + shift)
    )
    if plain.guarantees().translation_invariant == moved.guarantees().translation_invariant == "proven":
        off = _distance(plain, moved)
        require(off <= 1e-5, f"offsets of the logits move a fitted probability by {off:.3g}")


@law
def what_is_not_used_is_refused(method: AnyMethod) -> None:
    """Fields it does not use, and a cohort with labels beside it, are a UsageError; no voxel to score is a
    LabelError.
    """
    z, y = learnable(2)
    cohort = cohort_from_arrays(z, y, kind="logits", head=HEAD)
    ignored = with_fields(cohort_from_arrays(z, np.full_like(y, 255), kind="logits", ignore_index=255))
    attempts: tuple[tuple[str, type[SegcalError], Callable[[], object]], ...] = (
        ("an unknown field", UsageError, lambda: method.fit(z, y, no_such_field=y, engine=Serial())),
        ("labels beside a cohort", UsageError, lambda: method.fit(cohort, y, engine=Serial())),
        ("scores without labels", UsageError, lambda: method.fit(z, engine=Serial())),
        ("no voxel to score", LabelError, lambda: method.fit(ignored, engine=Serial())),
    )
    for what, error, attempt in attempts:
        try:
            attempt()
        except error:
            continue
        require(False, f"{what} was taken")


METHOD_LAWS: tuple[Law[AnyMethod], ...] = (
    fitting_again_gives_the_same_bits,
    workers_and_memory_change_no_bit,
    company_changes_no_bit,
    crossfits_do_not_see_their_fold,
    fitting_changes_no_input,
    a_solution_is_complete,
    learnable_data_end_in_a_certified_optimum,
    never_worse_than_temperature_scaling,
    degenerate_data_end_in_a_usable_map,
    order_of_cases_does_not_matter,
    offsets_do_not_matter_if_promised,
    what_is_not_used_is_refused,
)
"""What `check_method` checks."""


def laws_of(nests_temperature: bool = True, exact: bool = True) -> Sequence[Law[AnyMethod]]:
    """The laws of methods, without the one about temperature scaling where that is not nested, and without that and the
    one about the optimum where the solver is not `exact`.
    """
    left_out: list[Law[AnyMethod]] = [] if exact else [learnable_data_end_in_a_certified_optimum]
    left_out += [] if nests_temperature and exact else [never_worse_than_temperature_scaling]
    return tuple(one for one in METHOD_LAWS if one not in left_out)


def check_method(method: AnyMethod, *, nests_temperature: bool = True, exact: bool = True) -> None:
    """Check all laws of methods, and those of calibrators on what it fits.

    Raises BrokenLawError, or an ExceptionGroup of several.
    """
    check_all(laws_of(nests_temperature, exact), method)
    for name in _cohorts():
        check_calibrator(_usual(method, name))
