"""Quadratic penalties: their formulas, their sum, the peer's own function where the definition coincides."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.fitting.penalties import (
    Penalty,
    experts_odir,
    experts_towards_temperature,
    odir,
    ridge,
    scaled_identity,
    towards_temperature,
)

CLASSES = st.integers(2, 8)
SEED = st.integers(0, 10**6)
STRENGTH = st.floats(0, 1e4)


def random_theta(seed: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=classes * (classes + 1))


def matrix_and_bias(theta: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    m = theta.reshape(classes, classes + 1)
    return m[:, :classes], m[:, classes]


@given(seed=SEED, classes=CLASSES, lambda_=STRENGTH, mu=STRENGTH)
def test_odir_is_equation_15(seed, classes, lambda_, mu) -> None:
    theta = random_theta(seed, classes)
    w, b = matrix_and_bias(theta, classes)
    off = w[~np.eye(classes, dtype=bool)]
    printed = lambda_ / (classes * (classes - 1)) * (off**2).sum() + mu / classes * (b**2).sum()
    assert odir(classes, lambda_, mu).value(theta) == pytest.approx(printed, rel=1e-12)
    assert odir(classes, lambda_, mu).value(scaled_identity(classes, 7.0)) == 0


@pytest.mark.parametrize("family", ["MatrixScaling", "DirichletCalibration", "TranslationInvariantMatrixScaling"])
def test_odir_is_the_peers(family) -> None:
    fiducio = pytest.importorskip("fiducio")
    torch = pytest.importorskip("torch")
    classes = 5
    peer = getattr(fiducio, family)(lambda_reg=0.13, mu_reg=0.07, device="cpu")
    peer._init_params(classes)
    generator = torch.Generator().manual_seed(0)
    for tensor in (peer._weight, peer._bias):
        tensor += torch.randn(tensor.shape, generator=generator)
    theta = np.column_stack([peer._effective_weight().double().numpy(), peer._bias.double().numpy()]).ravel()
    assert odir(classes, 0.13, 0.07).value(theta) == pytest.approx(peer._regularization().item(), rel=1e-6)


@given(seed=SEED, classes=CLASSES, lambda_=STRENGTH, mu=STRENGTH, beta=st.floats(0.01, 10))
def test_towards_temperature_is_a_mean_of_squares_around_it(seed, classes, lambda_, mu, beta) -> None:
    theta = random_theta(seed, classes)
    w, b = matrix_and_bias(theta, classes)
    penalty = towards_temperature(classes, lambda_, mu, beta)
    assert penalty.value(theta) == pytest.approx(
        lambda_ * ((w - beta * np.eye(classes)) ** 2).mean() + mu * (b**2).mean(), rel=1e-12
    )
    assert penalty.value(scaled_identity(classes, beta)) == 0


@given(seed=SEED, classes=CLASSES)
def test_ridge_pulls_every_entry_to_the_identity(seed, classes) -> None:
    theta = random_theta(seed, classes)
    w, b = matrix_and_bias(theta, classes)
    penalty = ridge(classes, 1e-3)
    assert penalty.value(theta) == pytest.approx(
        1e-3 * (((w - np.eye(classes)) ** 2).mean() + (b**2).mean()), rel=1e-12
    )
    assert (penalty.weight > 0).all()


@settings(max_examples=50)
@given(seed=SEED, classes=CLASSES, lambda_=STRENGTH, beta=st.floats(0.01, 10))
def test_sums_are_sums(seed, classes, lambda_, beta) -> None:
    theta = random_theta(seed, classes)
    parts = [odir(classes, lambda_, 1.0), ridge(classes, 1e-2), towards_temperature(classes, lambda_, 0.5, beta)]
    total = parts[0] + parts[1] + parts[2]
    scale = 1 + sum(p.value(theta) + p.value(0 * theta) for p in parts)
    assert total.value(theta) == pytest.approx(sum(p.value(theta) for p in parts), abs=1e-11 * scale)
    np.testing.assert_allclose(total.gradient(theta), sum(p.gradient(theta) for p in parts), atol=1e-10 * scale)
    np.testing.assert_allclose(total.curvature, sum(p.curvature for p in parts), rtol=1e-14)


def test_a_sum_with_entries_nobody_weighs() -> None:
    free = Penalty(np.array([0.0, 2.0]), np.array([5.0, 1.0]))
    total = free + Penalty(np.array([0.0, 1.0]), np.array([-5.0, 4.0]))
    assert total.value(np.array([100.0, 1.0])) == pytest.approx(9.0)
    assert total.gradient(np.array([100.0, 1.0]))[0] == 0


@given(seed=SEED, classes=CLASSES)
def test_gradient_is_that_of_differences(seed, classes) -> None:
    theta = random_theta(seed, classes)
    penalty = towards_temperature(classes, 3.0, 2.0, 0.7) + ridge(classes, 0.1)
    step = 1e-6 * np.random.default_rng(seed + 1).normal(size=theta.shape)
    moved = (penalty.value(theta + step) - penalty.value(theta - step)) / 2
    assert moved == pytest.approx(float(penalty.gradient(theta) @ step), rel=1e-5, abs=1e-12)


def free_by_force(a: np.ndarray, g: np.ndarray, lambda_: float, mu: float, ranked: bool) -> float:
    """K26 Eq. 15 on W = 1 w^T - K A D, b = beta 1 - K g, minimised over the gauge w, beta by least squares."""
    k = len(g)
    c = k + 1
    spread = np.vstack([np.zeros((1, k)), np.tril(np.ones((k, k))) if ranked else np.eye(k)])
    d = np.array([[float(i == (j if ranked else 0)) - float(i == j + 1) for i in range(c)] for j in range(k)])
    weight, bias = -spread @ a @ d, -spread @ g

    def penalty(gauge: np.ndarray) -> float:
        w, b = weight + gauge[:c], bias + gauge[c]
        return float(lambda_ / (c * (c - 1)) * (w[~np.eye(c, dtype=bool)] ** 2).sum() + mu / c * (b**2).sum())

    return float(scipy.optimize.minimize(penalty, np.zeros(c + 1), method="BFGS", options={"gtol": 1e-12}).fun)


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_free_gauge_is_the_least_over_gauges(size, ranked) -> None:
    rng = np.random.default_rng(size)
    a, g = rng.random((size, size)), rng.random(size)
    found = experts_odir(size + 1, 0.7, 0.3, ranked=ranked, pinned=False).value(np.column_stack([a, g]).ravel())
    assert found == pytest.approx(free_by_force(a, g, 0.7, 0.3, ranked), abs=1e-9)


def test_the_free_gauge_in_closed_form() -> None:
    """Definitions 4.6, margins."""
    rng = np.random.default_rng(0)
    k, lam, mu = 4, 0.7, 0.3
    c = k + 1
    a, g = rng.random((k, k)), rng.random(k)
    rho = a.sum(1)
    off = a - np.diag(np.diag(a))
    spread = (off**2).sum() - (off.sum(0) ** 2).sum() / (c - 1)
    biases = np.append(0, g)
    expected = (
        lam / (c * (c - 1)) * (((rho - rho.mean()) ** 2).sum() + spread)
        + mu / c * ((biases - biases.mean()) ** 2).sum()
    )
    assert experts_odir(c, lam, mu, ranked=False, pinned=False).value(np.column_stack([a, g]).ravel()) == pytest.approx(
        expected, abs=1e-12
    )


def test_the_pinned_gauge_in_closed_form() -> None:
    """Definitions 4.5, margins; and with two classes lambda / 2 (1 - alpha)^2 + mu / 2 g^2, free mu g^2 / 4 (4.6)."""
    rng = np.random.default_rng(0)
    a, g = rng.random((4, 4)), rng.random(4)
    off = a - np.diag(np.diag(a))
    expected = 0.7 / 20 * (((1 - a.sum(1)) ** 2).sum() + (off**2).sum()) + 0.3 / 5 * (g**2).sum()
    assert experts_odir(5, 0.7, 0.3, ranked=False, pinned=True).value(np.column_stack([a, g]).ravel()) == pytest.approx(
        expected, abs=1e-12
    )
    for ranked in (False, True):
        theta = np.array([1.4, 0.5])
        assert experts_odir(2, 0.7, 0.3, ranked=ranked, pinned=True).value(theta) == pytest.approx(
            0.35 * 0.16 + 0.15 * 0.25, abs=1e-14
        )
        assert experts_odir(2, 0.7, 0.3, ranked=ranked, pinned=False).value(theta) == pytest.approx(
            0.3 * 0.25 / 4, abs=1e-14
        )


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_a_temperature_is_free_in_the_free_gauge_and_costs_in_the_pinned_one(beta) -> None:
    theta = scaled_identity(3, beta)
    for ranked in (False, True):
        assert experts_odir(4, 1.0, 1.0, ranked=ranked, pinned=False).value(theta) == pytest.approx(0, abs=1e-14)
        assert experts_odir(4, 1.0, 1.0, ranked=ranked, pinned=True).value(theta) > 0.01
    assert experts_towards_temperature(3, 1.0, 1.0, beta).value(theta) == 0


def test_squared_residuals_know_their_derivatives_and_their_least_curvature() -> None:
    penalty = experts_odir(4, 0.7, 0.3, ranked=True, pinned=True) + experts_towards_temperature(3, 1e-3, 1e-3, 1.0)
    rng = np.random.default_rng(1)
    theta, step = rng.random(12), 1e-6 * rng.normal(size=12)
    slope = (penalty.value(theta + step) - penalty.value(theta - step)) / 2
    assert slope == pytest.approx(penalty.gradient(theta) @ step, rel=1e-7)
    np.testing.assert_allclose(
        penalty.gradient(theta + step) - penalty.gradient(theta), penalty.curvature @ step, atol=1e-12
    )
    assert np.linalg.eigvalsh(penalty.curvature - np.diag(penalty.convexity))[0] >= -1e-12
    assert penalty.times(2.5).value(theta) == pytest.approx(2.5 * penalty.value(theta))
    diagonal = experts_towards_temperature(3, 0.2, 0.4, 0.8)
    np.testing.assert_allclose(diagonal.convexity, np.diag(diagonal.curvature))
