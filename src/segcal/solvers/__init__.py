"""Iterations over numbers: they ask for evaluations and know neither calibration nor data.

A solver is a generator: it yields named `Query`s, receives their evaluations, and returns a `Solved`.
"""

from segcal.solvers.adam import Adam
from segcal.solvers.bounded import BoundedNewton
from segcal.solvers.newton import Newton
from segcal.solvers.query import Query, Solved
from segcal.solvers.scalar import ScalarNewton
from segcal.solvers.simplex import SimplexNewton

__all__ = ["Adam", "BoundedNewton", "Newton", "Query", "ScalarNewton", "SimplexNewton", "Solved"]
