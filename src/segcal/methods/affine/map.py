"""An affine map before the softmax: p = S(W phi + b), phi the canonical log-probabilities, or raw logits (K26 Eq. 4, 5,
10).

Vector, matrix, constrained matrix scaling and Dirichlet calibration all end here. Promises, by K26 Appendix A.2: on raw
logits it is translation-invariant iff all row sums of W are equal; it preserves arg max and order iff W = beta I + 1
c^T with beta > 0 and b is a multiple of 1. On log-probabilities it is always translation-invariant.

The modules as the papers write them follow the map. They start at the identity, W = I, b = 0, s = 1. Matrices,
constrained ones after reconstruction, carry ODIR (K26 Eq. 15). Vector scaling is not in K26's tables; its penalty is
the one the exact method calls odir.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.engine.accumulate import Accumulator
from segcal.errors import UsageError
from segcal.fitting.penalties import Penalty, odir, towards_temperature
from segcal.fitting.solvers.newton import strong_convexity_gap
from segcal.methods.affine.sums import AffineNLL
from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import Map, Needs
from segcal.methods.parameterisation import WHOLE, Parameterisation, Stage, parameter

TOLERANCE = 1e-12
"""Share of the largest entry by which entries may differ and still count as equal: parameters are the result of float64
sums.
"""


class AffineMap(Map):
    """`weight` (C, C) and `bias` (C,), finite (UsageError otherwise); `logits`: it acts on raw logits."""

    type_name: ClassVar[str] = "affine"
    weight: Tensor
    bias: Tensor
    on_logits: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, logits: bool = False) -> None:
        super().__init__()
        if weight.dim() != 2 or weight.shape[0] != weight.shape[1] or bias.shape != weight.shape[:1]:
            raise UsageError(
                "weight, bias",
                found=f"shapes {tuple(weight.shape)} and {tuple(bias.shape)}",
                expected="(C, C) and (C,)",
                do="Give a square matrix and one bias a class.",
            )
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise UsageError(
                "weight, bias", found="NaN or infinity", expected="finite numbers", do="Fit again with a positive eps."
            )
        self.parameter("weight", weight)
        self.parameter("bias", bias)
        self.register_buffer("on_logits", torch.tensor(logits))
        self.derive()

    def derive(self) -> None:
        self._on_logits = bool(self.on_logits)
        sums = self.weight.sum(1)
        self._equal_row_sums = bool((sums.max() - sums.min()) <= 1e-10 * max(self.weight.abs().max().item(), 1e-300))

    @property
    def classes(self) -> int | None:
        """C."""
        return self.weight.shape[0]

    @property
    def needs(self) -> Needs:
        """Raw logits, where it acts on them and is not translation-invariant: only then does the free energy matter."""
        return Needs(logits=self._on_logits and not self._equal_row_sums)

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(W phi + b), (C, n)."""
        weight, bias = self.weight.to(log_probs.dtype), self.bias.to(log_probs.dtype)
        u = weight @ log_probs + bias[:, None]
        if self._on_logits:
            if free_energy is None:
                if self.needs.logits:
                    raise UsageError(
                        "scores",
                        found="probabilities",
                        expected="raw logits",
                        do="This map was fitted on raw logits; give it the network's logits, or fit on probabilities.",
                    )
            elif not self._equal_row_sums:  # else it is common to all classes
                # W (x + F 1) = W x + F (W 1)
                u = u + weight.sum(1, keepdim=True) * free_energy.to(u.dtype)[None]
        return torch.log_softmax(u, 0)

    def guarantees(self) -> Guarantees:
        """Read off W and b."""
        scale = max(self.weight.abs().max().item(), 1e-300)
        c = self.weight.shape[0]
        invariant: Status = "proven"
        reasons = {"translation_invariant": "it sees log-probabilities only"}
        if self._on_logits:
            sums = self.weight.sum(1)
            if self._equal_row_sums:
                reasons["translation_invariant"] = "all row sums of W are equal"
            else:
                invariant = "no"
                reasons["translation_invariant"] = (
                    f"row sums of W run from {sums.min().item():.4g} to {sums.max().item():.4g}; raising all logits"
                    f" favours class {int(sums.argmax())}"
                )
        common = torch.stack([self.weight[(j + 1) % c, j] for j in range(c)])
        rest = self.weight - common[None, :]
        beta = rest.diagonal().mean()
        shape_ok = (rest - beta * torch.eye(c, dtype=rest.dtype)).abs().max().item() <= TOLERANCE * scale * c
        bias_ok = (self.bias - self.bias[0]).abs().max().item() <= TOLERANCE * max(1.0, scale)
        keeps = shape_ok and bias_ok and beta.item() > 0
        why = (
            "W = beta I + 1 c^T with beta > 0 and equal biases"
            if keeps
            else "W is not beta I + 1 c^T with beta > 0"
            if not (shape_ok and beta.item() > 0)
            else "the biases differ"
        )
        reasons |= {"preserves_argmax": why, "preserves_order": why}
        status: Status = "proven" if keeps else "no"
        return Guarantees(invariant, status, status, reasons)

    def describe(self) -> dict[str, object]:
        """The matrix and the bias."""
        return {
            "weight": self.weight.tolist(),
            "bias": self.bias.tolist(),
            "acts_on": "logits" if self._on_logits else "log_probs",
        }

    def sensitivity(self) -> float:
        """The largest sum of absolute weights of a row, and as much for the free energy."""
        return 2 * float(self.weight.abs().sum(1).max())

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> AffineMap:
        return cls(tensors["weight"], tensors["bias"], bool(tensors["on_logits"]))


