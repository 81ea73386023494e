"""The papers' own way of fitting, for comparison with the exact solvers: parameterisations, Adam, a search of
hyper-parameters.
"""

from segcal.fitting.parameterisation import Parameterisation
from segcal.methods.conditional.published import ArgmaxPreserving, ConditionalDirichlet, OrderPreserving
from segcal.methods.published import ConstrainedMatrix, Dirichlet, EnsembleTemperature, Matrix, Temperature, Vector
from segcal.study.recipe.recipe import Recipe

__all__ = ["FAMILIES", "Parameterisation", "Recipe"]

FAMILIES: dict[str, type[Parameterisation]] = {
    f.name: f
    for f in (
        Temperature,
        EnsembleTemperature,
        Vector,
        Matrix,
        ConstrainedMatrix,
        Dirichlet,
        ConditionalDirichlet,
        ArgmaxPreserving,
        OrderPreserving,
    )
}
"""Parameterisations by the name of their method."""
