"""Every accumulator there is keeps the laws of accumulators: metrics, objectives, distances to a known truth."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import segcal
from segcal.data.simulate.truth import Truth
from segcal.engine.accumulate import Accumulator, ContextAccumulator, PlacedAccumulator
from segcal.fitting.labels import LabelCount
from segcal.fitting.magnitude import Magnitude
from segcal.fitting.sample import Lots, VoxelSample
from segcal.methods.affine.sums import AffineNLL, FactoredCurvature, VectorNLL
from segcal.methods.binned import GridCount
from segcal.methods.boundary.look import Look
from segcal.methods.boundary.sums import BoundaryNLL
from segcal.methods.conditional.sums import ConditionalNLL, Expert, ExpertFacts, Gaps, Margins
from segcal.methods.intra_order import IntraOrderNLL
from segcal.methods.mixture import MixtureNLL
from segcal.methods.temperature import ScaleNLL
from segcal.metrics import REGISTERED
from segcal.metrics.truth import DistanceToTruth
from segcal.outcomes.sums import OutcomeSums
from segcal.study.oracle import OracleSweep
from segcal.testing.accumulators import ACCUMULATOR_LAWS
from segcal.testing.law import Law

NAMES = tuple(f"case {k}" for k in range(100))

Factory = Callable[[int], Accumulator]


def theta(classes: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(classes).normal(size=classes * (classes + 1)).tolist())


def bounded(classes: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(classes).random(classes * (classes - 1)).tolist())


def affine(order: int, logits: bool) -> Factory:
    return lambda classes: AffineNLL(classes, theta(classes), order, logits)


def boundary_nll(classes: int, order: int) -> BoundaryNLL:
    look = Look((0.0, 1.0, 4.0), (0.0, 0.5, 1.0), "class")
    weight = 0.1 + np.random.default_rng(classes).random(look.size(classes))
    return BoundaryNLL(look, 0, tuple(weight.tolist()), order)


FACTORIES: dict[str, Factory] = {
    **{type(make(2, 0)).__name__: lambda classes, make=make: make(classes, 0) for make in REGISTERED},
    "OutcomeSums": lambda classes: OutcomeSums(classes, 0),
    "OutcomeSums without background": lambda classes: OutcomeSums(classes, None, thresholds=False),
    "ScaleNLL": lambda classes: ScaleNLL(0.7),
    "ScaleNLL far out": lambda classes: ScaleNLL(1e4),
    "LabelCount": LabelCount,
    "Magnitude": lambda classes: Magnitude(),
    "DistanceToTruth": lambda classes: DistanceToTruth(Truth.general(classes)),
    "MixtureNLL": lambda classes: MixtureNLL(0.7, (0.5, 0.3, 0.2)),
    "AffineNLL, value": affine(0, False),
    "AffineNLL, gradient": affine(1, True),
    "AffineNLL, curvature": affine(2, False),
    "VectorNLL, gradient": lambda classes: VectorNLL(classes, theta(classes)[: 2 * classes], 1, True),
    "VectorNLL, curvature": lambda classes: VectorNLL(classes, theta(classes)[: 2 * classes], 2),
    "FactoredCurvature": lambda classes: FactoredCurvature(classes, 0.7),
    "ConditionalNLL, margins": lambda classes: ConditionalNLL(
        Expert(Margins(), 1), classes, bounded(classes), 2, (0, 1)
    ),
    "ConditionalNLL, gaps": lambda classes: ConditionalNLL(Expert(Gaps(), 0), classes, bounded(classes), 2, (0, 1)),
    "BoundaryNLL, gradient": lambda classes: boundary_nll(classes, 1),
    "BoundaryNLL, curvature": lambda classes: boundary_nll(classes, 2),
    "ExpertFacts": lambda classes: ExpertFacts(Expert(Margins(), 0)),
    "GridCount": GridCount,
    "OracleSweep": lambda classes: OracleSweep(classes, Lots(NAMES, 0), (0.0, 0.4, 1.0)),
    "VoxelSample": lambda classes: VoxelSample(classes, 5, Lots(NAMES, 0)),
    "VoxelSample, right": lambda classes: VoxelSample(classes, 5, Lots(NAMES, 0), True),
    "IntraOrderNLL": lambda classes: IntraOrderNLL(
        classes, 2, tuple(np.random.default_rng(0).normal(size=2 * classes + 2 + 6 + 3 * (classes - 1)).tolist())
    ),
}


@pytest.mark.parametrize(
    ("name", "law"),
    [
        (name, law)
        for name in FACTORIES
        for law in ACCUMULATOR_LAWS
        # voxels draw lots by where they lie
        if not (name.startswith(("VoxelSample", "Oracle")) and law.name == "where_rows_come_from_does_not_matter")
    ],
    ids=str,
)
def test_keeps_the_law(name: str, law: Law[Any]) -> None:
    law.check(FACTORIES[name])


def test_no_accumulator_is_left_out() -> None:
    """An accumulator is any class of the library, outside the kit, with leaves, a fold of rows and a result."""
    names = [
        m.name
        for m in pkgutil.walk_packages(segcal.__path__, "segcal.")
        if not m.name.startswith(("segcal.testing", "segcal.__main__"))
    ]
    classes = {
        c
        for name in names
        for _, c in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if c.__module__.startswith("segcal.")
    }
    accumulators = {c for c in classes if all(hasattr(c, part) for part in ("leaves", "fold", "result"))} - {
        Accumulator,
        ContextAccumulator,
        PlacedAccumulator,
    }
    accumulators = {c for c in accumulators if not inspect.isabstract(c)}
    accumulators = {c for c in accumulators if list(inspect.signature(c.fold).parameters) == ["self", "rows"]}
    assert {type(make(2)) for make in FACTORIES.values()} == accumulators
