"""Scores that are hard to keep in order, and calibrators to try them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segcal.data.head import Softmax
from segcal.data.scores import Kind
from segcal.methods.calibrator import Calibrator
from segcal.methods.maps import Map


def _hostile(seed: int, classes: int, n: int = 64) -> np.ndarray[Any, Any]:
    """float32 logits (classes, n): saturated, equal, one unit in the last place apart, tiny, ordinary."""
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(classes, n)) * rng.choice([1e-30, 1e-6, 1.0, 30.0], size=n)).astype(np.float32)
    saturated = rng.random(n) < 0.3
    z[:, saturated] = rng.choice(np.float32([-1e4, 0.0, 1e4]), size=(classes, int(saturated.sum())))
    tied = rng.random(n) < 0.4
    pair = rng.integers(classes, size=(2, n))
    top = z.max(0)
    for v in np.flatnonzero(tied):
        z[pair[0, v], v] = top[v]
        z[pair[1, v], v] = np.nextafter(top[v], np.float32(np.inf)) if v % 2 else top[v]
    return z


@pytest.fixture(scope="session")
def hostile() -> Callable[..., np.ndarray[Any, Any]]:
    """Makes hostile float32 logits."""
    return _hostile


@pytest.fixture(scope="session")
def softmax_calibrator() -> Callable[..., Calibrator]:
    """A calibrator of one map for a softmax head of `classes` classes."""
    return lambda m, classes, kind="logits": Calibrator(
        Softmax(tuple(f"c{k}" for k in range(classes))), kind, [m], "hand-made"
    )


def _flips(m: Map, z: Tensor, kind: Kind = "logits") -> Tensor:
    """Where the map's arg max differs from that of logits z (C, n)."""
    energy = z.logsumexp(0)
    return m(z - energy, energy if kind == "logits" else None).argmax(0) != z.argmax(0)


@pytest.fixture(scope="session")
def flips() -> Callable[..., Tensor]:
    """Finds flipped labels of a map."""
    return _flips


@pytest.fixture(scope="session")
def ordinary() -> Callable[..., Tensor]:
    """Thousands of float64 logits (C, n) of many sizes, near ties among them: where a broken promise shows."""

    def make(seed: int, classes: int, n: int = 8000) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(classes, n, generator=g, dtype=torch.float64) * 10 ** (
            4 * torch.rand(n, generator=g, dtype=torch.float64) - 2
        )
        near = torch.rand(n, generator=g) < 0.5
        z[0, near] = z[1:, near].amax(0) + 1e-3 * torch.randn(int(near.sum()), generator=g, dtype=torch.float64)
        return z

    return make
