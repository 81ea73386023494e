"""Bounds are named, and counts are the rank of the map from parameters to probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from segcal.data.head import Regions, Softmax
from segcal.methods.affine.map import AffineMap
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Margins, Scores
from segcal.methods.mixture import MixtureMap
from segcal.methods.temperature import ScaleMap
from segcal.tasks.audit.parameters import counts


@pytest.mark.parametrize(("beta", "count"), [(1e-4, 1), (0.5, 0), (1e4, 1)])
def test_a_temperature_at_its_bound_is_named(beta: float, count: int) -> None:
    assert len(ScaleMap(beta).at_bounds("ab")) == count


def test_a_weight_of_zero_is_named() -> None:
    found = MixtureMap(2.0, torch.tensor([0.75, 0.25, 0.0])).at_bounds("ab")
    assert [b.name for b in found] == ["weights[2]"] and "uniform" in found[0].meaning
    assert AffineMap(torch.eye(2), torch.zeros(2)).at_bounds("ab") == []


def test_entries_of_experts_at_zero_are_counted_by_expert() -> None:
    a = torch.ones(3, 2, 2)
    a[1, 0, 1] = a[1, 1, 0] = 0
    g = torch.tensor([[0.1, 0.2], [0.0, 0.0], [0.3, 0.0]])
    found = ConditionalMap(a, g, Margins()).at_bounds(("x", "y", "z"))
    assert [(b.name, b.meaning.split(":")[0]) for b in found] == [
        ("A of expert y", "2 of 4 entries"),
        ("g of expert y", "2 of 2 entries"),
        ("g of expert z", "1 of 2 entries"),
    ]
    assert ConditionalMap(torch.zeros(2, 2, 2), torch.zeros(2, 2), Scores()).at_bounds("ab") == []


def _softmax_of(theta: torch.Tensor, z: torch.Tensor, make: Callable[..., torch.Tensor]) -> torch.Tensor:
    return torch.softmax(make(theta, z), 0).flatten()


FORMS: dict[str, Callable[[int], tuple[int, Callable[..., torch.Tensor]]]] = {
    "ts": lambda c: (1, lambda t, z: t * z),
    "vs": lambda c: (2 * c, lambda t, z: t[:c, None] * z + t[c:, None]),
    "ms": lambda c: (c * c + c, lambda t, z: t[: c * c].reshape(c, c) @ z + t[c * c :, None]),
    "dc": lambda c: (c * c + c, lambda t, z: t[: c * c].reshape(c, c) @ z.log_softmax(0) + t[c * c :, None]),
}


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_identifiable_counts_are_jacobian_ranks(method: str, classes: int, make_calibrator: Any) -> None:
    optimised, make = FORMS[method](classes)
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(classes, 40, generator=generator, dtype=torch.float64)
    theta = 0.5 + torch.rand(optimised, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda t: _softmax_of(t, z, make), theta)
    rank = int(torch.linalg.matrix_rank(jacobian, rtol=1e-10))
    found = counts(
        make_calibrator(
            Softmax(tuple("abcde")[:classes]), AffineMap(torch.eye(classes), torch.zeros(classes)), method=method
        )
    )
    assert (found.optimised, found.identifiable) == (optimised, rank)


def test_counts_are_summed_over_regions_and_unknown_methods_have_none(make_calibrator: Any) -> None:
    head = Regions(("x", "y"), ((1, 2), (2,)), (1, 2))
    vs = AffineMap(torch.eye(2), torch.zeros(2))
    found = counts(make_calibrator(head, vs, vs, method="vs"))
    assert found is not None and (found.optimised, found.identifiable) == (8, 6)
    assert counts(make_calibrator(Softmax(("a", "b")), vs, method="of my own")) is None
