"""What fits minimise: negative log-likelihoods as accumulators, and quadratic penalties.

Formulas; no solver, no engine.
"""

from segcal.objectives.affine import AffineNLL
from segcal.objectives.conditional import ConditionalNLL, ExpertFacts, Facts
from segcal.objectives.evaluation import Evaluation
from segcal.objectives.intra_order import IntraOrderNLL
from segcal.objectives.labels import LabelCount
from segcal.objectives.magnitude import Magnitude
from segcal.objectives.mixture import MixtureNLL
from segcal.objectives.penalty import (
    Penalty,
    SquaredResiduals,
    experts_odir,
    experts_towards_temperature,
    odir,
    ridge,
    towards_temperature,
)
from segcal.objectives.scale import ScaleNLL

__all__ = [
    "AffineNLL",
    "ConditionalNLL",
    "Evaluation",
    "ExpertFacts",
    "Facts",
    "IntraOrderNLL",
    "LabelCount",
    "Magnitude",
    "MixtureNLL",
    "Penalty",
    "ScaleNLL",
    "SquaredResiduals",
    "experts_odir",
    "experts_towards_temperature",
    "odir",
    "ridge",
    "towards_temperature",
]
