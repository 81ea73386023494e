"""What is applied: maps of log-probabilities (scale, affine, mixture, conditional, steps), and the calibrator that wraps one a part of the head."""

from segcal.calibrators.affine import AffineMap
from segcal.calibrators.binned import BinnedMap
from segcal.calibrators.calibrator import Calibrator, FitData, Solution
from segcal.calibrators.conditional import ConditionalMap
from segcal.calibrators.files import load
from segcal.calibrators.intra_order import IntraOrderMap
from segcal.calibrators.maps import Map
from segcal.calibrators.mixture import MixtureMap
from segcal.calibrators.scale import ScaleMap

__all__ = ["REGISTERED", "AffineMap", "BinnedMap", "Calibrator", "ConditionalMap", "FitData", "IntraOrderMap", "Map", "MixtureMap", "ScaleMap", "Solution", "load"]

REGISTERED: tuple[type[Map], ...] = (ScaleMap, AffineMap, MixtureMap, ConditionalMap, BinnedMap, IntraOrderMap)
"""Kinds of maps the conformance kit and the file format know."""
