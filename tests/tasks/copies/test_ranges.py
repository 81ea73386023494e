"""Photometric copies: in units of the input, the same by seed, neutral draws change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from segcal.errors import UsageError
from segcal.tasks.copies.ranges import Ranges

IMAGE = np.random.default_rng(0).normal(3, 2, (2, 12, 9)).astype(np.float32)
NOTHING = Ranges((1, 1), (0, 0), (1, 1), 0)


def test_zero_strength_is_the_input() -> None:
    assert np.array_equal(NOTHING.copy(IMAGE, "case", 5), IMAGE)


def test_a_copy_is_its_seed_name_and_number() -> None:
    ranges = Ranges()
    one = ranges.copy(IMAGE, "case", 5)
    assert np.array_equal(ranges.copy(IMAGE, "case", 5), one)
    for other in (ranges.copy(IMAGE, "case", 6), ranges.copy(IMAGE, "other", 5), ranges.copy(IMAGE, "case", 5, 1)):
        assert not np.array_equal(other, one)


@pytest.mark.parametrize("scale", [0.001, 1.0, 4096.0])
def test_units_are_those_of_the_input(scale: float) -> None:
    """A network that sees its input in other units gets the same copies, in those."""
    small, large = (Ranges().copy(IMAGE * k, "case", 1) for k in (1.0, scale))
    np.testing.assert_allclose(large, small * scale, rtol=2e-4, atol=1e-4 * scale)


def test_each_change_is_what_it_says() -> None:
    mean, spread = IMAGE.mean((1, 2), keepdims=True), IMAGE.std((1, 2), keepdims=True)
    contrast = Ranges((1.4, 1.4), (0, 0), (1, 1), 0).copy(IMAGE, "c", 0)
    np.testing.assert_allclose(contrast, mean + 1.4 * (IMAGE - mean), rtol=1e-5, atol=1e-5)
    brightness = Ranges((1, 1), (-0.5, -0.5), (1, 1), 0).copy(IMAGE, "c", 0)
    np.testing.assert_allclose(brightness, IMAGE - 0.5 * spread, rtol=1e-5, atol=1e-5)
    gamma = Ranges((1, 1), (0, 0), (0.7, 0.7), 0).copy(IMAGE, "c", 0)
    low, span = IMAGE.min((1, 2), keepdims=True), np.ptp(IMAGE, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(gamma, low + span * ((IMAGE - low) / span) ** 0.7, rtol=1e-5, atol=1e-5)
    noise = Ranges((1, 1), (0, 0), (1, 1), 0.15).copy(np.tile(IMAGE, (1, 20, 20)), "c", 0) - np.tile(IMAGE, (1, 20, 20))
    np.testing.assert_allclose(noise.std((1, 2)), 0.15 * spread[:, 0, 0], rtol=0.02)


def test_a_constant_image_and_none() -> None:
    flat = np.full((1, 5, 5), 2.0, np.float32)
    assert np.array_equal(Ranges().copy(flat, "c", 0), flat)
    assert Ranges().copy(np.zeros((1, 0, 5)), "c", 0).shape == (1, 0, 5)


@pytest.mark.parametrize(
    "wrong", [{"contrast": (1.5, 0.6)}, {"gamma": (0.0, 1.0)}, {"brightness": (0, np.inf)}, {"noise": -0.1}]
)
def test_ranges_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Ranges(**wrong)  # type: ignore[arg-type]
