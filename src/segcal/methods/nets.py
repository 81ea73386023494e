"""Maps with a small net: its layers, checked, kept as a file has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segcal.errors import UsageError
from segcal.methods.maps import Map

Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight (out, in) and bias (out,) of each layer."""


class NetMap(Map):
    """`layers` of the shapes `expected`, (out, in) each, which `said` puts in words; finite. UsageError otherwise."""

    def __init__(self, layers: Layers, expected: Sequence[tuple[int, int]], said: str) -> None:
        super().__init__()
        sizes = [tuple(w.shape) for w, _ in layers]
        if sizes != list(expected) or any(b.shape != w.shape[:1] for w, b in layers):
            raise UsageError(
                "layers",
                found=f"weights of shapes {sizes}",
                expected=f"{said}, each with a bias",
                do="Give the layers of one net.",
            )
        if not all(bool(torch.isfinite(t).all()) for layer in layers for t in layer):
            raise UsageError(
                "layers",
                found="NaN or infinity",
                expected="finite numbers",
                do="Fit again with a smaller learning rate.",
            )
        self._count = len(layers)
        for k, (weight, bias) in enumerate(layers):
            self.parameter(f"weight{k}", weight)
            self.parameter(f"bias{k}", bias)

    @property
    def layers(self) -> Layers:
        """Weights and biases."""
        return [(self.get_buffer(f"weight{k}"), self.get_buffer(f"bias{k}")) for k in range(self._count)]

    @property
    def classes(self) -> int | None:
        """C."""
        return int(self.get_buffer("weight0").shape[1])

    @property
    def numbers_of_net(self) -> int:
        """Weights and biases in all."""
        return sum(w.numel() + b.numel() for w, b in self.layers)


def inputs(layers: Layers) -> int:
    """Inputs of the first layer; 0 where there is none."""
    return int(layers[0][0].shape[1]) if layers and layers[0][0].dim() == 2 else 0
