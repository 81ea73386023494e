"""Methods fit, calibrators apply: one file a method, named as in the field."""

from segcal.methods.argmax_preserving_matrix_scaling import ArgmaxPreservingMatrixScaling
from segcal.methods.class_conditional_dirichlet import ClassConditionalDirichlet
from segcal.methods.constrained_matrix_scaling import ConstrainedMatrixScaling
from segcal.methods.dirichlet_calibration import DirichletCalibration
from segcal.methods.ensemble_temperature_scaling import EnsembleTemperatureScaling
from segcal.methods.histogram_binning import HistogramBinning
from segcal.methods.intra_order_preserving import IntraOrderPreserving
from segcal.methods.isotonic_regression import IsotonicRegression
from segcal.methods.matrix_scaling import MatrixScaling
from segcal.methods.method import Method
from segcal.methods.order_preserving_matrix_scaling import OrderPreservingMatrixScaling
from segcal.methods.temperature_scaling import TemperatureScaling
from segcal.methods.vector_scaling import VectorScaling

__all__ = [
    "REGISTERED",
    "ArgmaxPreservingMatrixScaling",
    "ClassConditionalDirichlet",
    "ConstrainedMatrixScaling",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "IntraOrderPreserving",
    "IsotonicRegression",
    "MatrixScaling",
    "Method",
    "OrderPreservingMatrixScaling",
    "TemperatureScaling",
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
"""Methods by the name `--method` takes."""
