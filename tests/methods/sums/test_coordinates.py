"""Coordinates of experts: margins and gaps are what they say, scores put back never pass the winner, and a map of
scores is seen rightly in margins.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.methods.conditional.sums import COORDINATES, Gaps, Margins, Scores, margins_form


def test_margins_and_gaps_of_a_voxel() -> None:
    x = torch.tensor([[-3.0], [-0.5], [-1.0]], dtype=torch.float64)
    assert Margins().features(x, 1).T.tolist() == [[2.5, 0.5]]
    ordered = x[[1, 2, 0]]
    assert Gaps().features(ordered, 1).T.tolist() == [[0.5, 2.0]]
    assert Scores().features(x, 1) is x


def test_outputs_are_put_back_where_they_belong() -> None:
    v = torch.tensor([[2.5], [0.5]], dtype=torch.float64)
    assert Margins().scores(v, 1).T.tolist() == [[-2.5, 0.0, -0.5]]
    assert Gaps().scores(v, 0).T.tolist() == [[0.0, -2.5, -3.0]]


@pytest.mark.parametrize("coordinates", COORDINATES, ids=lambda c: c.name)
@pytest.mark.parametrize("expert", [0, 1, 3])
def test_the_identity_gives_the_scores_back_up_to_an_offset(coordinates, expert) -> None:
    x = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(expert))
    x = x.sort(dim=0, descending=True).values if coordinates.ranked else x.scatter(0, torch.full((1, 50), expert), 9.0)
    back = coordinates.scores(coordinates.features(x, expert), expert)
    torch.testing.assert_close(back.softmax(0), x.softmax(0))


def test_nothing_gives_nothing() -> None:
    for coordinates in COORDINATES:
        empty = torch.zeros(3, 0, dtype=torch.float64)
        assert coordinates.scores(coordinates.features(empty, 2), 2).shape == (3, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([Margins(), Gaps()]), st.sampled_from([1e-300, 1e-9, 1.0, 1e4, 1e300]))
def test_no_rounding_moves_a_competitor_past_the_winner(seed, coordinates, size) -> None:
    """Sums of non-negative floats are not negative, whatever their size, so preservation holds in floating point and
    not on paper alone.
    """
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(4, 4, dtype=torch.float64, generator=g) * (torch.rand(4, 4, generator=g) < 0.4)
    m = size * torch.rand(4, 30, dtype=torch.float64, generator=g).round(decimals=1)
    u = coordinates.scores(a @ m + torch.rand(4, 1, dtype=torch.float64, generator=g), 0)
    assert bool((u[0] >= u).all())
    if coordinates.ranked:
        assert bool((u[:-1] >= u[1:]).all())


@pytest.mark.parametrize("expert", [0, 2])
def test_a_map_of_scores_in_margins(expert) -> None:
    g = torch.Generator().manual_seed(expert)
    weight, bias = torch.randn(4, 4, dtype=torch.float64, generator=g), torch.randn(4, dtype=torch.float64, generator=g)
    x = (
        torch.randn(4, 20, dtype=torch.float64, generator=g)
        .log_softmax(0)
        .scatter(0, torch.full((1, 20), expert), -0.01)
    )
    a, c, gap = margins_form(weight, bias, expert)
    u = weight @ x + bias[:, None]
    keep = [k for k in range(4) if k != expert]
    torch.testing.assert_close(
        u[expert] - u[keep], a @ Margins().features(x, expert) + c[:, None] * x[expert] + gap[:, None]
    )
