"""The foreground and its margin: O22's region of interest (definitions 5.4), the true foreground dilated in every slice
by a square.

Slices are those of the first axis of a volume (the reading of definitions 12.10 for planes), and an image is one slice;
on a line the square is a segment. A square of even size reaches one voxel further towards higher indices: 10 reaches 4
before and 5 after. Foreground are scored voxels of a label other than the background, or of any region; without a
declared background every scored voxel is. Costs: labels are read once more, a block and its margin at a time; nothing
is kept. No foreground: 0 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segcal.errors import UsageError
from segcal.journal import Scratch
from segcal.places.label_map import LabelMap


@dataclass(frozen=True)
class ForegroundRegion:
    """1 within the foreground dilated by a square of `size` voxels, 0 elsewhere. A size below 1: UsageError."""

    size: int = 10

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(
                "size",
                found=str(self.size),
                expected="a whole number above zero",
                do="Size 1 is the foreground itself.",
            )

    def on(self, labels: LabelMap, scratch: Scratch) -> RegionWindow:
        """The region of a case."""
        del scratch
        return RegionWindow(self.size, labels)


class RegionWindow:
    """The region of one case, computed as it is read."""

    def __init__(self, size: int, labels: LabelMap) -> None:
        shape = labels.shape
        self._labels, self._size, self._before, self._after = labels, size, (size - 1) // 2, size // 2
        # slices, rows, columns; of a line every voxel is a row
        self._grid = (1, shape[0], 1) if len(shape) == 1 else (math.prod(shape[:-2]), *shape[-2:])

    def read(self, start: int, stop: int) -> Tensor:
        """Voxels start..stop."""
        width = self._grid[2]
        first, last = start // width, -(-stop // width)
        found = [self._rows(*piece).ravel() for piece in self._pieces(first, last)]
        rows = np.concatenate(found) if found else np.zeros(0, bool)
        return torch.from_numpy(rows[start - first * width : stop - first * width].astype(np.float64))

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """Slices and rows (a0, a1, b0, b1) of rows first..last: part of a slice, whole slices, part of another."""
        height = self._grid[1]
        while first < last:
            a, b = divmod(first, height)
            count = (last - first) // height if b == 0 else 0
            piece = (a, a + count, 0, height) if count else (a, a + 1, b, min(height, b + last - first))
            yield piece
            first += (piece[1] - piece[0]) * (piece[3] - piece[2])

    def _rows(self, a0: int, a1: int, b0: int, b1: int) -> NDArray[np.bool_]:
        low, high = max(0, b0 - self._before), min(self._grid[1], b1 + self._after)
        inside = self._foreground(a0, a1, low, high).view(np.uint8)
        for axis in (1, 2):
            # a filter of even size looks further back unless it is moved
            inside = ndimage.maximum_filter1d(inside, self._size, axis, mode="constant", origin=self._size % 2 - 1)
        return np.asarray(inside[:, b0 - low : b1 - low], bool)

    def _foreground(self, a0: int, a1: int, low: int, high: int) -> NDArray[np.bool_]:
        _, height, width = self._grid
        out = np.empty((a1 - a0, high - low, width), bool)
        for a in range(a0, a1):
            start, stop = (a * height + low) * width, (a * height + high) * width
            labels, scored = self._labels.read(start, stop)
            out[a - a0] = (self._labels.foreground(labels) & scored).reshape(high - low, width)
        return out
