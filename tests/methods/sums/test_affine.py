"""The NLL of an affine map, and of a diagonal one: derivatives against differences and autograd, gauges, curvature,
huge scores; and what stands for a curvature that is not formed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.data.rows import Rows
from segcal.errors import UsageError
from segcal.fitting.evaluation import COLUMNS
from segcal.methods.affine.sums import AffineNLL, FactoredCurvature, Factors, VectorNLL, features

ROWS = ("log_probs", "targets", "decision", "reference", "free_energy")


def random_map(seed: int, classes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = np.eye(classes) + 0.3 * rng.normal(size=(classes, classes))
    return np.column_stack([w, rng.normal(size=classes)]).ravel()


def autograd(rows: Rows, theta: np.ndarray, logits: bool) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, gradient and Hessian by torch."""
    phi, c = features(rows, logits), rows.log_probs.shape[0]

    def nll(t: torch.Tensor) -> torch.Tensor:
        m = t.reshape(c, c + 1)
        return torch.nn.functional.cross_entropy((m[:, :c] @ phi + m[:, c:]).T, rows.targets)

    t = torch.tensor(theta, requires_grad=True)
    value = nll(t)
    (gradient,) = torch.autograd.grad(value, t)
    return value.item(), gradient.numpy(), torch.autograd.functional.hessian(nll, torch.tensor(theta)).numpy()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5), logits=st.booleans())
def test_derivatives_are_those_of_autograd(seed, classes, logits, random_rows, evaluate) -> None:
    rows, theta = random_rows(seed, 60, classes), random_map(seed, classes)
    found = evaluate(AffineNLL(classes, tuple(theta), 2, logits), rows)
    value, gradient, curvature = autograd(rows, theta, logits)
    assert found.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(found.gradient, gradient, atol=1e-11)
    np.testing.assert_allclose(found.curvature, curvature, atol=1e-10)


def test_derivatives_are_those_of_differences(random_rows, evaluate, differences) -> None:
    rows, theta = random_rows(1, 50, 4), random_map(1, 4)
    found = evaluate(AffineNLL(4, tuple(theta), 2), rows)
    slope = differences(lambda t: evaluate(AffineNLL(4, tuple(t), 0), rows).value, theta)
    bend = differences(lambda t: evaluate(AffineNLL(4, tuple(t), 1), rows).gradient, theta)
    np.testing.assert_allclose(found.gradient, slope, atol=4e-10)
    np.testing.assert_allclose(found.curvature, bend, atol=4e-9)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6))
def test_curvature_is_semidefinite_and_blind_to_the_gauge(seed, classes, random_rows, evaluate) -> None:
    """W + 1 c^T and b + k 1 change nothing: their slope and curvature are zero; all else bends upwards."""
    rows, theta = random_rows(seed, 50, classes), random_map(seed, classes)
    found = evaluate(AffineNLL(classes, tuple(theta), 2), rows)
    values = np.linalg.eigvalsh(found.curvature)
    assert values.min() >= -1e-12 * values.max()
    gauge = np.kron(np.ones(classes), np.random.default_rng(seed).normal(size=classes + 1))
    assert abs(found.gradient @ gauge) < 1e-12
    assert np.abs(found.curvature @ gauge).max() < 1e-11 * max(1.0, values.max())
    shifted = evaluate(AffineNLL(classes, tuple(theta + gauge), 0), rows)
    assert shifted.value == pytest.approx(found.value, rel=1e-11)


def test_logits_see_the_offset_and_log_probs_do_not(make_rows, evaluate) -> None:
    rng = np.random.default_rng(0)
    z, y, theta = rng.normal(size=(3, 30)), rng.integers(3, size=30), tuple(random_map(0, 3))
    plain, shifted = make_rows(z, y), make_rows(z + 5, y)
    assert evaluate(AffineNLL(3, theta), plain).value == pytest.approx(
        evaluate(AffineNLL(3, theta), shifted).value, rel=1e-12
    )
    assert (
        abs(evaluate(AffineNLL(3, theta, 1, True), plain).value - evaluate(AffineNLL(3, theta, 1, True), shifted).value)
        > 1e-3
    )