class AffineStage(Stage):
    """What all matrices share: [W | b] for the accumulator, ODIR on it."""

    penalised: ClassVar[bool] = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    @abstractmethod
    def matrix(self) -> Tensor:
        """[W | b], (C, C + 1)."""

    def odir(self, lambda_: float, mu: float) -> Penalty:
        """The penalty on [W | b]."""
        return odir(self.classes, lambda_, mu)

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {WHOLE: self.forward()}

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del piece
        return AffineNLL(self.classes, tuple(numbers), order, logits)

    def penalty(self, lambda_: float, mu: float) -> Tensor:
        penalty = self.odir(lambda_, mu)
        weight, centre = torch.from_numpy(penalty.weight), torch.from_numpy(penalty.centre)
        return (weight * (self.forward() - centre) ** 2).sum()

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        penalty = self.odir(lambda_, mu)
        theta = numbers[WHOLE].numpy()
        total = gradient[WHOLE].numpy() + penalty.gradient(theta)
        raw, jacobian = self._linear()
        return strong_convexity_gap(jacobian.T * penalty.curvature @ jacobian)(raw, np.asarray(jacobian.T @ total))

    def forward(self) -> Tensor:
        """[W | b], flat."""
        return self.matrix().reshape(-1)

    def _linear(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Present parameters (d,) and the Jacobian of [W | b] in them, which is constant: every matrix here is linear
        in its parameters.
        """
        parameters = {name: p.detach() for name, p in self.named_parameters()}
        jacobian = torch.func.jacrev(lambda named: torch.func.functional_call(self, named, ()))(parameters)
        columns = torch.cat([jacobian[name].reshape(self.classes * (self.classes + 1), -1) for name in parameters], 1)
        return torch.cat([p.reshape(-1) for p in parameters.values()]).numpy(), columns.detach().numpy()


class VectorStage(AffineStage):
    """A factor and a bias a class."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.factor, self.bias = parameter(torch.ones(classes)), parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([torch.diag(self.factor), self.bias[:, None]], 1)

    def odir(self, lambda_: float, mu: float) -> Penalty:
        """Mean (a - 1)^2 and mean b^2: a diagonal has no off-diagonal; the zeros beside it cost nothing."""
        return towards_temperature(self.classes, lambda_ * self.classes, mu, 1.0)


class MatrixStage(AffineStage):
    """W and b, all free."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.weight, self.bias = parameter(torch.eye(classes)), parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([self.weight, self.bias[:, None]], 1)


class ConstrainedStage(AffineStage):
    """W = [W_free, s 1 - W_free 1], so that all row sums are s."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.free = parameter(torch.eye(classes)[:, :-1])
        self.row_sum = parameter(1.0)
        self.bias = parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([self.free, (self.row_sum - self.free.sum(1))[:, None], self.bias[:, None]], 1)


class Affine(Parameterisation):
    """A matrix and a bias."""

    stage_type: ClassVar[type[AffineStage]]

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.affine = self.stage_type(classes)

    @property
    def stages(self) -> Sequence[Stage]:
        return (self.affine,)

    def forward(self, features: Tensor) -> Tensor:
        matrix = self.affine.matrix()
        return torch.log_softmax(matrix[:, :-1] @ features + matrix[:, -1:], 0)

    def map(self, logits: bool) -> Map:
        matrix = self.affine.matrix().detach()
        return AffineMap(matrix[:, :-1], matrix[:, -1], logits)


class VectorModule(Affine):
    """2 C numbers."""

    name: ClassVar[str] = "vs"
    stage_type: ClassVar[type[AffineStage]] = VectorStage
    fitted_on_logits: ClassVar[bool] = True


class Matrix(Affine):
    """C (C + 1) numbers, on raw logits where they are known."""

    name: ClassVar[str] = "ms"
    stage_type: ClassVar[type[AffineStage]] = MatrixStage
    fitted_on_logits: ClassVar[bool] = True


class ConstrainedMatrix(Affine):
    """C^2 + 1 numbers; logits and log-probabilities give the same map."""

    name: ClassVar[str] = "ms-c"
    stage_type: ClassVar[type[AffineStage]] = ConstrainedStage


class Dirichlet(Affine):
    """C (C + 1) numbers, on log-probabilities."""

    name: ClassVar[str] = "dc"
    stage_type: ClassVar[type[AffineStage]] = MatrixStage
    canonical: ClassVar[bool] = True
