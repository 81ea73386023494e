"""What is applied: maps of log-probabilities (scale, affine, mixture, conditional, steps), temperatures from
neighbourhoods (local), and the calibrator of one a part.
"""

from segcal.calibrators.affine import AffineMap
from segcal.calibrators.binned import BinnedMap
from segcal.calibrators.calibrator import Calibrator, FitData, Solution
from segcal.calibrators.conditional import ConditionalMap
from segcal.calibrators.files import load
from segcal.calibrators.intra_order import IntraOrderMap
from segcal.calibrators.local import LocalMap
from segcal.calibrators.maps import Map, PartMap
from segcal.calibrators.mixture import MixtureMap
from segcal.calibrators.scale import ScaleMap

__all__ = [
    "REGISTERED",
    "AffineMap",
    "BinnedMap",
    "Calibrator",
    "ConditionalMap",
    "FitData",
    "IntraOrderMap",
    "LocalMap",
    "Map",
    "MixtureMap",
    "PartMap",
    "ScaleMap",
    "Solution",
    "load",
]

REGISTERED: tuple[type[Map], ...] = (ScaleMap, AffineMap, MixtureMap, ConditionalMap, BinnedMap, IntraOrderMap)
"""Kinds of maps of each voxel alone that the conformance kit and the file format know; `LocalMap` is the one kind that
looks at neighbours.
"""
