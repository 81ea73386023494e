"""Gauge shifts: constants added to all logits of a voxel, in float64 and before pooling, which a softmax never sees.

    voxel    delta_v uniform on [-size, size], one a voxel, the same for every member
    member   delta_m uniform on [-size, size], one a member and case, the same at every voxel

Promises: the shifts of a case depend on the seed, the probe, the case's name and the place of the block alone. Only raw
logits of a softmax head have such a gauge: for probabilities and for regions there is no probe. Sizes are finite and
positive (UsageError otherwise); no size gives no probe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.pooling import pool_members
from segcal.errors import UsageError

SIZES = (1.0, 10.0, 100.0)
"""Sizes of shifts unless given."""

Unit = Literal["voxel", "member"]


@dataclass(frozen=True)
class Probe:
    """Shifts of one `size`, drawn anew for each `unit`."""

    unit: Unit
    size: float
    seed: int = 0

    def shifted(self, cohort: Cohort, index: int, start: int, members: Sequence[Tensor]) -> Tensor:
        """Pooled scores (channels, n), float64, of members (channels, n) whose logits were shifted.

        `start`: first voxel of the block.
        """
        case = int(journal.digest(cohort[index].id.encode("utf-8", "surrogatepass"))[:12], 16)
        unit, size = int(self.unit == "member"), np.float64(self.size).view(np.uint64).item()
        n = members[0].shape[1]
        if self.unit == "voxel":
            delta = np.random.default_rng([self.seed, unit, size, case, start]).uniform(-self.size, self.size, n)
            moved = (m.double() + torch.from_numpy(delta)[None] for m in members)
        else:
            own = (
                np.random.default_rng([self.seed, unit, size, case])
                .uniform(-self.size, self.size, len(members))
                .tolist()
            )
            moved = (m.double() + d for m, d in zip(members, own, strict=True))
        return pool_members(moved, len(members), cohort.kind, cohort.pool, cohort.head, cohort.resolution)


def probes(cohort: Cohort, sizes: Sequence[float], seed: int) -> list[Probe]:
    """Probes of a cohort; none where its scores have no gauge."""
    for size in sizes:
        if not (math.isfinite(size) and size > 0):
            raise UsageError(
                "shifts", found=str(size), expected="finite sizes above 0", do="Give sizes such as 1, 10, 100."
            )
    if not has_gauge(cohort):
        return []
    return [Probe(unit, float(size), seed) for unit in ("voxel", "member") for size in dict.fromkeys(sizes)]


def has_gauge(cohort: Cohort) -> bool:
    """Whether the members' scores are raw logits of a softmax head."""
    return cohort.kind == "logits" and cohort.head.has_free_energy
