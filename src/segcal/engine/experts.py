"""Class-conditional coordinates: how the expert of a predicted class sees a voxel, and how what it puts out is put back
(K26 3.2; definitions 4).

A voxel's expert is the class that was decided for it. An expert is one affine map between *features* and *outputs*, in
one of three coordinates:

    Scores    features x (C), outputs u (C): an unconstrained map of the log-probabilities (CDC)
    Margins   features m_k = x_winner - x_k (C - 1, competitors in class order), outputs v, u_winner = 0, u_k = -v_k
              (CMS_ap; G_ap of the paper)
    Gaps      features m_j = x_(j) - x_(j+1) of the sorted scores (C - 1), outputs v, u_(j) = -(v_1 + ... + v_(j-1))
              (CMS_op; G_op)

In margins and gaps v = A m + g; with A >= 0 and g >= 0 no competitor passes the winner, in gaps no rank passes another:
exactly, also in floating point, since sums of non-negative numbers are not negative. This is the paper's cone
condition, necessary and sufficient, without its gauge (definitions 4.4). C = 2: margins and gaps are one. No voxel:
empty results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


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


def margins_form(weight: Tensor, bias: Tensor, expert: int) -> tuple[Tensor, Tensor, Tensor]:
    """An expert in score coordinates, u = W x + b, seen in margins: u_winner - u_k = (A m)_k + c_k x_winner + g_k.
    Returns A (K, K), c (K,), g (K,), K = C - 1.

    It is an expert in margins iff c = 0: the block form [[a, r], [0, A]] of K26 3.2.
    """
    keep = [k for k in range(len(bias)) if k != expert]
    rows = weight[expert][None] - weight[keep]
    return -rows[:, keep], rows.sum(1), bias[expert] - bias[keep]
