"""Single operations that have code of our own, beside the library's, interleaved: results equal, medians of times.

    python benchmarks/operations.py

What it printed when the choice was made: docs/decisions/0011-speed-of-single-operations.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from segcal.data.ranking import descending, winner
from segcal.metrics.binning import Binning, _shifted

BINS = (15, 20, 30, 40, 50)


def medians(*work: Callable[[], Any], repeats: int = 15) -> list[float]:
    """Milliseconds of each, run in turn."""
    taken: list[list[float]] = [[] for _ in work]
    for _ in range(repeats):
        for one, times in zip(work, taken, strict=True):
            begun = time.perf_counter()
            one()
            times.append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(times) for times in taken]


def compare(name: str, library: Callable[[], torch.Tensor], ours: Callable[[], torch.Tensor]) -> None:
    """One row, if both say the same."""
    assert torch.equal(library().long(), ours().long()), name
    theirs, own = medians(library, ours)
    print(f"| {name} | {theirs:.2f} | {own:.2f} | {theirs / own:.1f} |")


def main() -> None:
    """The table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| operation | library, ms | ours, ms | ratio |\n|---|---|---|---|")
    for classes, voxels in ((2, 65_536), (3, 65_536), (5, 32_768), (11, 16_384), (20, 8_192)):
        x = torch.randn(classes, voxels, dtype=torch.float64)
        compare(f"largest of {classes}, {voxels} voxels", lambda x=x: x.argmax(0), lambda x=x: winner(x))
        compare(
            f"order of {classes}, {voxels} voxels",
            lambda x=x: x.T.contiguous().sort(dim=1, descending=True, stable=True).indices.T,
            lambda x=x: descending(x),
        )
    v = torch.rand(65_536, dtype=torch.float64)
    compare("bins, 65536 values", lambda: torch.bucketize(v, _shifted(BINS)), lambda: Binning(BINS).index(v))


if __name__ == "__main__":
    main()
