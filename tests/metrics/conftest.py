"""Rows for metric tests: from probabilities, from logits, or at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.rows import Rows
from segcal.metrics.spatial import AROUND_FOREGROUND, IN_VOXELS
from segcal.metrics.strata import AT_BOUNDARY


def _rows(
    probs: Any,
    targets: Any,
    decision: Any = None,
    reference: Any = None,
    energy: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Rows:
    p = torch.as_tensor(np.asarray(probs, np.float64))
    y = torch.as_tensor(np.asarray(targets, np.int64))
    d = p.argmax(0) if decision is None else torch.as_tensor(np.asarray(decision, np.int64))
    r = d if reference is None else torch.as_tensor(np.asarray(reference, np.int64))
    f = None if energy is None else torch.as_tensor(np.asarray(energy, np.float64))
    # somewhere, always the same for a number of voxels: half of them within the region
    where = np.random.default_rng(y.numel())
    places = {
        IN_VOXELS: torch.from_numpy(where.integers(20, size=y.numel()).astype(np.float64)),
        AROUND_FOREGROUND: torch.from_numpy(where.integers(2, size=y.numel()) * 1.0),
        AT_BOUNDARY: torch.from_numpy(where.integers(6, size=y.numel()) * 1.0),
    }
    return Rows(0, 0, p.log().to(dtype), y, d, r, f, places)


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    """Rows from probabilities (C, n) and targets (n,), with the decision, its reference and free energies if given."""
    return _rows


@pytest.fixture(scope="session")
def random_rows() -> Callable[..., Rows]:
    """Rows of `n` voxels and `classes` classes, flips and free energies included."""

    def make(seed: int, n: int, classes: int = 4, dtype: torch.dtype = torch.float64) -> Rows:
        rng = np.random.default_rng(seed)
        logits = 3 * rng.normal(size=(classes, n))
        p = np.exp(logits) / np.exp(logits).sum(0)
        decision = p.argmax(0)
        reference = np.where(rng.random(n) < 0.2, rng.integers(classes, size=n), decision)
        return _rows(p, rng.integers(classes, size=n), decision, reference, np.log(np.exp(logits).sum(0)), dtype)

    return make


def one_probability(confidence: Any, classes: int) -> np.ndarray[Any, Any]:
    """Probabilities (C, n) whose class 0 has `confidence` and whose other classes share the rest."""
    c = np.asarray(confidence, np.float64)
    return np.concatenate([c[None], np.repeat((1 - c)[None] / (classes - 1), classes - 1, 0)])


@pytest.fixture(scope="session")
def binary() -> Callable[..., Rows]:
    """Rows of `classes` classes that decide class 0 with the given confidences, right where `correct`."""

    def make(confidence: Any, correct: Any, classes: int = 2) -> Rows:
        hit = np.asarray(correct, bool)
        return _rows(one_probability(confidence, classes), np.where(hit, 0, 1), np.zeros(hit.shape, np.int64))

    return make
