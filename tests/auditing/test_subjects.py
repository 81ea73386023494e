"""Callables: what they are given, and what they may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.auditing.subjects import WholeCase
from segcal.errors import ScoreError, ShapeError
from segcal.head import Softmax

HEAD = Softmax(("a", "b"))


def test_a_callable_gets_whole_cases_in_float64_and_may_return_an_array() -> None:
    seen = []

    def function(z: torch.Tensor) -> Any:
        seen.append((z.dtype, tuple(z.shape)))
        return torch.softmax(z, 1).numpy()

    z = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    p = WholeCase(function, HEAD).deliver(z, (4, 5), {})
    assert seen == [(torch.float64, (1, 2, 4, 5))]
    assert p.dtype == torch.float32 and np.allclose(p, torch.softmax(z, 0), atol=1e-6)


def test_a_module_is_called_without_gradients() -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Softmax(1)).double()
    assert not WholeCase(layer, HEAD).deliver(torch.zeros(2, 6), (2, 3), {}).requires_grad


@pytest.mark.parametrize(("function", "error"), [(lambda z: z[0], ShapeError), (lambda z: z - 5, ScoreError), (lambda z: z * torch.nan, ScoreError)])
def test_what_is_no_probability_is_refused(function: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="<lambda>"):
        WholeCase(function, HEAD).deliver(torch.zeros(2, 6), (2, 3), {})


def test_fields_are_given_by_name_in_the_shape_of_the_case() -> None:
    def function(z: torch.Tensor, image: torch.Tensor) -> Any:
        assert tuple(image.shape) == (1, 3, 2, 3)
        return torch.softmax(z * image.mean(1, keepdim=True), 1)

    p = WholeCase(function, HEAD, ("image",)).deliver(torch.ones(2, 6), (2, 3), {"image": torch.rand(3, 6).double()})
    assert torch.allclose(p, torch.full((2, 6), 0.5))
