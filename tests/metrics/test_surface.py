"""HD95 and ASD against every pair of surface voxels, at borders and of nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from segcal.errors import ShapeError
from segcal.metrics.surface import surface_distances

Mask = NDArray[np.bool_]


def surface(mask: Mask) -> NDArray[np.int64]:
    """Voxels with a neighbour across a face that is not in the mask, or beyond the image."""
    out = []
    for at in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                there = at.copy()
                there[axis] += step
                if not all(0 <= t < n for t, n in zip(there, mask.shape, strict=True)) or not mask[tuple(there)]:
                    out.append(tuple(at))
    return np.array(sorted(set(out)))


def by_hand(a: Mask, b: Mask, spacing: Any) -> tuple[float, float]:
    pairs = cdist(surface(a) * np.array(spacing), surface(b) * np.array(spacing))
    both = np.concatenate([pairs.min(1), pairs.min(0)])
    return float(np.percentile(both, 95)), float(both.mean())


@pytest.mark.parametrize("shape", [(18, 15), (9, 8, 7)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("seed", range(4))
def test_every_pair(shape: tuple[int, ...], seed: int) -> None:
    """Blobs that touch the border of the image too."""
    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.normal(size=shape), 1.5) > 0 for _ in range(2))
    spacing = tuple(rng.uniform(0.5, 3, len(shape)))
    found = surface_distances(a, b, spacing)
    assert (found.hd95, found.asd) == pytest.approx(by_hand(a, b, spacing), rel=1e-12)
    turned = surface_distances(b, a, spacing)
    assert (turned.hd95, turned.asd) == pytest.approx((found.hd95, found.asd), rel=1e-12)


def test_known_distances() -> None:
    square = np.zeros((20, 20), bool)
    square[5:10, 5:10] = True
    assert surface_distances(square, square).hd95 == surface_distances(square, square).asd == 0
    moved = np.roll(square, 3, 0)
    assert surface_distances(square, moved, (2.0, 1.0)).hd95 == 6
    everything = np.ones((6, 6), bool)
    assert surface_distances(everything, everything).asd == 0, "the border of the image is a surface"
    point = np.zeros((6, 6), bool)
    point[0, 0] = True
    other = np.zeros((6, 6), bool)
    other[3, 4] = True
    assert surface_distances(point, other).hd95 == surface_distances(point, other).asd == 5


def test_nothing() -> None:
    empty, some = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    assert math.isnan(surface_distances(empty, empty).hd95)
    assert surface_distances(empty, some).asd == surface_distances(some, empty).hd95 == math.inf
    with pytest.raises(ShapeError, match="masks"):
        surface_distances(empty, np.zeros((4, 5), bool))
