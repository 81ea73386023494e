"""segcal: class probabilities of segmentation models that mean what they say.

Names are imported when they are first used, so that `import segcal`, and with it the help of the command line, costs no
import of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segcal.application import apply
    from segcal.auditing import Audit, audit
    from segcal.calibrators import Calibrator, load
    from segcal.cases import Case, Cohort
    from segcal.engines import Serial, Threads
    from segcal.errors import SegcalError
    from segcal.evaluation import crossfitted, evaluate
    from segcal.head import Regions, Softmax
    from segcal.methods import (
        ArgmaxPreservingMatrixScaling,
        ClassConditionalDirichlet,
        ConstrainedMatrixScaling,
        DirichletCalibration,
        EnsembleTemperatureScaling,
        HistogramBinning,
        IntraOrderPreserving,
        IsotonicRegression,
        LocalTemperatureScaling,
        MatrixScaling,
        OrderPreservingMatrixScaling,
        TemperatureScaling,
        VectorScaling,
    )
    from segcal.methods.method import Fit, fit_methods
    from segcal.metrics import evaluate_arrays
    from segcal.recipe import Recipe
    from segcal.recommendation import Recommendation, recommend
    from segcal.sources.arrays import cohort_from_arrays
    from segcal.sources.discover import open_cohort

__all__ = [
    "ArgmaxPreservingMatrixScaling",
    "Audit",
    "Calibrator",
    "Case",
    "ClassConditionalDirichlet",
    "Cohort",
    "ConstrainedMatrixScaling",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "Fit",
    "HistogramBinning",
    "IntraOrderPreserving",
    "IsotonicRegression",
    "LocalTemperatureScaling",
    "MatrixScaling",
    "OrderPreservingMatrixScaling",
    "Recipe",
    "Recommendation",
    "Regions",
    "SegcalError",
    "Serial",
    "Softmax",
    "TemperatureScaling",
    "Threads",
    "VectorScaling",
    "apply",
    "audit",
    "cohort_from_arrays",
    "crossfitted",
    "evaluate",
    "evaluate_arrays",
    "fit_methods",
    "load",
    "open_cohort",
    "recommend",
]

_ROOMS = {
    "segcal.application": ("apply",),
    "segcal.auditing": ("Audit", "audit"),
    "segcal.calibrators": ("Calibrator", "load"),
    "segcal.cases": ("Case", "Cohort"),
    "segcal.engines": ("Serial", "Threads"),
    "segcal.errors": ("SegcalError",),
    "segcal.evaluation": ("crossfitted", "evaluate"),
    "segcal.head": ("Regions", "Softmax"),
    "segcal.methods": (
        "ArgmaxPreservingMatrixScaling",
        "ClassConditionalDirichlet",
        "ConstrainedMatrixScaling",
        "DirichletCalibration",
        "EnsembleTemperatureScaling",
        "HistogramBinning",
        "IntraOrderPreserving",
        "IsotonicRegression",
        "LocalTemperatureScaling",
        "MatrixScaling",
        "OrderPreservingMatrixScaling",
        "TemperatureScaling",
        "VectorScaling",
    ),
    "segcal.methods.method": ("Fit", "fit_methods"),
    "segcal.metrics": ("evaluate_arrays",),
    "segcal.recipe": ("Recipe",),
    "segcal.recommendation": ("Recommendation", "recommend"),
    "segcal.sources.arrays": ("cohort_from_arrays",),
    "segcal.sources.discover": ("open_cohort",),
}
"""Where each public name lives."""

_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'segcal' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
