"""Selective scaling's map: log S(x / T1) where a net takes the voxel for mispredicted, log S(x / T2) elsewhere.

The net sees log(p + 1e-16): three hidden layers of C, 2 C and C units, ReLU, and two outputs, mispredicted and correct.
Batch normalisation, fixed once trained, is folded into the layer before it. Promises: label and order kept, one
positive factor being common to all classes of a voxel; translation-invariant, for it sees log-probabilities. At T1 =
1e10 probabilities differ by less than float32 tells: the label is that of the scores as they came, as it is delivered.
Costs: 5 C^2 products a voxel. No voxel: an empty result. Source: W23 Eq. 4 and the released code.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from segcal.errors import UsageError
from segcal.methods.guarantees import Guarantees
from segcal.methods.maps import one_positive_factor
from segcal.methods.nets import Layers, NetMap, inputs

LEAST_PROBABILITY = math.log(1e-16)
"""What is added to probabilities before their logarithm, W23's code."""

MISPREDICTED = 0
"""The output that says so; the other one is 1."""


def shapes(classes: int) -> list[tuple[int, int]]:
    """(out, in) of each layer."""
    return [(classes, classes), (2 * classes, classes), (classes, 2 * classes), (2, classes)]


def seen(log_probs: Tensor) -> Tensor:
    """What the net sees of log-probabilities: log(p + 1e-16)."""
    return torch.logaddexp(log_probs, torch.full_like(log_probs, LEAST_PROBABILITY))


class SelectiveMap(NetMap):
    """`layers` of the net, and the temperatures of voxels that it takes for `mispredicted` and of the `others`.

    UsageError for shapes that do not fit, numbers that are not finite, a temperature that is not above 0.
    """

    type_name: ClassVar[str] = "selective"
    temperatures: Tensor

    def __init__(self, layers: Layers, mispredicted: float, others: float) -> None:
        classes = inputs(layers)
        super().__init__(layers, shapes(classes) if classes else [], "(C, C), (2 C, C), (C, 2 C), (2, C)")
        if not all(0 < t < math.inf for t in (mispredicted, others)):
            raise UsageError(
                "temperatures",
                found=f"{mispredicted} and {others}",
                expected="finite numbers above 0",
                do="Give the temperature of voxels taken for mispredicted, and that of the others.",
            )
        self.parameter("temperatures", torch.tensor([mispredicted, others], dtype=torch.float64))

    def doubt(self, log_probs: Tensor) -> Tensor:
        """How much more the net takes a voxel for mispredicted than for correct: (n,), in logits."""
        inner = seen(log_probs)
        for k, (weight, bias) in enumerate(self.layers):
            inner = weight.to(inner.dtype) @ inner + bias.to(inner.dtype)[:, None]
            inner = inner.relu() if k < 3 else inner
        return inner[MISPREDICTED] - inner[1 - MISPREDICTED]

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(x / T), (C, n)."""
        high, low = self.temperatures.to(log_probs.dtype)
        return torch.log_softmax(log_probs / torch.where(self.doubt(log_probs) >= 0, high, low), 0)

    def guarantees(self) -> Guarantees:
        """All three, whatever the net says."""
        return one_positive_factor("proven", "the net sees log-probabilities")

    def describe(self) -> dict[str, object]:
        """Temperatures, and the size of the net."""
        high, low = self.temperatures.tolist()
        found = {"temperature of mispredicted": high, "temperature of others": low}
        return {**found, "numbers of the net": self.numbers_of_net}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SelectiveMap:
        high, low = tensors["temperatures"].tolist()
        return cls([(tensors[f"weight{k}"], tensors[f"bias{k}"]) for k in range(4)], high, low)
