"""An intra-order-preserving map (Rahimi et al. 2020): softmax of sums of gaps times positive factors, see
`segcal.intra_order`.

Translation-invariant and order-preserving for all parameters: it sees log-probabilities, and its scores are sums of
non-negative terms over the ranks below. The ranking is read off `given`, where it is handed in. Not aware of classes:
it sees ranks only. Costs, a voxel: a sort and O(C H + H^2) for hidden layers of H units.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segcal.calibrators.maps import Map
from segcal.errors import UsageError
from segcal.guarantees import Guarantees
from segcal.intra_order import Layers, scores, shapes
from segcal.ranking import descending


class IntraOrderMap(Map):
    """`layers`: weight and bias of the two hidden layers and of the last, finite and of fitting shapes (UsageError
    otherwise).
    """

    type_name: ClassVar[str] = "intra_order"

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        sizes = [tuple(w.shape) for w, _ in layers]
        expected = shapes(sizes[0][1], sizes[0][0]) if len(layers) == 3 and len(sizes[0]) == 2 else []
        if sizes != expected or any(b.shape != w.shape[:1] for w, b in layers):
            raise UsageError(
                "layers",
                found=f"weights of shapes {sizes}",
                expected="(H, C), (H, H), (C - 1, H), each with a bias",
                do="Give the layers of one net.",
            )
        if not all(bool(torch.isfinite(t).all()) for layer in layers for t in layer):
            raise UsageError(
                "layers",
                found="NaN or infinity",
                expected="finite numbers",
                do="Fit again with a smaller learning rate.",
            )
        for k, (weight, bias) in enumerate(layers):
            self.parameter(f"weight{k}", weight)
            self.parameter(f"bias{k}", bias)

    @property
    def layers(self) -> Layers:
        """Weights and biases."""
        return [(self.get_buffer(f"weight{k}"), self.get_buffer(f"bias{k}")) for k in range(3)]

    @property
    def classes(self) -> int | None:
        """C."""
        return int(self.get_buffer("weight0").shape[1])

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(u), (C, n)."""
        ranking = log_probs if given is None else given
        # stable, so that ties keep the order of the classes
        places = descending(ranking)
        layers = [(w.to(log_probs.dtype), b.to(log_probs.dtype)) for w, b in self.layers]
        u = scores(log_probs.gather(0, places), layers)
        return torch.log_softmax(torch.zeros_like(u).scatter(0, places, u), 0)

    def guarantees(self) -> Guarantees:
        """All three hold for all parameters."""
        reasons = {"translation_invariant": "it sees log-probabilities only"}
        reasons |= dict.fromkeys(
            ("preserves_argmax", "preserves_order"), "scores are sums over lower ranks of gaps times positive factors"
        )
        return Guarantees("proven", "proven", "proven", reasons)

    def describe(self) -> dict[str, object]:
        """The size of the net."""
        return {
            "hidden units": int(self.get_buffer("weight0").shape[0]),
            "numbers": sum(w.numel() + b.numel() for w, b in self.layers),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> IntraOrderMap:
        return cls([(tensors[f"weight{k}"], tensors[f"bias{k}"]) for k in range(3)])
