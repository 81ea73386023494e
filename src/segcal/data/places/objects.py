"""Inside the bounding boxes of objects: where W23's Figure 5 tells boundary from interior (definitions 17).

An object is a connected component of one label, voxels that share a side, within a slice; a background has none, and
neither have voxels that are not scored. Slices are those of `segcal.data.places.region`. Costs: a byte a voxel, beyond
the scratch limit in a file, and four of some slices while they are looked at. No object: 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segcal.data.files.journal import Scratch
from segcal.data.places.label_map import NOWHERE, LabelMap, runs
from segcal.data.places.stored import Stored

SLICES = 2**22
"""Voxels of the slices that are looked at together, or one slice."""


@dataclass(frozen=True)
class ObjectBoxes:
    """1 within the bounding box of an object, 0 elsewhere."""

    def on(self, labels: LabelMap, scratch: Scratch) -> BoxWindow:
        """The boxes of a case."""
        return BoxWindow(labels, scratch)


class BoxWindow:
    """The boxes of one case, found when it is made."""

    def __init__(self, labels: LabelMap, scratch: Scratch) -> None:
        self._inside = Stored(labels.voxels, np.dtype(np.uint8), scratch, "boxes")
        across = labels.slice_axis if len(labels.shape) == 3 else None
        with self._inside.filling():
            for low, high in _pieces(labels.shape, across):
                found = labels.box(low, high)
                slices = [found] if across is None else np.moveaxis(found, across, 0)
                kept = np.stack([_boxed(labels, one) for one in slices])
                flat = (kept[0] if across is None else np.moveaxis(kept, 0, across)).reshape(-1)
                at = 0
                for start, stop in runs(labels.shape, low, high):
                    self._inside.put(start, flat[at : at + stop - start])
                    at += stop - start

    def read(self, start: int, stop: int) -> Tensor:
        """Voxels start..stop."""
        return torch.from_numpy(self._inside.get(start, stop).astype(np.float64))


def _pieces(shape: tuple[int, ...], across: int | None) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(low, high) of some slices at a time; all of what is no volume."""
    if across is None or not all(shape):
        yield tuple(0 for _ in shape), shape
        return
    count = max(1, SLICES * shape[across] // int(np.prod(shape)))
    for a in range(0, shape[across], count):
        low = tuple(a if k == across else 0 for k in range(3))
        yield low, tuple(min(a + count, n) if k == across else n for k, n in enumerate(shape))


def _boxed(labels: LabelMap, found: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Of one slice (labels, `NOWHERE` where not scored): 1 within the boxes."""
    inside = np.zeros(found.shape, np.uint8)
    scored = found != NOWHERE
    foreground = scored & labels.head.foreground(np.where(scored, found, 0))
    for label in np.unique(found[foreground]):
        components, _ = ndimage.label(found == label)
        for box in ndimage.find_objects(components):
            inside[box] = 1
    return inside
