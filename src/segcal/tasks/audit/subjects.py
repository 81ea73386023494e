"""What is audited: a calibrator, voxel by voxel, or whole cases of any callable and of a calibrator that needs more of
a case than its rows.

A `Calibrator` works on blocks of voxels and says what its probabilities are before they are rounded. Of a callable
nothing is known: it gets `(1, C, *spatial)` float64 tensors of the pooled scores, since it may look at neighbours, and
whatever it returns (a tensor or an array of that shape) is rounded to float32. Raises ShapeError for an output of
another shape, ScoreError for one that is no probability. Costs of a callable: whole cases in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcal.data.case import Case
from segcal.data.scores import Kind
from segcal.errors import ScoreError, ShapeError
from segcal.methods.calibrator import Calibrator

Function = Callable[[Tensor], Any]


class VoxelWise:
    """A calibrator that needs rows alone."""

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator

    def deliver(self, scores: Tensor, kind: Kind) -> Tensor:
        """Delivered probabilities (channels, n), float32, of a block of scores (channels, n)."""
        return self.calibrator.deliver(scores, kind)

    def exact(self, scores: Tensor, kind: Kind) -> Tensor:
        """The same before rounding, float64."""
        return self.calibrator.log_probs(scores[None], kind=kind, check=False)[0].exp()


class WholeCase:
    """A callable, or a calibrator that needs more of a case than its rows. `name` is what to call it in messages."""

    def __init__(self, subject: Calibrator | Function, kind: Kind) -> None:
        self.subject, self.kind = subject, kind
        self.name = getattr(subject, "__name__", type(subject).__name__)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of a case it is given beside the scores."""
        return self.subject.needs.fields if isinstance(self.subject, Calibrator) else ()

    def deliver(self, scores: Tensor, case: Case, fields: Mapping[str, Tensor], counted: Tensor) -> Tensor:
        """Probabilities (channels, n), float32, of the scores (channels, n) of a case; `fields` (channels, n) too;
        `counted` (n,): all but crop padding.
        """
        shape = case.shape
        whole = scores.double().reshape(1, -1, *shape)
        with torch.no_grad():
            if isinstance(self.subject, Calibrator):
                named = {name: value.reshape(1, -1, *shape) for name, value in fields.items()}
                seen = counted.reshape(1, *shape)
                given: Any = self.subject(whole, kind=self.kind, counted=seen, spacing=case.spacing, **named)
            else:
                given = self.subject(whole)
        p = given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(np.ascontiguousarray(given))
        expected = (1, scores.shape[0], *shape)
        if tuple(p.shape) != expected:
            raise ShapeError(
                self.name,
                found=f"an output of shape {tuple(p.shape)}",
                expected=f"{expected}",
                do="Return probabilities in the shape of the scores, classes on axis 1.",
            )
        p = p.float().reshape(scores.shape[0], -1)
        if not bool(((p >= 0) & (p <= 1 + 1e-6)).all()):
            raise ScoreError(
                self.name,
                found="values outside [0, 1], or NaN",
                expected="probabilities",
                do="Return probabilities, not logits.",
            )
        return p
