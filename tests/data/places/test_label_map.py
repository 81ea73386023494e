"""Boxes and runs against plain slicing, boundaries by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
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


@given(SHAPES, st.integers(0, 2**32 - 1), st.sampled_from([np.int64, np.int32, np.int16, np.uint8]))
def test_a_box_is_a_slice_whatever_labels_are_kept_in(shape: tuple[int, ...], seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    labels, scored = rng.integers(3, size=shape).astype(dtype), rng.random(shape) < 0.8
    ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
    cut = tuple(slice(a, b) for a, b in ends)
    low, high = (tuple(int(e[k]) for e in ends) for k in (0, 1))
    found = map_of(labels, scored)
    assert (found.box(low, high) == np.where(scored, labels.astype(np.int64), NOWHERE)[cut]).all()
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


@pytest.mark.parametrize("head", [Softmax(("sky", "road", "car"), None), Regions(("a", "b"), ((1, 2), (2,)), (1, 2))])
def test_no_boundary_runs_along_padding_or_outside_the_mask(head: Softmax | Regions) -> None:
    """The map of predicted classes sees ignored voxels, what a part decides those outside the mask, too."""
    p = torch.full((head.channels, 8, 9), 0.05)
    p[1] = 0.9  # one object everywhere
    labels, mask = torch.ones(8, 9, dtype=torch.int64), torch.ones(8, 9)
    labels[3, 3], mask[:, 7:] = 9, 0
    found = cohort_from_arrays([p], [labels], kind="probs", head=replace(head, ignore=9), mask=[mask])
    cohort = replace(found, cases=(replace(found[0], crop=((2, 8), (1, 9))),))
    with Scratch(2**20) as scratch, cohort.open(0, scratch) as reader:
        for part, unseen in ((None, 8 * 9 - 6 * 6), (0, 8 * 9 - 6 * 8)):
            whole = reader.predicted_map(scratch, part).box((0, 0), (8, 9))
            assert not boundary(whole).any()
            assert (whole == NOWHERE).sum() == unseen
