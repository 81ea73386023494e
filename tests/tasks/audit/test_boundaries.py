"""Boundaries and distances by hand, and tiles against one transform of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segcal.data.places.label_map import NOWHERE, boundary
from segcal.tasks.audit.boundaries import near_boundary


def test_both_sides_of_an_edge_are_boundary_and_the_frame_is_not() -> None:
    assert boundary(np.array([0, 0, 1, 1, 1])).tolist() == [False, True, True, False, False]
    assert not boundary(np.zeros((4, 5), int)).any()


def test_contact_with_padding_is_no_boundary() -> None:
    assert not boundary(np.array([NOWHERE, 1, 1, NOWHERE])).any()
    assert boundary(np.array([NOWHERE, 1, 2])).tolist() == [False, True, True]


def test_distances_count_by_hand() -> None:
    labels = np.array([0] * 10 + [1] * 15)
    changed = np.array([9, 8, 6, 5, 13, 18, 24])  # distances 0, 1, 3, 4, 3, 8, 14
    assert near_boundary(labels, changed) == (2, 4, 5)


def test_without_a_boundary_or_a_change_nothing_is_near() -> None:
    assert near_boundary(np.zeros((6, 6), int), np.array([3, 4])) == (0, 0, 0)
    assert near_boundary(np.array([0, 1]), np.empty(0, np.int64)) == (0, 0, 0)


@pytest.mark.parametrize("shape", [(70,), (40, 33), (21, 18, 25)])
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_tiles_give_what_the_whole_image_gives(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (ndimage.gaussian_filter(rng.normal(size=shape), 3) > 0.05).astype(np.int32)
    labels[tuple(slice(0, 4) for _ in shape)] = NOWHERE
    changed = np.flatnonzero(rng.random(labels.size) < 0.2)
    border = boundary(labels)
    distance = (
        ndimage.distance_transform_edt(~border).ravel()[changed] if border.any() else np.full(len(changed), np.inf)
    )
    expected = tuple(int((distance <= d).sum()) for d in (1, 3, 7))
    assert near_boundary(labels, changed, tile=200) == expected
    assert near_boundary(labels, changed) == expected
