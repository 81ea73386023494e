"""Bounding boxes of objects, against a plain reading of the definition, however they are read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.files.journal import Scratch
from segcal.data.head import Softmax
from segcal.data.places import objects
from segcal.data.places.label_map import LabelMap
from segcal.data.places.objects import ObjectBoxes
from segcal.data.places.place import Places


def boxes(
    labels: np.ndarray, cuts: tuple[int, ...] = (), background: int | None = 0, slice_axis: int = 0, limit: int = 0
) -> np.ndarray:
    head = Softmax(("a", "b", "c"), background, 255)
    flat = labels.ravel()
    found = LabelMap("labels", labels.shape, head, lambda a, b: (flat[a:b], flat[a:b] != 255), slice_axis=slice_axis)
    with Scratch(limit) as scratch:
        places = Places(found, scratch, [ObjectBoxes()])
        ends = sorted({0, labels.size, *(c % (labels.size + 1) for c in cuts)})
        pieces = [places.of(a, b)[ObjectBoxes()].numpy() for a, b in pairwise(ends)]
        return np.concatenate([np.zeros(0), *pieces]).reshape(labels.shape)


def flooded(one: np.ndarray, background: int | None) -> np.ndarray:
    """Of one slice: from each voxel to all that touch it and have its label; then the box around these."""
    out, seen = np.zeros(one.shape), np.zeros(one.shape, bool)
    for start in np.argwhere((one != 255) & (one != (-1 if background is None else background))):
        if seen[tuple(start)]:
            continue
        component, todo = [], [tuple(start)]
        while todo:
            at = todo.pop()
            if seen[at]:
                continue
            seen[at] = True
            component.append(at)
            for axis in range(one.ndim):
                for step in (-1, 1):
                    there = tuple(p + step * (axis == k) for k, p in enumerate(at))
                    if all(0 <= p < n for p, n in zip(there, one.shape, strict=True)) and one[there] == one[at]:
                        todo.append(there)
        low, high = np.min(component, 0), np.max(component, 0) + 1
        out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return out


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    st.lists(st.integers(0, 900), max_size=3).map(tuple),
    st.sampled_from([0, None]),
    st.integers(0, 2),
    st.sampled_from([0, 2**20]),
    st.integers(0, 2**32 - 1),
)
def test_any_window_is_a_piece_of_the_boxes(
    shape: tuple[int, ...], cuts: tuple[int, ...], background: int | None, axis: int, limit: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < 0.3, rng.choice([1, 2, 255], size=shape), 0)
    slices = np.moveaxis(labels, axis, 0) if len(shape) == 3 else labels[None]
    expected = np.stack([flooded(one, background) for one in slices])
    expected = np.moveaxis(expected, 0, axis) if len(shape) == 3 else expected[0]
    np.testing.assert_array_equal(boxes(labels, cuts, background, axis, limit), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_some_slices_at_a_time(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((7, 8, 9)) < 0.2, 1, 0)
    whole = boxes(labels, slice_axis=axis)
    monkeypatch.setattr(objects, "SLICES", 100)
    np.testing.assert_array_equal(boxes(labels, slice_axis=axis), whole)


def test_without_an_object_there_is_none() -> None:
    assert not boxes(np.zeros((4, 5), int)).any()
    assert boxes(np.zeros((0, 5), int)).size == 0
    assert not boxes(np.full((3, 3), 255)).any()
