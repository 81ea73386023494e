"""What a temperature is read off: how far a voxel is from the predicted boundary, how unsure its neighbours are, and
the class it is decided for; and the hat functions that turn these into a few numbers a voxel.

A quantity v has knots k_0 < ... < k_K. The hat function of a knot is 1 there, falls in straight lines to 0 at the knots
beside it, and the outer ones stay 1 beyond; so at most two are not 0 at any v, none is below 0, and they sum to 1. What
is drawn of a voxel is where v lies among them: j + s for the share s of the way from k_j to k_j+1. A `Look` names the
quantities, their knots and the groups of classes; `cells` gives, of each voxel, the few entries of the table of weights
that are not multiplied by 0. Distances are those of `segcal.data.places` to the boundary of what the part of the head
decides from the scores; where there is none, the largest knot. Entropies are the mean, over the voxels at most `reach`
rows and columns away in the plane, of -sum p log p in parts of log C. All of it is rounded to float32, as pinned rows
keep it.
Costs: nothing next to the distances. No voxel: empty tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.place import Decided
from segcal.data.surroundings import Neighbourhood
from segcal.metrics.probabilities import entropy

Grouping = Literal["all", "side", "class"]
GROUPINGS: tuple[Grouping, ...] = ("all", "side", "class")

MOST_REACH = 8
"""Most voxels on each side whose entropy may count."""


@dataclass(frozen=True)
class Look:
    """`distance`: its knots, in voxels or in `mm`; `entropy`: its knots, in parts of log C; empty for what is not
    looked at. `by`: weights are shared by "all" classes, by those of a "side" (`background` or not), or each "class"
    has its own. `axis`: the spatial axis of a volume that planes are slices of. `reach`: voxels on each side whose
    entropy counts; 0: a voxel's own alone.
    """

    distance: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()
    by: Grouping = "all"
    mm: bool = False
    background: int = 0
    axis: int = 0
    reach: int = 1

    @property
    def tables(self) -> tuple[tuple[float, ...], ...]:
        """The knots of each quantity that is looked at, in the order in which it is drawn."""
        return tuple(knots for knots in (self.distance, self.entropy) if knots)

    @property
    def numbers(self) -> int:
        """How many quantities."""
        return len(self.tables)

    @property
    def quantities(self) -> tuple[Look, ...]:
        """One look at each quantity, for all classes: what is drawn is the same whoever has a table."""
        near = Look(distance=self.distance, mm=self.mm)
        unsure = Look(entropy=self.entropy, axis=self.axis, reach=self.reach)
        return tuple(one for one in (near, unsure) if one.tables)

    @property
    def place(self) -> Decided:
        """The distance; beyond the largest knot it does not matter."""
        return Decided(BoundaryDistance(mm=self.mm, reach=math.nextafter(self.distance[-1], math.inf)))

    def groups(self, classes: int) -> int:
        """How many groups of classes have weights of their own."""
        return {"all": 1, "side": 2, "class": classes}[self.by]

    def size(self, classes: int) -> int:
        """Weights in all."""
        return self.groups(classes) * sum(map(len, self.tables))

    def drawn(self, near: Neighbourhood) -> Tensor:
        """Where the quantities lie among their knots (numbers, slices, rows, columns), of the voxels of `near`, whose
        margin is `reach` where entropies are looked at, else 0; float64 numbers that float32 holds.
        """
        found = []
        if self.distance:
            found.append(_among(self.distance, near.places[self.place].nan_to_num(math.inf, math.inf)))
        if self.entropy:
            found.append(_among(self.entropy, _mean_entropy(near.log_probs, self.reach)))
        return torch.stack(found).float().double()

    def cells(self, context: Tensor, decision: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Of each voxel the entries (m, n) of the table of weights, flattened, that count, and the hat functions (m, n)
        there, float64: of `context` (numbers, n) and `decision` (n,).
        """
        group = (decision != self.background).long() if self.by == "side" else decision
        entries, hats, before = [], [], 0
        for place, knots in zip(context.double(), self.tables, strict=True):
            low = place.long().clamp_max(len(knots) - 2)
            up = place - low
            first = low + (before if self.by == "all" else before + group * len(knots))
            entries += [first, first + 1]
            hats += [1 - up, up]
            before += self.groups(classes) * len(knots)
        return torch.stack(entries), torch.stack(hats)

    def spread(self, beta: float, classes: int) -> Tensor:
        """Weights (size,) that make 1/T = `beta` everywhere: each quantity has its share."""
        return torch.full((self.size(classes),), beta / self.numbers, dtype=torch.float64)


def _among(knots: tuple[float, ...], value: Tensor) -> Tensor:
    """Where values lie among knots, from 0 to their number less 1."""
    at = torch.tensor(knots, dtype=value.dtype, device=value.device)
    v = value.clamp(at[0], at[-1]).contiguous()
    low = (torch.searchsorted(at, v, right=True) - 1).clamp(0, len(knots) - 2)
    return low + (v - at[low]) / (at[low + 1] - at[low])


def _mean_entropy(log_probs: Tensor, reach: int) -> Tensor:
    """(C, slices, rows + 2 reach, columns + 2 reach) to the mean (slices, rows, columns) of entropies around, in parts
    of log C.
    """
    h = entropy(log_probs) / math.log(len(log_probs))
    wide = 2 * reach + 1
    for axis in (1, 2):
        inside = h.shape[axis] - 2 * reach
        h = sum((h.narrow(axis, k, inside) for k in range(1, wide)), h.narrow(axis, 0, inside))
    return h / wide**2
