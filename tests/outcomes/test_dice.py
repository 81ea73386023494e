"""The expected Dice is what enumeration says, and its expansion about the means is as near as it claims."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.errors import ShapeError, UsageError
from segcal.outcomes.dice import exact_dice, expected_dice


def enumerated(p: np.ndarray, delivered: np.ndarray) -> float:
    total = 0.0
    for labels in itertools.product((0, 1), repeat=p.size):
        y = np.array(labels)
        probability = np.prod(np.where(y == 1, p, 1 - p))
        total += probability * 2 * (y & delivered).sum() / (delivered.sum() + y.sum())
    return total


def by_sums(p: np.ndarray, delivered: np.ndarray) -> float:
    u = p * (1 - p)
    sums = (delivered.sum(), p[delivered].sum(), u[delivered].sum(), p[~delivered].sum(), u[~delivered].sum())
    return float(expected_dice(*sums))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=12).filter(
        lambda voxels: any(inside for _, inside in voxels)
    )
)
def test_it_is_what_enumeration_says(voxels: list[tuple[float, bool]]) -> None:
    p, delivered = np.array([v for v, _ in voxels]), np.array([a for _, a in voxels])
    assert exact_dice(p, delivered) == pytest.approx(enumerated(p, delivered), abs=1e-12)


def test_twelve_voxels() -> None:
    rng = np.random.default_rng(0)
    p, delivered = rng.random(12), np.arange(12) < 7
    assert exact_dice(p, delivered) == pytest.approx(enumerated(p, delivered), abs=1e-12)


@pytest.mark.parametrize(("n", "most"), [(1, 0.05), (5, 0.002), (10, 0.0005), (50, 0.00002)])
def test_the_expansion_is_as_near_as_it_claims(n: int, most: float) -> None:
    rng = np.random.default_rng(n)
    for shape in (0.2, 1.0, 3.0) * 20:
        p = rng.beta(shape, shape, size=int(n * rng.uniform(1.2, 4)) + 1)
        delivered = np.zeros(p.size, bool)
        delivered[np.argsort(-p)[:n]] = True
        assert abs(by_sums(p, delivered) - exact_dice(p, delivered)) <= most


def test_what_is_certain_has_the_dice_it_has() -> None:
    p, delivered = np.array([1.0, 1.0, 0.0, 1.0]), np.array([True, True, True, False])
    assert exact_dice(p, delivered) == by_sums(p, delivered) == pytest.approx(2 * 2 / (3 + 3))


def test_nothing_delivered_is_not_judged() -> None:
    assert np.isnan(exact_dice([0.3], [False]))
    assert np.isnan(expected_dice(0, 0, 0, 3.0, 1.0))


def test_what_is_refused() -> None:
    with pytest.raises(ShapeError):
        exact_dice([0.5, 0.5], [True])
    with pytest.raises(UsageError):
        exact_dice([1.5], [True])
    with pytest.raises(UsageError):
        exact_dice(np.full(6000, 0.5), np.ones(6000, bool))
