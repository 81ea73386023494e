"""Fits as conversations: plans driven together cost the passes of the hardest one; subsets; cross-fitting; any
memory.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal import (
    Cohort,
    ConstrainedMatrixScaling,
    DirichletCalibration,
    EnsembleTemperatureScaling,
    MatrixScaling,
    TemperatureScaling,
    VectorScaling,
    cohort_from_arrays,
    fit_methods,
)
from segcal.engine.ask import Ask, Level
from segcal.engine.serial import Serial
from segcal.fitting.labels import LabelCount
from segcal.fitting.plans import Binding, Task, drive, together
from segcal.fitting.solvers.query import Query
from segcal.fitting.solvers.scalar import ScalarNewton
from segcal.methods.method import Method
from segcal.methods.temperature import ScaleNLL, ScaleProblem

NINE: dict[str, Method] = {
    "ts": TemperatureScaling(),
    "ets": EnsembleTemperatureScaling(),
    "vs": VectorScaling(0.0),
    "ms": MatrixScaling(0.0),
    "ms-c": ConstrainedMatrixScaling(0.01),
    "dc": DirichletCalibration(),
    "ms by odir": MatrixScaling(0.1, 0.1, "odir"),
    "dc by odir": DirichletCalibration(penalty="odir"),
    "ms-c by data": ConstrainedMatrixScaling(),
}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """Six cases of three classes, 300 voxels each, whose labels follow a map that is no temperature; two share
    a group.
    """
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(6, 3, 300)) + rng.normal(size=(6, 1, 300))
    x = z - np.log(np.exp(z).sum(1, keepdims=True))
    u = np.einsum("ij,bjn->bin", np.array([[0.5, 0.3, 0.0], [0.0, 1.1, -0.2], [0.2, 0.0, 0.7]]), x)
    p = np.exp(u) / np.exp(u).sum(1, keepdims=True)
    y = (rng.random((6, 1, 300)) > p.cumsum(1)).sum(1).clip(max=2)
    return cohort_from_arrays(z.astype(np.float32), y, groups=["a", "a", "b", "c", "d", "e"])


def script(levels: list[Level], outcome: object) -> Generator[dict[str, Ask], dict[str, Any], object]:
    """A plan that asks once at each of `levels` and checks that it gets its own answers."""
    for turn, level in enumerate(levels):
        answers = yield {"only": Ask(LabelCount(2), level=level, part=turn)}
        assert answers == {"only": ("answer", turn)}
    return outcome


def answered(plan: Any) -> tuple[Any, list[set[Level]]]:
    """Run a plan; the levels asked for in each round."""
    rounds: list[set[Level]] = []
    try:
        asks = next(plan)
        while True:
            rounds.append({a.level for a in asks.values()})
            asks = plan.send({k: ("answer", a.part) for k, a in asks.items()})
    except StopIteration as stop:
        return stop.value, rounds


@settings(max_examples=100)
@given(st.lists(st.lists(st.sampled_from(Level), max_size=6), max_size=6))
def test_plans_together_cost_the_rounds_of_the_hardest(levels) -> None:
    """Whatever plans ask and in whatever order: passes over all voxels are those of the plan that needs most of them,
    not the sum.
    """
    found, rounds = answered(together({k: script(asked, k) for k, asked in enumerate(levels)}))
    assert found == {k: k for k in range(len(levels))}
    passes = sum(Level.ALL in r for r in rounds)
    assert passes == max((asked.count(Level.ALL) for asked in levels), default=0)
    assert all(len(r) == 1 or Level.ALL not in r for r in rounds)


def test_no_plan_and_plans_that_ask_nothing() -> None:
    assert answered(together({})) == ({}, [])
    assert answered(together({"a": script([], 1), "b": script([], 2)})) == ({"a": 1, "b": 2}, [])
    found, rounds = answered(
        together({"a": together({"x": script([Level.ALL], 1)}), "b": script([Level.SAMPLE, Level.ALL], 2)})
    )
    assert found == {"a": {"x": 1}, "b": 2}
    assert rounds == [{Level.SAMPLE}, {Level.ALL}]


def test_an_error_in_one_plan_is_raised() -> None:
    def broken() -> Generator[dict[str, Ask], Any, None]:
        yield {"x": Ask(LabelCount(2))}
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        answered(together({"good": script([Level.ALL, Level.ALL], 1), "bad": broken()}))


@pytest.mark.parametrize("crossfit", [False, True])
def test_nine_fits_cost_the_passes_of_the_hardest(crossfit, cohort) -> None:
    """Passes counted at the data: nine methods, three of them cross-validated, beside each alone."""
    alone = {
        name: fit_methods({name: method}, cohort, Serial(), crossfit=crossfit)[name].calibrator.solution.passes
        for name, method in NINE.items()
    }
    both = {made.calibrator.solution.passes for made in fit_methods(NINE, cohort, Serial(), crossfit=crossfit).values()}
    assert both == {max(alone.values())}
    assert max(alone.values()) < sum(alone.values()) / 5


def test_passes_are_counted_where_rows_are_read(cohort) -> None:
    """One for pinning, one for the samples, one a reduction over all voxels; samples count apart."""
    engine = Serial()
    with engine.pin(cohort) as pinned:
        assert pinned.passes == 1
        pinned.resample([0] * len(cohort))
        assert pinned.passes == 2
        asks = {b: Ask(ScaleNLL(b)) for b in (0.5, 1.0, 2.0)}
        engine.reduce(pinned, asks)
        assert (pinned.passes, pinned.sample_passes) == (3, 0)
        engine.reduce(
            pinned, {"a": Ask(ScaleNLL(1.0), level=Level.SAMPLE), "b": Ask(ScaleNLL(1.0), level=Level.CURVATURE)}
        )
        assert (pinned.passes, pinned.sample_passes) == (3, 2)


def task(cohort: Cohort, folds: tuple[tuple[int, ...], ...]) -> Task:
    return Task(0, 3, frozenset(range(len(cohort))), cohort.groups, folds, ((),), True)


def test_a_subset_is_named_by_the_folds_left_out(cohort) -> None:
    asked = task(cohort, ((0, 1), (2, 3), (4,), (5,)))
    assert asked.members(()) == {0, 1, 2, 3, 4, 5}
    assert asked.members((1,)) == {0, 1, 4, 5}
    assert asked.members((0, 3)) == {2, 3, 4}
    assert asked.inner(()) == [0, 1, 2, 3]
    assert asked.inner((1,)) == [0, 2, 3]
    assert asked.inner((0, 1, 2)) == []
    assert task(cohort, ()).inner(()) == []
    assert task(cohort, ((0, 1, 2), (3, 4, 5))).inner((0,)) == []
    assert asked.ask(ScaleNLL(1.0), (), Level.ALL).cases is None
    assert asked.ask(ScaleNLL(1.0), (2,), Level.SAMPLE) == Ask(
        ScaleNLL(1.0), 0, frozenset({0, 1, 2, 3, 5}), Level.SAMPLE
    )


def test_a_binding_sends_rough_curvature_to_its_own_level(cohort) -> None:
    def steps() -> Generator[Any, Any, str]:
        found = yield {"f": Query(np.array([1.0]), 1), "h": Query(np.array([1.0]), 2, True)}
        assert found["f"].curvature is not None
        return "done"

    plan = Binding(task(cohort, ()), (), Level.ALL, Level.CURVATURE, ScaleProblem()).run(steps())
    asks = next(plan)
    assert {name: a.level for name, a in asks.items()} == {"f": Level.ALL, "h": Level.CURVATURE}
    engine = Serial()
    with engine.pin(cohort) as pinned:
        pinned.resample([0] * len(cohort))
        with pytest.raises(StopIteration) as stop:
            plan.send(engine.reduce(pinned, asks))
    assert stop.value.value == "done"


def test_drive_answers_a_plan_from_the_data(cohort) -> None:
    """A solver bound to a subset ends where the same solver ends on a cohort of those cases alone."""
    engine = Serial()
    asked = task(cohort, ((0, 1), (2, 3), (4, 5)))
    with engine.pin(cohort) as pinned:
        pinned.resample([0] * len(cohort))
        here = drive(
            Binding(asked, (1,), Level.ALL, Level.ALL, ScaleProblem()).run(ScalarNewton().solve(1.0)), engine, pinned
        )
    kept = cohort.select([cohort[i].id for i in (0, 1, 4, 5)])
    alone = TemperatureScaling().fit(kept, engine=engine)
    assert here.theta[0] == pytest.approx(alone.maps[0].beta.item(), rel=1e-9)
    assert here.value == pytest.approx(alone.solution.nll, rel=1e-12)


def test_crossfitted_calibrators_are_those_of_separate_fits(cohort) -> None:
    """Without fold k means: as if the fold were not there."""
    methods = {name: NINE[name] for name in ("ts", "ets", "vs", "ms", "ms-c", "ms by odir")}
    made = fit_methods(methods, cohort, Serial(), crossfit=True, folds=3)
    folds = made["ts"].folds
    assert {0, 1} <= set(next(f for f in folds if 0 in f))
    for k, fold in enumerate(folds):
        rest = cohort.select([c.id for i, c in enumerate(cohort) if i not in fold])
        for name, separate in fit_methods(methods, rest, Serial()).items():
            ours, theirs = made[name].held_out[k], separate.calibrator
            assert ours.solution.objective == pytest.approx(theirs.solution.objective, abs=1e-8)
            z = torch.randn(1, 3, 200, generator=torch.Generator().manual_seed(k))
            torch.testing.assert_close(ours(z), theirs(z), atol=1e-4, rtol=0)
            assert [r.scores for r in ours.data.records] == [r.scores for r in theirs.data.records]


def test_rows_kept_in_files_give_the_same_parameters(cohort) -> None:
    inside, outside = Serial(), Serial()
    outside.max_memory = 0
    found = [fit_methods(NINE, cohort, engine, crossfit=True) for engine in (inside, outside)]
    for name in NINE:
        for a, b in zip(
            [found[0][name].calibrator, *found[0][name].held_out],
            [found[1][name].calibrator, *found[1][name].held_out],
            strict=True,
        ):
            assert all(torch.equal(s, t) for s, t in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
            assert a.solution == b.solution


def test_nested_cross_validation_never_sees_the_case_it_scores(cohort) -> None:
    """Changing the labels of one case changes no calibrator that was fitted without it, its choice of strength
    included.
    """
    z = np.stack([c.scores[0].array for c in cohort])
    y = np.stack([c.labels.array for c in cohort])
    other = y.copy()
    other[5] = (other[5] + 1) % 3
    methods = {"dc": DirichletCalibration(), "ets": EnsembleTemperatureScaling()}
    groups = list(cohort.groups)
    a, b = (
        fit_methods(methods, cohort_from_arrays(z, labels, groups=groups), Serial(), crossfit=True)
        for labels in (y, other)
    )
    for name in methods:
        for fold, ours, theirs in zip(a[name].folds, a[name].held_out, b[name].held_out, strict=True):
            same = all(
                torch.equal(s, t) for s, t in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
            )
            assert same == (5 in fold)
            if 5 in fold:
                assert ours.solution.selection == theirs.solution.selection
