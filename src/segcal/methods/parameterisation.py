"""A calibrator as its paper writes it: free numbers an optimiser may move anywhere, from which the map is made.

A `Parameterisation` is an `nn.Module` whose `numel` is what the papers count as optimised (K26 Table 2). It maps
features (C, n) to log-probabilities, turns into a `Map`, and is trained in stages, one after another. A `Stage` says
which numbers the accumulators of the exact fits take (its pieces, such as [W | b]), differentiable in the stage's own
parameters; the chain from those numbers to the parameters is torch's. All parameters are float64. No class: UsageError
for fewer than two.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from segcal.engine.accumulate import Accumulator
from segcal.engine.view import Group
from segcal.errors import UsageError
from segcal.methods.maps import Map

FLOOR = 1e-6
"""What stands for 0 where softplus cannot reach it (fiducio's choice; the paper does not say)."""


def softplus_inverse(value: float) -> float:
    """The number whose softplus is `value` > 0."""
    return value + math.log(-math.expm1(-value))


WHOLE = "all"
"""The one piece of a family whose voxels share one accumulator."""


class Stage(nn.Module, ABC):
    """Parameters trained together on one objective: the mean NLL of some pieces plus a penalty."""

    penalised: ClassVar[bool] = False

    @abstractmethod
    def pieces(self) -> Mapping[Hashable, Tensor]:
        """The numbers each piece's accumulator takes, flat, differentiable in the parameters.

        The NLL is the mean over the voxels of all pieces.
        """

    @abstractmethod
    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        """The exact accumulator of a piece at its numbers: value (order 0) and gradient (1)."""

    def group(self, piece: Hashable) -> Group | None:
        """Whose voxels a piece concerns: all, unless it says so."""
        del piece
        return None

    def penalty(self, lambda_: float, mu: float) -> Tensor:
        """What is added to the NLL; zero unless `penalised`."""
        del lambda_, mu
        return torch.zeros((), dtype=torch.float64)

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        """A bound on objective minus optimum over all maps of the family, from the gradient of the NLL at `numbers`,
        and its proof. None known: infinite.
        """
        del numbers, gradient, lambda_, mu
        return math.inf, "none"


class Parameterisation(nn.Module, ABC):
    """A family of maps for `classes` classes, at the identity when made."""

    name: ClassVar[str]
    canonical: ClassVar[bool] = False
    """Whether it is defined on log-probabilities, not on logits."""
    fitted_on_logits: ClassVar[bool] = False
    """Whether it must see raw logits in a fit; the others give the same map from log-probabilities."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise UsageError(
                "classes", found=str(classes), expected="at least 2", do="A calibrator tells classes apart."
            )
        self.classes = classes

    @property
    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """What is trained, in this order."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Log-probabilities (C, n) of features (C, n): raw logits, or log-probabilities where the family takes
        those.
        """

    @abstractmethod
    def map(self, logits: bool) -> Map:
        """The calibrator's map with the present parameters; `logits`: features are raw logits."""

    @property
    def optimised(self) -> int:
        """Numbers the optimiser moves."""
        return sum(p.numel() for p in self.parameters())

    @classmethod
    def features(cls, logits: Tensor) -> Tensor:
        """What `forward` is given of raw logits (C, n): themselves, or their log-probabilities."""
        return torch.log_softmax(logits, 0) if cls.canonical else logits

    @property
    def experts(self) -> Sequence[nn.Module]:
        """Modules that share no parameter and see no common voxel, each from canonical scores (C, n) to
        log-probabilities; a global map is its only one.
        """
        return (self,)


def parameter(value: Tensor | float) -> nn.Parameter:
    """A float64 parameter."""
    return nn.Parameter(torch.as_tensor(value, dtype=torch.float64).clone())


RANK_TOLERANCE = 1e-10
"""A singular value counts where it exceeds this share of the largest."""


@dataclass(frozen=True)
class ParameterCount:
    """`optimised`, `identifiable` (None: no rank can be told), and `exact` (None: no exact solver).

    `margin`: smallest counted over largest uncounted singular value, infinite where all count.
    """

    optimised: int
    identifiable: int | None
    exact: int | None
    margin: float


def drawn(family: type[Parameterisation], classes: int) -> Parameterisation:
    """A random member of the family, the same in every run."""
    made = family(classes)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{family.name} {classes}".encode()))
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return made


def count(family: type[Parameterisation], classes: int, exact: int | None) -> ParameterCount:
    """The counts of one family. Its experts are of one kind and see no common voxel: one stands for all."""
    made = drawn(family, classes)
    expert = made.experts[0]
    rank, margin = _rank(expert, made.features(_scores(expert, classes)))
    return ParameterCount(made.optimised, rank * len(made.experts), exact, margin)


def _scores(expert: nn.Module, classes: int) -> Tensor:
    """Random logits, of a fifth more voxels than the expert's parameters need."""
    numbers = sum(p.numel() for p in expert.parameters())
    voxels = 6 * numbers // (5 * (classes - 1)) + 8
    return 2 * torch.randn(classes, voxels, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)


def _rank(module: nn.Module, scores: Tensor) -> tuple[int, float]:
    """Rank of the Jacobian of log-probabilities in the parameters, and how far the singular values that count lie above
    the others.
    """
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(module, p, (scores,)), chunk_size=256)(parameters)
    columns = torch.cat([jacobian[name].reshape(scores.numel(), -1) for name in parameters], 1)
    values = torch.linalg.svdvals(columns)
    counted = values > RANK_TOLERANCE * values[0]
    rank = int(counted.sum())
    rest = values[rank:]
    return rank, float("inf") if not len(rest) else (values[rank - 1] / rest[0].clamp_min(1e-300)).item()
