"""The class-conditional maps as the paper writes them: one expert for each predicted class (K26 3.2, Appendix A).

An expert acts on scores in canonical order: for CDC the order of the classes, for CMS_ap the winner first, for CMS_op
all classes from highest to lowest. CMS experts are W = G^-1 W' G with W' = [[a, r], [0, A]], A = softplus(A~), and
biases b_1 free, b_k = b_1 - softplus(b~_k) (ap) or b_(k-1) - softplus(b~_k) (op): C^2 + 1 numbers each. The first row
(a, r) and b_1 change no probability; they move through the penalty alone, which acts on W and b. What softplus cannot
reach, 0, starts at 1e-6. The paper's remark that the first row of A can be set to zero is read as the first row of W'
(definitions 4.3). The penalty is ODIR for each expert, its mean over experts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from segcal.recipe.parameterisation import FLOOR, parameter, softplus_inverse


class Expert(nn.Module, ABC):
    """An affine map of canonical scores (C, n), before the softmax; the identity when made."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    @abstractmethod
    def matrix(self) -> Tensor:
        """[W | b], (C, C + 1), in canonical order."""

    def forward(self, scores: Tensor) -> Tensor:
        """Log-probabilities (C, n), in canonical order."""
        matrix = self.matrix()
        return torch.log_softmax(matrix[:, :-1] @ scores + matrix[:, -1:], 0)

    def odir(self, lambda_: float, mu: float) -> Tensor:
        """K26 Eq. 15 on this expert's W and b."""
        matrix, c = self.matrix(), self.classes
        weight, bias = matrix[:, :-1], matrix[:, -1]
        off = weight - torch.diag(weight.diagonal())
        return lambda_ * (off**2).sum() / (c * (c - 1)) + mu * (bias**2).mean()


class DirichletExpert(Expert):
    """W and b, all free: C (C + 1) numbers, on log-probabilities."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.weight, self.bias = parameter(torch.eye(classes)), parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([self.weight, self.bias[:, None]], 1)


class ConeExpert(Expert):
    """A map of a cone into itself: C^2 + 1 numbers."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        zero, one = softplus_inverse(FLOOR), softplus_inverse(1.0)
        rest = classes - 1
        self.row = parameter(torch.eye(classes)[0])
        self.raw = parameter(torch.full((rest, rest), zero, dtype=torch.float64).fill_diagonal_(one))
        self.raw_bias = parameter(
            torch.cat([torch.zeros(1, dtype=torch.float64), torch.full((rest,), zero, dtype=torch.float64)])
        )
        self.register_buffer("margins", self.differences(classes))
        self.register_buffer("back", torch.linalg.inv(self.differences(classes)).round())

    margins: Tensor
    back: Tensor

    @staticmethod
    @abstractmethod
    def differences(classes: int) -> Tensor:
        """G (C, C): the first score, then the margins that are not negative in the cone."""

    @abstractmethod
    def bias(self) -> Tensor:
        """b (C,), in the cone."""

    @property
    def slope(self) -> Tensor:
        """A (C - 1, C - 1), positive."""
        return softplus(self.raw)

    @property
    def gap(self) -> Tensor:
        """g (C - 1,), positive: the margins of the bias."""
        return softplus(self.raw_bias[1:])

    def matrix(self) -> Tensor:
        inner = torch.cat(
            [self.row[None], torch.cat([torch.zeros(self.classes - 1, 1, dtype=torch.float64), self.slope], 1)]
        )
        return torch.cat([self.back @ inner @ self.margins, self.bias()[:, None]], 1)


class ArgmaxExpert(ConeExpert):
    """Margins of the winner over each other class."""

    @staticmethod
    def differences(classes: int) -> Tensor:
        out = -torch.eye(classes, dtype=torch.float64)
        out[:, 0] = 1
        return out

    def bias(self) -> Tensor:
        return self.raw_bias[0] - torch.cat([torch.zeros(1, dtype=torch.float64), self.gap])


class OrderExpert(ConeExpert):
    """Margins of each class over the next."""

    @staticmethod
    def differences(classes: int) -> Tensor:
        out = torch.zeros(classes, classes, dtype=torch.float64)
        out[0, 0] = 1
        for j in range(1, classes):
            out[j, j - 1], out[j, j] = 1, -1
        return out

    def bias(self) -> Tensor:
        return self.raw_bias[0] - torch.cat([torch.zeros(1, dtype=torch.float64), self.gap.cumsum(0)])
