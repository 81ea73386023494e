"""Newton on the simplex: inside, on edges, in corners; certificates; descent."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.fitting.solvers.simplex import SimplexNewton

START = np.array([0.9, 0.05, 0.05])


def rows(seed: int, favour: tuple[float, float, float]) -> np.ndarray:
    """Component probabilities of 150 rows; `favour` decides where the optimum lies."""
    rng = np.random.default_rng(seed)
    return rng.beta(0.5, 0.5, size=(150, 3)) * np.asarray(favour) + 1e-6


FAVOURS = st.tuples(*(st.sampled_from([0.05, 0.5, 1.0]) for _ in range(3)))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), favour=FAVOURS)
def test_agrees_with_scipy_and_certifies_it(seed, favour, run, mixture) -> None:
    f = mixture(rows(seed, favour))
    solved = run(SimplexNewton().solve(START), f)
    other = scipy.optimize.minimize(
        f.value,
        START,
        jac=f.gradient,
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(3)}],
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert solved.converged
    assert solved.gap <= 1e-9
    assert (solved.theta >= 0).all()
    assert solved.theta.sum() == pytest.approx(1, abs=1e-12)
    assert solved.value <= other.fun + 1e-9
    assert solved.evaluations <= 40


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), favour=FAVOURS, most=st.integers(1, 6))
def test_certificate_holds_wherever_it_stops(seed, favour, most, run, mixture) -> None:
    q = rows(seed, favour)
    best = run(SimplexNewton().solve(START), mixture(q))
    solved = run(SimplexNewton(most=most).solve(np.full(3, 1 / 3)), mixture(q))
    assert solved.value - (best.value - best.gap) <= solved.gap + best.gap + 1e-13
    assert solved.evaluations <= most


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), favour=FAVOURS)
def test_the_value_never_rises(seed, favour, run, mixture) -> None:
    f = mixture(rows(seed, favour))
    solved = run(SimplexNewton().solve(START), f)
    assert solved.value <= f.value(START)
    assert solved.value <= min(f.values) + 1e-13


@pytest.mark.parametrize("corner", [0, 1, 2])
def test_corners_are_reached_exactly(corner, run, mixture) -> None:
    q = np.full((20, 3), 0.2)
    q[:, corner] = 0.9
    solved = run(SimplexNewton().solve(np.full(3, 1 / 3)), mixture(q))
    assert solved.theta[corner] == 1
    assert solved.gap <= 1e-12
    assert solved.converged


def test_equal_components_are_flat(run, mixture) -> None:
    solved = run(SimplexNewton().solve(START), mixture(np.repeat(np.random.default_rng(0).random((30, 1)), 3, 1)))
    assert solved.converged
    assert solved.evaluations == 1


def test_a_border_without_probability_is_not_crossed(run, mixture) -> None:
    """Some rows have only the third component: its weight stays above zero although the model may aim past it."""
    q = np.array([[0.9, 0.8, 0.3]] * 99 + [[0.0, 0.0, 0.3]])
    solved = run(SimplexNewton().solve(START), mixture(q))
    assert solved.converged
    assert 0 < solved.theta[2] < 0.1


def test_a_limit_of_steps_is_said(run, mixture) -> None:
    solved = run(SimplexNewton(most=1).solve(START), mixture(rows(0, (1.0, 1.0, 1.0))))
    assert not solved.converged
    assert solved.notes == ("stopped at the limit of steps",)
