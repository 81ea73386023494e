"""Experts as the paper writes them: counts, start, cones, and the margin form they equal (definitions 4.3, 4.4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.fitting.penalties import odir
from segcal.methods.conditional.map import ArgmaxExpert, ConeExpert, DirichletExpert, Expert, OrderExpert
from segcal.methods.parameterisation import FLOOR

CONES: list[type[ConeExpert]] = [ArgmaxExpert, OrderExpert]


def drawn(kind: type[Expert], classes: int, seed: int) -> Expert:
    generator = torch.Generator().manual_seed(seed)
    expert = kind(classes)
    with torch.no_grad():
        for p in expert.parameters():
            p.copy_(3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return expert


def canonical(kind: type[Expert], classes: int, seed: int, n: int = 40) -> torch.Tensor:
    """Scores in the expert's order, ties among them."""
    z = torch.from_numpy(np.random.default_rng(seed).integers(-6, 7, size=(classes, n)) / 2.0)
    if kind is OrderExpert:
        return z.sort(0, descending=True)[0]
    if kind is ArgmaxExpert:
        z[0] = z.amax(0)
    return z


@given(classes=st.integers(2, 10))
def test_numbers_are_as_published(classes: int) -> None:
    assert sum(p.numel() for p in DirichletExpert(classes).parameters()) == classes * (classes + 1)
    for kind in CONES:
        assert sum(p.numel() for p in kind(classes).parameters()) == classes**2 + 1


@pytest.mark.parametrize("classes", [2, 5, 20])
@pytest.mark.parametrize("kind", [DirichletExpert, *CONES])
def test_starts_at_the_identity_up_to_the_floor(kind: type[Expert], classes: int) -> None:
    matrix = kind(classes).matrix().detach()
    identity = torch.cat([torch.eye(classes, dtype=torch.float64), torch.zeros(classes, 1, dtype=torch.float64)], 1)
    assert float((matrix - identity).abs().max()) <= (0 if kind is DirichletExpert else FLOOR * classes**2)


@given(classes=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_argmax_experts_keep_the_winner(classes: int, seed: int) -> None:
    u = drawn(ArgmaxExpert, classes, seed)(canonical(ArgmaxExpert, classes, seed)).detach()
    assert bool((u[0] >= u - 1e-9 * u.abs().clamp_min(1)).all())


@given(classes=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_order_experts_keep_the_order(classes: int, seed: int) -> None:
    u = drawn(OrderExpert, classes, seed)(canonical(OrderExpert, classes, seed)).detach()
    assert bool((u[:-1] >= u[1:] - 1e-9 * u.abs().amax(0).clamp_min(1)).all())


@given(classes=st.integers(2, 6), seed=st.integers(0, 10_000))
@pytest.mark.parametrize("kind", CONES)
def test_rows_have_one_sum_and_the_margin_form_is_the_same_map(kind: type[ConeExpert], classes: int, seed: int) -> None:
    expert, z = drawn(kind, classes, seed), canonical(kind, classes, seed)
    assert isinstance(expert, ConeExpert)
    matrix = expert.matrix().detach()
    sums = matrix[:, :-1].sum(1)
    assert float((sums - sums[0]).abs().max()) <= 1e-9 * float(matrix.abs().max())
    # u = -K (A m + g), m the margins of the scores
    inner = expert.slope.detach() @ (expert.margins @ z)[1:] + expert.gap.detach()[:, None]
    below = inner.cumsum(0) if kind is OrderExpert else inner
    expected = torch.log_softmax(torch.cat([torch.zeros(1, z.shape[1], dtype=torch.float64), -below]), 0)
    np.testing.assert_allclose(expert(z).detach(), expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("kind", CONES)
def test_first_row_and_first_bias_change_the_penalty_alone(kind: type[ConeExpert]) -> None:
    expert, z = drawn(kind, 4, 1), canonical(kind, 4, 1)
    assert isinstance(expert, ConeExpert)
    before, penalty = expert(z).detach(), expert.odir(0.1, 0.1).item()
    with torch.no_grad():
        expert.row += 1.5
        expert.raw_bias[0] -= 2.0
    np.testing.assert_allclose(expert(z).detach(), before, rtol=0, atol=1e-9)
    assert abs(expert.odir(0.1, 0.1).item() - penalty) > 1e-3


@pytest.mark.parametrize("kind", [DirichletExpert, *CONES])
def test_the_penalty_is_odir(kind: type[Expert]) -> None:
    expert = drawn(kind, 4, 2)
    assert expert.odir(0.3, 0.2).item() == pytest.approx(
        odir(4, 0.3, 0.2).value(expert.matrix().detach().numpy().ravel()), rel=1e-12
    )


def test_biases_are_cascaded() -> None:
    with torch.no_grad():
        ap, op = ArgmaxExpert(4), OrderExpert(4)
        for expert in (ap, op):
            expert.raw_bias.copy_(torch.tensor([0.5, 0.0, 1.0, -1.0]))
        s = np.logaddexp(0, [0.0, 1.0, -1.0])
        np.testing.assert_allclose(ap.bias(), [0.5, *(0.5 - s)], rtol=1e-12)
        np.testing.assert_allclose(op.bias(), [0.5, *(0.5 - np.cumsum(s))], rtol=1e-12)
