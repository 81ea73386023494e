"""The label map of one whole case, read by windows or boxes, and where its boundaries run.

A boundary voxel has a neighbour along an axis (4- or 6-connectivity) with another label; both sides count, the frame of
the image does not, and neither does contact with a voxel that is `NOWHERE`: ignored, crop padding, outside the mask
(definitions 7.7 and 16). Costs: a box costs four bytes a voxel. No voxel: empty arrays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.files.journal import Scratch
from segcal.data.head import Head

NOWHERE = -(2**31)
"""Stands in a label map for voxels that have no label to compare; no label has this value."""

PIECE = 2**16
"""Voxels read at once."""


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels of a case on their grid.

    `where` names them in messages; `shape` is spatial; `read(start, stop)` gives labels (n,) integer and which voxels
    are scored (n,) bool of a window of the flattened index, in any order of windows, checked; `spacing` in mm an axis,
    or None. `table`: the voxels are rows of a table and have no neighbours. `predicted`: makes the map that the scores
    of the same case decide for, before any calibrator, or that of one part of the head, which lies on the same grid;
    None where only labels are known. `slice_axis`: across which the slices of a volume lie.
    """

    where: str
    shape: tuple[int, ...]
    head: Head
    read: Callable[[int, int], tuple[NDArray[Any], NDArray[np.bool_]]]
    spacing: tuple[float, ...] | None = None
    table: bool = False
    predicted: Callable[[Scratch, int | None], LabelMap] | None = None
    slice_axis: int = 0

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    def box(self, low: tuple[int, ...], high: tuple[int, ...], *, literal: bool = False) -> NDArray[np.int32]:
        """Labels of a box, `NOWHERE` where a voxel is not scored; `literal`: as they are, everywhere."""
        out = np.empty(tuple(b - a for a, b in zip(low, high, strict=True)), np.int32)
        flat, at = out.reshape(-1), 0
        for start, stop in runs(self.shape, low, high):
            for a in range(start, stop, PIECE):
                b = min(a + PIECE, stop)
                labels, scored = self.read(a, b)
                piece = flat[at : at + b - a]
                piece[:] = labels
                if not literal:
                    # not np.where: of labels kept in two bytes it would make 0 of `NOWHERE`, without a word
                    piece[~scored] = NOWHERE
                at += b - a
        return out


def runs(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The runs start..stop of the flattened index that a box is made of, as long as they can be."""
    last = max((k for k in range(len(shape)) if (low[k], high[k]) != (0, shape[k])), default=0)
    step = math.prod(shape[last + 1 :])
    for index in itertools.product(*(range(low[k], high[k]) for k in range(last))):
        start = 0
        for k in range(last):
            start = start * shape[k] + index[k]
        start *= shape[last] if shape else 1
        yield ((start + low[last]) * step, (start + high[last]) * step) if shape else (0, 1)


def boxes(shape: tuple[int, ...], limit: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(low, high) of the boxes of at most `limit` voxels a case is cut into: slices of the first axis, or rows of one
    slice, or pieces of one row; each is one run, in order.
    """
    cut = next((k for k in range(len(shape)) if math.prod(shape[k + 1 :]) <= limit), len(shape) - 1)
    count = max(1, limit // math.prod(shape[cut + 1 :]))
    for index in itertools.product(*(range(n) for n in shape[:cut])):
        for a in range(0, shape[cut], count):
            yield (
                (*index, a, *(0 for _ in shape[cut + 1 :])),
                (*(i + 1 for i in index), min(a + count, shape[cut]), *shape[cut + 1 :]),
            )


def boundary(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a neighbour along an axis has another label; a neighbour that is `NOWHERE` does not count."""
    out = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        here, there = (
            tuple(cut if a == axis else slice(None) for a in range(labels.ndim))
            for cut in (slice(1, None), slice(None, -1))
        )
        differ = (labels[here] != labels[there]) & (labels[here] != NOWHERE) & (labels[there] != NOWHERE)
        out[here] |= differ
        out[there] |= differ
    return out
