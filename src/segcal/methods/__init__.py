"""Methods fit, calibrators apply: one file a method, named as in the field."""

from collections.abc import Callable
from functools import partial

from segcal.methods.affine.fit import ConstrainedMatrixScaling, DirichletCalibration, MatrixScaling, VectorScaling
from segcal.methods.binned import HistogramBinning, IsotonicRegression
from segcal.methods.conditional.fit import (
    ArgmaxPreservingMatrixScaling,
    ClassConditionalDirichlet,
    OrderPreservingMatrixScaling,
)
from segcal.methods.intra_order import IntraOrderPreserving
from segcal.methods.local.fit import LocalTemperatureScaling
from segcal.methods.method import AnyMethod, Method, Trained
from segcal.methods.mixture import EnsembleTemperatureScaling
from segcal.methods.temperature import TemperatureScaling

__all__ = [
    "REGISTERED",
    "TRAINED",
    "AnyMethod",
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
    "Method",
    "OrderPreservingMatrixScaling",
    "TemperatureScaling",
    "Trained",
    "VectorScaling",
]

REGISTERED: dict[str, type[Method]] = {
    m.name: m
    for m in (
        TemperatureScaling,
        EnsembleTemperatureScaling,
        VectorScaling,
        MatrixScaling,
        ConstrainedMatrixScaling,
        DirichletCalibration,
        ClassConditionalDirichlet,
        ArgmaxPreservingMatrixScaling,
        OrderPreservingMatrixScaling,
        IsotonicRegression,
        HistogramBinning,
        IntraOrderPreserving,
    )
}
"""Methods that are plans, by the name `--method` takes."""

TRAINED: dict[str, Callable[..., Trained]] = {
    "lts": partial(LocalTemperatureScaling, source="log_probs", image=False),
    "lts-raw": partial(LocalTemperatureScaling, source="logits", image=False),
    "lts-image": partial(LocalTemperatureScaling, source="log_probs", image=True),
}
"""Methods that are trained on whole planes, so that they need images or volumes, by the name `--method` takes."""
