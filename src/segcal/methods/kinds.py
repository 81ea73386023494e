"""Kinds of maps, for the file format and the conformance kit."""

from __future__ import annotations

from segcal.methods.affine.map import AffineMap
from segcal.methods.binned import BinnedMap
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.intra_order import IntraOrderMap
from segcal.methods.maps import Map
from segcal.methods.mixture import MixtureMap
from segcal.methods.temperature import ScaleMap

REGISTERED: tuple[type[Map], ...] = (ScaleMap, AffineMap, MixtureMap, ConditionalMap, BinnedMap, IntraOrderMap)
"""Kinds of maps of each voxel alone that the conformance kit and the file format know; `LocalMap` is the one kind that
looks at neighbours.
"""
