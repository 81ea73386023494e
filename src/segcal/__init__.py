"""segcal: class probabilities of segmentation models that mean what they say.

Names are imported when they are first used, so that `import segcal`, and with it the help of the command line, costs no
import of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segcal.data.case import Case
    from segcal.data.cohort import Cohort
    from segcal.data.formats.arrays import cohort_from_arrays
    from segcal.data.formats.discover import open_cohort
    from segcal.data.head import Regions, Softmax
    from segcal.engine.serial import Serial
    from segcal.engine.threads import Threads
    from segcal.errors import SegcalError
    from segcal.methods.affine.fit import ConstrainedMatrixScaling, DirichletCalibration, MatrixScaling, VectorScaling
    from segcal.methods.binned import HistogramBinning, IsotonicRegression
    from segcal.methods.boundary.fit import BoundaryTemperatureScaling
    from segcal.methods.calibrator import Calibrator
    from segcal.methods.conditional.fit import (
        ArgmaxPreservingMatrixScaling,
        ClassConditionalDirichlet,
        OrderPreservingMatrixScaling,
    )
    from segcal.methods.files import load
    from segcal.methods.intra_order import IntraOrderPreserving
    from segcal.methods.local.fit import LocalTemperatureScaling
    from segcal.methods.meta_cal import MetaCal
    from segcal.methods.method import Fit, fit_methods
    from segcal.methods.mixture import EnsembleTemperatureScaling
    from segcal.methods.selective.fit import SelectiveScaling
    from segcal.methods.susceptibility.fit import SusceptibilityCalibration
    from segcal.methods.temperature import TemperatureScaling
    from segcal.metrics.arrays import evaluate_arrays
    from segcal.study.recipe.recipe import Recipe
    from segcal.tasks.apply import apply
    from segcal.tasks.audit.auditor import audit
    from segcal.tasks.audit.findings import Audit
    from segcal.tasks.choose import Recommendation, recommend
    from segcal.tasks.evaluate import crossfitted, evaluate

__all__ = [
    "ArgmaxPreservingMatrixScaling",
    "Audit",
    "BoundaryTemperatureScaling",
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
    "MetaCal",
    "OrderPreservingMatrixScaling",
    "Recipe",
    "Recommendation",
    "Regions",
    "SegcalError",
    "SelectiveScaling",
    "Serial",
    "Softmax",
    "SusceptibilityCalibration",
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
    "segcal.data.case": ("Case",),
    "segcal.data.cohort": ("Cohort",),
    "segcal.data.formats.arrays": ("cohort_from_arrays",),
    "segcal.data.formats.discover": ("open_cohort",),
    "segcal.data.head": (
        "Regions",
        "Softmax",
    ),
    "segcal.engine.serial": ("Serial",),
    "segcal.engine.threads": ("Threads",),
    "segcal.errors": ("SegcalError",),
    "segcal.methods.affine.fit": (
        "ConstrainedMatrixScaling",
        "DirichletCalibration",
        "MatrixScaling",
        "VectorScaling",
    ),
    "segcal.methods.binned": (
        "HistogramBinning",
        "IsotonicRegression",
    ),
    "segcal.methods.calibrator": ("Calibrator",),
    "segcal.methods.conditional.fit": (
        "ArgmaxPreservingMatrixScaling",
        "ClassConditionalDirichlet",
        "OrderPreservingMatrixScaling",
    ),
    "segcal.methods.files": ("load",),
    "segcal.methods.intra_order": ("IntraOrderPreserving",),
    "segcal.methods.meta_cal": ("MetaCal",),
    "segcal.methods.selective.fit": ("SelectiveScaling",),
    "segcal.methods.susceptibility.fit": ("SusceptibilityCalibration",),
    "segcal.methods.boundary.fit": ("BoundaryTemperatureScaling",),
    "segcal.methods.local.fit": ("LocalTemperatureScaling",),
    "segcal.methods.method": (
        "Fit",
        "fit_methods",
    ),
    "segcal.methods.mixture": ("EnsembleTemperatureScaling",),
    "segcal.methods.temperature": ("TemperatureScaling",),
    "segcal.metrics.arrays": ("evaluate_arrays",),
    "segcal.study.recipe.recipe": ("Recipe",),
    "segcal.tasks.apply": ("apply",),
    "segcal.tasks.audit.auditor": ("audit",),
    "segcal.tasks.audit.findings": ("Audit",),
    "segcal.tasks.choose": (
        "Recommendation",
        "recommend",
    ),
    "segcal.tasks.evaluate": (
        "crossfitted",
        "evaluate",
    ),
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
