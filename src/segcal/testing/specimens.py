"""Maps of both kinds that need more of a case than its rows: an image, the network, another map, a place.

None of them is a method's. They show what a map can ask for, and hold whoever opens a case to providing it: nothing
outside this file knows them. `SPECIMENS` are calibrators ready to be applied, by what they need; their images have one
channel.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from segcal.data.head import Softmax
from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.place import Predicted
from segcal.data.surroundings import Neighbourhood
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import Map, Needs, PartMap, TemperatureMap
from segcal.testing.examples import HEAD

EXAMPLE = torch.tensor([[1.2, -0.3, 0.1], [0.4, 0.8, -0.2], [-0.1, 0.3, 1.5]], dtype=torch.float64)
NEAR = Predicted(BoundaryDistance(reach=4.0))


class Sized:
    """What the specimens share: one number, `size`, and three classes."""

    size: Tensor

    @property
    def classes(self) -> int | None:
        """Three."""
        return 3

    def describe(self) -> dict[str, object]:
        """The number."""
        return {"size": self.size.item()}


class Field(Sized, TemperatureMap):
    """A field of temperatures that sees no offset."""

    def __init__(self, size: float | Tensor = 0.7) -> None:
        super().__init__()
        self.parameter("size", torch.as_tensor(size))

    def invariance(self) -> tuple[Status, str]:
        return "proven", "it sees log-probabilities, images and label maps"

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Field:
        return cls(tensors["size"])


class OfRows(Sized, Map):
    """A map of rows that keeps nothing but invariance."""

    def __init__(self, size: float | Tensor = 0.7) -> None:
        super().__init__()
        self.parameter("size", torch.as_tensor(size))

    def forward(
        self,
        log_probs: Tensor,
        free_energy: Tensor | None = None,
        given: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """The context, (C, n), is added to the log-probabilities."""
        assert context is not None
        return torch.log_softmax(log_probs + self.size.to(log_probs.dtype) * context.to(log_probs.dtype), 0)

    def guarantees(self) -> Guarantees:
        why = "scores are added to"
        return Guarantees(
            "proven",
            "no",
            "no",
            {
                "translation_invariant": "it sees log-probabilities and images",
                "preserves_argmax": why,
                "preserves_order": why,
            },
        )

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> OfRows:
        return cls(tensors["size"])


class ImageField(Field):
    """T grows with how much the image differs from its right neighbour."""

    type_name: ClassVar[str] = "specimen: field of an image"

    @property
    def needs(self) -> Needs:
        return Needs(reach=1, fields=("image",))

    def context(self, near: Neighbourhood) -> Tensor:
        image = near.fields["image"][0]
        return 1 + self.size * (image[:, 1:-1, 2:] - image[:, 1:-1, 1:-1]).abs()


class ImageRows(OfRows):
    """The last class is as likely as the image is bright."""

    type_name: ClassVar[str] = "specimen: rows and an image"

    @property
    def needs(self) -> Needs:
        return Needs(fields=("image",))

    def context(self, near: Neighbourhood) -> Tensor:
        image = near.fields["image"][:1]
        return torch.cat([torch.zeros_like(image), torch.zeros_like(image), image])


class NetworkField(Field):
    """T grows with how far the network's answer to the mirrored image is from its scores."""

    type_name: ClassVar[str] = "specimen: field of augmented copies"

    @property
    def needs(self) -> Needs:
        return Needs(reach=None, fields=("image",), segmenter=True)

    def context(self, near: Neighbourhood) -> Tensor:
        assert near.segment is not None
        mirrored = near.segment(near.fields["image"].flip(-1)).flip(-1)
        return 1 + self.size * (mirrored.exp() - near.log_probs.exp()).abs().sum(0)


class NetworkRows(OfRows):
    """The network's answer to the mirrored image is averaged in."""

    type_name: ClassVar[str] = "specimen: rows and the network"

    @property
    def needs(self) -> Needs:
        return Needs(reach=None, fields=("image",), segmenter=True)

    def context(self, near: Neighbourhood) -> Tensor:
        assert near.segment is not None
        return near.segment(near.fields["image"].flip(-1)).flip(-1).clamp_min(-30)


class DistanceField(Field):
    """T is highest at the predicted boundary."""

    type_name: ClassVar[str] = "specimen: field of a distance"

    @property
    def needs(self) -> Needs:
        return Needs(places=(NEAR,))

    def context(self, near: Neighbourhood) -> Tensor:
        # no boundary: NaN
        return 1 + self.size / (1 + near.places[NEAR].nan_to_num(math.inf, math.inf))


class MapField(Field):
    """A temperature for the voxels that another map is sure of, 1 for the rest."""

    type_name: ClassVar[str] = "specimen: field of another map"
    other: PartMap

    def __init__(self, size: float | Tensor = 0.7, other: PartMap | None = None) -> None:
        super().__init__(size)
        self.other = AffineMap(EXAMPLE, torch.zeros(3)) if other is None else other

    @property
    def needs(self) -> Needs:
        return Needs(reach=1) | self.other.needs

    def context(self, near: Neighbourhood) -> Tensor:
        own = near.log_probs[:, :, 1:-1, 1:-1]
        sure = self.other(own.flatten(1)).exp().amax(0) > 0.6
        return torch.where(sure, 1 + self.size, 1.0).reshape(own.shape[1:])

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> MapField:
        return cls(tensors["size"], AffineMap.from_tensors(_of_other(tensors)))


class MapRows(OfRows):
    """What another map says, mixed in."""

    type_name: ClassVar[str] = "specimen: rows and another map"
    other: PartMap

    def __init__(self, size: float | Tensor = 0.7, other: PartMap | None = None) -> None:
        super().__init__(size)
        self.other = AffineMap(EXAMPLE, torch.zeros(3)) if other is None else other

    @property
    def needs(self) -> Needs:
        return self.other.needs

    def forward(
        self,
        log_probs: Tensor,
        free_energy: Tensor | None = None,
        given: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        return super().forward(log_probs, free_energy, given, self.other(log_probs, free_energy, given))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> MapRows:
        return cls(tensors["size"], AffineMap.from_tensors(_of_other(tensors)))


def _of_other(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("other."): t for name, t in tensors.items() if name.startswith("other.")}


def network(images: Tensor) -> Tensor:
    """A network for three classes: logits (B, 3, *spatial) of images (B, 1, *spatial)."""
    x = images[:, :1]
    return torch.cat([x, 1 - x, (3 * x).sin()], 1)


def calibrator(m: PartMap, head: Softmax = HEAD) -> Calibrator:
    """A map as a calibrator of logits, with the network where it needs one."""
    made = Calibrator(head, "logits", [m], "specimen")
    return made.with_segmenter(network) if m.needs.segmenter else made


SPECIMENS: dict[str, Calibrator] = {
    m.type_name.removeprefix("specimen: "): calibrator(m)
    for m in (
        ImageField(),
        ImageRows(),
        NetworkField(),
        NetworkRows(),
        DistanceField(),
        MapField(),
        MapRows(),
    )
}
"""Calibrators of logits of three classes, by what they need."""
