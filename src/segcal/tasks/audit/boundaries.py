"""How near changed labels lie to a label boundary of the prediction.

A boundary voxel has a neighbour along an axis with another label; both sides count, the frame of the image does not,
and neither does contact with padding (definitions 7.7). Distances are Euclidean, in voxels, to the nearest boundary
voxel, 0 on it. Promises: exact for distances up to the largest of `WITHIN`, because an image is taken in tiles that
overlap by more than that. Costs: one tile in memory; tiles without a changed label are skipped. No boundary: nothing is
near one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segcal.data.places.label_map import boundary

WITHIN = (1, 3, 7)
"""Distances in voxels at which flips are counted (K26's bands begin at 3 and 7)."""

TILE = 2**18
"""Voxels in a tile, about, before its overlap."""


def near_boundary(
    labels: NDArray[Any], changed: NDArray[np.int64], within: tuple[int, ...] = WITHIN, tile: int = TILE
) -> tuple[int, ...]:
    """How many of the `changed` voxels (flat indices) lie within each distance of a boundary of `labels` (*spatial),
    where padding is `segcal.data.places.NOWHERE`.
    """
    counts = np.zeros(len(within), np.int64)
    if not changed.size:
        return tuple(counts.tolist())
    shape, halo = labels.shape, max(within) + 1
    edge = max(1, round(tile ** (1 / len(shape))))
    at = np.stack(np.unravel_index(changed, shape), 1)
    of = np.ravel_multi_index(tuple((at // edge).T), tuple(-(-n // edge) for n in shape))
    order = np.argsort(of, kind="stable")
    for inside in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
        points = at[inside]
        low = points[0] // edge * edge
        box = tuple(slice(max(0, a - halo), min(n, a + edge + halo)) for a, n in zip(low.tolist(), shape, strict=True))
        border = boundary(labels[box])
        if not border.any():
            continue
        distance = ndimage.distance_transform_edt(~border)
        found = distance[tuple((points - [b.start for b in box]).T)]
        counts += [int((found <= d).sum()) for d in within]
    return tuple(counts.tolist())
