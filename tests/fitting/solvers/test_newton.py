"""Newton: known optima, certificates that hold, descent, bad scaling, sampled curvature, ends that are said."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.fitting.evaluation import Evaluation
from segcal.fitting.solvers.newton import Newton, strong_convexity_gap

SEED = st.integers(0, 10**6)


def random_features(seed: int, n: int, d: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features whose columns differ in size by up to `spread`, and labels that are not separable."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * spread ** rng.uniform(-1, 1, size=d)
    y = np.where(rng.random(n) < 1 / (1 + np.exp(-(x / np.abs(x).max(0)).sum(1))), 1.0, -1.0)
    return x, y


@given(seed=SEED, d=st.integers(1, 8))
def test_a_quadratic_takes_one_step(seed, d, run, quadratic) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d)) + 3 * np.eye(d)
    h, centre = root @ root.T, rng.normal(size=d)
    f = quadratic(h, centre)
    solved = run(Newton(rough=False).solve(np.zeros(d), strong_convexity_gap(h)), f)
    np.testing.assert_allclose(solved.theta, centre, atol=1e-6 * (1 + np.abs(centre).max()))
    assert solved.converged
    assert solved.value <= solved.gap + 1e-15
    assert solved.evaluations <= 3


@settings(deadline=None, max_examples=30)
@given(seed=SEED, d=st.integers(1, 6), ridge=st.sampled_from([1e-8, 1e-4, 1.0]), rough=st.booleans())
def test_certificate_bounds_the_true_gap(seed, d, ridge, rough, run, logistic) -> None:
    """Stopped early or late: what is left is never more than what the certificate says."""
    x, y = random_features(seed, 80, d)
    best = run(
        Newton(rough=False, tolerance=0, certify=0, most=60).solve(
            np.zeros(d), strong_convexity_gap(ridge * np.eye(d))
        ),
        logistic(x, y, ridge),
    ).value
    for most in (2, 4, 8, 100):
        f = logistic(x, y, ridge)
        solved = run(Newton(most=most, rough=rough).solve(np.zeros(d), strong_convexity_gap(ridge * np.eye(d))), f)
        assert solved.value - best <= solved.gap + 1e-14
        assert solved.evaluations <= most
    assert solved.converged
    assert solved.gap <= 1e-9


@settings(deadline=None, max_examples=20)
@given(seed=SEED, d=st.integers(1, 6))
def test_the_optimum_is_scipys(seed, d, run, logistic) -> None:
    x, y = random_features(seed, 60, d)
    f = logistic(x, y, 1e-3)
    solved = run(Newton().solve(np.zeros(d), strong_convexity_gap(1e-3 * np.eye(d))), f)
    other = scipy.optimize.minimize(
        f.value, np.zeros(d), jac=f.gradient, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-11, "maxiter": 5000}
    )
    assert solved.value <= other.fun + 1e-13
    assert other.fun <= solved.value + 1e-8


@settings(deadline=None, max_examples=20)
@given(seed=SEED)
def test_bad_scaling_does_not_matter(seed, run, logistic) -> None:
    """Columns that differ by 1e8: the step is the same as in balanced variables."""
    x, y = random_features(seed, 60, 4, 1e4)
    f = logistic(x, y, 1e-8)
    solved = run(Newton(rough=False).solve(np.zeros(4), strong_convexity_gap(1e-8 * np.eye(4))), f)
    assert solved.converged
    assert solved.evaluations < 60
    norm = np.abs(x).max(0)
    other = scipy.optimize.minimize(
        lambda t: f.value(t / norm),
        np.zeros(4),
        jac=lambda t: f.gradient(t / norm) / norm,
        method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-12, "maxiter": 9000},
    )
    assert solved.value <= other.fun + 1e-9


@settings(deadline=None, max_examples=20)
@given(seed=SEED, share=st.floats(0.05, 1))
def test_curvature_of_a_sample_is_enough(seed, share, run, logistic) -> None:
    """The curvature comes from other, fewer rows than value and gradient: the optimum is the same."""
    x, y = random_features(seed, 200, 4)
    exact, sample = logistic(x, y, 1e-4), logistic(x[: int(200 * share)], y[: int(200 * share)], 1e-4)
    f = logistic(x, y, 1e-4)
    f.at = lambda theta: Evaluation(exact.value(theta), exact.gradient(theta), sample.curvature(theta), 1)
    solved = run(Newton().solve(np.zeros(4), strong_convexity_gap(1e-4 * np.eye(4))), f)
    reference = run(Newton(rough=False).solve(np.zeros(4), strong_convexity_gap(1e-4 * np.eye(4))), exact)
    assert solved.converged
    assert solved.value == pytest.approx(reference.value, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=SEED, scale=st.sampled_from([1.0, 50.0]))
def test_the_value_never_rises(seed, scale, run, logistic) -> None:
    """Every accepted point is no higher than the one before; what is returned is no higher than the start."""
    x, y = random_features(seed, 60, 3)
    f = logistic(scale * x, y, 1e-6)
    start = np.array([3.0, -3.0, 3.0])
    solved = run(Newton(rough=False).solve(start, strong_convexity_gap(1e-6 * np.eye(3))), f)
    assert solved.value <= f.value(start)
    assert solved.value <= min(f.values) + 1e-12


def test_separable_data_end_at_the_ridge(run, logistic) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    f = logistic(x, np.sign(x[:, 0]), 1e-8)
    solved = run(Newton(rough=False).solve(np.zeros(3), strong_convexity_gap(1e-8 * np.eye(3))), f)
    assert solved.converged
    assert solved.gap <= 1e-9
    assert np.isfinite(solved.theta).all()


def test_without_strong_convexity_the_bound_is_that_of_a_box(run, logistic) -> None:
    x, y = random_features(1, 80, 3)
    gap = strong_convexity_gap(np.diag([1.0, 1.0, 0.0]))
    bound, proof = gap(np.array([1.0, 0.0, 2.0]), np.array([1.0, -1.0, 0.5]))
    assert bound == pytest.approx(1 + 2 * 0.5 + (1 + 1 + 0.5) * 1e4 - 0.0)
    assert "10000" in proof
    solved = run(Newton(rough=False).solve(np.zeros(3), gap), logistic(x, y, 0.0))
    assert solved.converged
    assert "theta" in solved.proof


def test_a_limit_of_steps_is_said(run, logistic) -> None:
    x, y = random_features(2, 80, 4)
    solved = run(Newton(most=2).solve(np.full(4, 5.0), strong_convexity_gap(1e-8 * np.eye(4))), logistic(x, y, 1e-8))
    assert not solved.converged
    assert solved.notes == ("stopped at the limit of steps",)


def test_a_function_that_is_not_finite_around_its_start_ends(run) -> None:
    """No step is acceptable: the solver returns where it began, not converged."""
    f = type("F", (), {"asked": [], "values": []})()
    f.value = lambda theta: 1.0 if not theta.any() else np.inf
    f.at = lambda theta: Evaluation(f.value(theta), np.ones(2), np.eye(2), 1)
    solved = run(Newton(rough=False).solve(np.zeros(2), strong_convexity_gap(np.eye(2))), f)
    assert not solved.converged
    assert not solved.theta.any()


def test_singular_curvature_is_damped(run, quadratic) -> None:
    """A direction without curvature or slope is left alone."""
    solved = run(
        Newton(rough=False).solve(np.array([1.0, 7.0]), strong_convexity_gap(np.diag([1.0, 0.0]))),
        quadratic(np.diag([1.0, 0.0]), np.zeros(2)),
    )
    assert solved.theta[0] == pytest.approx(0, abs=1e-6)
    assert solved.theta[1] == pytest.approx(7)
