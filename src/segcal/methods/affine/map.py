"""An affine map before the softmax: p = S(W phi + b), phi the canonical log-probabilities, or raw logits (K26 Eq. 4, 5,
10).

Vector, matrix, constrained matrix scaling and Dirichlet calibration all end here. Promises, by K26 Appendix A.2: on raw
logits it is translation-invariant iff all row sums of W are equal; it preserves arg max and order iff W = beta I + 1
c^T with beta > 0 and b is a multiple of 1. On log-probabilities it is always translation-invariant.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Module

from segcal.errors import UsageError
from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import Map

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
        self._decide()
        self.register_load_state_dict_post_hook(_decided_again)  # type: ignore[no-untyped-call]

    def _decide(self) -> None:
        """Decide once, as plain truth values: read off tensors in `forward`, they would end a trace."""
        self._on_logits = bool(self.on_logits)
        sums = self.weight.sum(1)
        self._equal_row_sums = bool((sums.max() - sums.min()) <= 1e-10 * max(self.weight.abs().max().item(), 1e-300))

    @property
    def classes(self) -> int | None:
        """C."""
        return self.weight.shape[0]

    @property
    def needs_logits(self) -> bool:
        """Whether it acts on raw logits and is not translation-invariant: only then does the free energy matter."""
        return self._on_logits and not self._equal_row_sums

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(W phi + b), (C, n)."""
        weight, bias = self.weight.to(log_probs.dtype), self.bias.to(log_probs.dtype)
        u = weight @ log_probs + bias[:, None]
        if self._on_logits:
            if free_energy is None:
                if self.needs_logits:
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


def _decided_again(loaded: Module, keys: object) -> None:
    """Parameters that were loaded into a map may promise something else than those it was made with."""
    del keys
    assert isinstance(loaded, AffineMap)
    loaded._decide()
