"""What penalised methods of papers share: the papers' penalty beside our own, and the papers' recipe beside the exact
fit.

Objective: mean NLL + penalty + ridge, its strength as in `segcal.methods.strengths`. `penalty="ts"` (default) shrinks
to temperature scaling, `"odir"` is K26 Eq. 15.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from segcal.errors import UsageError
from segcal.fitting.solvers.query import Solved
from segcal.methods.published import Published
from segcal.methods.strengths import Chosen, Shrunk

EXTREME = 1e2
"""Parameters beyond this, weights in multiples of 1/T where that is above 1, are called degenerate."""

NUMBER = 8
"""Bytes of a float64."""

MODELS = 4
"""Matrices of curvature that a descent holds: its model, the one it began with, the penalty's and its factor."""

PASSING = 8
"""Such matrices that come and go while one descent makes a step; one descent does at a time."""


def extent(weight: Any, bias: Any, scale: Solved) -> float:
    """The largest parameter, weights in multiples of 1/T where scores are so small that every weight must be large; not
    where the data do not bound the temperature itself.
    """
    unit = 1.0 if scale.notes else max(1.0, float(scale.theta[0]))
    return max(float(np.abs(weight).max()) / unit, float(np.abs(bias).max()))


@dataclass(frozen=True)
class Penalised(Shrunk, Published):
    """`lambda_`, `mu`, `eps` as `Shrunk`; `penalty`. UsageError for anything else.

    With the recipe for a solver, lambda and mu of "odir" are chosen by its own search.
    """

    penalty: Literal["ts", "odir"] = "ts"

    def __post_init__(self) -> None:
        Published.__post_init__(self)
        if self.penalty not in ("ts", "odir"):
            raise UsageError(
                "penalty",
                found=repr(self.penalty),
                expected="'ts' or 'odir'",
                do="'ts' shrinks to temperature scaling, 'odir' is the papers' penalty.",
            )
        super().__post_init__()
        if self.solver is not None:
            for option in fields(self):
                value = getattr(self, option.name)
                if option.name != "solver" and value != option.default:
                    raise UsageError(
                        option.name,
                        found=f"{value!r} beside the recipe",
                        expected="nothing: the recipe has the papers' penalty and searches its strengths",
                        do="Leave it out, or leave the solver out (it is then exact).",
                    )

    @property
    def cross_validates(self) -> bool:
        """With lambda_="cv", unless the recipe chooses."""
        return self.lambda_ == "cv" and self.solver is None

    @property
    def takes_validation(self) -> bool:
        """To choose the strength by, unless it is given."""
        return self.solver is not None or self.lambda_ == "cv"

    @property
    def needs_every_class(self) -> bool:
        """Without a penalty."""
        return self.lambda_ == 0

    @property
    def centred(self) -> bool:
        """With "ts"."""
        return self.penalty == "ts"

    def settings(self, scale: Solved, chosen: Chosen, unit: float) -> dict[str, Any]:
        """With the penalty."""
        return {"penalty": self.penalty, **super().settings(scale, chosen, unit)}
