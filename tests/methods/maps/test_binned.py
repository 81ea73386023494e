"""Step functions of each class's probability: bins, mirrored ones of two classes, and what the table promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.errors import UsageError
from segcal.methods.binned import BinnedMap, bins_of

REACH, BINS = 16.0, 512
STEPS = torch.linspace(0.02, 0.98, 8, dtype=torch.float64)
MIRRORED = torch.stack([STEPS, 1 - STEPS.flip(0)])


def rows(*logits: list[float]) -> torch.Tensor:
    return torch.log_softmax(torch.tensor(logits, dtype=torch.float64).T, 0)


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 7), spread=st.sampled_from([0.1, 2.0, 20.0]))
def test_bins_are_those_of_the_log_odds(seed: int, classes: int, spread: float) -> None:
    x = torch.log_softmax(spread * torch.from_numpy(np.random.default_rng(seed).normal(size=(classes, 200))), 0)
    edges = np.linspace(-REACH, REACH, BINS + 1)[1:-1]
    p = x.exp().numpy()
    others = np.stack([np.log(np.delete(p, k, 0).sum(0)) for k in range(classes)])
    expected = np.searchsorted(edges, x.numpy() - others, side="right")
    found = bins_of(x, REACH, BINS).numpy()
    beside = np.abs((x.numpy() - others)[..., None] - edges).min(-1) < 1e-9
    assert (found == expected)[~beside].all()


def test_beyond_the_grid_is_its_end() -> None:
    x = torch.tensor([[0.0, -1e30, -1e-300], [-1e30, 0.0, -700.0]], dtype=torch.float64)
    assert bins_of(x, REACH, BINS).tolist() == [[511, 0, 511], [0, 511, 0]]
    three = torch.tensor([[0.0], [-800.0], [-1e30]], dtype=torch.float64)
    assert bins_of(three, REACH, BINS).tolist() == [[511], [0], [0]]


def test_two_classes_mirror_and_a_tie_counts_for_the_first() -> None:
    x = rows([0, 0], [1, 0], [0, 1], [0.0625, 0])
    found = bins_of(x, REACH, BINS)
    assert (found[0] + found[1] == BINS - 1).all()
    assert found[0, 0] == BINS // 2


def test_it_looks_up_and_normalises() -> None:
    table = torch.tensor([[0.1, 0.6], [0.2, 0.7], [0.05, 0.9]], dtype=torch.float64)
    p = BinnedMap(table, 16.0)(rows([5, 0, 0], [0, 0, 0], [-3, 0, 3])).exp()
    for column, looked_up in enumerate(([0.6, 0.2, 0.05], [0.1, 0.2, 0.05], [0.1, 0.2, 0.9])):
        expected = np.array(looked_up) / sum(looked_up)
        np.testing.assert_allclose(p[:, column].numpy(), expected, rtol=1e-14)


def test_promises_of_two_classes() -> None:
    kept = BinnedMap(MIRRORED, 16.0).guarantees()
    assert (kept.translation_invariant, kept.preserves_argmax, kept.preserves_order) == ("proven", "proven", "proven")
    crossing = MIRRORED.clone()
    crossing[:, 4], crossing[:, 3] = torch.tensor([0.45, 0.55]), torch.tensor([0.45, 0.55])
    assert BinnedMap(crossing, 16.0).guarantees().preserves_argmax == "no"
    tied = torch.full((2, 4), 0.5, dtype=torch.float64)
    assert BinnedMap(tied, 16.0).guarantees().preserves_order == "no"


def test_three_classes_promise_nothing_but_invariance() -> None:
    found = BinnedMap(STEPS.expand(3, -1), 16.0).guarantees()
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == ("proven", "no", "no")
    assert "tie" in found.reasons["preserves_argmax"]


def test_loaded_parameters_are_used() -> None:
    wide, narrow = BinnedMap(MIRRORED, 16.0), BinnedMap(MIRRORED.clone(), 4.0)
    x = rows([3, 0], [0, 5])
    assert not torch.equal(wide(x), narrow(x))
    wide.load_state_dict(narrow.state_dict())
    assert torch.equal(wide(x), narrow(x))


def test_what_it_says_of_itself() -> None:
    told = BinnedMap(torch.tensor([[0.1, 0.1, 0.1, 0.4], [0.2, 0.3, 0.3, 0.9]]), 2.0).describe()
    assert told["steps"] == [2, 3]
    assert (told["bins"], told["bin_width"]) == (4, 1.0)


@pytest.mark.parametrize(
    ("table", "reach"),
    [
        (torch.full((3, 3), 0.5), 1.0),
        (torch.full((1, 2), 0.5), 1.0),
        (torch.full((2,), 0.5), 1.0),
        (torch.tensor([[0.0, 0.5], [0.5, 0.5]]), 1.0),
        (torch.tensor([[1.0, 0.5], [0.5, 0.5]]), 1.0),
        (torch.tensor([[torch.nan, 0.5], [0.5, 0.5]]), 1.0),
        (torch.full((2, 2), 0.5), 0.0),
        (torch.full((2, 2), 0.5), torch.inf),
    ],
)
def test_anything_else_is_refused(table: torch.Tensor, reach: float) -> None:
    with pytest.raises(UsageError):
        BinnedMap(table, reach)
