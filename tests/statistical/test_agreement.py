"""Alarms about another reading of the labels: none on sound predictions, few where predictions are of no use, nearly
always where labels were turned.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from segcal.data.case import Case
from segcal.data.formats.arrays import ArrayField
from segcal.tasks.check.agreement import Pair, better, turns

Maps = tuple[NDArray[np.int64], NDArray[np.int64]]


def pairs(cases: list[Maps]) -> list[Pair]:
    found = turns([Case("c", (ArrayField(own[None], True, "scores"),)) for own, _ in cases])
    return [Pair.of(own, other, found, 2) for own, other in cases]


def alarm(cases: list[Maps]) -> bool:
    """Whether another reading of the first map of each pair is clearly better."""
    return better(pairs(cases)) is not None


def blob(shape: tuple[int, ...], width: float, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    values = gaussian_filter(rng.normal(size=shape), width)
    return (values > np.quantile(values, 1 - share)).astype(np.int64)


@pytest.mark.parametrize(("cases", "most"), [(1, 0.1), (3, 0.03), (6, 0.02)])
@pytest.mark.parametrize(("shape", "width", "share"), [((48, 48), 8, 0.2), ((48, 40), 8, 0.2), ((12, 12, 12), 3, 0.2)])
def test_predictions_of_no_use(cases: int, most: float, shape: tuple[int, ...], width: float, share: float) -> None:
    """The worst there is: a few smooth blobs a case, that have nothing to do with the labels."""
    rng = np.random.default_rng([cases, len(shape), int(width), shape[-1]])
    alarms = [
        alarm([(blob(shape, width, share, rng), blob(shape, width, share, rng)) for _ in range(cases)])
        for _ in range(60)
    ]
    assert np.mean(alarms) <= most


@pytest.mark.parametrize("cases", [1, 6])
@pytest.mark.parametrize("noise", [1.0, 4.0, 16.0])
def test_poor_and_good_predictions_raise_none_and_mirrored_ones_do(cases: int, noise: float) -> None:
    """Spheres off the centre of a cube, found by networks of more and less use: kappa .95, .8 and .4."""
    rng = np.random.default_rng([cases, int(noise)])
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"))
    sound, mirrored, agreed = [], [], []
    for _ in range(20):
        drawn = []
        for _ in range(cases):
            depth = 4 - np.sqrt(((grid - rng.uniform(3, 12, (3, 1, 1, 1))) ** 2).sum(0))
            seen = depth + noise * gaussian_filter(rng.normal(0, 1, depth.shape), 1)
            drawn.append(((depth > 0).astype(np.int64), (seen > 0).astype(np.int64)))
        sound.append(alarm(drawn))
        mirrored.append(alarm([(own[:, ::-1], other) for own, other in drawn]))
        agreed.append(next(iter(pairs(drawn)[0].kappas.values())))
    assert np.mean(sound) == 0
    assert 0.3 < np.mean(agreed) < 0.97
    if noise < 16:
        assert np.mean(mirrored) >= (0.9 if cases == 6 else 0.7)
