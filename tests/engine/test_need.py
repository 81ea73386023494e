"""Memory is known before anything is read: refused with the figure that is needed, or shared out so that it is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal import (
    ClassConditionalDirichlet,
    ConstrainedMatrixScaling,
    DirichletCalibration,
    MatrixScaling,
    OrderPreservingMatrixScaling,
    TemperatureScaling,
    Threads,
    VectorScaling,
    fit_methods,
    recommend,
)
from segcal.cli.options import memory_of
from segcal.data.case import Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.head import Softmax
from segcal.engine.need import MIB, Need, Sizes, spoken
from segcal.errors import UsageError
from segcal.methods.method import need_of
from segcal.tasks.choose import _suited

LEAST = 256 * MIB


@dataclass(frozen=True)
class Unread:
    """A field that must not be opened."""

    shape: tuple[int, ...]
    channels: int | None
    where: str = "unread"

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Window]:
        raise AssertionError("a field was opened")
        yield


def unread(classes: int, cases: int = 6, voxels: int = 4096) -> Cohort:
    head = Softmax(tuple(map(str, range(classes))))
    return Cohort(
        tuple(
            Case(f"c{k}", (Unread((voxels,), classes),), labels=Unread((voxels,), None), group=f"g{k}")
            for k in range(cases)
        ),
        head,
        "probs",
    )


@pytest.mark.parametrize(
    "method", [ConstrainedMatrixScaling(), OrderPreservingMatrixScaling(), ClassConditionalDirichlet()]
)
@pytest.mark.parametrize("crossfit", [False, True])
def test_a_fit_that_cannot_keep_its_limit_is_refused_before_reading(method, crossfit):
    with pytest.raises(UsageError) as found:
        fit_methods({"one": method}, unread(118), Threads(1, max_memory=LEAST), crossfit=crossfit)
    assert f"--method {method.method} with 118 classes" in str(found.value)
    assert "about" in str(found.value)
    assert "Give --max-memory" in str(found.value)


def test_what_is_said_to_be_needed_is_enough():
    cohort, method = unread(40), ConstrainedMatrixScaling()
    need = need_of(method, cohort)
    least = Threads(1).least(cohort, need, fitting=True)
    with pytest.raises(UsageError):
        Threads(1, max_memory=least - MIB).room_for(cohort, need, "x", fitting=True)
    Threads(1, max_memory=least).room_for(cohort, need, "x", fitting=True)


@given(st.integers(2, 400), st.integers(1, 50), st.integers(1, 10**7), st.integers(0, 2**34), st.integers(0, 2**30))
def test_the_least_memory_is_what_one_worker_takes(classes, cases, voxels, kept, each):
    sizes, need = Sizes.of(unread(classes, cases, voxels)), Need(kept, each)
    engine = Threads(8, max_memory=LEAST)
    for fitting, total in ((True, sizes.fitting), (False, sizes.surveying)):
        least = engine.least(unread(classes, cases, voxels), need, fitting=fitting)
        assert total(need, 1, least) <= least
        assert total(need, 1, least) <= total(need, 2, least)


@given(st.integers(1, 2**50))
def test_a_size_is_said_no_smaller_than_it_is(size):
    assert size <= memory_of(spoken(size)) <= 1.2 * size + MIB


def test_fewer_workers_work_where_more_would_not_fit():
    engine, cohort = Threads(4, max_memory=LEAST), unread(3)
    usual = engine.workers
    with engine.within(cohort, Need(0, 140 * MIB), "x", fitting=True):
        inside = engine.workers
    assert 1 <= inside < usual == engine.workers


def test_methods_that_do_not_fit_together_are_driven_in_turn_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 3, 200)).astype(np.float32)
    cohort = cohort_from_arrays(scores, rng.integers(3, size=(4, 200)), kind="logits")
    methods = {"ts": TemperatureScaling(), "vs": VectorScaling(0.1), "ms": MatrixScaling(0.1)}
    together = fit_methods(methods, cohort, Threads(2, max_memory=LEAST))
    for kind in (VectorScaling, MatrixScaling):
        monkeypatch.setattr(kind, "need", lambda self, task: Need(150 * MIB))
    in_turn = fit_methods(methods, cohort, Threads(2, max_memory=LEAST))
    for name, fit in together.items():
        one, other = fit.calibrator.solution, in_turn[name].calibrator.solution
        assert one is not None
        assert other is not None
        assert replace(one, passes=0) == replace(other, passes=0)


def test_auto_leaves_out_what_does_not_fit_and_says_so(monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 3, 200)).astype(np.float32)
    cohort = cohort_from_arrays(scores, rng.integers(3, size=(6, 200)), kind="logits")
    monkeypatch.setattr(VectorScaling, "need", lambda self, task: Need(3 * 1024 * MIB))
    methods = {"ts": TemperatureScaling(), "vs": VectorScaling(0.1)}
    found = recommend(cohort, Threads(1, max_memory=LEAST), methods=methods)
    assert "vs" not in found.candidates
    assert any("want of memory: vs" in reason for reason in found.reasons)
    assert not any("the time they take" in reason for reason in found.reasons)
    with pytest.raises(UsageError, match="about"):
        recommend(cohort, Threads(1, max_memory=LEAST), methods={"vs": VectorScaling(0.1)})


def test_auto_leaves_out_what_takes_too_long_with_many_classes_and_says_so():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 26, 300)).astype(np.float32)
    cohort = cohort_from_arrays(scores, rng.integers(26, size=(6, 300)), kind="logits")
    compared, said = _suited({"ts": TemperatureScaling(), "vs": VectorScaling(), "dc": DirichletCalibration()}, cohort)
    assert set(compared) == {"ts", "vs"}
    assert said == ("Not compared for the time they take with 26 classes: dc.",)
    assert "dc" in recommend(cohort, Threads(1), methods={"dc": DirichletCalibration(1.0)}).candidates
