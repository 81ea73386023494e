"""The region of interest against O22's convolution written out, however it is read."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.files.journal import Scratch
from segcal.data.head import Softmax
from segcal.data.places.label_map import LabelMap
from segcal.data.places.place import Places
from segcal.data.places.region import ForegroundRegion, slice_axis
from segcal.errors import UsageError


def region(
    labels: np.ndarray, size: int, cuts: list[int], background: int | None = 0, slice_axis: int = 0
) -> np.ndarray:
    head = Softmax(("a", "b", "c"), background, 255)
    flat = labels.ravel()
    found = LabelMap("labels", labels.shape, head, lambda a, b: (flat[a:b], flat[a:b] != 255), slice_axis=slice_axis)
    with Scratch(0) as scratch:
        places = Places(found, scratch, [ForegroundRegion(size)])
        ends = sorted({0, labels.size, *(c % (labels.size + 1) for c in cuts)})
        return np.concatenate([places.of(a, b)[ForegroundRegion(size)].numpy() for a, b in pairwise(ends)]).reshape(
            labels.shape
        )


def padded(inside: np.ndarray, size: int) -> np.ndarray:
    """Any foreground within (size - 1) // 2 before and size // 2 after, in both directions of every slice."""
    before, after = (size - 1) // 2, size // 2
    grid = (1, inside.size, 1) if inside.ndim == 1 else (math.prod(inside.shape[:-2]), *inside.shape[-2:])
    slices = inside.reshape(grid)
    out = np.zeros(grid, bool)
    for a, b, c in np.argwhere(slices):
        out[a, max(0, b - after) : b + before + 1, max(0, c - after) : c + before + 1] = True
    return out.reshape(inside.shape)


@given(
    st.lists(st.integers(1, 13), min_size=1, max_size=3).map(tuple),
    st.integers(1, 12),
    st.lists(st.integers(0, 3000), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_any_window_is_a_piece_of_the_dilated_foreground(
    shape: tuple[int, ...], size: int, cuts: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < 0.05, rng.choice([1, 2, 255], size=shape), 0)
    assert np.array_equal(region(labels, size, cuts), padded((labels != 0) & (labels != 255), size))


def test_a_square_of_ten_reaches_four_back_and_five_on() -> None:
    # the window of a voxel begins 4 before and ends 5 after it: it sees a foreground voxel from 5 before that to 4
    # after
    labels = np.zeros((30, 30), int)
    labels[15, 15] = 1
    assert np.argwhere(region(labels, 10, [])).min(0).tolist() == [10, 10]
    assert np.argwhere(region(labels, 10, [])).max(0).tolist() == [19, 19]
    volume = np.zeros((3, 30, 30), int)
    volume[1] = labels
    assert np.flatnonzero(region(volume, 10, []).any((1, 2))).tolist() == [1]


def test_without_a_background_every_scored_voxel_is_inside_and_ignored_ones_add_nothing() -> None:
    labels = np.array([[0, 1], [0, 2]])
    assert region(labels, 1, [], None).all()
    assert not region(np.full((3, 3), 255), 1, [], None).any()


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="whole number above zero"):
        ForegroundRegion(0)


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.integers(1, 6),
    st.permutations(range(3)),
    st.lists(st.integers(0, 700), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_the_order_of_axes_changes_nothing(shape, size, order, cuts, seed) -> None:
    """Slices across the same axis of space, wherever a file has it."""
    labels = np.random.default_rng(seed).choice([0, 1, 255], shape, p=[0.9, 0.08, 0.02])
    expected = region(labels, size, [])
    turned = region(np.ascontiguousarray(labels.transpose(order)), size, cuts, slice_axis=order.index(0))
    assert (turned == expected.transpose(order)).all()


@pytest.mark.parametrize(
    ("spacing", "usual", "axis"),
    [
        (None, 2, 2),
        ((1.0, 1.0, 1.0), 0, 0),
        ((1.0, 1.0, 1.0), 2, 2),
        ((0.98, 1.0, 1.0), 2, 2),
        ((10.0, 1.3, 1.3), 2, 0),
        ((1.3, 10.0, 1.3), 0, 1),
    ],
)
def test_slices_lie_across_the_widest_spacing_or_the_usual_axis(spacing, usual, axis) -> None:
    assert slice_axis((4, 5, 6), spacing, usual) == axis
    assert slice_axis((5, 6), spacing, usual) == 0
