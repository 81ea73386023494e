"""Changes of label and order, ties and saturation on constructed arrays; pieces of a block sum to the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.head import Regions, Softmax
from segcal.engine import accumulate
from segcal.tasks.audit.measures import Movement, Preservation, Preserved, Saturation, View

THREE = Softmax(("a", "b", "c"))
REGIONS = Regions(("x", "y"), ((1, 2), (2,)), (1, 2))


def preserved(scores: Any, delivered: Any, kind: Any = "logits", head: Any = THREE) -> Preserved:
    measure = Preservation(head)
    raw = measure.fold(torch.as_tensor(scores), kind, torch.as_tensor(delivered, dtype=torch.float32))
    found: Preserved = accumulate.result(measure, accumulate.lift(measure, raw))
    return found


def test_a_changed_label_is_counted_with_the_probability_between_the_two() -> None:
    found = preserved([[2.0, 2.0], [1.0, 1.0], [0.0, 0.0]], [[0.5, 0.25], [0.25, 0.5], [0.25, 0.25]])
    assert (found.voxels, found.labels_changed, found.label_gap) == (2, 1, 0.25)
    assert (found.orders_changed, found.order_gap) == (1, 0.25)
    assert found.decided == (2, 0, 0)


def test_an_order_may_change_while_the_label_stays() -> None:
    found = preserved([[3.0], [2.0], [1.0]], [[0.6], [0.125], [0.275]])
    assert (found.labels_changed, found.orders_changed) == (0, 1)
    assert found.order_gap == pytest.approx(0.15)


def test_a_tie_is_neither_a_change_of_order_nor_lost() -> None:
    found = preserved([[3.0], [2.0], [1.0]], [[0.5], [0.25], [0.25]])
    assert (found.orders_changed, found.ties, found.ties_with_winner) == (0, 1, 0)
    found = preserved([[1.0], [2.0], [0.0]], [[0.4], [0.4], [0.2]])
    assert (found.ties, found.ties_with_winner, found.labels_changed, found.label_gap) == (1, 1, 1, 0.0)


def test_ties_of_the_scores_are_free_to_be_broken() -> None:
    found = preserved([[1.0], [1.0], [0.0]], [[0.6], [0.3], [0.1]])
    assert (found.labels_changed, found.orders_changed, found.ties) == (0, 0, 0)
    # np.argmax takes the first of equal scores: any other winner is another label, though no strict order is swapped
    found = preserved([[1.0], [1.0], [0.0]], [[0.3], [0.6], [0.1]])
    assert (found.labels_changed, found.orders_changed) == (1, 0)


def test_the_plain_softmax_creates_ties_of_its_own_where_float32_ends() -> None:
    z = [[0.0], [-200.0], [-300.0]]
    found = preserved(z, torch.softmax(torch.tensor(z, dtype=torch.float64), 0))
    assert (found.ties, found.plain_ties) == (1, 1) and found.ties_with_winner == found.plain_ties_with_winner == 0


def test_a_region_changes_where_its_side_of_one_half_does() -> None:
    p = [[0.6, 0.5, 0.4], [0.2, 0.7, 0.5]]
    found = preserved(p, [[0.6, 0.51, 0.4], [0.2, 0.4, 0.5]], "probs", REGIONS)
    assert found.labels_changed == 1 and found.decided == (1, 1)
    assert found.label_gap == pytest.approx(0.1)
    z = [[0.1, -0.1], [5.0, -5.0]]
    assert preserved(z, [[0.4, 0.4], [0.9, 0.1]], "logits", REGIONS).labels_changed == 1


def by_pairs(z: np.ndarray, p: np.ndarray) -> tuple[int, int, int]:
    """Labels and orders changed and ties created, pair by pair."""
    swapped = ties = 0
    for a, b in zip(z.T, p.T, strict=True):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(a)) if a[i] > a[j]]
        swapped += any(b[i] < b[j] for i, j in pairs)
        ties += sum(b[i] == b[j] for i, j in pairs)
    return int((z.argmax(0) != p.argmax(0)).sum()), swapped, ties


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(0, 30))
def test_counts_are_those_of_every_pair(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    z, p = (
        rng.integers(0, 4, (classes, n)).astype(np.float64),
        (rng.integers(0, 4, (classes, n)) / 8).astype(np.float32),
    )
    head = Softmax(tuple("abcde"[:classes]))
    found = preserved(z, p, head=head)
    assert (found.labels_changed, found.orders_changed, found.ties) == by_pairs(z, p)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 30))
def test_pieces_sum_to_the_whole(seed: int, cut: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    z, p = torch.from_numpy(rng.normal(size=(3, n))), torch.from_numpy(rng.random((3, n))).float()
    views = [
        View(
            torch.from_numpy(rng.random((3, n))).float(),
            torch.from_numpy(rng.random((3, n))),
            torch.from_numpy(rng.random((3, n))),
        )
        for _ in range(2)
    ]
    pieces = [torch.arange(n) < cut, torch.arange(n) >= cut]
    for measure, fold in (
        (Preservation(THREE), lambda m, k: m.fold(z[:, k], "logits", p[:, k])),
        (Saturation(THREE), lambda m, k: m.fold(z[:, k], "logits")),
        (Movement(THREE, True), lambda m, k: m.fold(views[0].take(k), views[1].take(k))),
    ):
        a, b = (accumulate.lift(measure, fold(measure, k)) for k in pieces)
        whole = accumulate.lift(measure, fold(measure, torch.ones(n, dtype=torch.bool)))
        merged = accumulate.merge(measure, a, b)
        for name, leaf in measure.leaves.items():
            np.testing.assert_allclose(leaf.value(merged[name]), leaf.value(whole[name]), rtol=1e-12)
        accumulate.result(measure, accumulate.zero(measure))


def test_movement_is_the_largest_change_of_any_class() -> None:
    a = View(torch.tensor([[0.5, 0.9], [0.5, 0.1]]), None, torch.tensor([[0.5, 0.9], [0.5, 0.1]], dtype=torch.float64))
    b = View(torch.tensor([[0.25, 0.9], [0.75, 0.1]]), None, a.plain + 1e-12)
    measure = Movement(Softmax(("a", "b")), False)
    found = accumulate.result(measure, accumulate.lift(measure, measure.fold(a, b)))
    assert (found.largest, found.mean, found.labels_changed, found.exact) == (0.25, 0.125, 1, None)
    assert (found.units, found.plain_units) == (2**23, 0)  # from 0.5 to 0.25: every float32 number between them
    assert found.plain == 0 and found.plain_exact == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "scores", "count", "voxels"),
    [
        ("probs", [[1.0, 0.5], [0.0, 0.5], [0.0, 1e-11]], 2, 1),
        ("logits", [[0.0, 0.0], [-100.0, 1.0], [-27.0, 2.0]], 1, 1),
        ("log_probs", [[0.0, -1.0], [-30.0, -1.0], [-np.inf, -1.0]], 2, 1),
        ("scores", [[1e13, 1.0], [1.0, 1.0], [0.0, 1.0]], 2, 1),
    ],
)
def test_saturated_scores_are_counted_in_every_kind(kind: Any, scores: Any, count: int, voxels: int) -> None:
    measure = Saturation(THREE)
    found = accumulate.result(measure, accumulate.lift(measure, measure.fold(torch.tensor(scores), kind)))
    assert (found.scores, found.voxels, found.scores_at_floor, found.voxels_at_floor) == (6, 2, count, voxels)


def test_a_saturated_region_counts_on_either_side() -> None:
    measure = Saturation(REGIONS)
    found = accumulate.result(
        measure, accumulate.lift(measure, measure.fold(torch.tensor([[1.0, 0.5], [0.0, 0.5]]), "probs"))
    )
    assert (found.scores, found.scores_at_floor, found.voxels_at_floor) == (8, 2, 1)