@pytest.mark.parametrize("order", [0, 1, 2])
def test_orders_agree_and_many_columns_are_one_sum(order, random_rows, evaluate) -> None:
    rows, theta = random_rows(5, COLUMNS + 300, 3), random_map(5, 3)
    found = evaluate(AffineNLL(3, tuple(theta), order), rows)
    m = torch.tensor(theta).reshape(3, 4)
    direct = torch.nn.functional.cross_entropy((m[:, :3] @ rows.log_probs + m[:, 3:]).T, rows.targets).item()
    assert found.value == pytest.approx(direct, rel=1e-12)
    assert (found.curvature is not None) == (order == 2)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 6),
    logits=st.booleans(),
    unit=st.sampled_from([1.0, 0.25]),
    n=st.sampled_from([60, COLUMNS + 300]),
)
def test_a_diagonal_map_is_that_part_of_the_whole(seed, classes, logits, unit, n, random_rows, evaluate) -> None:
    rows, rng = random_rows(seed, n, classes), np.random.default_rng(seed)
    factor, bias = rng.random(classes) + 0.2, rng.normal(size=classes)
    matrix = np.column_stack([np.diag(factor), bias]).ravel()
    entries = [k * (classes + 1) + k for k in range(classes)] + [k * (classes + 1) + classes for k in range(classes)]
    for order in range(3):
        own = evaluate(VectorNLL(classes, (*factor, *bias), order, logits, unit), rows)
        whole = evaluate(AffineNLL(classes, tuple(matrix), order, logits), rows)
        assert own.value == pytest.approx(whole.value, rel=1e-12)
        if order:
            np.testing.assert_allclose(own.gradient, whole.gradient[entries], atol=1e-11)
        assert (own.curvature is None) == (order < 2)
        if order == 2:
            np.testing.assert_allclose(own.curvature, whole.curvature[np.ix_(entries, entries)], atol=1e-9)


@pytest.mark.parametrize("unit", [1.0, 0.25])
def test_factors_are_the_curvature_where_voxels_are_alike(unit, random_rows, evaluate) -> None:
    """The mean of products is the product of means where there is one voxel, or the same several times."""
    one = random_rows(3, 1, 4)
    many = replace(one, **{name: getattr(one, name).repeat_interleave(5, -1) for name in ROWS})
    for held in (one, many):
        theta = tuple(np.column_stack([0.7 * np.eye(4), np.zeros(4)]).ravel())
        curvature = evaluate(AffineNLL(4, theta, 2), held).curvature
        factors = evaluate(FactoredCurvature(4, 0.7, False, unit), held)
        np.testing.assert_allclose(np.kron(factors.outputs, factors.features), curvature, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), strength=st.sampled_from([1e-6, 1e-2, 10.0]))
def test_their_inverse_is_that_of_the_whole_matrix(seed, classes, strength, random_rows, evaluate) -> None:
    factors, rng = (
        evaluate(FactoredCurvature(classes, 1.0), random_rows(seed, 80, classes)),
        np.random.default_rng(seed),
    )
    added = strength * (0.5 + rng.random(classes + 1))
    whole = np.kron(factors.outputs, factors.features) + np.diag(np.tile(added, classes))
    g = rng.normal(size=len(whole))
    np.testing.assert_allclose(whole @ factors.inverse(added)(g), g, atol=1e-7 * max(1.0, 1 / strength) ** 0.5)


def test_without_doubt_there_is_no_curvature_but_what_is_added(make_rows, evaluate) -> None:
    rows = make_rows(1e4 * np.eye(3), [0, 1, 2])
    factors = evaluate(FactoredCurvature(3, 1.0), rows)
    assert not factors.features.any()
    np.testing.assert_allclose(factors.inverse(np.full(4, 2.0))(np.ones(12)), 0.5)
    assert isinstance(factors, Factors)


@pytest.mark.parametrize("unit", [1.0, 0.25, 2.0**-13])
def test_unit_changes_no_result(unit, random_rows, evaluate) -> None:
    rows, theta = random_rows(7, 200, 3), random_map(7, 3)
    plain, held = (evaluate(AffineNLL(3, tuple(theta), 2, True, u), rows) for u in (1.0, unit))
    assert held.value == plain.value
    np.testing.assert_allclose(held.gradient, plain.gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(held.curvature, plain.curvature, rtol=1e-9, atol=1e-5 if unit < 0.01 else 1e-9)


def test_unit_keeps_huge_scores_within_exact_sums(random_rows, make_rows, evaluate) -> None:
    rows = random_rows(8, 500, 3)
    huge = make_rows(1e6 * (rows.log_probs + rows.free_energy).numpy(), rows.targets.numpy())
    theta = tuple(np.column_stack([1e-6 * np.eye(3), np.zeros(3)]).ravel())
    assert not np.isfinite(evaluate(AffineNLL(3, theta, 2), huge).curvature).all()
    found = evaluate(AffineNLL(3, theta, 2, False, 2.0**-20), huge)
    assert np.isfinite(found.curvature).all()
    assert found.value == pytest.approx(
        evaluate(AffineNLL(3, tuple(np.column_stack([np.eye(3), np.zeros(3)]).ravel())), rows).value, rel=1e-9
    )


def test_no_voxel_is_zero(make_rows, evaluate) -> None:
    found = evaluate(AffineNLL(2, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 2), make_rows(np.zeros((2, 0)), []))
    assert (found.value, found.voxels) == (0.0, 0)
    assert not found.gradient.any()
    assert not found.curvature.any()


def test_logits_are_asked_of_rows_that_have_them() -> None:
    x = torch.log_softmax(torch.zeros(2, 3, dtype=torch.float64), 0)
    y = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(UsageError, match="raw logits"):
        features(Rows(0, 0, x, y, y, y), logits=True)
