"""Calibrators of every kind of map and head keep the laws of calibrators."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segcal.data.head import Regions, Softmax
from segcal.methods.affine.map import AffineMap
from segcal.methods.binned import BinnedMap
from segcal.methods.boundary.look import Look
from segcal.methods.boundary.map import BoundaryMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.composed import Composed
from segcal.methods.local.map import LocalMap
from segcal.methods.mixture import MixtureMap
from segcal.methods.temperature import ScaleMap
from segcal.testing.calibrators import CALIBRATOR_LAWS
from segcal.testing.examples import HEAD, NESTED
from segcal.testing.law import Law

MATRIX = torch.tensor([[1.2, -0.3, 0.1], [0.4, 0.8, -0.2], [-0.1, 0.3, 1.5]], dtype=torch.float64)
BIAS = torch.tensor([0.3, -0.7, 0.1], dtype=torch.float64)
ALMOST_UNIFORM = torch.tensor([1e-9, 0, 1 - 1e-9], dtype=torch.float64)
BINARY = Softmax(("outside", "inside"), 0)
ONE = Regions(("lesion",), ((1,),), (1,))


def local(classes: int, channels: int = 0, **options: Any) -> LocalMap:
    """A map that looks at neighbours, far from its start."""
    g = torch.Generator().manual_seed(classes)
    kernels = 8 if channels else 7
    image = (
        (
            torch.randn(channels, 5, 5, generator=g),
            torch.randn(1, generator=g),
            torch.zeros(channels),
            torch.ones(channels),
        )
        if channels
        else ()
    )
    return LocalMap(
        0.02 * torch.randn(kernels, classes, 5, 5, generator=g), torch.randn(kernels, generator=g), *image, **options
    )


NEAR = (0.0, 1.0, 3.0)


def by_place(look: Look, classes: int) -> BoundaryMap:
    """Weights far from even."""
    return BoundaryMap(torch.linspace(0.05, 3, look.size(classes), dtype=torch.float64), look, classes)


CALIBRATORS: dict[str, Calibrator] = {
    "T = 1e10": Calibrator(HEAD, "logits", [ScaleMap(1e-10)], "it"),
    "T = 1e-4": Calibrator(HEAD, "probs", [ScaleMap(1e4)], "it"),
    "almost uniform": Calibrator(HEAD, "logits", [MixtureMap(0.6, ALMOST_UNIFORM)], "it"),
    "affine": Calibrator(HEAD, "log_probs", [AffineMap(MATRIX, BIAS)], "it"),
    "affine on logits": Calibrator(HEAD, "logits", [AffineMap(MATRIX, BIAS, logits=True)], "it"),
    "affine, large": Calibrator(HEAD, "scores", [AffineMap(1e4 * MATRIX, BIAS)], "it"),
    "steps": Calibrator(
        HEAD, "probs", [BinnedMap(torch.linspace(0.02, 0.98, 12, dtype=torch.float64).reshape(3, 4), 4.0)], "it"
    ),
    "two classes": Calibrator(BINARY, "logits", [ScaleMap(1e-10)], "it"),
    "regions kept": Calibrator(NESTED, "probs", [ScaleMap(0.6), AffineMap(MATRIX[:2, :2], BIAS[:2])], "it"),
    "regions free": Calibrator(
        NESTED, "logits", [ScaleMap(0.6), AffineMap(MATRIX[:2, :2], BIAS[:2])], "it", keep_decision=False
    ),
    "local": Calibrator(HEAD, "logits", [local(3)], "it"),
    "local, at its start": Calibrator(HEAD, "log_probs", [LocalMap.start(3)], "it"),
    "local on logits": Calibrator(HEAD, "logits", [local(3, logits=True)], "it"),
    "local, image": Calibrator(HEAD, "probs", [local(3, 1)], "it"),
    "local, one temperature a case": Calibrator(HEAD, "scores", [local(3, image_level=True)], "it"),
    "by distance": Calibrator(HEAD, "logits", [by_place(Look(NEAR, by="side"), 3)], "it"),
    "by distance and entropy": Calibrator(HEAD, "probs", [by_place(Look(NEAR, (0.0, 0.3, 1.0), "class"), 3)], "it"),
    "affine, then by distance": Calibrator(
        HEAD, "logits", [Composed(AffineMap(MATRIX, BIAS, logits=True), by_place(Look(NEAR), 3))], "it"
    ),
    "regions, one by distance": Calibrator(NESTED, "probs", [by_place(Look(NEAR), 2), ScaleMap(0.6)], "it"),
    "regions, one local": Calibrator(NESTED, "probs", [local(2), AffineMap(MATRIX[:2, :2], BIAS[:2])], "it"),
    "one region, T = 1e10": Calibrator(ONE, "logits", [ScaleMap(1e-10)], "it"),
}


@pytest.mark.parametrize("law", CALIBRATOR_LAWS, ids=str)
@pytest.mark.parametrize("name", list(CALIBRATORS))
def test_keeps_the_law(name: str, law: Law[Any]) -> None:
    law.check(CALIBRATORS[name])
