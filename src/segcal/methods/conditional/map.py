"""A class-conditional map: one affine expert for each decided class, in the coordinates of
`segcal.methods.conditional.sums` (K26 3.2). CDC, CMS_ap and CMS_op end here.

Promises: experts in margins with A >= 0 and g >= 0 keep the arg max, in gaps the whole order, exactly also in floating
point (up to ties, which what is delivered breaks as the scores do). Every expert sees differences of scores or
log-probabilities only, so it is translation-invariant. The expert and the ranking are read off `given`, the scores as
they came, where these are handed in. Costs, a voxel: O(C^2), in gaps a sort; while being traced, O(C^3), since every
expert then sees every voxel.

The modules as the paper writes them follow the map: one expert for each predicted class (K26 3.2, Appendix A).

An expert acts on scores in canonical order: for CDC the order of the classes, for CMS_ap the winner first, for CMS_op
all classes from highest to lowest. CMS experts are W = G^-1 W' G with W' = [[a, r], [0, A]], A = softplus(A~), and
biases b_1 free, b_k = b_1 - softplus(b~_k) (ap) or b_(k-1) - softplus(b~_k) (op): C^2 + 1 numbers each. The first row
(a, r) and b_1 change no probability; they move through the penalty alone, which acts on W and b. What softplus cannot
reach, 0, starts at 1e-6. The paper's remark that the first row of A can be set to zero is read as the first row of W'
(definitions 4.3). The penalty is ODIR for each expert, its mean over experts.

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
from segcal.data.tracing import traced
from segcal.engine.accumulate import Accumulator
from segcal.engine.view import Group
from segcal.errors import UsageError
from segcal.fitting.penalties import experts_odir, odir
from segcal.fitting.solvers.bounded import bounded_gap
from segcal.fitting.solvers.newton import strong_convexity_gap
from segcal.methods.affine.sums import AffineNLL
from segcal.methods.conditional.sums import (
    COORDINATES,
    ConditionalNLL,
    Coordinates,
    Expert,
    Gaps,
    Margins,
    Scores,
    margins_form,
)
from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import AtBound, Map
from segcal.methods.parameterisation import FLOOR, Parameterisation, Stage, parameter, softplus_inverse

TOLERANCE = 1e-12


class ConditionalMap(Map):
    """`weight` (C, K, K) and `bias` (C, K), finite (UsageError otherwise): [A | g] or [W | b] of each expert; K = C for
    scores, else C - 1.
    """

    type_name: ClassVar[str] = "conditional"
    weight: Tensor
    bias: Tensor
    kind: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, coordinates: Coordinates) -> None:
        super().__init__()
        c = weight.shape[0]
        k = coordinates.size(c)
        if weight.shape != (c, k, k) or bias.shape != (c, k) or c < 2:
            raise UsageError(
                "weight, bias",
                found=f"shapes {tuple(weight.shape)} and {tuple(bias.shape)}",
                expected=f"(C, K, K) and (C, K) with K = {'C' if k == c else 'C - 1'} in {coordinates.name}",
                do="Give one square matrix and one bias an expert.",
            )
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise UsageError(
                "weight, bias", found="NaN or infinity", expected="finite numbers", do="Fit again with a positive eps."
            )
        self.parameter("weight", weight)
        self.parameter("bias", bias)
        self.register_buffer("kind", torch.tensor([other == coordinates for other in COORDINATES]))
        self.coordinates = coordinates

    @property
    def classes(self) -> int | None:
        """C."""
        return self.weight.shape[0]

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(u), (C, n), u from the expert of each voxel."""
        ranking = log_probs if given is None else given
        weight, bias = self.weight.to(log_probs.dtype), self.bias.to(log_probs.dtype)
        decided = winner(ranking)
        if not self.coordinates.ranked:
            return torch.log_softmax(self._routed(log_probs, decided, weight, bias), 0)
        places = descending(ranking)
        u = self._routed(log_probs.gather(0, places), decided, weight, bias)
        return torch.log_softmax(torch.zeros_like(u).scatter(0, places, u), 0)

    def _routed(self, x: Tensor, decided: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Scores of the experts, in the order of the rows."""
        if traced():
            out = torch.zeros_like(x)
            for e in range(weight.shape[0]):
                out = torch.where((decided == e)[None], self._expert(x, e, weight, bias), out)
            return out
        out = torch.empty_like(x)
        for e in range(weight.shape[0]):
            mine = torch.nonzero(decided == e)[:, 0]
            if len(mine):
                out.index_copy_(1, mine, self._expert(x.index_select(1, mine), e, weight, bias))
        return out

    def _expert(self, x: Tensor, e: int, weight: Tensor, bias: Tensor) -> Tensor:
        return self.coordinates.scores(weight[e] @ self.coordinates.features(x, e) + bias[e][:, None], e)

    def guarantees(self) -> Guarantees:
        """Read off every expert; what one breaks is not promised."""
        reasons = {"translation_invariant": "experts see log-probabilities or their differences only"}
        broken: list[str] = []
        disordered: list[str] = []
        for e in range(self.weight.shape[0]):
            a, g = self.weight[e], self.bias[e]
            alike = True
            if isinstance(self.coordinates, Scores):
                a, c, g = margins_form(self.weight[e], self.bias[e], e)
                scale = TOLERANCE * max(1.0, float(self.weight[e].abs().max()))
                # what the log-probability of the winner adds must be the same for all competitors, or it moves them
                # past each other
                alike = float((c - c[0]).abs().max()) <= scale and _keeps_order(a, g)
                # it lies in [-log C, 0]: what it adds to a margin is least at the end where c drives it down
                g = g - c.clamp_min(0) * torch.log(torch.tensor(float(len(self.bias)), dtype=g.dtype))
                a, g = torch.where(a.abs() <= scale, 0.0, a), torch.where(g.abs() <= scale, 0.0, g)
            elif isinstance(self.coordinates, Margins):
                alike = _keeps_order(a, g)
            if float(a.min()) < 0 or float(g.min()) < 0:
                broken.append(str(e))
            if not alike:
                disordered.append(str(e))
        what = "A and g" if not isinstance(self.coordinates, Scores) else "the margins form"
        kept = (
            f"{what} of every expert are not negative"
            if not broken
            else f"{what} of expert(s) {', '.join(broken[:5])} have negative entries"
        )
        argmax: Status = "no" if broken else "proven"
        reasons["preserves_argmax"] = kept
        if broken or not disordered:
            order: Status = argmax
            reasons["preserves_order"] = kept
        else:
            order = "no"
            reasons["preserves_order"] = f"competitors of expert(s) {', '.join(disordered[:5])} are not moved alike"
        return Guarantees("proven", argmax, order, reasons)

    def at_bounds(self, classes: Sequence[str]) -> list[AtBound]:
        """Entries of experts of margins or gaps that are 0, by expert."""
        if isinstance(self.coordinates, Scores):
            return []
        out = []
        for name, a, g in zip(classes, self.weight, self.bias, strict=True):
            if zeros := int((a == 0).sum()):
                meaning = f"{zeros} of {a.numel()} entries: those margins do not move those classes"
                out.append(AtBound(f"A of expert {name}", 0.0, meaning))
            if zeros := int((g == 0).sum()):
                meaning = f"{zeros} of {g.numel()} entries: no class is moved by a constant there"
                out.append(AtBound(f"g of expert {name}", 0.0, meaning))
        return out

    def describe(self) -> dict[str, object]:
        """The matrix and the bias of each expert."""
        return {"coordinates": self.coordinates.name, "weight": self.weight.tolist(), "bias": self.bias.tolist()}

    def sensitivity(self) -> float:
        """As of an affine map, for the expert that moves most; a margin moves twice as far as a log-probability, and a
        rank by what all margins before it do.
        """
        weight = self.weight.abs()
        if isinstance(self.coordinates, Scores):
            return 2 * float(weight.sum(2).max())
        return 4 * float(weight.sum((1, 2)).max() if self.coordinates.ranked else weight.sum(2).max())

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ConditionalMap:
        return cls(tensors["weight"], tensors["bias"], COORDINATES[int(tensors["kind"].int().argmax())])


def _keeps_order(a: Tensor, g: Tensor) -> bool:
    """Whether an expert in margins keeps the order of the competitors:

    A = alpha I + 1 c^T with alpha >= 0, and equal g.
    """
    k = len(g)
    if k == 1:
        return True
    common = torch.stack([a[(j + 1) % k, j] for j in range(k)])
    rest = a - common[None]
    alpha = rest.diagonal().mean()
    scale = TOLERANCE * max(1.0, float(a.abs().max())) * k
    alike = float((rest - alpha * torch.eye(k, dtype=a.dtype)).abs().max()) <= scale
    return alike and float(alpha) >= 0 and float((g - g[0]).abs().max()) <= scale


def temperature_experts(beta: float, classes: int, coordinates: Coordinates) -> tuple[Tensor, Tensor]:
    """Weight and bias of temperature scaling: beta I for every expert, in any coordinates."""
    k = coordinates.size(classes)
    return beta * torch.eye(k, dtype=torch.float64).repeat(classes, 1, 1), torch.zeros(classes, k, dtype=torch.float64)


class ExpertMap(nn.Module, ABC):
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


class DirichletExpert(ExpertMap):
    """W and b, all free: C (C + 1) numbers, on log-probabilities."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.weight, self.bias = parameter(torch.eye(classes)), parameter(torch.zeros(classes))

    def matrix(self) -> Tensor:
        return torch.cat([self.weight, self.bias[:, None]], 1)


class ConeExpert(ExpertMap):
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

    def __init__(self, classes: int, kind: type[ExpertMap], coordinates: Coordinates) -> None:
        super().__init__()
        self.classes, self.coordinates = classes, coordinates
        self.experts = nn.ModuleList(kind(classes) for _ in range(classes))

    @property
    def each(self) -> list[ExpertMap]:
        """The experts, by decided class."""
        return [e for e in self.experts if isinstance(e, ExpertMap)]

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {Expert(self.coordinates, e): _numbers(expert).reshape(-1) for e, expert in enumerate(self.each)}

    def group(self, piece: Hashable) -> Group:
        assert isinstance(piece, Expert)
        return piece.group

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del logits
        assert isinstance(piece, Expert)
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


def _numbers(expert: ExpertMap) -> Tensor:
    """What the accumulators take of an expert: [A | g], or [W | b]."""
    return torch.cat([expert.slope, expert.gap[:, None]], 1) if isinstance(expert, ConeExpert) else expert.matrix()


class Conditional(Parameterisation):
    """An expert for each decided class."""

    expert_type: ClassVar[type[ExpertMap]]
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
    expert_type: ClassVar[type[ExpertMap]] = DirichletExpert
    coordinates: ClassVar[Coordinates] = Scores()


class ArgmaxPreserving(Conditional):
    """C (C^2 + 1) numbers."""

    name: ClassVar[str] = "cms-ap"
    expert_type: ClassVar[type[ExpertMap]] = ArgmaxExpert
    coordinates: ClassVar[Coordinates] = Margins()


class OrderPreserving(Conditional):
    """C (C^2 + 1) numbers."""

    name: ClassVar[str] = "cms-op"
    expert_type: ClassVar[type[ExpertMap]] = OrderExpert
    coordinates: ClassVar[Coordinates] = Gaps()
