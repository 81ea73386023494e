"""What a computation takes of memory, known before a voxel is read: from the cohort's sizes, and from what a method or
an evaluation says of itself.

Promises: an upper bound, meant to lie above what is measured and seldom by more than a factor of two where memory is
short. Fewer workers need less, and what is left over keeps rows in memory: neither changes a bit of a result. Costs:
nothing. No case: only what an engine always takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segcal.data.case import block_length
from segcal.data.cohort import Cohort
from segcal.engine.accumulate import ExactSum, Lowest, Mergeable
from segcal.engine.pinned import CURVATURE_ROWS, SAMPLE_NUMBERS, SAMPLE_ROWS, chunk_rows

MIB = 2**20

PASSING = 24
"""Arrays as large as a block of scores in float64 that one worker has at once, with what the heap holds back."""

CHUNK = 3
"""Of a chunk of samples: its rows in float64, a part of the rows, and what an objective makes of some columns."""

A_CASE = 16 * 1024
"""Bytes that a case takes as long as a cohort is worked on: what is known of its files, and what is remembered."""

HANDED = 4
"""States a worker accounts for: the one it adds to, the one it adds, and as many that wait to be taken."""


@dataclass(frozen=True)
class Need:
    """Bytes of memory: `kept` once, `each` for every worker; and how many numbers are `drawn` for each voxel that is
    kept, beside its rows.
    """

    kept: int = 0
    each: int = 0
    drawn: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(self.kept + other.kept, self.each + other.each, self.drawn + other.drawn)


def state_bytes(accumulators: Mapping[Any, Mergeable]) -> int:
    """Bytes of one state of each."""
    return sum(
        16 * math.prod(leaf.shape) if isinstance(leaf, ExactSum | Lowest) else leaf.zero().nbytes
        for a in accumulators.values()
        for leaf in a.leaves.values()
    )


@dataclass(frozen=True)
class Sizes:
    """What of a cohort decides how much memory it takes: `reading` bytes of an open case, and of a `block`, a `chunk`
    and both `samples`, in which there are so many voxels `sampled`.
    """

    cases: int
    reading: int
    block: int
    chunk: int
    samples: int
    sampled: int

    @classmethod
    def of(cls, cohort: Cohort) -> Sizes:
        """Of a cohort; no voxel is read."""
        rows = cohort.head.rows
        longest = max((case.voxels for case in cohort), default=0)
        voxels = sum(case.voxels for case in cohort)
        most = min(SAMPLE_ROWS, SAMPLE_NUMBERS // rows)
        sampled = min(most, voxels), min(most, CURVATURE_ROWS, voxels)
        return cls(
            len(cohort),
            longest * (8 * cohort.head.channels * cohort.members + 64),
            8 * rows * min(block_length(rows), longest),
            8 * rows * min(chunk_rows(rows) + block_length(rows), sampled[0]),
            sum(sampled) * (4 * rows + 16),
            sum(sampled),
        )

    def surveying(self, need: Need, workers: int, memory: int) -> int:
        """Bytes at once while cases are read and scored."""
        return (
            min(memory // 5, workers * self.reading)
            + self.cases * A_CASE
            + workers * (PASSING * self.block + need.each)
            + need.kept
        )

    def fitting(self, need: Need, workers: int, memory: int) -> int:
        """Bytes at once while cases are pinned, sampled, and asked about by what needs `need`, no row in memory."""
        samples = self.samples + 4 * need.drawn * self.sampled
        asked = samples + workers * (max(PASSING * self.block, CHUNK * self.chunk) + need.each) + need.kept
        # pieces of the samples are joined into chunks, which lie beside them while that is done
        joining = 2 * samples + PASSING * self.block
        return max(self.surveying(Need(), workers, memory), self.cases * A_CASE + max(asked, joining))


def spoken(size: int) -> str:
    """Bytes, rounded up, as `--max-memory` takes them: 512MB, 1.1GB, 25GB."""
    number, units = -(-size // MIB), ["MB", "GB", "TB"]
    tenths = 10 * number
    while tenths >= 10_000 and len(units) > 1:
        tenths = -(-tenths // 1024)
        units.pop(0)
    return f"{-(-tenths // 10)}{units[0]}" if tenths >= 100 or tenths % 10 == 0 else f"{tenths / 10:.1f}{units[0]}"
