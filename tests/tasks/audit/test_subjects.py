"""Callables: what they are given, and what they may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.head import Softmax
from segcal.errors import ScoreError, ShapeError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.local.map import LocalMap
from segcal.tasks.audit.subjects import WholeCase

HEAD = Softmax(("a", "b"))
ALL = torch.ones(6, dtype=torch.bool)


def test_a_callable_gets_whole_cases_in_float64_and_may_return_an_array() -> None:
    seen = []

    def function(z: torch.Tensor) -> Any:
        seen.append((z.dtype, tuple(z.shape)))
        return torch.softmax(z, 1).numpy()

    z = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    p = WholeCase(function, "logits").deliver(z, (4, 5), {}, torch.ones(20, dtype=torch.bool))
    assert seen == [(torch.float64, (1, 2, 4, 5))]
    assert p.dtype == torch.float32 and np.allclose(p, torch.softmax(z, 0), atol=1e-6)


def test_a_module_is_called_without_gradients() -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Softmax(1)).double()
    assert not WholeCase(layer, "logits").deliver(torch.zeros(2, 6), (2, 3), {}, ALL).requires_grad


@pytest.mark.parametrize(
    ("function", "error"),
    [(lambda z: z[0], ShapeError), (lambda z: z - 5, ScoreError), (lambda z: z * torch.nan, ScoreError)],
)
def test_what_is_no_probability_is_refused(function: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="<lambda>"):
        WholeCase(function, "logits").deliver(torch.zeros(2, 6), (2, 3), {}, ALL)


def test_a_calibrator_is_given_the_fields_it_needs_in_the_shape_of_the_case() -> None:
    subject = WholeCase(
        Calibrator(HEAD, "logits", [LocalMap.start(2, image_mean=torch.zeros(3), image_scale=torch.ones(3))], "made"),
        "logits",
    )
    assert subject.fields == ("image",)
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    p = subject.deliver(z, (2, 3), {"image": torch.rand(3, 6).double()}, ALL)
    assert torch.allclose(p, torch.softmax(z, 0), atol=1e-6)
    with pytest.raises(UsageError, match="image"):
        subject.deliver(z, (2, 3), {}, ALL)
