"""NLL of an affine map u = W phi + b, where phi are canonical log-probabilities or raw logits (K26 Eq. 5, 10); of one
with a diagonal W; and what stands in for a curvature too large to be written.

Theta is the matrix [W | b] of shape (C, C + 1), row-major. With psi = (phi, 1) and r = p - e_y, the gradient is the
mean of r psi^T and the curvature the mean of (diag p - p p^T) kron psi psi^T (definitions 9.2). Costs, a voxel: O(C^2)
for the gradient, O(C^4) for the curvature; with a diagonal W, of 2 C numbers, O(C) and O(C^2). Equal row sums are
linear in the same matrix, see `segcal.methods.affine.fit`. No voxel: zeros. Sums of huge scores would leave the range
of exact sums: they are held for features times `unit`, a power of two, which changes no bit of a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        size = (c - 1) * (c + 1) if self.order >= 2 else 0
        curvature = torch.zeros(size, size, dtype=torch.float64)
        step = at_once(c) if self.order < 2 else max(256, min(COLUMNS, 2**18 // c**2))
        for low in range(0, rows.voxels, step):
            f = phi[:, low : low + step].contiguous()
            at = rows.targets[None, low : low + step]
            nll, p = _softmax(torch.addmm(bias, weight, f), at)
            value += nll
            if self.order == 0:
                continue
            if self.order >= 2:
                curvature += _curvature(p, f)
            p.scatter_add_(0, at, torch.full_like(p[:1], -1.0))
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


@dataclass(frozen=True)
class VectorNLL:
    """The same of u = a * phi + b at `theta`, the 2 C numbers of a and b."""

    classes: int
    theta: tuple[float, ...]
    order: int = 1
    logits: bool = False
    unit: float = 1.0

    @cached_property
    def _units(self) -> Vector:
        return np.repeat([self.unit, 1.0], self.classes)

    @cached_property
    def leaves(self) -> Mapping[str, Leaf]:
        """Sums of what was asked for."""
        size = 2 * self.classes
        out: dict[str, Leaf] = {"voxels": Count(), "value": ExactSum()}
        if self.order >= 1:
            out["gradient"] = ExactSum((size,))
        if self.order >= 2:
            out["curvature"] = ExactSum((size, size))
        return out

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        phi, c = features(rows, self.logits), self.classes
        factor, bias = torch.tensor(self.theta, dtype=torch.float64).reshape(2, c, 1)
        value = torch.zeros((), dtype=torch.float64)
        gradient = torch.zeros(2, c, dtype=torch.float64)
        curvature = torch.zeros(2 * c, 2 * c, dtype=torch.float64)
        step = at_once(8 * c)  # some ten arrays of so many columns live at once
        for low in range(0, rows.voxels, step):
            f = phi[:, low : low + step].contiguous()
            at = rows.targets[None, low : low + step]
            nll, p = _softmax(torch.addcmul(bias, factor, f), at)
            value += nll
            if self.order == 0:
                continue
            if self.order >= 2:
                weighted = p * f
                both = torch.cat([weighted, p])
                half = both.numpy()
                curvature -= torch.from_numpy(half @ half.T)
                first, second = weighted.sum(1), (weighted * f).sum(1)
                curvature.view(2, c, 2, c).diagonal(0, 1, 3).add_(
                    torch.stack([torch.stack([second, first]), torch.stack([first, p.sum(1)])])
                )
            p.scatter_add_(0, at, torch.full_like(p[:1], -1.0))
            gradient += torch.stack([(p * f).sum(1), p.sum(1)])
        out: dict[str, Any] = {"voxels": rows.voxels, "value": value.item()}
        if self.order >= 1:
            out["gradient"] = gradient.numpy().ravel() * self._units
        if self.order >= 2:
            out["curvature"] = curvature.numpy() * self._units[:, None] * self._units
        return out

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        return Evaluation(
            float(values["value"]) * scale,
            values["gradient"] * scale / self._units if self.order >= 1 else np.zeros(2 * self.classes),
            values["curvature"] * scale / self._units[:, None] / self._units if self.order >= 2 else None,
            n,
        )


@dataclass(frozen=True, eq=False)
class Factors:
    """`outputs` (C, C) and `features` (C + 1, C + 1), whose Kronecker product stands for the curvature of [W | b]."""

    outputs: Vector
    features: Vector

    def inverse(self, added: Vector) -> Callable[[Vector], Vector]:
        """What multiplies a gradient (C (C + 1),) by the inverse of that product and a diagonal of `added` (C + 1,),
        above 0, which every row has.
        """
        root = np.sqrt(added)
        a, left = np.linalg.eigh(self.outputs)
        s, right = np.linalg.eigh(self.features / root[:, None] / root)
        weight = 1 + np.maximum(a, 0)[:, None] * np.maximum(s, 0)

        def multiplied(gradient: Vector) -> Vector:
            turned = left.T @ (gradient.reshape(weight.shape) / root) @ right
            return np.asarray((left @ (turned / weight) @ right.T / root).ravel())

        return multiplied


@dataclass(frozen=True)
class FactoredCurvature:
    """Of W = `beta` I, b = 0: the mean of diag p - p p^T, and the mean of psi psi^T weighted by the trace of that. The
    curvature is the mean of their products, for which the product of the means stands (Martens and Grosse 2015): C^2
    numbers in place of C^4.
    """

    classes: int
    beta: float
    logits: bool = False
    unit: float = 1.0

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Both sums, and the weight of the second."""
        c = self.classes
        return {
            "voxels": Count(),
            "outputs": ExactSum((c, c)),
            "features": ExactSum((c + 1, c + 1)),
            "weight": ExactSum(),
        }

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        phi, c = features(rows, self.logits), self.classes
        outputs, seen = torch.zeros(c, c, dtype=torch.float64), torch.zeros(c + 1, c + 1, dtype=torch.float64)
        weight = torch.zeros((), dtype=torch.float64)
        step = at_once(8 * c)  # some ten arrays of so many columns live at once
        for low in range(0, rows.voxels, step):
            f = phi[:, low : low + step].contiguous()
            p = torch.softmax(self.beta * f, 0)
            trace = 1 - p.square().sum(0)
            psi = torch.cat([self.unit * f, torch.ones_like(f[:1])])
            outputs += torch.diag(p.sum(1)) - p @ p.T
            seen += (psi * trace) @ psi.T
            weight += trace.sum()
        return {"voxels": rows.voxels, "outputs": outputs.numpy(), "features": seen.numpy(), "weight": weight.item()}

    def result(self, values: Mapping[str, Array]) -> Factors:
        """Means; zeros where no voxel is in doubt."""
        n, weight = max(int(values["voxels"]), 1), float(values["weight"])
        units = np.append(np.full(self.classes, self.unit), 1.0)
        seen = values["features"] / units[:, None] / units
        return Factors(values["outputs"] / n, seen / weight if weight > 0 else np.zeros_like(seen))


def _softmax(u: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The summed NLL of targets `at` (1, n) under scores u (C, n), and the probabilities."""
    top = u.amax(0)
    p = (u - top).exp_()
    total = p.sum(0)
    return (total.log() + top - u.gather(0, at)[0]).sum(), p.div_(total)


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
