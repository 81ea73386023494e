"""Metrics: mergeable, exact sums over scored voxels, one family a file.

Each metric is a frozen dataclass with the interface of `segcal.engine.accumulate.Accumulator`. `suite` names those
evaluated together, `summarise` turns the states of the cases into an evaluation's numbers, and `evaluate_arrays` does
both for plain arrays. `REGISTERED` lists a factory for every metric: what the conformance kit checks.
"""

from __future__ import annotations

from collections.abc import Callable

from segcal.engine.accumulate import Accumulator
from segcal.metrics.arrays import evaluate_arrays
from segcal.metrics.binning import Curve
from segcal.metrics.calibration import Calibration, CalibrationError
from segcal.metrics.classwise import ClasswiseCalibration, ClasswiseCalibrationError, OneClass
from segcal.metrics.energy import EnergySpread, FreeEnergySpread
from segcal.metrics.flips import FlipAudit, Flips
from segcal.metrics.likelihood import Likelihood, LogLikelihood
from segcal.metrics.overlap import Overlap, Overlaps
from segcal.metrics.region import RegionCalibration, RegionScores
from segcal.metrics.registry import Metric, added, register
from segcal.metrics.spatial import Bands, SpatialCalibration, SpatialScores
from segcal.metrics.strata import PredictedStrata, Stratum
from segcal.metrics.summary import CaseScores, Summary, combine_parts, suite, summarise

Factory = Callable[[int, int | None], Accumulator]

REGISTERED: tuple[Factory, ...] = (
    lambda classes, background: LogLikelihood(classes),
    lambda classes, background: CalibrationError(classes, (10, 15, 50)),
    lambda classes, background: ClasswiseCalibrationError(classes),
    lambda classes, background: Overlap(classes, background),
    lambda classes, background: Flips(classes),
    lambda classes, background: FreeEnergySpread(),
    lambda classes, background: SpatialCalibration(classes),
    lambda classes, background: PredictedStrata(classes, background),
    lambda classes, background: RegionCalibration(classes),
)
"""One factory a metric: (number of classes, index of the background or None) to an accumulator."""

__all__ = [
    "REGISTERED",
    "Bands",
    "Calibration",
    "CalibrationError",
    "CaseScores",
    "ClasswiseCalibration",
    "ClasswiseCalibrationError",
    "Curve",
    "EnergySpread",
    "Factory",
    "FlipAudit",
    "Flips",
    "FreeEnergySpread",
    "Likelihood",
    "LogLikelihood",
    "Metric",
    "OneClass",
    "Overlap",
    "Overlaps",
    "PredictedStrata",
    "RegionCalibration",
    "RegionScores",
    "SpatialCalibration",
    "SpatialScores",
    "Stratum",
    "Summary",
    "added",
    "combine_parts",
    "evaluate_arrays",
    "register",
    "suite",
    "summarise",
]
