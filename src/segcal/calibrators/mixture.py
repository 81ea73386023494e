"""Ensemble temperature scaling: p = l1 S(beta x) + l2 S(x) + l3 / C, l on the simplex (K26 Eq. 6).

Translation-invariant; order-preserving, strictly while l1 + l2 > 0. With l3 > 0 the confidence never exceeds 1 - l3 (1
- 1/C).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from segcal.calibrators.maps import Map
from segcal.errors import UsageError
from segcal.guarantees import Guarantees, Status


class MixtureMap(Map):
    """`beta` > 0 and three `weights` >= 0 that sum to one (UsageError otherwise)."""

    type_name: ClassVar[str] = "mixture"
    beta: Tensor
    weights: Tensor

    def __init__(self, beta: float | Tensor, weights: Tensor) -> None:
        super().__init__()
        value = torch.as_tensor(beta, dtype=torch.float64).reshape(())
        share = torch.as_tensor(weights, dtype=torch.float64)
        if not (torch.isfinite(value) and value > 0):
            raise UsageError(
                "beta", found=f"{value.item()}", expected="a finite number above 0", do="Temperatures are positive."
            )
        if share.shape != (3,) or not bool((share >= 0).all()) or abs(share.sum().item() - 1) > 1e-9:
            raise UsageError(
                "weights",
                found=str(share.tolist()),
                expected="three weights >= 0 that sum to one",
                do="Give the shares of S(x/T), S(x) and the uniform.",
            )
        self.parameter("beta", value)
        self.parameter("weights", share)

    @property
    def classes(self) -> int | None:
        """Any."""
        return None

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log of the mixture, (C, n)."""
        kind = log_probs.dtype
        log_weights = self.weights.to(kind).clamp_min(torch.finfo(kind).tiny).log()
        cooled = torch.log_softmax(self.beta.to(kind) * log_probs, 0) + log_weights[0]
        plain = torch.log_softmax(log_probs, 0) + log_weights[1]
        uniform = log_weights[2] - math.log(log_probs.shape[0])
        return torch.logaddexp(torch.logaddexp(cooled, plain), uniform.expand_as(plain))

    def guarantees(self) -> Guarantees:
        """Order is preserved while some weight is on a tempered softmax."""
        why = "a mixture of increasing functions of the same score"
        order: Status = "proven" if bool(self.weights[:2].sum() > 0) else "no"
        reasons = {"translation_invariant": why, "preserves_argmax": why, "preserves_order": why}
        if order == "no":
            reasons |= dict.fromkeys(
                ("preserves_argmax", "preserves_order"), "all weight is on the uniform distribution: every class ties"
            )
        return Guarantees("proven", order, order, reasons)

    def describe(self) -> dict[str, object]:
        """Temperature and weights."""
        return {"temperature": 1 / self.beta.item(), "weights": self.weights.tolist()}

    def sensitivity(self) -> float:
        """That of the component that moves most."""
        return 2 * max(self.beta.item(), 1.0)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> MixtureMap:
        return cls(tensors["beta"], tensors["weights"])
