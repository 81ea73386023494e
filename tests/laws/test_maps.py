"""Every kind of map keeps the laws of maps, with ordinary parameters and with the ones at which promises change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segcal.methods.affine.map import AffineMap
from segcal.methods.binned import BinnedMap
from segcal.methods.conditional.map import ConditionalMap, temperature_experts
from segcal.methods.conditional.sums import Gaps, Margins, Scores
from segcal.methods.intra_order import IntraOrderMap, shapes
from segcal.methods.maps import Map
from segcal.methods.meta_cal import MetaCalMap
from segcal.methods.mixture import MixtureMap
from segcal.methods.nets import Layers
from segcal.methods.selective.map import SelectiveMap
from segcal.methods.selective.map import shapes as selector_shapes
from segcal.methods.temperature import ScaleMap
from segcal.testing.law import Law
from segcal.testing.maps import MAP_LAWS
from tests.kinds import OF_ROWS

IDENTITY = torch.eye(3, dtype=torch.float64)
MATRIX = torch.tensor([[1.2, -0.3, 0.1], [0.4, 0.8, -0.2], [-0.1, 0.3, 1.5]], dtype=torch.float64)
BIAS = torch.tensor([0.3, -0.7, 0.1], dtype=torch.float64)
ROWS = torch.ones(3, 1, dtype=torch.float64) * BIAS[None]
EQUAL_SUMS = MATRIX - MATRIX.sum(1, keepdim=True) / 3 + 0.4
RISING = torch.linspace(0.02, 0.98, 8, dtype=torch.float64)


def weights(*shares: float) -> torch.Tensor:
    return torch.tensor(shares, dtype=torch.float64)


def net(size: float, last: float = 0.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Layers of a net of three classes and four units."""
    generator = torch.Generator().manual_seed(0)
    drawn = [
        (
            size * torch.randn(a, b, generator=generator, dtype=torch.float64),
            size * torch.randn(a, generator=generator, dtype=torch.float64),
        )
        for a, b in shapes(3, 4)
    ]
    return [*drawn[:-1], (drawn[-1][0], drawn[-1][1] + last)]


SMALL = torch.tensor(
    [[[0.7, 0.2], [0.0, 1.1]], [[0.0, 0.0], [0.3, 0.4]], [[1.3, 0.1], [0.2, 0.6]]], dtype=torch.float64
)
STEPS = torch.tensor([[0.1, 0.0], [0.0, 0.3], [0.0, 0.0]], dtype=torch.float64)
OWN = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1]], dtype=torch.float64)
FREE = torch.stack([MATRIX, MATRIX.T, IDENTITY])


def selector(size: float) -> Layers:
    """A net of random numbers."""
    g = torch.Generator().manual_seed(1)
    return [
        (size * torch.randn(a, b, generator=g, dtype=torch.float64), torch.randn(a, generator=g, dtype=torch.float64))
        for a, b in selector_shapes(3)
    ]


MAPS: dict[str, Map] = {
    "T = 1.7": ScaleMap(1 / 1.7),
    "T = 1e10": ScaleMap(1e-10),
    "T = 1e-4": ScaleMap(1e4),
    "mixture": MixtureMap(0.6, weights(0.5, 0.25, 0.25)),
    "mixture, uniform only": MixtureMap(0.6, weights(0, 0, 1)),
    "mixture, T = 1e-4": MixtureMap(1e4, weights(0.9, 0, 0.1)),
    "affine": AffineMap(MATRIX, BIAS),
    "affine on logits": AffineMap(MATRIX, BIAS, logits=True),
    "affine on logits, equal row sums": AffineMap(EQUAL_SUMS, BIAS, logits=True),
    "affine that is a temperature": AffineMap(0.7 * IDENTITY + ROWS, torch.full((3,), 2.0), logits=True),
    "affine with factors that hardly differ": AffineMap(
        torch.diag(weights(1, 1.01, 0.99)), torch.zeros(3), logits=True
    ),
    "affine with biases that hardly differ": AffineMap(IDENTITY, weights(0, 1e-3, 0)),
    "affine, large": AffineMap(1e4 * MATRIX, 1e3 * BIAS),
    "affine that turns scores around": AffineMap(-IDENTITY, torch.zeros(3)),
    "experts in scores": ConditionalMap(FREE, BIAS.repeat(3, 1), Scores()),
    "experts in scores that are one temperature": ConditionalMap(*temperature_experts(0.6, 3, Scores()), Scores()),
    "experts in scores of different temperatures": ConditionalMap(
        torch.stack([0.5 * IDENTITY, IDENTITY, 2 * IDENTITY]), torch.zeros(3, 3), Scores()
    ),
    "experts in scores that move competitors by the winner's own": ConditionalMap(
        torch.stack([OWN, IDENTITY, IDENTITY]), torch.zeros(3, 3), Scores()
    ),
    "experts in margins": ConditionalMap(SMALL, STEPS, Margins()),
    "experts in margins that are one temperature": ConditionalMap(*temperature_experts(0.6, 3, Margins()), Margins()),
    "experts in margins, one entry below zero": ConditionalMap(
        SMALL - 0.5 * torch.eye(2, dtype=torch.float64), STEPS, Margins()
    ),
    "experts in margins, uniform": ConditionalMap(torch.zeros(3, 2, 2), torch.zeros(3, 2), Margins()),
    "experts in gaps": ConditionalMap(SMALL, STEPS, Gaps()),
    "experts in gaps, large": ConditionalMap(1e4 * SMALL, 1e3 * STEPS, Gaps()),
    "intra-order, a drawn net": IntraOrderMap(net(1.0)),
    "intra-order, a net of large numbers": IntraOrderMap(net(30.0)),
    "intra-order, the identity": IntraOrderMap(net(0.0, 0.5413248546129181)),
    "selective, far apart": SelectiveMap(selector(1.0), 1e10, 0.5),
    "selective, a net of large numbers": SelectiveMap(selector(30.0), 2.0, 1.0),
    "meta-cal": MetaCalMap(0.6, 0.8),
    "meta-cal, labels kept": MetaCalMap(0.6, 0.8, 1e-4),
    "experts in gaps, a step below zero": ConditionalMap(SMALL, STEPS - 0.05, Gaps()),
    "steps": BinnedMap(torch.stack([RISING, RISING**2, RISING.sqrt()]), 4.0),
    "steps, the same for all": BinnedMap(RISING.expand(3, -1), 16.0),
    "steps, two classes, sides kept": BinnedMap(torch.stack([RISING, 1 - RISING.flip(0)]), 4.0),
    "steps, two classes, sides not kept": BinnedMap(torch.stack([RISING**2, 1 - RISING.flip(0) ** 2]), 4.0),
    "steps, almost certain": BinnedMap(
        torch.tensor([[1e-12, 1 - 1e-12], [1e-12, 1 - 1e-12]], dtype=torch.float64), 16.0
    ),
}


@pytest.mark.parametrize("law", MAP_LAWS, ids=str)
@pytest.mark.parametrize("name", list(MAPS))
def test_keeps_the_law(name: str, law: Law[Any]) -> None:
    law.check(MAPS[name])


def test_no_kind_of_map_is_left_out() -> None:
    assert {type(m) for m in MAPS.values()} == set(OF_ROWS)
