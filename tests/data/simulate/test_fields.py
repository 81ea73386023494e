"""Random fields have exactly the marginal they promise at every voxel, and the correlation they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from segcal.data.simulate.fields import gaussian_fields, gumbel_fields
from segcal.errors import UsageError

SHAPES = [((16,), (2.0,)), ((9, 12), (0.0, 3.0)), ((6, 7, 8), (0.5, 1.0, 40.0))]


@pytest.mark.parametrize(("shape", "lengths"), SHAPES)
def test_each_voxel_is_standard_normal(shape: tuple[int, ...], lengths: tuple[float, ...]) -> None:
    draws = gaussian_fields(np.random.default_rng(0), 2000, shape, lengths)
    assert draws.shape == (2000, *shape)
    corner, centre = draws[(slice(None), *(0 for _ in shape))], draws[(slice(None), *(n // 2 for n in shape))]
    for voxel in (corner, centre):
        assert stats.kstest(voxel, "norm").pvalue > 1e-3
    assert abs(np.mean(draws**2) - 1) < 0.05


def test_correlation_falls_as_promised() -> None:
    length = 2.0
    draws = gaussian_fields(np.random.default_rng(1), 4000, (64,), (length,))
    for distance in (1, 2, 5):
        found = np.mean(draws * np.roll(draws, distance, 1))
        assert found == pytest.approx(np.exp(-(distance**2) / (4 * length**2)), abs=0.02)


def test_fields_are_independent_of_each_other() -> None:
    draws = gaussian_fields(np.random.default_rng(2), 2, (64, 64), (1.0, 1.0))
    assert abs(np.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("lengths", [(0.0, 0.0), (1.5, 3.0)])
def test_each_voxel_is_standard_gumbel(lengths: tuple[float, float]) -> None:
    draws = gumbel_fields(np.random.default_rng(3), 3000, (8, 8), lengths)
    assert np.isfinite(draws).all()
    assert stats.kstest(draws[:, 3, 4], "gumbel_r").pvalue > 1e-3


def test_the_same_generator_gives_the_same_field() -> None:
    a, b = (gumbel_fields(np.random.default_rng(4), 2, (5, 6), (1.0, 1.0)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_no_voxel_gives_an_empty_field() -> None:
    assert gumbel_fields(np.random.default_rng(0), 2, (0, 4), (1.0, 1.0)).shape == (2, 0, 4)
    assert gaussian_fields(np.random.default_rng(0), 0, (3, 4), (1.0, 1.0)).shape == (0, 3, 4)


@pytest.mark.parametrize("lengths", [(1.0,), (1.0, -1.0), (1.0, float("nan"))])
def test_wrong_lengths_are_refused(lengths: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="lengths: found"):
        gaussian_fields(np.random.default_rng(0), 1, (4, 4), lengths)
