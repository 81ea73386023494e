"""The NLL of one expert: against autograd, against differences, for some free entries, in any units; facts of its
voxels.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal.data.rows import Rows
from segcal.methods.conditional.sums import ConditionalNLL, Expert, ExpertFacts, Gaps, Margins, Scores

KINDS = [Margins(), Gaps()]


def expert_rows(seed: int, n: int, classes: int, expert: int, ranked: bool) -> Rows:
    """Voxels all decided for one class, as they are filed: in class order, or sorted with targets as ranks."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(classes, n))
    z[expert] = z.max(0) + rng.exponential(size=n)
    x = torch.log_softmax(torch.from_numpy(z), 0)
    y = torch.from_numpy(rng.integers(0, classes, n))
    if ranked:
        places = x.argsort(0, descending=True)
        x, y = x.gather(0, places), (places == y).int().argmax(0)
    winner = torch.full((n,), 0 if ranked else expert)
    return Rows(-1, 0, x, y, winner, winner)


def direct(rows: Rows, theta: torch.Tensor, kind, expert: int) -> torch.Tensor:
    """Mean NLL from the coordinates alone."""
    k = rows.log_probs.shape[0] - 1
    m = theta.reshape(k, k + 1)
    u = kind.scores(m[:, :k] @ kind.features(rows.log_probs, expert) + m[:, k:], expert)
    return torch.nn.functional.cross_entropy(u.T, rows.targets)


@pytest.mark.parametrize("unit", [1.0, 0.25])
@pytest.mark.parametrize("expert", [0, 2, 3])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_value_and_derivatives_are_those_of_autograd(kind, expert, unit, evaluate) -> None:
    rows = expert_rows(expert, 300, 4, expert, kind.ranked)
    theta = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    value = direct(rows, theta, kind, expert)
    (gradient,) = torch.autograd.grad(value, theta)
    curvature = torch.autograd.functional.hessian(lambda t: direct(rows, t, kind, expert), theta.detach())
    numbers, free = tuple(theta.tolist()), (0, 3, 4, 7, 9, 11)
    found = evaluate(ConditionalNLL(Expert(kind, expert), 4, numbers, 2, free, unit), rows)
    assert found.value == pytest.approx(value.item(), abs=1e-12)
    assert found.voxels == 300
    np.testing.assert_allclose(found.gradient, gradient.numpy(), atol=1e-12)
    np.testing.assert_allclose(found.curvature, curvature.numpy()[np.ix_(free, free)], atol=1e-11)
    np.testing.assert_allclose(found.curvature, found.curvature.T, atol=1e-13)
    assert evaluate(ConditionalNLL(Expert(kind, expert), 4, numbers, 0, (), unit), rows).value == pytest.approx(
        value.item(), abs=1e-12
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_blocks_add_up(kind, evaluate) -> None:
    """More rows than are worked on at once."""
    rows = expert_rows(5, 20_000, 3, 1, kind.ranked)
    theta = (1.0, 0.2, 0.1, 0.0, 0.7, 0.0)
    found = evaluate(ConditionalNLL(Expert(kind, 1), 3, theta, 1), rows)
    assert found.value == pytest.approx(
        direct(rows, torch.tensor(theta, dtype=torch.float64), kind, 1).item(), abs=1e-12
    )


@pytest.mark.parametrize("kind", [*KINDS, Scores()], ids=lambda k: k.name)
def test_no_voxel_is_zeros(kind, evaluate) -> None:
    rows = expert_rows(0, 0, 3, 1, kind.ranked)
    facts = evaluate(ExpertFacts(Expert(kind, 1)), rows)
    assert (facts.voxels, facts.rms) == (0, 0.0)
    if kind in KINDS:
        found = evaluate(ConditionalNLL(Expert(kind, 1), 3, (1.0, 0, 0, 0, 1.0, 0), 2, (0, 1)), rows)
        assert (found.value, found.voxels, found.gradient.tolist(), found.curvature.tolist()) == (
            0,
            0,
            [0] * 6,
            [[0, 0], [0, 0]],
        )


def test_facts_count_voxels_and_measure_features(evaluate) -> None:
    rows = expert_rows(7, 500, 3, 1, False)
    facts = evaluate(ExpertFacts(Expert(Margins(), 1)), rows)
    assert facts.voxels == rows.voxels
    m = Margins().features(rows.log_probs, 1)
    assert facts.rms == pytest.approx(m.square().mean().sqrt().item(), rel=1e-9)


def test_two_classes_are_the_same_in_margins_and_gaps(evaluate) -> None:
    x = torch.log_softmax(torch.tensor([[1.0, 2.0, 0.3], [0.0, 0.5, 0.1]], dtype=torch.float64), 0)
    rows = Rows(-1, 0, x, torch.tensor([0, 1, 1]), torch.zeros(3).long(), torch.zeros(3).long())
    margins, gaps = (evaluate(ConditionalNLL(Expert(k, 0), 2, (0.7, 0.2), 2, (0, 1)), rows) for k in KINDS)
    assert margins.value == gaps.value
    np.testing.assert_array_equal(margins.gradient, gaps.gradient)
    np.testing.assert_array_equal(margins.curvature, gaps.curvature)
