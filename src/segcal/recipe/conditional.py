"""The class-conditional families: C experts as the paper writes them, trained together with the same hyper-parameters
(K26 3.2, Appendix B).

Each expert is one piece: its rows are filed by decided class, its sums are those of the exact fit, in [W | b] (CDC) or
in [A | g] of margins or gaps (CMS), and the NLL is the mean over all voxels. An expert without a voxel moves through
its penalty alone. The bound on a gap is that of the exact problem with the paper's penalty in the free gauge, to which
what the gauge's own numbers cost beyond their least is added: the optimum over them is known in closed form
(definitions 4.6).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from segcal import experts as coordinates_
from segcal.accumulate import Accumulator
from segcal.calibrators import ConditionalMap, Map
from segcal.experts import Coordinates, Gaps, Margins, Scores
from segcal.objectives import AffineNLL, ConditionalNLL, experts_odir, odir
from segcal.ranking import descending, winner
from segcal.recipe.experts import ArgmaxExpert, ConeExpert, DirichletExpert, Expert, OrderExpert
from segcal.recipe.parameterisation import Parameterisation, Stage
from segcal.solvers.bounded import bounded_gap
from segcal.solvers.newton import strong_convexity_gap


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
