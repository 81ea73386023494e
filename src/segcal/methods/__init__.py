"""Methods fit, calibrators apply: one file a method, named as in the field."""

from segcal.methods.constrained_matrix_scaling import ConstrainedMatrixScaling
from segcal.methods.dirichlet_calibration import DirichletCalibration
from segcal.methods.ensemble_temperature_scaling import EnsembleTemperatureScaling
from segcal.methods.matrix_scaling import MatrixScaling
from segcal.methods.method import Method
from segcal.methods.temperature_scaling import TemperatureScaling
from segcal.methods.vector_scaling import VectorScaling

__all__ = [
    "REGISTERED",
    "ConstrainedMatrixScaling",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "MatrixScaling",
    "Method",
    "TemperatureScaling",
    "VectorScaling",
]

REGISTERED: dict[str, type[Method]] = {
    m.name: m for m in (TemperatureScaling, EnsembleTemperatureScaling, VectorScaling, MatrixScaling, ConstrainedMatrixScaling, DirichletCalibration)
}
"""Methods by the name `--method` takes."""
