"""Isotonic regression, one class against the rest (Zadrozny and Elkan 2002): q_k = f_k(p_k) with f_k non-decreasing,
then normalised over classes.

Pooling adjacent violators on the grid's counts is the exact optimum of the binned problem, for its NLL and its Brier
score alike; see `segcal.methods.binned` for the grid, the prior, the bounds and the deviations. Translation-invariant.
With two classes it keeps the label where each side of 0.5 stays on its side; with more it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from segcal.methods.binned import GRID, Binned, Vector
from segcal.solvers.isotonic import binned_nll, gap_non_decreasing, pooled


@dataclass(frozen=True)
class IsotonicRegression(Binned):
    """One non-decreasing step function a class."""

    name: ClassVar[str] = "isotonic"

    def identifiable(self, classes: int) -> int:
        """One probability a class and bin; pooling leaves fewer."""
        return classes * GRID

    @property
    def columns(self) -> int:
        """The whole grid."""
        return GRID

    @property
    def proof(self) -> str:
        """By convexity."""
        return (
            "convex over non-decreasing functions: gradient times the way to the best step function; binned one-vs-rest"
            " NLL with its prior and bounds"
        )

    def curve(self, share: Vector, weight: Vector, low: float, high: float) -> tuple[Vector, float, float]:
        """Pooled, then clipped."""
        values = pooled(share, weight).clip(low, high)
        return values, binned_nll(values, share, weight), gap_non_decreasing(values, share, weight, low, high)
