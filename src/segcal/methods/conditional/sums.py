"""What an expert sees of a voxel, and the NLL in that (K26 3.2; definitions 4, 9.2).

A voxel's expert is the class that was decided for it. An expert is one affine map between *features* and *outputs*, in
one of three coordinates:

    Scores    features x (C), outputs u (C): an unconstrained map of the log-probabilities (CDC)
    Margins   features m_k = x_winner - x_k (C - 1, competitors in class order), outputs v, u_winner = 0, u_k = -v_k
              (CMS_ap; G_ap of the paper)
    Gaps      features m_j = x_(j) - x_(j+1) of the sorted scores (C - 1), outputs v, u_(j) = -(v_1 + ... + v_(j-1))
              (CMS_op; G_op)

In margins and gaps v = A m + g; with A >= 0 and g >= 0 no competitor passes the winner, in gaps no rank passes another:
exactly, also in floating point, since sums of non-negative numbers are not negative. This is the paper's cone
condition, necessary and sufficient, without its gauge (definitions 4.4). C = 2: margins and gaps are one.

The NLL of one expert in margins or gaps, u = -K (A m + g): theta is [A | g] of shape (K, K + 1), row-major, K = C - 1;
psi = (m, 1). With r = p - e_y in the order of the rows, the gradient is the mean of -(K^T r) psi^T and the curvature
the mean of (K^T (diag p - p p^T) K) kron psi psi^T (definitions 9.2). For margins K^T drops the winner; for gaps it
sums the ranks below each gap: q_j is the probability of all ranks below gap j, and entries (i, j) of K^T (diag p - p
p^T) K are q_max(i, j) - q_i q_j. Curvature is formed for the `free` entries of theta only: most sit at their bound.
Costs, a voxel: O(C^2) for the gradient, O(|free|^2) for the curvature. Rows are those of the expert's group, as its
view has them. No voxel: zeros, and empty results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.engine.view import Group, View
from segcal.fitting.evaluation import COLUMNS, Evaluation, Vector, at_once

FAR = 2.0**13
"""Features count as no further out than this in their root mean square: squares of a block stay within exact sums."""


class Coordinates(ABC):
    """How experts see voxels.

    `ranked`: rows come sorted, best class first; else in class order. Equal where of one kind.
    """

    name: ClassVar[str]
    ranked: ClassVar[bool]

    @abstractmethod
    def size(self, classes: int) -> int:
        """Features, and outputs, of an expert."""

    @abstractmethod
    def features(self, x: Tensor, expert: int) -> Tensor:
        """(C, n) rows as `ranked` says to features (size, n)."""

    @abstractmethod
    def scores(self, v: Tensor, expert: int) -> Tensor:
        """Outputs (size, n) to scores before the softmax (C, n), in the order of the rows."""


@dataclass(frozen=True)
class Scores(Coordinates):
    """The rows as they are."""

    name: ClassVar[str] = "scores"
    ranked: ClassVar[bool] = False

    def size(self, classes: int) -> int:
        return classes

    def features(self, x: Tensor, expert: int) -> Tensor:
        return x

    def scores(self, v: Tensor, expert: int) -> Tensor:
        return v


@dataclass(frozen=True)
class Margins(Coordinates):
    """Distances of the competitors, in class order, from the winner."""

    name: ClassVar[str] = "margins"
    ranked: ClassVar[bool] = False

    def size(self, classes: int) -> int:
        return classes - 1

    def features(self, x: Tensor, expert: int) -> Tensor:
        others = torch.cat([x[:expert], x[expert + 1 :]])
        # a margin below zero can only be rounding: the winner was decided from the scores as given
        return (x[expert : expert + 1] - others).clamp_min(0)

    def scores(self, v: Tensor, expert: int) -> Tensor:
        return torch.cat([-v[:expert], torch.zeros_like(v[:1]), -v[expert:]])


@dataclass(frozen=True)
class Gaps(Coordinates):
    """Distances between neighbours in rank."""

    name: ClassVar[str] = "gaps"
    ranked: ClassVar[bool] = True

    def size(self, classes: int) -> int:
        return classes - 1

    def features(self, x: Tensor, expert: int) -> Tensor:
        return (x[:-1] - x[1:]).clamp_min(0)

    def scores(self, v: Tensor, expert: int) -> Tensor:
        return torch.cat([torch.zeros_like(v[:1]), -v.cumsum(0)])


COORDINATES: tuple[Coordinates, ...] = (Scores(), Margins(), Gaps())
"""All kinds; files say which by their place here."""


@dataclass(frozen=True)
class Expert:
    """The voxels decided for class `index`, in `coordinates`."""

    coordinates: Coordinates
    index: int

    @property
    def group(self) -> Group:
        """Its rows."""
        return View(ordered=self.coordinates.ranked).at(self.index)


def margins_form(weight: Tensor, bias: Tensor, expert: int) -> tuple[Tensor, Tensor, Tensor]:
    """An expert in score coordinates, u = W x + b, seen in margins: u_winner - u_k = (A m)_k + c_k x_winner + g_k.
    Returns A (K, K), c (K,), g (K,), K = C - 1.

    It is an expert in margins iff c = 0: the block form [[a, r], [0, A]] of K26 3.2.
    """
    keep = [k for k in range(len(bias)) if k != expert]
    rows = weight[expert][None] - weight[keep]
    return -rows[:, keep], rows.sum(1), bias[expert] - bias[keep]


@dataclass(frozen=True)
class ConditionalNLL:
    """Value (`order` 0), gradient (1) and curvature (2, over `free`, indices into theta) at `theta`.

    `unit`: a power of two that brings the features near 1.
    """

    expert: Expert
    classes: int
    theta: tuple[float, ...]
    order: int = 1
    free: tuple[int, ...] = ()
    unit: float = 1.0

    @property
    def _size(self) -> int:
        return self.classes - 1

    @cached_property
    def _units(self) -> Vector:
        """Of each entry of psi."""
        return np.append(np.full(self._size, self.unit), 1.0)

    @cached_property
    def _matrix(self) -> Tensor:
        return torch.tensor(self.theta, dtype=torch.float64).reshape(self._size, self._size + 1)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Row and column in [A | g] of each free entry."""
        index = torch.tensor(self.free, dtype=torch.int64)
        return index // (self._size + 1), index % (self._size + 1)

    @cached_property
    def leaves(self) -> Mapping[str, Leaf]:
        """Sums of what was asked for."""
        out: dict[str, Leaf] = {"voxels": Count(), "value": ExactSum()}
        if self.order >= 1:
            out["gradient"] = ExactSum((self._size, self._size + 1))
        if self.order >= 2:
            out["curvature"] = ExactSum((len(self.free), len(self.free)))
        return out

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of one expert."""
        k, ranked, e = self._size, self.expert.coordinates.ranked, self.expert.index
        weight, bias = self._matrix[:, :k].contiguous(), self._matrix[:, k:].contiguous()
        sums: dict[str, Tensor] = {
            name: torch.zeros(leaf.shape, dtype=torch.float64) for name, leaf in self.leaves.items() if name != "voxels"
        }
        step = (
            at_once(len(rows.log_probs)) if self.order < 2 else max(256, min(COLUMNS, 2**19 // max(len(self.free), 1)))
        )
        for low in range(0, rows.voxels, step):
            m = self.expert.coordinates.features(rows.log_probs[:, low : low + step], e)
            at = rows.targets[low : low + step]
            if not ranked:
                # places among (winner, competitors in class order)
                at = torch.where(at == e, 0, at + (at < e))
            v = torch.addmm(bias, weight, m)
            if ranked:
                v = v.cumsum(0)
            p = v.neg().exp_()
            total = p.sum(0) + 1
            own = torch.where(at > 0, v.gather(0, (at - 1).clamp_min(0)[None])[0], 0.0)
            sums["value"] += (total.log() + own).sum()
            if self.order == 0:
                continue
            p /= total
            q = p.flip(0).cumsum(0).flip(0) if ranked else p
            if self.order >= 2:
                sums["curvature"] += self._curvature(q, m)
            residual = q.neg()
            if ranked:
                residual += torch.arange(1, k + 1)[:, None] <= at
            else:
                residual.scatter_add_(0, (at - 1).clamp_min(0)[None], (at > 0).double()[None])
            sums["gradient"][:, :k] += residual @ m.T
            sums["gradient"][:, k] += residual.sum(1)
        out: dict[str, Any] = {"voxels": rows.voxels, **{name: s.numpy() for name, s in sums.items()}}
        if self.order >= 1:
            out["gradient"] = out["gradient"] * self._units
        if self.order >= 2:
            both = self._units[self._places[1].numpy()]
            out["curvature"] = out["curvature"] * both[:, None] * both
        return out

    def _curvature(self, q: Tensor, m: Tensor) -> Tensor:
        row, column = self._places
        psi = torch.cat([m, torch.ones_like(m[:1])])
        weighted = q[row] * psi[column]
        first = (weighted @ psi.T)[:, column]
        # first[a, b] = sum of q_row(a) psi_column(a) psi_column(b)
        if self.expert.coordinates.ranked:
            kept = torch.where(row[:, None] >= row[None], first, first.T)
        else:
            kept = torch.where(row[:, None] == row[None], first, 0.0)
        # NumPy knows a product with its own transpose and forms half of it
        half = weighted.numpy()
        return kept - torch.from_numpy(half @ half.T)

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels; gradient flattened (K (K + 1),), curvature (|free|, |free|)."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        gradient: Vector = (
            (values["gradient"] * scale / self._units).ravel()
            if self.order >= 1
            else np.zeros(self._size * (self._size + 1))
        )
        if self.order < 2:
            return Evaluation(float(values["value"]) * scale, gradient, None, n)
        both = self._units[self._places[1].numpy()]
        return Evaluation(
            float(values["value"]) * scale, gradient, values["curvature"] * scale / both[:, None] / both, n
        )


@dataclass(frozen=True)
class ExpertFacts:
    """What a fit wants to know of an expert before it starts: how many voxels, and the mean square of its features."""

    expert: Expert

    @cached_property
    def leaves(self) -> Mapping[str, Leaf]:
        """A count and a sum."""
        return {"voxels": Count(), "square": ExactSum()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Of one expert's rows."""
        features = self.expert.coordinates.features(rows.log_probs, self.expert.index)
        return {"voxels": rows.voxels, "square": features.clamp(-FAR, FAR).square().mean(0).sum().item()}

    def result(self, values: Mapping[str, Array]) -> Facts:
        """The count, and the root of the mean square of a feature."""
        voxels = int(values["voxels"])
        return Facts(voxels, float(np.sqrt(values["square"] / max(voxels, 1))))


@dataclass(frozen=True, eq=False)
class Facts:
    """Of one expert: `voxels`, `rms` of its features. No voxel: zeros."""

    voxels: int
    rms: float
