"""Limited memory: known optima, certificates that hold, any guess of the curvature, ends that are said."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.fitting.solvers.limited import LimitedNewton, inverse
from segcal.fitting.solvers.newton import strong_convexity_gap

SEED = st.integers(0, 10**6)


def problem(seed: int, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, np.where(rng.random(n) < 1 / (1 + np.exp(-x.sum(1) / d)), 1.0, -1.0)


@given(seed=SEED, d=st.integers(1, 8))
def test_a_quadratic_with_its_own_curvature_takes_one_step(seed, d, run, quadratic) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d)) + 3 * np.eye(d)
    h, centre = root @ root.T, rng.normal(size=d)
    solver = LimitedNewton()
    solved = run(
        solver.solve(np.zeros(d), strong_convexity_gap(h), lambda g: np.linalg.solve(h, g)), quadratic(h, centre)
    )
    np.testing.assert_allclose(solved.theta, centre, atol=1e-6 * (1 + np.abs(centre).max()))
    assert solved.converged
    assert solved.evaluations <= 3


@settings(deadline=None, max_examples=20)
@given(seed=SEED, d=st.integers(1, 12), ridge=st.sampled_from([1e-4, 1.0]), guess=st.sampled_from([1e-3, 1.0, 1e3]))
def test_the_optimum_is_scipys_and_certified_whatever_the_guess(seed, d, ridge, guess, run, logistic) -> None:
    x, y = problem(seed, 80, d)
    f, gap = logistic(x, y, ridge), strong_convexity_gap(np.full(d, ridge))
    solved = run(LimitedNewton().solve(np.zeros(d), gap, lambda g: guess * g), f)
    other = scipy.optimize.minimize(
        f.value, np.zeros(d), jac=f.gradient, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-11, "maxiter": 5000}
    )
    assert solved.value <= other.fun + 1e-12
    assert other.fun <= solved.value + 1e-8
    assert solved.converged
    assert solved.gap <= 1e-9
    early = run(LimitedNewton(most=4).solve(np.zeros(d), gap, lambda g: guess * g), f)
    assert early.value - solved.value <= early.gap + 1e-14
    assert early.evaluations <= 4


def test_the_value_never_rises(run, logistic) -> None:
    x, y = problem(3, 200, 30)
    f = logistic(x, y, 1e-6)
    run(LimitedNewton().solve(np.zeros(30), strong_convexity_gap(np.full(30, 1e-6))), f)
    lowest = np.minimum.accumulate(f.values)
    assert f.values[-1] <= lowest[-1] + 1e-12


def test_it_says_that_it_was_stopped(run, logistic) -> None:
    x, y = problem(4, 200, 30)
    solved = run(
        LimitedNewton(most=5).solve(np.zeros(30), strong_convexity_gap(np.full(30, 1e-6))), logistic(x, y, 1e-6)
    )
    assert not solved.converged
    assert solved.notes == ("stopped at the limit of steps",)


def test_a_gap_without_curvature_is_one_of_convexity() -> None:
    bound, proof = strong_convexity_gap(np.array([1.0, 0.0]), box=10.0)(np.array([1.0, -2.0]), np.array([0.1, 0.2]))
    assert bound == pytest.approx(0.1 * 11 + 0.2 * 12)
    assert "convexity within" in proof


@given(seed=SEED, d=st.integers(1, 6), pairs=st.integers(0, 5))
def test_the_two_loops_are_the_updates_written_out(seed, d, pairs) -> None:
    """H <- (I - s y'/s'y) H (I - y s'/s'y) + s s'/s'y, from the scaled guess (Nocedal 1980)."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d)) + 2 * np.eye(d)
    true, guess = root @ root.T, np.diag(rng.random(d) + 0.5)
    steps = [rng.normal(size=d) for _ in range(pairs)]
    seen = deque((s, true @ s) for s in steps)
    h = guess.copy()
    if seen:
        s, y = seen[-1]
        h *= (s @ y) / (y @ guess @ y)
    for s, y in seen:
        v = np.eye(d) - np.outer(y, s) / (s @ y)
        h = v.T @ h @ v + np.outer(s, s) / (s @ y)
    g = rng.normal(size=d)
    np.testing.assert_allclose(inverse(seen, lambda v: guess @ v, g), h @ g, rtol=1e-6, atol=1e-8 * np.abs(h).max())
