"""MRI artefacts: reproducible, seeded by case and replicate, in [0, 1], and each what its definition says."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from segcal.errors import DataError, ShapeError, UsageError
from segcal.study.shift.artefacts import ARTEFACTS, Artefact, BiasField, Ghosting, Motion, Spike, choose


def volume(shape: tuple[int, int, int] = (20, 24, 18)) -> np.ndarray[Any, Any]:
    """A bright ball with texture in the dark, at intensities of a scanner."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    ball = (np.sqrt((grid**2).sum(0)) < 0.7) * (1 + 0.2 * np.sin(9 * grid[0]))
    return (700 * ball + 20 * np.random.default_rng(0).random(shape)).astype(np.float32)


def unit(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (x - x.min()) / (x.max() - x.min())


def spectrum(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.fft.fftshift(np.fft.fftn(x))


@pytest.fixture(autouse=True)
def _torchio() -> None:
    pytest.importorskip("torchio", reason="no TorchIO: pip install segcal[torchio]")


def test_the_four_of_the_definitions() -> None:
    assert dict(ARTEFACTS) == {
        "bias": BiasField(0.5, 3),
        "motion": Motion(30, 10, 2),
        "ghosting": Ghosting((4, 10), (0.5, 1)),
        "spike": Spike(1, (1, 3)),
    }


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_laws(kind: str) -> None:
    x = volume()
    before, state = x.copy(), torch.random.get_rng_state()
    out = choose(kind, "case_1").apply(x)
    assert (out.shape, out.dtype, float(out.min()), float(out.max())) == (x.shape, np.float32, 0.0, 1.0)
    assert out.tobytes() == choose(kind, "case_1").apply(x).tobytes()
    # intensities in other units are the same volume
    assert np.allclose(out, choose(kind, "case_1").apply(3 * x.astype(np.float64) + 40), atol=1e-5)
    assert np.array_equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    others = [choose(kind, "case_2"), choose(kind, "case_1", replicate=1), choose(kind, "case_1", seed=1)]
    assert len({a.seed for a in (choose(kind, "case_1"), *others)}) == 4
    assert all(np.abs(out - a.apply(x)).max() > 1e-3 for a in others)


def test_kinds_draw_apart() -> None:
    assert len({choose(kind, "case").seed for kind in ARTEFACTS}) == len(ARTEFACTS)


def test_a_bias_field_is_the_exponential_of_a_cubic() -> None:
    shape = (12, 14, 10)
    x = unit(volume(shape)) + 0.0
    out = choose("bias", "case").apply(x).astype(np.float64)
    inside = x > 0.02
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    terms = np.stack(
        [grid[0] ** i * grid[1] ** j * grid[2] ** k for i in range(4) for j in range(4 - i) for k in range(4 - i - j)],
        -1,
    )[inside]
    # scaled again: out = (x field - min) / (max - min), with min = 0 where x = 0; the logarithm of the ratio is a
    # polynomial and a constant
    ratio = np.log(out[inside] / x[inside])
    left = ratio - terms @ np.linalg.lstsq(terms, ratio, rcond=None)[0]
    assert terms.shape[1] == 20
    assert np.abs(left).max() < 1e-3 < ratio.std()


def test_a_spike_is_one_coefficient() -> None:
    x = unit(volume())
    out = choose("spike", "case").apply(x).astype(np.float64)
    # up to scale and offset, which change all coefficients by one factor and the central one besides
    a, b = spectrum(x), spectrum(out)
    centre = tuple(n // 2 for n in x.shape)
    a[centre] = b[centre] = 0
    factor = np.median((b / np.where(a == 0, 1, a)).real)
    changed = np.abs(b / factor - a) > 1e-2 * np.abs(a).max()
    # a real volume holds half of the spike at the mirrored frequency
    assert 1 <= changed.sum() <= 2


def test_ghosting_lowers_every_nth_plane_but_the_central_one() -> None:
    x = unit(volume((24, 24, 24)))
    chosen = Artefact("ghosting", Ghosting((4, 4), (0.5, 0.5)), 3)
    a, b = (np.abs(spectrum(v)) for v in (x, chosen.apply(x).astype(np.float64)))
    centre = 12
    for v in (a, b):
        v[centre, centre, centre] = 1
    by_axis = []
    for axis in range(3):
        planes = [np.median(np.take(b, k, axis) / np.take(a, k, axis)) for k in range(24)]
        by_axis.append([k for k in range(24) if planes[k] < 0.75 * np.median(planes)])
    # real volumes mirror planes 4, 8, 16, 20 onto each other; plane 0 has no mirror image, 12 is kept
    assert sorted(by_axis) == [[], [], [0, 4, 8, 16, 20]]


def test_motion_of_nothing_is_nothing() -> None:
    x = unit(volume())
    still = Artefact("motion", Motion(0, 0, 2), 5).apply(x)
    assert np.abs(still - x).max() < 1e-4
    assert np.abs(choose("motion", "case").apply(x) - x).max() > 0.05


def test_hostile() -> None:
    for shape in ((4, 4), (4, 4, 4, 2)):
        with pytest.raises(ShapeError, match="volume: found shape"):
            choose("bias", "c").apply(np.zeros(shape))
    with pytest.raises(DataError, match="one value everywhere"):
        choose("bias", "c").apply(np.full((3, 3, 3), 7))
    with pytest.raises(DataError, match="one value everywhere"):
        choose("bias", "c").apply(np.zeros((0, 3, 3)))
    with pytest.raises(DataError, match="not finite"):
        choose("bias", "c").apply(np.full((3, 3, 3), np.nan))
    with pytest.raises(UsageError, match="artefact: found 'rain'; expected bias, motion, ghosting, spike"):
        choose("rain", "c")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchio", None)
    with pytest.raises(UsageError, match=r"segcal\[torchio\]"):
        choose("bias", "c").apply(volume())
