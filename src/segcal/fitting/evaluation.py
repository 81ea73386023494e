"""One evaluation of an objective: means over voxels of value, gradient and curvature, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

COLUMNS = 8192
"""Voxels an objective works on at once: what they need stays in the processor's cache."""


def at_once(classes: int) -> int:
    """`COLUMNS` up to 128 classes, fewer above, so that each of what an objective makes of them holds at most 2^20
    numbers (8 MiB).
    """
    return min(COLUMNS, max(1, 2**20 // classes))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`value`, `gradient` (d,), `curvature` (d, d) or None where it was not asked for, over `voxels`.

    No voxel: zeros.
    """

    value: float
    gradient: Vector
    curvature: Vector | None
    voxels: int
