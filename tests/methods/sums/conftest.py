"""Rows from raw logits, and what an objective says of them after exact sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from segcal.data.rows import Rows
from segcal.engine import accumulate


def _rows(logits: ArrayLike, targets: ArrayLike) -> Rows:
    z = torch.as_tensor(np.asarray(logits, np.float64))
    y = torch.as_tensor(np.asarray(targets, np.int64))
    energy = torch.logsumexp(z, 0)
    decision = z.argmax(0)
    return Rows(0, 0, z - energy, y, decision, decision, energy)


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    """Rows from logits (C, n) and targets (n,), with their free energy."""
    return _rows


@pytest.fixture(scope="session")
def random_rows() -> Callable[..., Rows]:
    """`n` random voxels of `classes` classes, offsets included; labels drawn from another map of the scores."""

    def make(seed: int, n: int, classes: int) -> Rows:
        rng = np.random.default_rng(seed)
        z = 2 * rng.normal(size=(classes, n)) + rng.normal(size=n)
        p = np.exp(0.6 * z - 0.6 * z.max(0))
        p /= p.sum(0)
        return _rows(z, (rng.random(n) > p.cumsum(0)).sum(0).clip(max=classes - 1))

    return make


@pytest.fixture(scope="session")
def evaluate() -> Callable[[accumulate.Accumulator, Rows], Any]:
    """The result of an accumulator over some rows, through states as engines make them."""
    return lambda accumulator, rows: accumulate.result(accumulator, accumulate.fold(accumulator, rows))


@pytest.fixture(scope="session")
def differences() -> Callable[
    [Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], np.ndarray[Any, Any]], np.ndarray[Any, Any]
]:
    """Central differences of a function of a vector: one column an entry."""

    def of(
        function: Callable[[np.ndarray[Any, Any]], Any], at: np.ndarray[Any, Any], step: float = 1e-5
    ) -> np.ndarray[Any, Any]:
        columns = []
        for k in range(len(at)):
            e = np.zeros(len(at))
            e[k] = step
            columns.append((np.asarray(function(at + e)) - np.asarray(function(at - e))) / (2 * step))
        return np.stack(columns, -1)

    return of
