"""Iterations over numbers: they ask for evaluations and know neither calibration nor data.

A solver is a generator: it yields named `Query`s, receives their evaluations, and returns a `Solved`.
"""

from segcal.fitting.solvers.adam import Adam
from segcal.fitting.solvers.bounded import BoundedNewton
from segcal.fitting.solvers.newton import Newton
from segcal.fitting.solvers.query import Query, Solved
from segcal.fitting.solvers.scalar import ScalarNewton
from segcal.fitting.solvers.simplex import SimplexNewton

__all__ = ["Adam", "BoundedNewton", "Newton", "Query", "ScalarNewton", "SimplexNewton", "Solved"]
