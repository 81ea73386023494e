"""Cohorts whose truth is known: what a calibrator should find can be written down, so how far it is can be measured.

`Simulation` draws cases from a seed, `Truth` is the map from a network's log-probabilities to the posterior that labels
were drawn from, `write_nnunet` leaves a cohort on disk as nnU-Net would, and `segcal.metrics.truth` measures how far
probabilities are from the truth.
"""

from segcal.data.simulate.cohort import Design, SimulatedCase, Simulation
from segcal.data.simulate.fields import gaussian_fields, gumbel_fields
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth

__all__ = [
    "Design",
    "SimulatedCase",
    "Simulation",
    "Truth",
    "gaussian_fields",
    "gumbel_fields",
    "write_nnunet",
]
