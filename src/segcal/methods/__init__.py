"""Methods fit, calibrators apply: one file a method, named as in the field."""

from collections.abc import Callable
from functools import partial

from segcal.methods.argmax_preserving_matrix_scaling import ArgmaxPreservingMatrixScaling
from segcal.methods.class_conditional_dirichlet import ClassConditionalDirichlet
from segcal.methods.constrained_matrix_scaling import ConstrainedMatrixScaling
from segcal.methods.dirichlet_calibration import DirichletCalibration
from segcal.methods.ensemble_temperature_scaling import EnsembleTemperatureScaling
from segcal.methods.histogram_binning import HistogramBinning
from segcal.methods.intra_order_preserving import IntraOrderPreserving
from segcal.methods.isotonic_regression import IsotonicRegression
from segcal.methods.local_temperature_scaling import LocalTemperatureScaling
from segcal.methods.matrix_scaling import MatrixScaling
from segcal.methods.method import AnyMethod, Method, Trained
from segcal.methods.order_preserving_matrix_scaling import OrderPreservingMatrixScaling
from segcal.methods.temperature_scaling import TemperatureScaling
from segcal.methods.vector_scaling import VectorScaling

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
