"""Boxes and runs against plain slicing, boundaries by hand."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.head import Regions, Softmax
from segcal.data.places.label_map import NOWHERE, LabelMap, boundary, boxes, runs

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)


def map_of(
    labels: np.ndarray, scored: np.ndarray | None = None, head: Softmax | Regions | None = None, **more
) -> LabelMap:
    kept = np.ones(labels.shape, bool) if scored is None else scored
    return LabelMap(
        "labels",
        labels.shape,
        head or Softmax(("a", "b", "c"), 0),
        lambda a, b: (labels.ravel()[a:b], kept.ravel()[a:b]),
        **more,
    )


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_a_box_is_a_slice(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scored = rng.integers(3, size=shape), rng.random(shape) < 0.8
    ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
    cut = tuple(slice(a, b) for a, b in ends)
    low, high = (tuple(int(e[k]) for e in ends) for k in (0, 1))
    found = map_of(labels, scored)
    assert (found.box(low, high) == np.where(scored, labels, NOWHERE)[cut]).all()
    assert (found.box(low, high, literal=True) == labels[cut]).all()
    index = np.arange(labels.size).reshape(shape)[cut].ravel()
    assert [i for a, b in runs(shape, low, high) for i in range(a, b)] == index.tolist()


@given(SHAPES, st.integers(1, 60))
def test_boxes_are_runs_in_order_and_cover_the_case(shape: tuple[int, ...], limit: int) -> None:
    at = 0
    for low, high in boxes(shape, limit):
        assert list(runs(shape, low, high)) == [(at, at + math.prod(b - a for a, b in zip(low, high, strict=True)))]
        size = math.prod(b - a for a, b in zip(low, high, strict=True))
        assert size <= limit
        at += size
    assert at == math.prod(shape)


def test_both_sides_of_an_edge_are_boundary_and_frame_and_contact_with_nowhere_are_not() -> None:
    assert boundary(np.array([0, 0, 1, 1, 1])).tolist() == [False, True, True, False, False]
    assert boundary(np.array([NOWHERE, 1, 2, NOWHERE, 3])).tolist() == [False, True, True, False, False]
    assert not boundary(np.zeros((4, 5), int)).any()
    corner = np.zeros((3, 3), int)
    corner[0, 0] = 1
    assert boundary(corner).tolist() == [[True, True, False], [True, False, False], [False, False, False]]
