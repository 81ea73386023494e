"""Cohorts that are computed when they are read: larger than memory or disk, and the same voxels however they
are cut.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.head import Softmax

CELL = 1 << 16


@dataclass(frozen=True, eq=False)
class LazyField:
    """Voxels made by `make(cell)`: (channels, CELL) or (CELL,) for cell 0, 1, ... of the flattened index."""

    where: str
    shape: tuple[int, ...]
    channels: int | None
    make: Callable[[int], NDArray[Any]]

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Window]:
        yield LazyWindow(self)


class LazyWindow:
    """Remembers the cell read last."""

    def __init__(self, field: LazyField) -> None:
        self._field, self._cell, self._values = field, -1, np.empty(0)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        stop = min(stop, math.prod(self._field.shape))
        pieces = []
        for cell in range(start // CELL, -(-stop // CELL)):
            if cell != self._cell:
                self._cell, self._values = cell, self._field.make(cell)
            first = cell * CELL
            pieces.append(self._values[..., max(start - first, 0) : min(stop - first, CELL)])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, -1)


def random_case(name: str, seed: int, shape: tuple[int, ...], classes: int, sharpness: float = 1.5) -> Case:
    """Over-confident logits of `classes` classes, right more often than not."""

    def labels(cell: int) -> NDArray[Any]:
        return np.random.default_rng([seed, cell, 0]).integers(classes, size=CELL, dtype=np.uint8)

    def scores(cell: int) -> NDArray[Any]:
        z = np.random.default_rng([seed, cell, 1]).standard_normal((classes, CELL), dtype=np.float32)
        z[labels(cell), np.arange(CELL)] += 1.5
        z *= np.float32(sharpness)
        return z

    return Case(
        name, (LazyField(f"{name} scores", shape, classes, scores),), LazyField(f"{name} labels", shape, None, labels)
    )


def random_cohort(cases: int, shape: tuple[int, ...], classes: int = 3, seed: int = 0) -> Cohort:
    """Several random cases."""
    head = Softmax(tuple(f"c{k}" for k in range(classes)))
    return Cohort(tuple(random_case(f"case{i}", seed + i, shape, classes) for i in range(cases)), head, "logits")
