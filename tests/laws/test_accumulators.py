"""Every metric and every objective keeps the laws of accumulators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import segcal.objectives
from segcal.accumulate import Accumulator
from segcal.metrics import REGISTERED, suite
from segcal.objectives import AffineNLL, MixtureNLL, ScaleNLL
from segcal.testing import ACCUMULATOR_LAWS, Law

Factory = Callable[[int], Accumulator]


def theta(classes: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(classes).normal(size=classes * (classes + 1)).tolist())


def affine(order: int, logits: bool) -> Factory:
    return lambda classes: AffineNLL(classes, theta(classes), order, logits)


FACTORIES: dict[str, Factory] = {
    **{type(make(2, 0)).__name__: (lambda classes, make=make: make(classes, 0)) for make in REGISTERED},
    "ScaleNLL": lambda classes: ScaleNLL(0.7),
    "ScaleNLL far out": lambda classes: ScaleNLL(1e4),
    "MixtureNLL": lambda classes: MixtureNLL(0.7, (0.5, 0.3, 0.2)),
    "AffineNLL, value": affine(0, False),
    "AffineNLL, gradient": affine(1, True),
    "AffineNLL, curvature": affine(2, False),
}


@pytest.mark.parametrize("law", ACCUMULATOR_LAWS, ids=str)
@pytest.mark.parametrize("name", list(FACTORIES))
def test_keeps_the_law(name: str, law: Law[Any]) -> None:
    law.check(FACTORIES[name])


def test_nothing_that_is_evaluated_or_minimised_is_left_out() -> None:
    checked = {type(make(2)) for make in FACTORIES.values()}
    assert {type(a) for a in suite(2, None).values()} <= checked
    assert {getattr(segcal.objectives, n) for n in segcal.objectives.__all__ if n.endswith("NLL")} <= checked
