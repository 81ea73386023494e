"""Quadratic penalties: their formulas, their sum, the peer's own function where the definition coincides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.objectives import Penalty, odir, ridge, towards_temperature
from segcal.objectives.penalty import scaled_identity

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
    assert penalty.value(theta) == pytest.approx(lambda_ * ((w - beta * np.eye(classes)) ** 2).mean() + mu * (b**2).mean(), rel=1e-12)
    assert penalty.value(scaled_identity(classes, beta)) == 0


@given(seed=SEED, classes=CLASSES)
def test_ridge_pulls_every_entry_to_the_identity(seed, classes) -> None:
    theta = random_theta(seed, classes)
    w, b = matrix_and_bias(theta, classes)
    penalty = ridge(classes, 1e-3)
    assert penalty.value(theta) == pytest.approx(1e-3 * (((w - np.eye(classes)) ** 2).mean() + (b**2).mean()), rel=1e-12)
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
