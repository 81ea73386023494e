"""Newton under bounds: known optima, feasibility of every trial, a certificate that is never too small, KKT
residuals.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.fitting.evaluation import Evaluation
from segcal.fitting.solvers.bounded import BoundedNewton, bounded_gap, kkt_residual


def converse(steps, value, gradient, curvature):
    """Answer a solver about a function; every point asked about must be feasible."""
    asked = []
    try:
        queries = next(steps)
        while True:
            answers = {}
            for name, q in queries.items():
                assert (q.theta >= 0).all()
                asked.append(q)
                free = list(q.free)
                answers[name] = Evaluation(
                    value(q.theta),
                    gradient(q.theta),
                    curvature(q.theta)[np.ix_(free, free)] if q.order > 1 else None,
                    1,
                )
            queries = steps.send(answers)
    except StopIteration as stop:
        return stop.value, asked


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_quadratics_end_at_the_non_negative_least_squares_solution(seed, d) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(d + 5, d)), rng.normal(size=d + 5)
    h, c = a.T @ a, a.T @ b
    known, _ = scipy.optimize.nnls(a, b)
    weakest = np.full(d, np.linalg.eigvalsh(h)[0])
    found, asked = converse(
        BoundedNewton(rough=False).solve(np.ones(d), bounded_gap(weakest)),
        lambda x: float(x @ h @ x / 2 - c @ x),
        lambda x: h @ x - c,
        lambda x: h,
    )
    np.testing.assert_allclose(found.theta, known, atol=1e-6)
    assert found.converged
    assert found.gap <= 1e-9
    assert found.gradient <= 1e-6
    assert len([q for q in asked if q.order < 2]) <= 4 + d


def logistic(seed, d=8, n=200):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = np.where(rng.random(n) < 1 / (1 + np.exp(-x @ np.maximum(rng.normal(size=d), 0))), 1.0, -1.0)
    w = 0.05

    def value(t):
        return float(np.logaddexp(0, -y * (x @ t)).mean() + w * ((t - 0.3) ** 2).sum() / 2)

    def gradient(t):
        return -((y / (1 + np.exp(y * (x @ t))))[:, None] * x).mean(0) + w * (t - 0.3)

    def curvature(t, rows=slice(None)):
        s = 1 / (1 + np.exp(-(x[rows] @ t)))
        return (x[rows] * (s * (1 - s))[:, None]).T @ x[rows] / len(s) + w * np.eye(d)

    return value, gradient, curvature, np.full(d, w)


@pytest.mark.parametrize("seed", range(6))
def test_curvature_from_a_sample_is_enough(seed) -> None:
    """Exact gradients, curvature of a third of the data: the optimum of L-BFGS-B, and a gap that covers the distance to
    it.
    """
    value, gradient, curvature, weakest = logistic(seed)
    found, _ = converse(
        BoundedNewton().solve(np.zeros(8), bounded_gap(weakest)), value, gradient, lambda t: curvature(t, slice(0, 70))
    )
    other = scipy.optimize.minimize(
        value, np.zeros(8), jac=gradient, method="L-BFGS-B", bounds=[(0, None)] * 8, options={"ftol": 0, "gtol": 1e-13}
    )
    assert found.value <= other.fun + 1e-12
    assert found.gap <= 1e-9
    assert found.gradient <= 1e-6


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(0, 10**6))
def test_the_certificate_is_never_below_the_distance_to_the_optimum(problem, seed) -> None:
    """At any point, however far."""
    value, gradient, _, weakest = logistic(problem)
    best = scipy.optimize.minimize(
        value, np.zeros(8), jac=gradient, method="L-BFGS-B", bounds=[(0, None)] * 8, options={"ftol": 0, "gtol": 1e-13}
    ).fun
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=8), 0)
    assert bounded_gap(weakest)(x, gradient(x))[0] >= value(x) - best - 1e-12


def test_without_curvature_the_certificate_needs_a_box() -> None:
    gap, proof = bounded_gap(np.array([0.0, 1.0]), box=10.0)(np.array([1.0, 0.0]), np.array([-0.5, 0.2]))
    assert gap == pytest.approx(5.0)
    assert "10" in proof


def test_the_residual_is_zero_exactly_at_a_solution() -> None:
    one = np.ones(3)
    assert kkt_residual(np.array([0.0, 2.0, 0.0]), np.array([3.0, 0.0, 0.0]), one) == 0
    assert kkt_residual(np.array([0.0, 2.0, 0.0]), np.array([-0.1, 0.0, 0.0]), one) == 0.1
    assert kkt_residual(np.array([0.0, 2.0, 0.0]), np.array([0.0, 0.3, 0.0]), one) == 0.3
    # the unit of a variable: x / unit against gradient * unit
    assert kkt_residual(np.array([4.0]), np.array([0.3]), np.array([10.0])) == 0.4
    assert kkt_residual(np.zeros(0), np.zeros(0), np.zeros(0)) == 0


def test_all_at_the_bound_is_found_and_said() -> None:
    found, asked = converse(
        BoundedNewton(rough=False).solve(np.ones(3), bounded_gap(np.ones(3))),
        lambda x: float(x @ x / 2 + x.sum()),
        lambda x: x + 1,
        lambda x: np.eye(3),
    )
    assert found.theta.tolist() == [0, 0, 0]
    assert found.gap == 0
    assert found.converged
    assert len(asked) <= 4
