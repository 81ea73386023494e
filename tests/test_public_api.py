"""The public surface is this list; adding to it or taking from it is a decision."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import segcal
from segcal.methods import BUILT_IN, methods

PUBLIC = {
    "ArgmaxPreservingMatrixScaling",
    "ClassConditionalDirichlet",
    "OrderPreservingMatrixScaling",
    "Audit",
    "BoundaryTemperatureScaling",
    "Calibrator",
    "Case",
    "Cohort",
    "ConstrainedMatrixScaling",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "Fit",
    "HistogramBinning",
    "IntraOrderPreserving",
    "IsotonicRegression",
    "LocalTemperatureScaling",
    "MatrixScaling",
    "MetaCal",
    "Recipe",
    "Recommendation",
    "Regions",
    "SegcalError",
    "SelectiveScaling",
    "SusceptibilityCalibration",
    "Serial",
    "Softmax",
    "TemperatureScaling",
    "Threads",
    "VectorScaling",
    "apply",
    "audit",
    "cohort_from_arrays",
    "crossfitted",
    "evaluate",
    "evaluate_arrays",
    "fit_methods",
    "load",
    "open_cohort",
    "recommend",
}

METHODS = {
    "ts": "TemperatureScaling",
    "ets": "EnsembleTemperatureScaling",
    "vs": "VectorScaling",
    "ms": "MatrixScaling",
    "ms-c": "ConstrainedMatrixScaling",
    "dc": "DirichletCalibration",
    "cdc": "ClassConditionalDirichlet",
    "cms-ap": "ArgmaxPreservingMatrixScaling",
    "cms-op": "OrderPreservingMatrixScaling",
    "isotonic": "IsotonicRegression",
    "histogram": "HistogramBinning",
    "iop": "IntraOrderPreserving",
    "bts": "BoundaryTemperatureScaling",
    "bts-class": "BoundaryTemperatureScaling",
    "bts-both": "BoundaryTemperatureScaling",
    "lts": "LocalTemperatureScaling",
    "lts-raw": "LocalTemperatureScaling",
    "lts-image": "LocalTemperatureScaling",
    "meta-cal": "MetaCal",
    "meta-cal-star": "MetaCal",
    "selective": "SelectiveScaling",
    "susceptibility": "SusceptibilityCalibration",
}


def test_public_names() -> None:
    assert set(segcal.__all__) == PUBLIC
    assert segcal.__all__ == sorted(segcal.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert inspect.getdoc(getattr(segcal, name))


def test_methods_have_the_names_of_the_contract() -> None:
    assert {name: named.kind.__name__ for name, named in methods().items()} == METHODS
    assert all(named().method == name for name, named in methods().items())
    assert all(set(named.kind.variants()) <= set(BUILT_IN) for named in methods().values())


def test_fit_takes_what_the_contract_says() -> None:
    parameters = list(inspect.signature(segcal.TemperatureScaling.fit).parameters)
    assert parameters[:3] == ["self", "scores", "labels"]
    assert {"mask", "kind", "ignore_index", "groups", "validation", "fields"} <= set(parameters)


def test_no_public_name_is_that_of_a_module() -> None:
    """`import segcal.NAME` would put the module in the place of what the name stands for."""
    rooms = {path.stem for path in Path(segcal.__file__).parent.iterdir()}
    assert rooms & set(segcal.__all__) == set()


def test_annotations_are_published() -> None:
    """The marker by which type checkers know that a package has them, as its classifier says."""
    assert (Path(segcal.__file__).parent / "py.typed").is_file()
