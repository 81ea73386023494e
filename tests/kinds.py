"""Kinds of maps of segcal's own methods that act on each voxel alone: what tests of all of them go through."""

from __future__ import annotations

from segcal.methods.maps import KINDS, Map
from segcal.methods.registry import methods

OWN = methods()
"""Segcal's own methods, by name: nothing is registered by a test that is only imported."""

OF_ROWS: tuple[type[Map], ...] = tuple(
    kind for kind in KINDS.values() if issubclass(kind, Map) and kind.__module__.startswith("segcal.methods.")
)
