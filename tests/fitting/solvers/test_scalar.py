"""Safeguarded Newton in one variable: known optima, bounds, flat functions, certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.fitting.evaluation import Evaluation
from segcal.fitting.solvers.scalar import ScalarNewton


@dataclass
class Curve:
    """A convex function of one variable."""

    value: Callable[[float], float]
    slope: Callable[[float], float]
    bend: Callable[[float], float]
    asked: list[np.ndarray] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def at(self, theta: np.ndarray) -> Evaluation:
        x = float(theta[0])
        return Evaluation(self.value(x), np.array([self.slope(x)]), np.array([[self.bend(x)]]), 1)


def margins(seed: int, wrong: float, scale: float) -> Curve:
    """Mean of log(1 + exp(-x m)) over margins m, a share of them negative: a two-class temperature."""
    rng = np.random.default_rng(seed)
    m = scale * np.abs(rng.normal(size=200)) * np.where(rng.random(200) < wrong, -1, 1)

    def share(x: float) -> np.ndarray:
        return 1 / (1 + np.exp(np.clip(x * m, -700, 700)))

    return Curve(
        lambda x: float(np.logaddexp(0, -np.asarray(x) * m).mean()),
        lambda x: float(-(m * share(x)).mean()),
        lambda x: float((m**2 * share(x) * (1 - share(x))).mean()),
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    wrong=st.floats(0.05, 0.45),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e3]),
    start=st.sampled_from([1e-4, 0.02, 1.0, 300.0, 1e4]),
)
def test_finds_the_minimum_from_any_start(seed, wrong, scale, start, run) -> None:
    curve = margins(seed, wrong, scale)
    solved = run(ScalarNewton().solve(start), curve)
    other = scipy.optimize.minimize_scalar(
        lambda t: curve.value(np.exp(t)), bounds=(np.log(1e-4), np.log(1e4)), method="bounded", options={"xatol": 1e-10}
    )
    assert solved.converged
    assert solved.value <= other.fun + 1e-10
    assert solved.value - other.fun <= solved.gap + 1e-10
    assert solved.gap <= 1e-9
    assert 1e-4 <= solved.theta[0] <= 1e4
    assert solved.evaluations <= 40


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), wrong=st.floats(0.05, 0.45), most=st.integers(1, 8))
def test_certificate_holds_wherever_it_stops(seed, wrong, most, run) -> None:
    curve = margins(seed, wrong, 3.0)
    best = run(ScalarNewton().solve(1.0), curve).value
    solved = run(ScalarNewton(most=most).solve(20.0), curve)
    assert solved.value - best <= solved.gap + 1e-12


@pytest.mark.parametrize("centre", [1e-4, 0.3, 77.0, 1e4])
def test_a_parabola_is_exact(centre, run) -> None:
    curve = Curve(lambda x: (x - centre) ** 2, lambda x: 2 * (x - centre), lambda x: 2.0)
    solved = run(ScalarNewton().solve(1.0), curve)
    assert solved.theta[0] == pytest.approx(centre, rel=1e-9)
    assert solved.converged


@pytest.mark.parametrize(("slope", "end", "side"), [(-1.0, 1e4, "upper"), (1.0, 1e-4, "lower")])
def test_a_bound_is_reached_and_said(slope, end, side, run) -> None:
    solved = run(ScalarNewton().solve(1.0), Curve(lambda x: slope * x, lambda x: slope, lambda x: 0.0))
    assert solved.theta[0] == end
    assert solved.converged
    assert solved.gap == 0
    assert side in solved.notes[0]


def test_all_margins_right_ends_in_a_reported_place(run) -> None:
    curve = margins(0, 0.0, 1.0)
    solved = run(ScalarNewton().solve(1.0), curve)
    assert solved.converged
    assert solved.notes
    assert solved.theta[0] > 100
    assert "equal" not in solved.notes[0]


def test_a_constant_stays_where_it_began(run) -> None:
    solved = run(ScalarNewton().solve(1.0), Curve(lambda x: 0.5, lambda x: 0.0, lambda x: 0.0))
    assert (solved.theta[0], solved.evaluations, solved.gap) == (1.0, 1, 0.0)
    assert "all scores are equal" in solved.notes[0]


def test_a_start_outside_is_brought_inside(run) -> None:
    curve = Curve(lambda x: (x - 2) ** 2, lambda x: 2 * (x - 2), lambda x: 2.0)
    solved = run(ScalarNewton(low=1.0, high=3.0).solve(50.0), curve)
    assert solved.theta[0] == pytest.approx(2)
    assert all(1 <= a[0] <= 3 for a in curve.asked)
