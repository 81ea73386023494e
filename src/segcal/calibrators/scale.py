"""Temperature scaling: p = S(beta x), beta = 1/T > 0 (K26 Eq.

3). Translation-invariant and order-preserving for every beta > 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segcal.calibrators.maps import Map
from segcal.errors import UsageError
from segcal.guarantees import Guarantees


class ScaleMap(Map):
    """`beta`: a number > 0 (UsageError otherwise)."""

    type_name: ClassVar[str] = "scale"
    beta: Tensor

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        value = torch.as_tensor(beta, dtype=torch.float64).reshape(())
        if not (torch.isfinite(value) and value > 0):
            raise UsageError(
                "beta", found=f"{value.item()}", expected="a finite number above 0", do="Temperatures are positive."
            )
        self.parameter("beta", value)

    @property
    def classes(self) -> int | None:
        """Any."""
        return None

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(beta x), (C, n)."""
        return torch.log_softmax(self.beta.to(log_probs.dtype) * log_probs, 0)

    def guarantees(self) -> Guarantees:
        """All three hold for every beta > 0."""
        why = "one positive factor for all classes"
        return Guarantees(
            "proven",
            "proven",
            "proven",
            dict.fromkeys(("translation_invariant", "preserves_argmax", "preserves_order"), why),
        )

    def describe(self) -> dict[str, object]:
        """The temperature."""
        return {"temperature": 1 / self.beta.item()}

    def in_units(self, unit: float) -> ScaleMap:
        """A temperature `unit` times as high."""
        return ScaleMap(self.beta / unit)

    def sensitivity(self) -> float:
        """Each score moves beta times as far, and the free energy no further."""
        return 2 * self.beta.item()

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ScaleMap:
        return cls(tensors["beta"])
