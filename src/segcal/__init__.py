"""segcal: class probabilities of segmentation models that mean what they say."""

__version__ = "0.1.0"

from segcal.application import apply
from segcal.calibrators import Calibrator, load
from segcal.cases import Case, Cohort
from segcal.engines import Serial, Threads
from segcal.errors import SegcalError
from segcal.evaluation import crossfitted, evaluate
from segcal.head import Regions, Softmax
from segcal.methods import (
    ConstrainedMatrixScaling,
    DirichletCalibration,
    EnsembleTemperatureScaling,
    MatrixScaling,
    TemperatureScaling,
    VectorScaling,
)
from segcal.methods.method import Fit, fit_methods
from segcal.metrics import evaluate_arrays
from segcal.sources.arrays import cohort_from_arrays
from segcal.sources.discover import open_cohort

__all__ = [
    "Calibrator",
    "Case",
    "Cohort",
    "ConstrainedMatrixScaling",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "Fit",
    "MatrixScaling",
    "Regions",
    "SegcalError",
    "Serial",
    "Softmax",
    "TemperatureScaling",
    "Threads",
    "VectorScaling",
    "apply",
    "cohort_from_arrays",
    "crossfitted",
    "evaluate",
    "evaluate_arrays",
    "fit_methods",
    "load",
    "open_cohort",
]
