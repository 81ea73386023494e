"""Places: what a voxel's surroundings in the label map say of it, such as its distance to a label boundary, for metrics
that sort voxels by where they lie.

A `Place` names a quantity with one value a voxel; equal places are one quantity, computed once a case however many ask
for it. `Places` computes them for an open case and hands out windows. Nothing here knows scores or calibration.
"""

from __future__ import annotations

from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.label_map import NOWHERE, LabelMap, boundary
from segcal.data.places.place import Decided, Place, Places, PlaceWindow, Predicted
from segcal.data.places.region import ForegroundRegion, slice_axis
from segcal.data.places.stored import Stored

__all__ = [
    "NOWHERE",
    "BoundaryDistance",
    "Decided",
    "ForegroundRegion",
    "LabelMap",
    "Place",
    "PlaceWindow",
    "Places",
    "Predicted",
    "Stored",
    "boundary",
    "slice_axis",
]
