"""Callables: what they are given, and what they may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.case import Case
from segcal.data.formats.arrays import ArrayField
from segcal.data.head import Softmax
from segcal.errors import MissingError, ScoreError, ShapeError, UsageError
from segcal.methods.boundary.look import Look
from segcal.methods.boundary.map import BoundaryMap
from segcal.methods.calibrator import Calibrator
from segcal.methods.local.map import LocalMap
from segcal.tasks.audit.subjects import WholeCase

HEAD = Softmax(("a", "b"))
ALL = torch.ones(6, dtype=torch.bool)


def case(shape: tuple[int, ...], **known: Any) -> Case:
    return Case("a", (ArrayField(np.zeros((2, *shape)), True, "scores"),), **known)


CASE = case((2, 3))


def test_a_callable_gets_whole_cases_in_float64_and_may_return_an_array() -> None:
    seen = []

    def function(z: torch.Tensor) -> Any:
        seen.append((z.dtype, tuple(z.shape)))
        return torch.softmax(z, 1).numpy()

    z = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    p = WholeCase(function, "logits").deliver(z, case((4, 5)), {}, torch.ones(20, dtype=torch.bool))
    assert seen == [(torch.float64, (1, 2, 4, 5))]
    assert p.dtype == torch.float32 and np.allclose(p, torch.softmax(z, 0), atol=1e-6)


def test_a_module_is_called_without_gradients() -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Softmax(1)).double()
    assert not WholeCase(layer, "logits").deliver(torch.zeros(2, 6), CASE, {}, ALL).requires_grad


@pytest.mark.parametrize(
    ("function", "error"),
    [(lambda z: z[0], ShapeError), (lambda z: z - 5, ScoreError), (lambda z: z * torch.nan, ScoreError)],
)
def test_what_is_no_probability_is_refused(function: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="<lambda>"):
        WholeCase(function, "logits").deliver(torch.zeros(2, 6), CASE, {}, ALL)


def test_a_calibrator_is_given_the_fields_it_needs_in_the_shape_of_the_case() -> None:
    subject = WholeCase(
        Calibrator(HEAD, "logits", [LocalMap.start(2, image_mean=torch.zeros(3), image_scale=torch.ones(3))], "made"),
        "logits",
    )
    assert subject.fields == ("image",)
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    p = subject.deliver(z, CASE, {"image": torch.rand(3, 6).double()}, ALL)
    assert torch.allclose(p, torch.softmax(z, 0), atol=1e-6)
    with pytest.raises(UsageError, match="image"):
        subject.deliver(z, CASE, {}, ALL)


def test_a_calibrator_that_measures_in_mm_is_given_the_spacing() -> None:
    look = Look((0.0, 2.0), mm=True)
    subject = WholeCase(Calibrator(HEAD, "logits", [BoundaryMap(torch.tensor([0.5, 1.0]), look, 2)], "made"), "logits")
    z = torch.tensor([[1.0, 0, 0, 1, 0, 0], [0.0, 1, 1, 0, 1, 1]])
    p = subject.deliver(z, case((2, 3), spacing=(1.0, 0.5)), {}, ALL)
    beta = torch.tensor([0.5, 0.5, 0.625, 0.5, 0.5, 0.625])  # the last column is 0.5 mm from the boundary
    assert torch.allclose(p, torch.softmax(beta * z, 0), atol=1e-6)
    with pytest.raises(MissingError, match="no voxel spacing"):
        subject.deliver(z, CASE, {}, ALL)
