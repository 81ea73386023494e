"""What a place is, and the places of one open case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from segcal.data.files.journal import Scratch
from segcal.data.places.label_map import LabelMap
from segcal.errors import UsageError


class PlaceWindow(Protocol):
    """One place of one case.

    - `read(start, stop)` gives voxels start..stop of the flattened index, (n,) float64, NaN where not defined;
    - windows are asked for in increasing order, mostly; by one thread.
    """

    def read(self, start: int, stop: int) -> Tensor:
        """Voxels start..stop."""


class Place(Protocol):
    """One value a voxel, derived from the label map of the whole case; frozen and hashable, and equal places are one
    quantity.
    """

    def __hash__(self) -> int: ...

    def on(self, labels: LabelMap, scratch: Scratch) -> PlaceWindow:
        """Compute it for a case.

        What takes more than `scratch.limit` bytes lies in a file under `scratch`; the limit changes no bit.
        """


@dataclass(frozen=True)
class Predicted:
    """`place` in the predicted label map, or in the decision of one `part` of the head, such as a region: what a user
    can see without the truth.

    Labels that come without scores: UsageError.
    """

    place: Place
    part: int | None = None

    def on(self, labels: LabelMap, scratch: Scratch) -> PlaceWindow:
        """Compute it for a case, whose scores are read once more."""
        if labels.predicted is None:
            raise UsageError(
                labels.where,
                found="labels alone",
                expected="a case with scores",
                do="Ask Engine.survey, which reads both.",
            )
        return self.place.on(labels.predicted(scratch, self.part), scratch)


@dataclass(frozen=True)
class Decided:
    """`place` in what the part of the head decides that asks for it, whichever it is: of a softmax the predicted
    classes, of a region the region.
    """

    place: Place

    def of(self, part: int) -> Predicted:
        """For one part."""
        return Predicted(self.place, part)


class Places:
    """The places `wanted` of one open case, each computed when the first window is asked for; what they keep is gone
    with `scratch`.
    """

    def __init__(self, labels: LabelMap, scratch: Scratch, wanted: Iterable[Place]) -> None:
        self._labels, self._scratch = labels, scratch
        self._wanted = tuple(dict.fromkeys(wanted))
        self._windows: dict[Place, PlaceWindow] = {}

    def of(self, start: int, stop: int) -> dict[Place, Tensor]:
        """Every place of voxels start..stop, (n,) float64 each.

        Labels that cannot be read or are not known: the errors of their source.
        """
        return {place: self._window(place).read(start, stop) for place in self._wanted}

    def _window(self, place: Place) -> PlaceWindow:
        if place not in self._windows:
            self._windows[place] = Undefined() if self._labels.table else place.on(self._labels, self._scratch)
        return self._windows[place]


class Undefined:
    """NaN everywhere."""

    def read(self, start: int, stop: int) -> Tensor:
        """NaN."""
        return torch.full((stop - start,), torch.nan, dtype=torch.float64)
