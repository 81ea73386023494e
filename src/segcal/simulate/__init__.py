"""Cohorts whose truth is known: what a calibrator should find can be written down, so how far it is can be measured.

`Simulation` draws cases from a seed, `Truth` is the map from a network's log-probabilities to the posterior that labels
were drawn from, `DistanceToTruth` measures how far probabilities are from it, and `write_nnunet` leaves a cohort on
disk as nnU-Net would.
"""

from segcal.simulate.cohort import Design, SimulatedCase, Simulation
from segcal.simulate.fields import gaussian_fields, gumbel_fields
from segcal.simulate.nnunet import write_nnunet
from segcal.simulate.truth import DistanceToTruth, Divergence, Truth

__all__ = [
    "Design",
    "DistanceToTruth",
    "Divergence",
    "SimulatedCase",
    "Simulation",
    "Truth",
    "gaussian_fields",
    "gumbel_fields",
    "write_nnunet",
]
