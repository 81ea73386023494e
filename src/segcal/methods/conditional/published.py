"""The class-conditional maps as the paper writes them: one expert for each predicted class (K26 3.2, Appendix A).

An expert acts on scores in canonical order: for CDC the order of the classes, for CMS_ap the winner first, for CMS_op
all classes from highest to lowest. CMS experts are W = G^-1 W' G with W' = [[a, r], [0, A]], A = softplus(A~), and
biases b_1 free, b_k = b_1 - softplus(b~_k) (ap) or b_(k-1) - softplus(b~_k) (op): C^2 + 1 numbers each. The first row
(a, r) and b_1 change no probability; they move through the penalty alone, which acts on W and b. What softplus cannot
reach, 0, starts at 1e-6. The paper's remark that the first row of A can be set to zero is read as the first row of W'
(definitions 4.3). The penalty is ODIR for each expert, its mean over experts.

The class-conditional families: C experts as the paper writes them, trained together with the same hyper-parameters
(K26 3.2, Appendix B).

Each expert is one piece: its rows are filed by decided class, its sums are those of the exact fit, in [W | b] (CDC) or
in [A | g] of margins or gaps (CMS), and the NLL is the mean over all voxels. An expert without a voxel moves through
its penalty alone. The bound on a gap is that of the exact problem with the paper's penalty in the free gauge, to which
what the gauge's own numbers cost beyond their least is added: the optimum over them is known in closed form
(definitions 4.6).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from segcal.data.ranking import descending, winner
from segcal.engine import experts as coordinates_
from segcal.engine.accumulate import Accumulator
from segcal.engine.experts import Coordinates, Gaps, Margins, Scores
from segcal.fitting.parameterisation import FLOOR, Parameterisation, Stage, parameter, softplus_inverse
from segcal.fitting.penalties import experts_odir, odir
from segcal.fitting.solvers.bounded import bounded_gap
from segcal.fitting.solvers.newton import strong_convexity_gap
from segcal.methods.affine.sums import AffineNLL
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import ConditionalNLL
from segcal.methods.maps import Map


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


class ExpertsStage(Stage):
    """All experts of a family."""

    penalised: ClassVar[bool] = True

    def __init__(self, classes: int, kind: type[Expert], coordinates: Coordinates) -> None:
        super().__init__()
        self.classes, self.coordinates = classes, coordinates
        self.experts = nn.ModuleList(kind(classes) for _ in range(classes))

    @property
    def each(self) -> list[Expert]:
        """The experts, by decided class."""
        return [e for e in self.experts if isinstance(e, Expert)]

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {
            coordinates_.Expert(self.coordinates, e): _numbers(expert).reshape(-1) for e, expert in enumerate(self.each)
        }

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del logits
        assert isinstance(piece, coordinates_.Expert)
        if isinstance(self.coordinates, Scores):
            return AffineNLL(self.classes, tuple(numbers), order)
        return ConditionalNLL(piece, self.classes, tuple(numbers), order)

    def penalty(self, lambda_: float, mu: float) -> Tensor:
        return torch.stack([expert.odir(lambda_, mu) for expert in self.each]).mean()

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        c = self.classes
        total, proof = self.penalty(lambda_, mu).item(), ""
        for piece, value in numbers.items():
            theta, slope = value.numpy(), gradient[piece].numpy().ravel()
            if isinstance(self.coordinates, Scores):
                penalty = odir(c, lambda_ / c, mu / c)
                bound, proof = strong_convexity_gap(np.diag(penalty.curvature))(theta, slope + penalty.gradient(theta))
                total += bound - penalty.value(theta)
            else:
                free = experts_odir(c, lambda_, mu, ranked=self.coordinates.ranked, pinned=False).times(1 / c)
                bound, proof = bounded_gap(free.convexity)(theta, slope + free.gradient(theta))
                total += bound - free.value(theta)
        return max(0.0, total), proof


def _numbers(expert: Expert) -> Tensor:
    """What the accumulators take of an expert: [A | g], or [W | b]."""
    return torch.cat([expert.slope, expert.gap[:, None]], 1) if isinstance(expert, ConeExpert) else expert.matrix()


class Conditional(Parameterisation):
    """An expert for each decided class."""

    expert_type: ClassVar[type[Expert]]
    coordinates: ClassVar[Coordinates]

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.stage = ExpertsStage(classes, self.expert_type, self.coordinates)

    @property
    def stages(self) -> Sequence[Stage]:
        return (self.stage,)

    @property
    def experts(self) -> Sequence[nn.Module]:
        return self.stage.each

    def forward(self, features: Tensor) -> Tensor:
        out = torch.empty_like(features)
        decided = winner(features)
        for e, expert in enumerate(self.stage.each):
            mine = torch.nonzero(decided == e).flatten()
            x = features[:, mine]
            places = self._order(x, e)
            out[:, mine] = torch.zeros_like(x).scatter(0, places, expert(x.gather(0, places)))
        return out

    def map(self, logits: bool) -> Map:
        del logits
        numbers = torch.stack([_numbers(expert).detach() for expert in self.stage.each])
        return ConditionalMap(numbers[:, :, :-1], numbers[:, :, -1], self.coordinates)

    def _order(self, x: Tensor, expert: int) -> Tensor:
        """Classes in the expert's canonical order, (C, n)."""
        if isinstance(self.coordinates, Gaps):
            return descending(x)
        classes = torch.arange(self.classes)
        first = (
            classes
            if isinstance(self.coordinates, Scores)
            else torch.cat([classes[expert : expert + 1], classes[classes != expert]])
        )
        return first[:, None].expand(-1, x.shape[1])


class ConditionalDirichlet(Conditional):
    """C^2 (C + 1) numbers, on log-probabilities."""

    name: ClassVar[str] = "cdc"
    canonical: ClassVar[bool] = True
    expert_type: ClassVar[type[Expert]] = DirichletExpert
    coordinates: ClassVar[Coordinates] = Scores()


class ArgmaxPreserving(Conditional):
    """C (C^2 + 1) numbers."""

    name: ClassVar[str] = "cms-ap"
    expert_type: ClassVar[type[Expert]] = ArgmaxExpert
    coordinates: ClassVar[Coordinates] = Margins()


class OrderPreserving(Conditional):
    """C (C^2 + 1) numbers."""

    name: ClassVar[str] = "cms-op"
    expert_type: ClassVar[type[Expert]] = OrderExpert
    coordinates: ClassVar[Coordinates] = Gaps()
