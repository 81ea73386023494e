"""A class-conditional map: one affine expert for each decided class, in the coordinates of `segcal.engine.experts` (K26 3.2):
CDC, CMS_ap and CMS_op end here.

Promises: experts in margins with A >= 0 and g >= 0 keep the arg max, in gaps the whole order, exactly also in floating
point (up to ties, which what is delivered breaks as the scores do). Every expert sees differences of scores or
log-probabilities only, so it is translation-invariant. The expert and the ranking are read off `given`, the scores as
they came, where these are handed in. Costs, a voxel: O(C^2), in gaps a sort; while being traced, O(C^3), since every
expert then sees every voxel.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segcal.data.ranking import descending, winner
from segcal.engine.experts import COORDINATES, Coordinates, Margins, Scores, margins_form
from segcal.errors import UsageError
from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import Map

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
        if torch.compiler.is_compiling():
            out = torch.zeros_like(x)
            for e in range(weight.shape[0]):
                out = torch.where((decided == e)[None], self._expert(x, e, weight, bias), out)
            return out
        order = decided.argsort(stable=True)
        out, at = torch.empty_like(x), 0
        for e, count in enumerate(torch.bincount(decided, minlength=weight.shape[0]).tolist()):
            if count:
                index = order[at : at + count]
                out[:, index] = self._expert(x[:, index], e, weight, bias)
                at += count
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
