"""Cohorts in memory for audits: one member or several, labelled or not, and a calibrator that is made by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segcal.data.case import Case, Provenance
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField
from segcal.data.formats.discover import open_cohort
from segcal.data.head import Head, Softmax
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.maps import Map

Array = NDArray[Any]


def _cohort(
    members: Sequence[Sequence[Array]],
    labels: Sequence[Array] | None = None,
    *,
    head: Head | None = None,
    kind: Any = "logits",
    pool: Any = "logits",
    **more: Any,
) -> Cohort:
    cases = []
    for k, own in enumerate(members):
        fields = tuple(ArrayField(m, True, f"scores[{k}][{j}]") for j, m in enumerate(own))
        y = None if labels is None else ArrayField(labels[k], False, f"labels[{k}]")
        cases.append(Case(f"case{k}", fields, y, **more))
    classes = members[0][0].shape[0]
    return Cohort(tuple(cases), head or Softmax(tuple("abcdefgh"[:classes])), kind, pool, Provenance(len(members[0])))


@pytest.fixture(scope="session")
def make_cohort() -> Callable[..., Cohort]:
    """`make_cohort(members, labels)`: members[case][member] (C, *spatial), labels[case] (*spatial)."""
    return _cohort


@pytest.fixture(scope="session")
def random_cohort() -> Callable[..., Cohort]:
    """Seeded logits of two cases."""

    def make(
        classes: int = 3,
        shape: tuple[int, ...] = (20, 30),
        members: int = 2,
        labelled: bool = True,
        seed: int = 0,
        **more: Any,
    ) -> Cohort:
        rng = np.random.default_rng(seed)
        z = [[(3 * rng.normal(size=(classes, *shape))).astype(np.float32) for _ in range(members)] for _ in range(2)]
        y = [rng.integers(classes, size=shape) for _ in range(2)] if labelled else None
        return _cohort(z, y, **more)

    return make


def _calibrator(head: Head, *maps: Map, kind: Any = "logits", method: str = "made", **more: Any) -> Calibrator:
    return Calibrator(head, kind, maps, method, **more)


@pytest.fixture(scope="session")
def make_calibrator() -> Callable[..., Calibrator]:
    """A calibrator from a head and its maps."""
    return _calibrator


@pytest.fixture(scope="session")
def unequal() -> AffineMap:
    """Matrix scaling of raw logits whose row sums differ: 1, 1.5 and 0.2."""
    return AffineMap(
        torch.tensor([[1.0, 0.1, -0.1], [0.2, 1.0, 0.3], [0.0, -0.5, 0.7]]), torch.tensor([0.1, 0.0, -0.2]), logits=True
    )


@pytest.fixture(scope="session")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Cohort]:
    """Four cases of a real data set, mean logits of two networks."""

    def predicted(name: str) -> Cohort:
        pytest.importorskip("onnxruntime", reason="the networks of the real ensembles need onnxruntime")
        out = tmp_path_factory.mktemp(name)
        command = [
            sys.executable,
            str(shared / "zoo" / "write_predictions.py"),
            name,
            str(out),
            "--layout",
            "npz",
            "--limit",
            "4",
            "--members",
            "2",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return open_cohort([out / "member0", out / "member1"], out / "labels", pool="logits", background=0)

    return predicted
