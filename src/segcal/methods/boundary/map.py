"""A field of temperatures by where a voxel lies: 1/T(v) = sum_k w_k phi_k(v), w > 0, phi >= 0 hat functions of its
distance to the predicted boundary and of its neighbours' mean entropy (`segcal.methods.boundary.look`).

Promises: label and order kept, since T is finite, positive and common to all classes of a voxel; translation-invariant,
since a boundary of decisions and an entropy of probabilities do not see an offset of the logits. T does not depend on
how a case is cut, to the last bit. No voxel: an empty result. Source: ours; local temperature scaling (Ding et al.
2021; K26 Eq. 7) with features in place of a net.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segcal.data.ranking import winner
from segcal.data.surroundings import Neighbourhood
from segcal.errors import UsageError
from segcal.methods.boundary.look import GROUPINGS, MOST_REACH, Look
from segcal.methods.guarantees import Status
from segcal.methods.maps import Needs, TemperatureMap


class BoundaryMap(TemperatureMap):
    """`weight` (size,): of each quantity of `look` a table (groups, knots), flattened, one after another; `classes`
    there are. UsageError for another number of weights, or one that is not finite and above 0.
    """

    type_name: ClassVar[str] = "boundary"
    weight: Tensor
    distance: Tensor
    entropy: Tensor
    grouping: Tensor
    measured: Tensor
    sliced: Tensor
    sizes: Tensor

    def __init__(self, weight: Tensor, look: Look, classes: int) -> None:
        super().__init__()
        self.look = look
        flat = torch.as_tensor(weight, dtype=torch.float64)
        if tuple(flat.shape) != (look.size(classes),) or not bool((torch.isfinite(flat) & (flat > 0)).all()):
            raise UsageError(
                "weight",
                found=f"shape {tuple(flat.shape)}, from {flat.min().item() if flat.numel() else 0:.3g}",
                expected=f"{look.size(classes)} finite numbers above 0",
                do="Give a weight for each knot of each group of classes.",
            )
        self.parameter("weight", flat)
        self.parameter("distance", torch.tensor(look.distance, dtype=torch.float64))
        self.parameter("entropy", torch.tensor(look.entropy, dtype=torch.float64))
        self.parameter("sizes", torch.tensor([classes, look.background, look.reach], dtype=torch.float64))
        self.register_buffer("grouping", torch.tensor([by == look.by for by in GROUPINGS]))
        self.register_buffer("measured", torch.tensor(look.mm))
        self.register_buffer("sliced", torch.arange(3) == look.axis)

    def derive(self) -> None:
        """The look, as plain values."""
        self.look = _look(dict(self.state_dict()))

    @property
    def classes(self) -> int | None:
        """C."""
        return int(self.sizes[0])

    @property
    def needs(self) -> Needs:
        """The distance; neighbours for the entropy."""
        return Needs(
            reach=self.look.reach if self.look.entropy else 0,
            scores=bool(self.look.entropy),
            axis=self.look.axis,
            places=(self.look.place,) if self.look.distance else (),
            draws=True,
        )

    def context(self, near: Neighbourhood) -> Tensor:
        """Where distance and entropy lie among their knots: those that are looked at, (numbers, slices, rows,
        columns)."""
        return self.look.drawn(near)

    def temperature(self, context: Tensor, given: Tensor) -> Tensor:
        """1 / sum w phi."""
        entries, hats = self.look.cells(context, winner(given), len(given))
        return 1 / (self.weight[entries] * hats).sum(0)

    def invariance(self) -> tuple[Status, str]:
        """Always."""
        return "proven", "the temperature is read off decisions and probabilities"

    def in_units(self, unit: float) -> BoundaryMap | None:
        """Temperatures `unit` times as high; none where entropies, which change with the unit, are looked at."""
        return None if self.look.entropy else BoundaryMap(self.weight / unit, self.look, int(self.sizes[0]))

    def temperatures(self) -> dict[str, Tensor]:
        """Of each quantity the table (groups, knots) of temperatures that it stands for where all others say the
        same.
        """
        out, at, classes = {}, 0, int(self.sizes[0])
        for name, knots in (("distance", self.look.distance), ("entropy", self.look.entropy)):
            if knots:
                size = self.look.groups(classes) * len(knots)
                out[name] = 1 / (self.look.numbers * self.weight[at : at + size].reshape(-1, len(knots)))
                at += size
        return out

    def describe(self) -> dict[str, object]:
        """Temperatures by knot, and what they are read off."""
        out: dict[str, object] = {"parameters": self.weight.numel(), "by": self.look.by}
        for name, table in self.temperatures().items():
            unit = "parts of log C" if name == "entropy" else "mm" if self.look.mm else "voxels"
            out[f"{name}_knots ({unit})"] = list(getattr(self.look, name))
            out[f"temperature_by_{name}"] = table.tolist()
        return out

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> BoundaryMap:
        return cls(tensors["weight"], _look(tensors), int(tensors["sizes"][0]))


def _look(tensors: dict[str, Tensor]) -> Look:
    """As tensors hold it."""
    return Look(
        tuple(tensors["distance"].tolist()),
        tuple(tensors["entropy"].tolist()),
        GROUPINGS[int(tensors["grouping"].long().argmax())],
        bool(tensors["measured"]),
        int(tensors["sizes"][1]),
        int(tensors["sliced"].long().argmax()),
        # files that were written before there was a choice have no reach: it was 1
        min(max(int(tensors["sizes"][2]), 0), MOST_REACH) if len(tensors["sizes"]) > 2 else 1,
    )
