"""Free-energy spread: mean and population standard deviation of F(z) over voxels (definitions 7.8).

The difficulty is cancellation: F may be 1000 with a spread of 0.1, so the mean of F^2 minus the square of the mean
loses ten digits, and an anchor taken from the data would make the result depend on the order of merging. Here F is
rounded once to a multiple of 2^-24, split into its nearest integer a and a rest f, and the sums of a, f, a^2, a f and
f^2 are integers (second moments in two limbs of 24 bits). The variance is then an exact ratio of integers. Promises: by
Minkowski's inequality the standard deviation is off by at most the rounding, 2^-25 = 3e-8, whatever the mean and the
number of voxels (up to 2^38); adding a whole number to every F leaves its bits unchanged; a constant F has spread
exactly 0. Costs: some ten integer operations a voxel. Rows without free energy: nothing to measure, `voxels` is 0 and
the rest NaN. A voxel with |F| >= 2^20 is counted in `beyond`, and the spread is then NaN: no network has such scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, Leaf

LARGEST = 2.0**20
"""Free energies of this size and above are not measured."""

_BITS = 24
_LOW = (1 << _BITS) - 1


@dataclass(frozen=True)
class EnergySpread:
    """Mean and population standard deviation of F over `voxels` voxels; NaN without voxels or with any `beyond` the
    measurable range.
    """

    mean: float
    std: float
    voxels: int
    beyond: int


@dataclass(frozen=True)
class FreeEnergySpread:
    """Integer moments of the free energy."""

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Voxels, those beyond range, the sums of a and f, and the sums of a^2, a f and f^2 in two limbs."""
        return {"voxels": Count(), "beyond": Count(), "first": Count((2,)), "second": Count((3, 2))}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        if rows.free_energy is None:
            return {
                "voxels": 0,
                "beyond": 0,
                "first": torch.zeros(2, dtype=torch.int64),
                "second": torch.zeros((3, 2), dtype=torch.int64),
            }
        energy = rows.free_energy.double()
        known = energy.abs() < LARGEST
        beyond = rows.voxels - int(known.sum())
        if beyond:
            energy = energy[known]
        whole = energy.round()
        a, f = whole.long(), (energy - whole).mul_(2.0**_BITS).round_().long()
        second = torch.stack([_limbs(a * a), _limbs(a * f), _limbs(f * f)])
        return {"voxels": rows.voxels, "beyond": beyond, "first": torch.stack([a.sum(), f.sum()]), "second": second}

    def result(self, values: Mapping[str, Array]) -> EnergySpread:
        """Mean and standard deviation."""
        n, beyond = int(values["voxels"]), int(values["beyond"])
        if n == 0 or beyond:
            return EnergySpread(math.nan, math.nan, n, beyond)
        unit = 1 << _BITS
        a, f = (int(v) for v in values["first"])
        aa, af, ff = (int(high) * unit + int(low) for high, low in values["second"])
        total = a * unit + f
        squares = aa * unit**2 + 2 * af * unit + ff
        variance = Fraction(n * squares - total**2, n**2 * unit**2)
        return EnergySpread(float(Fraction(total, n * unit)), math.sqrt(variance), n, beyond)


def _limbs(x: Tensor) -> Tensor:
    return torch.stack([(x >> _BITS).sum(), (x & _LOW).sum()])
