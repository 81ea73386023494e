"""An even sample of voxels, with what a method that is trained in memory learns from.

Every voxel draws a number, by a seed and by where it lies; those with the lowest are the sample. So its parts merge, it
has the same voxels for any number of workers and any memory, and a smaller one is the beginning of a larger one. Costs:
a random number a voxel. No voxel: an empty sample.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, Leaf, Lowest

PHILOX = 4
"""Numbers that a step of the generator makes."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Some of so many `voxels`: what each `drew` (n,), rising; `targets` and the class `decided` (n,); `log_probs` (C,
    n).
    """

    voxels: int
    drew: NDArray[np.float64]
    targets: NDArray[np.int64]
    decided: NDArray[np.int64]
    log_probs: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the class decided is the label."""
        return np.asarray(self.targets == self.decided)


@dataclass(frozen=True)
class Lots:
    """The numbers that voxels draw, in [0, 1): by `seed`, the name of their case, and where in it they lie."""

    names: tuple[str, ...]
    seed: int

    def of(self, rows: Rows) -> NDArray[np.float64]:
        """Of each row (n,). Rows must be those of a block of one case."""
        stream = np.random.Philox(key=[self.seed, zlib.crc32(self.names[rows.case].encode("utf-8", "surrogatepass"))])
        stream.advance(rows.start // PHILOX)
        early = rows.start % PHILOX
        return np.random.Generator(stream).random(early + rows.voxels)[early:]


@dataclass(frozen=True)
class VoxelSample:
    """At most `most` voxels, by their `lots`; of those decided `right` only, if so asked."""

    classes: int
    most: int
    lots: Lots
    right: bool = False

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """How many there are, and a table of those chosen."""
        return {"voxels": Count(), "rows": Lowest(self.most, 3 + self.classes)}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """The table of a block."""
        drew = self.lots.of(rows)
        able = np.flatnonzero((rows.decision == rows.targets).numpy()) if self.right else np.arange(rows.voxels)
        few = able if len(able) <= self.most else able[np.argpartition(drew[able], self.most - 1)[: self.most]]
        columns = (drew[few], rows.targets.numpy()[few], rows.decision.numpy()[few], rows.log_probs.numpy().T[few])
        return {"voxels": len(able), "rows": np.column_stack(columns)}

    def result(self, values: Mapping[str, Array]) -> Sample:
        """As arrays."""
        table = values["rows"]
        drew, targets, decided = table.T[:3]
        log_probs = np.ascontiguousarray(table.T[3:])
        return Sample(int(values["voxels"]), drew, targets.astype(np.int64), decided.astype(np.int64), log_probs)
