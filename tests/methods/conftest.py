"""Cohorts to fit on: simulated ones whose truth is known, and real predictions of trained ensembles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcal import Cohort, cohort_from_arrays, fit_methods
from segcal.data.formats.discover import open_cohort
from segcal.engine.serial import Serial
from segcal.methods.method import Fit, Method

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread for torch outside the engines: small tensors gain nothing from more, and a busy machine loses."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _drawn(p: Array, rng: np.random.Generator) -> Array:
    """A label for each column of probabilities (C, n)."""
    return (rng.random(p.shape[1]) > p.cumsum(0)).sum(0).clip(max=len(p) - 1)


def _softmax(u: Array) -> Array:
    e = np.exp(u - u.max(0))
    return np.asarray(e / e.sum(0))


def _truth(
    seed: int, cases: int, voxels: int, weight: Array, bias: Array, spread: float = 2.0, by_case: float = 0.0
) -> tuple[Array, Array]:
    """Logits (cases, C, voxels) with offsets, and labels drawn from S(weight log S(z) + bias + noise of each case)."""
    rng = np.random.default_rng(seed)
    c = len(bias)
    z = spread * rng.normal(size=(cases, c, voxels)) + 0.5 * rng.normal(size=(cases, 1, voxels))
    labels = []
    for case in z:
        x = case - np.log(np.exp(case).sum(0))
        labels.append(_drawn(_softmax(weight @ x + (bias + by_case * rng.normal(size=c))[:, None]), rng))
    return z.astype(np.float32), np.stack(labels)


@pytest.fixture(scope="session")
def truth() -> Callable[..., tuple[Array, Array]]:
    """Makes arrays whose labels follow a known affine map of the log-probabilities."""
    return _truth


@pytest.fixture(scope="session")
def arrays() -> tuple[Array, Array]:
    """Four cases, three classes, 400 voxels each: labels of a temperature of 1.6 with some class mixing."""
    weight = np.eye(3) / 1.6 + 0.15 * np.random.default_rng(1).normal(size=(3, 3))
    return _truth(0, 4, 400, weight, np.array([0.3, -0.2, 0.0]))


def _fit(methods: dict[str, Method], cohort: Cohort, **options: Any) -> dict[str, Fit]:
    return fit_methods(methods, cohort, Serial(), **options)


@pytest.fixture(scope="session")
def fit() -> Callable[..., dict[str, Fit]]:
    """Fits methods on a cohort with one worker."""
    return _fit


def _predictions(shared: Path, out: Path, name: str) -> Path:
    pytest.importorskip("onnxruntime", reason="the networks of the real ensembles need onnxruntime")
    script = shared / "zoo" / "write_predictions.py"
    command = [sys.executable, str(script), name, str(out), "--layout", "npz", "--limit", "6", "--members", "3"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return out


@pytest.fixture(scope="session")
def hippocampus(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Six 3-D cases, three classes, mean logits of three networks."""
    folder = _predictions(shared, tmp_path_factory.mktemp("hippocampus"), "hippocampus")
    return open_cohort([folder / f"member{k}" for k in range(3)], folder / "labels", pool="logits")


@pytest.fixture(scope="session")
def camvid_whole(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Six street scenes, eleven classes, mean logits of three networks."""
    folder = _predictions(shared, tmp_path_factory.mktemp("camvid"), "camvid")
    return open_cohort([folder / f"member{k}" for k in range(3)], folder / "labels", pool="logits", ignore_index=255)


def _table(cohort: Cohort, stride: int) -> tuple[Array, Array]:
    """Every `stride`th scored voxel of a cohort: float32 logits (n, C) and labels (n,)."""
    from segcal.data.files.journal import Scratch

    scores, labels = [], []
    with Scratch(2**30) as scratch:
        for index in range(len(cohort)):
            with cohort.open(index, scratch) as reader:
                for start, stop in cohort.cuts(index):
                    block = reader.block(start, stop)
                    keep = torch.nonzero(block.role == 0).flatten()[::stride]
                    assert block.labels is not None
                    scores.append(block.scores[:, keep].float().T.numpy())
                    labels.append(block.labels[keep].numpy())
    return np.concatenate(scores), np.concatenate(labels)


@pytest.fixture(scope="session")
def table() -> Callable[[Cohort, int], tuple[Array, Array]]:
    """Takes every so many voxels of a cohort as a table."""
    return _table


@pytest.fixture(scope="session")
def camvid(camvid_whole: Cohort) -> Cohort:
    """One pixel in 25 of the street scenes."""
    scores, labels = _table(camvid_whole, 25)
    return cohort_from_arrays(scores, labels)
