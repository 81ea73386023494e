"""Distances between the surfaces of two objects: HD95 and the average surface distance.

A surface is made of the voxels of an object that touch another voxel across a face, or the border of the image. Of each
voxel of either surface the Euclidean distance to the nearest of the other, both directions side by side: HD95 is their
95th percentile (linear between ranks), ASD their mean. In the unit of `spacing`. Promises: exact distances (SciPy);
symmetric. Costs: two distance transforms of the box around both objects. Both objects empty: NaN; one: infinity (as
MONAI has it). Source: definitions 7.10, medpy's HD95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from segcal.errors import ShapeError


@dataclass(frozen=True)
class SurfaceDistances:
    """`hd95` and `asd` of two objects."""

    hd95: float
    asd: float


def surface_distances(one: ArrayLike, other: ArrayLike, spacing: Sequence[float] | None = None) -> SurfaceDistances:
    """Of two masks of one shape; `spacing` of their axes, 1 unless given. ShapeError where shapes differ."""
    a, b = np.asarray(one, bool), np.asarray(other, bool)
    steps = (1.0,) * a.ndim if spacing is None else tuple(spacing)
    if a.shape != b.shape or len(steps) != a.ndim:
        raise ShapeError(
            "masks",
            found=f"shapes {a.shape} and {b.shape}, {len(steps)} spacings",
            expected="one shape, and a spacing an axis",
            do="Give two masks on one grid.",
        )
    if not a.any() or not b.any():
        nothing = math.nan if not (a.any() or b.any()) else math.inf
        return SurfaceDistances(nothing, nothing)
    # the border of the image counts as outside: a margin of one voxel
    box = tuple(slice(int(k.min()), int(k.max()) + 1) for k in np.nonzero(a | b))
    a, b = (np.pad(m[box], 1) for m in (a, b))
    surfaces = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
    to = [ndimage.distance_transform_edt(~s, sampling=steps) for s in surfaces]
    both: NDArray[np.float64] = np.concatenate([to[1][surfaces[0]], to[0][surfaces[1]]])
    return SurfaceDistances(float(np.percentile(both, 95)), float(both.mean()))
