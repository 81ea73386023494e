"""Every registered method keeps the laws of methods, and what it fits those of calibrators."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from segcal.methods import Trained, methods
from segcal.methods.affine.fit import ConstrainedMatrixScaling, DirichletCalibration, MatrixScaling, VectorScaling
from segcal.methods.calibrator import Calibrator
from segcal.methods.conditional.fit import (
    ArgmaxPreservingMatrixScaling,
    ClassConditionalDirichlet,
    OrderPreservingMatrixScaling,
)
from segcal.methods.intra_order import IntraOrderPreserving
from segcal.methods.method import AnyMethod, Method
from segcal.study.recipe.recipe import Recipe
from segcal.testing import maps
from segcal.testing.calibrators import CALIBRATOR_LAWS
from segcal.testing.examples import learnable_cohort, learnable_regions
from segcal.testing.law import Law
from segcal.testing.methods import METHOD_LAWS, fitted, laws_of

TRAINED = [name for name, method in methods().items() if issubclass(method.kind, Trained)]

METHODS: dict[str, AnyMethod] = {
    **{name: method() for name, method in methods().items() if name not in TRAINED},
    "iop": IntraOrderPreserving(hidden=4, epochs=12),
    **{name: method(epochs=2, learning_rate=3e-3) for name, method in methods().items() if name in TRAINED},
}

OWN_LOSS = ("isotonic", "histogram")
"""Methods that minimise something else than the NLL, so that temperature scaling is not nested."""

FIXED: dict[str, Method] = {
    "vs, unpenalised": VectorScaling(lambda_=0.0),
    "ms, unpenalised": MatrixScaling(lambda_=0.0),
    "ms-c, 0.1 and 0.01": ConstrainedMatrixScaling(lambda_=0.1, mu=0.01),
    "dc, odir": DirichletCalibration(lambda_=0.1, penalty="odir"),
    "cdc, unpenalised": ClassConditionalDirichlet(lambda_=0.0),
    "cms-ap, unpenalised": ArgmaxPreservingMatrixScaling(lambda_=0.0),
    "cms-op, odir": OrderPreservingMatrixScaling(lambda_=0.1, penalty="odir"),
}


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(name, law, marks=pytest.mark.slow if name in TRAINED and name != "lts" else ())
        for name, m in METHODS.items()
        for law in laws_of(nests_temperature=name not in OWN_LOSS, exact=m.convex)
    ],
    ids=str,
)
def test_keeps_the_law(name: str, law: Law[Any]) -> None:
    law.check(METHODS[name])


@pytest.mark.slow
@pytest.mark.parametrize("law", METHOD_LAWS, ids=str)
@pytest.mark.parametrize("name", list(FIXED))
def test_keeps_the_law_with_options_given(name: str, law: Law[Any]) -> None:
    law.check(FIXED[name])


@pytest.mark.slow
@pytest.mark.parametrize("law", laws_of(nests_temperature=False), ids=str)
def test_vector_scaling_with_the_papers_penalty_keeps_all_laws_but_one(law: Law[Any]) -> None:
    # a diagonal map has no off-diagonal to penalise: the papers pull its factors to 1, not to a temperature
    law.check(VectorScaling(lambda_=0.1, penalty="odir"))


RECIPE: dict[str, AnyMethod] = {
    name: method(solver=Recipe(trials=2, epochs=12))
    for name, method in methods().items()
    if name in ("ts", "ets", "ms-c", "dc", "cdc", "cms-ap", "cms-op")
}


@pytest.mark.slow
@pytest.mark.parametrize("law", laws_of(exact=False), ids=str)
@pytest.mark.parametrize("name", list(RECIPE))
def test_keeps_the_law_with_the_papers_recipe(name: str, law: Law[Any]) -> None:
    pytest.importorskip("optuna")
    law.check(RECIPE[name])


@cache
def calibrator(name: str, head: str) -> Calibrator:
    return fitted(METHODS[name], learnable_cohort() if head == "softmax" else learnable_regions())


@pytest.mark.parametrize("head", ["softmax", "regions"])
@pytest.mark.parametrize(
    "name", [n if n not in TRAINED or n == "lts" else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
)
def test_what_is_fitted_keeps_the_laws_of_calibrators_and_its_promises(name: str, head: str) -> None:
    for part in (m for m in calibrator(name, head).maps if not m.needs.case):
        for promise in (
            maps.translation_promise_is_honest,
            maps.argmax_promise_is_honest,
            maps.order_promise_is_honest,
        ):
            promise.check(part)  # type: ignore[arg-type]  # a ModuleList of maps
    for law in CALIBRATOR_LAWS:
        law.check(calibrator(name, head))
