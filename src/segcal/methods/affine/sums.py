"""NLL of an affine map u = W phi + b, where phi are canonical log-probabilities or raw logits (K26 Eq. 5, 10).

Theta is the matrix [W | b] of shape (C, C + 1), row-major. With psi = (phi, 1) and r = p - e_y, the gradient is the
mean of r psi^T and the curvature the mean of (diag p - p p^T) kron psi psi^T (definitions 9.2). Costs, a voxel: O(C^2)
for the gradient, O(C^4) for the curvature. Restricted families (equal row sums, diagonal) are linear in the same
matrix, see `segcal.methods`. No voxel: zeros. Sums of huge scores would leave the range of exact sums: they are held
for features times `unit`, a power of two, which changes no bit of a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.errors import UsageError
from segcal.fitting.evaluation import COLUMNS, Evaluation, Vector, at_once


def features(rows: Rows, logits: bool) -> Tensor:
    """Canonical log-probabilities (C, n), or with `logits` the raw logits z = x + F(z)."""
    if not logits:
        return rows.log_probs
    if rows.free_energy is None:
        raise UsageError(
            "logits",
            found="rows made from probabilities",
            expected="raw logits",
            do="Fit on log-probabilities, which is what these scores hold.",
        )
    return rows.log_probs + rows.free_energy


@dataclass(frozen=True)
class AffineNLL:
    """Value (`order` 0), gradient (1) and curvature (2) at `theta`, the C (C + 1) numbers of [W | b].

    `unit`: a power of two that brings the features near 1.
    """

    classes: int
    theta: tuple[float, ...]
    order: int = 1
    logits: bool = False
    unit: float = 1.0

    @cached_property
    def _units(self) -> Vector:
        return np.append(np.full(self.classes, self.unit), 1.0)

    @cached_property
    def _matrix(self) -> Tensor:
        return torch.tensor(self.theta, dtype=torch.float64).reshape(self.classes, self.classes + 1)

    @cached_property
    def leaves(self) -> Mapping[str, Leaf]:
        """Sums of what was asked for."""
        c = self.classes
        out: dict[str, Leaf] = {"voxels": Count(), "value": ExactSum()}
        if self.order >= 1:
            out["gradient"] = ExactSum((c, c + 1))
        if self.order >= 2:
            out["curvature"] = ExactSum((c * (c + 1), c * (c + 1)))
        return out

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        phi, c = features(rows, self.logits), self.classes
        weight, bias = self._matrix[:, :c].contiguous(), self._matrix[:, c:].contiguous()
        value = torch.zeros((), dtype=torch.float64)
        gradient = torch.zeros(c, c + 1, dtype=torch.float64)
        curvature = torch.zeros((c - 1) * (c + 1), (c - 1) * (c + 1), dtype=torch.float64)
        step = at_once(c) if self.order < 2 else max(256, min(COLUMNS, 2**18 // c**2))
        for low in range(0, rows.voxels, step):
            f = phi[:, low : low + step].contiguous()
            at = rows.targets[None, low : low + step]
            u = torch.addmm(bias, weight, f)
            top = u.amax(0)
            picked = u.gather(0, at)[0]
            p = (u - top).exp_()
            total = p.sum(0)
            value += (total.log() + top - picked).sum()
            if self.order == 0:
                continue
            p /= total
            if self.order >= 2:
                curvature += _curvature(p, f)
            p.scatter_add_(0, at, torch.full_like(picked, -1.0)[None])
            gradient[:, :c] += p @ f.T
            gradient[:, c] += p.sum(1)
        out: dict[str, Any] = {"voxels": rows.voxels, "value": value.item()}
        if self.order >= 1:
            out["gradient"] = gradient.numpy() * self._units
        if self.order >= 2:
            both = np.tile(self._units, self.classes)
            out["curvature"] = _with_last(curvature, c).numpy() * both[:, None] * both
        return out

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels; gradient and curvature flattened."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        size = self.classes * (self.classes + 1)
        both = np.tile(self._units, self.classes)
        gradient: Vector = values["gradient"].ravel() * scale / both if self.order >= 1 else np.zeros(size)
        return Evaluation(
            float(values["value"]) * scale,
            gradient,
            values["curvature"] * scale / both[:, None] / both if self.order >= 2 else None,
            n,
        )


def _curvature(p: Tensor, f: Tensor) -> Tensor:
    """Sum over columns of (diag p - p p^T) kron (psi psi^T), psi = (f, 1), for all classes but the last."""
    c, n = p.shape
    psi = torch.cat([f, torch.ones(1, n, dtype=f.dtype)])
    weighted = (p[:-1, None] * psi[None]).reshape((c - 1) * (c + 1), n)
    # NumPy knows a product with its own transpose and forms half of it
    half = weighted.numpy()
    out = torch.from_numpy(-(half @ half.T))
    diagonal = (weighted @ psi.T).reshape(c - 1, c + 1, c + 1)
    blocks = out.view(c - 1, c + 1, c - 1, c + 1)
    for k in range(c - 1):
        blocks[k, :, k] += diagonal[k]
    return out


def _with_last(curvature: Tensor, classes: int) -> Tensor:
    """The blocks of the last class beside the others: over classes they sum to zero, because softmax does not see what
    all scores share.
    """
    c = classes
    out = torch.empty(c, c + 1, c, c + 1, dtype=torch.float64)
    out[:-1, :, :-1] = curvature.view(c - 1, c + 1, c - 1, c + 1)
    out[:-1, :, -1] = -out[:-1, :, :-1].sum(2)
    out[-1] = -out[:-1].sum(0)
    return out.view(c * (c + 1), c * (c + 1))
