"""Histogram binning, one class against the rest (Zadrozny and Elkan 2001; Guo et al. 2017): q_k is the share of class k
among voxels whose p_k is in the same bin, then normalised.

Bins are even in log-odds, a deviation: of the probabilities of a segmentation nine in ten lie within 1e-3 of 0 or 1,
where bins even in p, or of equal mass, have one bin or none between. See `segcal.methods.binned` for the grid, the
prior and the bounds. Translation-invariant. With two classes it keeps the label where each side of 0.5 stays on its
side; with more it does not. Nothing keeps a function from falling; `isotonic` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from segcal.errors import UsageError
from segcal.methods.binned import GRID, Binned, Vector
from segcal.solvers.isotonic import binned_nll, gap_free


@dataclass(frozen=True)
class HistogramBinning(Binned):
    """`bins` a class: an even divisor of 512 (UsageError otherwise); 32 are one unit of log-odds wide."""

    name: ClassVar[str] = "histogram"
    bins: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bins, int) or self.bins < 2 or self.bins % 2 or GRID % self.bins:
            raise UsageError(
                "bins",
                found=repr(self.bins),
                expected=f"an even divisor of {GRID}: 2, 4, 8, ... {GRID}",
                do="Leave it out for 32.",
            )

    def identifiable(self, classes: int) -> int:
        """One probability a class and bin."""
        return classes * self.bins

    @property
    def columns(self) -> int:
        """As asked."""
        return self.bins

    @property
    def proof(self) -> str:
        """In closed form."""
        return (
            "closed form, bin by bin, and gradient times the way to the better bound; binned one-vs-rest NLL with its"
            " prior and bounds"
        )

    def curve(self, share: Vector, weight: Vector, low: float, high: float) -> tuple[Vector, float, float]:
        """The share itself, clipped."""
        values = share.clip(low, high)
        return values, binned_nll(values, share, weight), gap_free(values, share, weight, low, high)
