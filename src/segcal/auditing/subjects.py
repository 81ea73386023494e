"""What is audited: a calibrator, voxel by voxel, or whole cases of any callable and of a calibrator that looks at neighbours.

A `Calibrator` works on blocks of voxels and says what its probabilities are before they are rounded. Of a callable nothing is known: it gets `(1, C, *spatial)` float64 tensors of
the pooled scores, since it may look at neighbours, and whatever it returns (a tensor or an array of that shape) is rounded to float32.
Raises ShapeError for an output of another shape, ScoreError for one that is no probability. Costs of a callable: whole cases in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcal.calibrators import Calibrator
from segcal.errors import ScoreError, ShapeError
from segcal.head import Head
from segcal.scores import Kind

Function = Callable[[Tensor], Any]


class VoxelWise:
    """A calibrator that needs no neighbours."""

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator

    def deliver(self, scores: Tensor, kind: Kind) -> Tensor:
        """Delivered probabilities (channels, n), float32, of a block of scores (channels, n)."""
        return self.calibrator.deliver(scores, kind)

    def exact(self, scores: Tensor, kind: Kind) -> Tensor:
        """The same before rounding, float64."""
        return self.calibrator.log_probs(scores[None], kind=kind, check=False)[0].exp()


class WholeCase:
    """A callable, or a calibrator that looks at neighbours. `name` is what to call it in messages; `fields`: of a case, which it is given by name beside the scores."""

    def __init__(self, function: Callable[..., Any], head: Head, fields: tuple[str, ...] = ()) -> None:
        self.function, self.head, self.fields = function, head, fields
        self.name = getattr(function, "__name__", type(function).__name__)

    def deliver(self, scores: Tensor, shape: tuple[int, ...], fields: Mapping[str, Tensor]) -> Tensor:
        """Probabilities (channels, n), float32, of the scores (channels, n) of a case of `shape`; `fields` (channels, n) too."""
        with torch.no_grad():
            given = self.function(scores.double().reshape(1, -1, *shape), **{name: value.reshape(1, -1, *shape) for name, value in fields.items()})
        p = given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(np.ascontiguousarray(given))
        expected = (1, scores.shape[0], *shape)
        if tuple(p.shape) != expected:
            raise ShapeError(
                self.name, found=f"an output of shape {tuple(p.shape)}", expected=f"{expected}", do="Return probabilities in the shape of the scores, classes on axis 1."
            )
        p = p.float().reshape(scores.shape[0], -1)
        if not bool(((p >= 0) & (p <= 1 + 1e-6)).all()):
            raise ScoreError(self.name, found="values outside [0, 1], or NaN", expected="probabilities", do="Return probabilities, not logits.")
        return p
