"""The foreground and its margin: O22's region of interest (definitions 5.4), the true foreground dilated in every slice
by a square.

Slices of a volume lie across the `slice_axis` of its case, whatever the order in which a file has its axes: the one
named, else the axis of the widest spacing, else z, the last of a NIfTI file's axes and the first of nnU-Net's; of plain
arrays the first (the reading of definitions 12.10 for planes). An image is one slice; on a line the
square is a segment; of more than three axes the last two make a slice. A square of even size reaches one voxel further
towards higher indices: 10 reaches 4 before and 5 after. Foreground are scored voxels of a label other than the
background, or of any region; without a declared background every scored voxel is. Costs: labels are read once more, and
planes of the first axis are kept as far as the square reaches. No foreground: 0 everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segcal.data.files.journal import Scratch
from segcal.data.places.label_map import LabelMap
from segcal.errors import UsageError

WIDER = 1.05
"""How many times the next spacing the widest is where it tells the slices apart: 1 mm against .98 mm does not."""


def slice_axis(shape: tuple[int, ...], spacing: tuple[float, ...] | None, usual: int) -> int:
    """Across which axis of a volume its slices lie, where nobody says; `usual`: the one of its kind of files."""
    if spacing is not None and len(spacing) == len(shape) == 3:
        widest, next_ = sorted(range(3), key=lambda axis: -spacing[axis])[:2]
        if spacing[widest] > WIDER * spacing[next_]:
            return widest
    return usual if len(shape) == 3 else 0


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
        self._labels, self._size, self._before, self._after = labels, size, (size - 1) // 2, size // 2
        shape = labels.shape
        volume = (1, *shape, 1) if len(shape) == 1 else (math.prod(shape[:-2]), *shape[-2:])
        across = labels.slice_axis if len(shape) == 3 else 0
        if across == 0:
            # a window is some rows of some slices: dilated over rows and columns, with rows around them
            self._planes, self._rows, self._width = volume
        else:
            # a window is some planes of the first axis, and the square runs over planes: they are the rows
            self._planes, self._rows, self._width = 1, volume[0], volume[1] * volume[2]
        self._across, self._volume = across, volume
        self._kept: dict[tuple[int, int], NDArray[np.bool_]] = {}

    def read(self, start: int, stop: int) -> Tensor:
        """Voxels start..stop."""
        first, last = start // self._width, -(-stop // self._width)
        found, at = [np.zeros(0, bool)], first
        while at < last:
            plane, row = divmod(at, self._rows)
            end = min(self._rows, row + last - at)
            found.append(self._dilated(plane, row, end).ravel())
            at += end - row
        rows = np.concatenate(found)
        return torch.from_numpy(rows[start - first * self._width : stop - first * self._width].astype(np.float64))

    def _dilated(self, plane: int, row: int, end: int) -> NDArray[np.bool_]:
        """Rows row..end of a plane."""
        low, high = max(0, row - self._before), min(self._rows, end + self._after)
        self._kept = {k: v for k, v in self._kept.items() if k[0] == plane and low <= k[1] < high}
        missing = [r for r in range(low, high) if (plane, r) not in self._kept]
        if missing:
            a, b = missing[0], missing[-1] + 1
            self._kept |= {(plane, a + k): line for k, line in enumerate(self._foreground(plane, a, b))}
        inside = np.stack([self._kept[plane, r] for r in range(low, high)]).view(np.uint8)
        if self._across:
            inside = inside.reshape(-1, *self._volume[1:])
        for axis in (0, 1) if self._across != 1 else (0, 2):
            # a filter of even size looks further back unless it is moved
            inside = ndimage.maximum_filter1d(inside, self._size, axis, mode="constant", origin=self._size % 2 - 1)
        return np.asarray(inside[row - low : end - low], bool)

    def _foreground(self, plane: int, low: int, high: int) -> NDArray[np.bool_]:
        start, stop = (plane * self._rows + low) * self._width, (plane * self._rows + high) * self._width
        labels, scored = self._labels.read(start, stop)
        return np.asarray(self._labels.head.foreground(labels) & scored).reshape(high - low, self._width)
