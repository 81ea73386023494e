"""Distances: one answer from the axes, from `edt`, from SciPy and from looking at every pair; in memory and in files;
voxels and mm.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segcal.data.files.journal import Scratch
from segcal.data.head import Softmax
from segcal.data.places import distance
from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.label_map import NOWHERE, LabelMap, boundary
from segcal.data.places.place import Place, Places, Predicted
from segcal.errors import MissingError, UsageError

MUCH = 2**40
HEAD = Softmax(("a", "b", "c"), 0, 255)


def map_of(labels: np.ndarray, spacing: tuple[float, ...] | None = None, *, table: bool = False) -> LabelMap:
    """Labels of which 255 is ignored."""
    return LabelMap(
        "the labels", labels.shape, HEAD, lambda a, b: (labels.ravel()[a:b], labels.ravel()[a:b] != 255), spacing, table
    )


def distances(
    labels: np.ndarray,
    place: Place | None = None,
    limit: int = MUCH,
    spacing: tuple[float, ...] | None = None,
) -> np.ndarray:
    with Scratch(limit) as scratch:
        places = Places(map_of(labels, spacing), scratch, [place or BoundaryDistance()])
        (found,) = places.of(0, labels.size).values()
        assert found.dtype == torch.float64
        return found.numpy().reshape(labels.shape)


def edges_of(labels: np.ndarray, *, literal: bool = False) -> np.ndarray:
    return boundary(labels if literal else np.where(labels == 255, NOWHERE, labels))


def brute(edges: np.ndarray, spacing: tuple[float, ...] | None = None) -> np.ndarray:
    """Every voxel against every boundary voxel."""
    if not edges.any():
        return np.full(edges.shape, np.nan)
    at = np.argwhere(np.ones_like(edges)) * np.array(spacing or (1,) * edges.ndim)
    to = np.argwhere(edges) * np.array(spacing or (1,) * edges.ndim)
    return np.sqrt(((at[:, None] - to[None]) ** 2).sum(2).min(1).astype(np.float64)).reshape(edges.shape)


def blobs(shape: tuple[int, ...], seed: int, share: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    labels = np.digitize(smooth, np.quantile(smooth, [0.6, 0.9]))
    return np.where(rng.random(shape) < share, 255, labels)


@pytest.fixture
def by_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "edt_is_installed", lambda: False)


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@settings(max_examples=150)
@given(SHAPES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.5]), st.booleans())
@example((1,), 0, 0.0, False)
def test_all_ways_give_the_same_bits(shape: tuple[int, ...], seed: int, share: float, literal: bool) -> None:
    labels, place = blobs(shape, seed, share), BoundaryDistance(literal=literal)
    edges = edges_of(labels, literal=literal)
    expected = brute(edges)
    with pytest.MonkeyPatch.context() as patch:
        installed = distances(labels, place)
        patch.setattr(distance, "edt_is_installed", lambda: False)
        for box, slab, cached in ((2**18, 2**20, 2**16), (7, 5, 3), (30, 20, 8)):
            patch.setattr(distance, "BOX", box)
            patch.setattr(distance, "SLAB", slab)
            patch.setattr(distance, "CACHED", cached)
            for limit in (MUCH, 0):
                assert np.array_equal(distances(labels, place, limit), expected, equal_nan=True)
    assert np.array_equal(installed, expected, equal_nan=True)
    if edges.any():
        assert np.array_equal(ndimage.distance_transform_edt(~edges), expected)


@settings(max_examples=60)
@given(SHAPES, st.integers(0, 2**32 - 1), st.lists(st.sampled_from([0.3, 0.7, 1.0, 1.1, 5.0]), min_size=3, max_size=3))
def test_millimetres_are_those_of_scipy_and_the_same_bits_anywhere(
    shape: tuple[int, ...], seed: int, spacing: list[float]
) -> None:
    labels, steps = blobs(shape, seed), tuple(spacing[: len(shape)])
    edges = edges_of(labels)
    found = distances(labels, BoundaryDistance(mm=True), spacing=steps)
    np.testing.assert_allclose(found, brute(edges, steps), rtol=1e-14)
    if edges.any():
        np.testing.assert_allclose(found, ndimage.distance_transform_edt(~edges, sampling=steps), rtol=1e-14)
    assert np.array_equal(distances(labels, BoundaryDistance(mm=True), 0, steps), found, equal_nan=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distance, "BOX", 5)
        patch.setattr(distance, "SLAB", 7)
        assert np.array_equal(distances(labels, BoundaryDistance(mm=True), spacing=steps), found, equal_nan=True)


@pytest.mark.parametrize("shape", [(2048, 1100), (1500, 2, 200), (128, 128, 128)])
def test_large_images_too_where_float32_would_show(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros(shape, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(4):
        labels[tuple(int(rng.integers(n)) for n in shape)] = 1
    edges = edges_of(labels)
    expected = ndimage.distance_transform_edt(~edges)
    assert np.array_equal(distances(labels), expected)
    monkeypatch.setattr(distance, "edt_is_installed", lambda: False)
    assert np.array_equal(distances(labels, limit=0), expected)


@pytest.mark.usefixtures("by_axes")
def test_sides_whose_squares_exceed_int32() -> None:
    labels = np.zeros((2, 2**15 * 3), np.uint8)
    labels[0, 5] = 1
    found = distances(labels)
    at = np.arange(labels.shape[1])
    assert np.array_equal(found[0], np.minimum(np.abs(at - 5).clip(1) - 1, np.sqrt((at - 5.0) ** 2 + 1)))
    assert found[1, -1] == np.sqrt((at[-1] - 5.0) ** 2 + 0) or found[1, -1] == np.sqrt((at[-1] - 6.0) ** 2 + 1)


def test_the_edt_package_is_what_was_compared() -> None:
    pytest.importorskip("edt", reason="the extra `edt` is not installed")
    assert distance.edt_is_installed()
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        import edt

        patch.setattr(edt, "edtsq", lambda *a, original=edt.edtsq, **k: (calls.append(1), original(*a, **k))[1])
        distances(blobs((8, 9), 0))
        assert calls == [1]
        distances(blobs((8, 9), 0), limit=8 * 9 * distance.LIBRARY_BYTES - 1)
        distances(blobs((1, 2049), 0))
        distances(blobs((8, 9), 0), BoundaryDistance(mm=True), spacing=(1.0, 2.0))
        assert calls == [1]
        distances(blobs((8, 9), 0), BoundaryDistance(mm=True), spacing=(2.0, 2.0))
    assert calls == [1, 1]


def test_equal_sides_in_mm_are_so_many_voxels() -> None:
    labels = blobs((9, 10), 3)
    plain = distances(labels)
    np.testing.assert_array_equal(distances(labels, BoundaryDistance(mm=True), spacing=(0.3, 0.3)), 0.3 * plain)
    near = distances(labels, BoundaryDistance(mm=True, reach=0.7), spacing=(0.3, 0.3))
    np.testing.assert_array_equal(near, np.where(0.3 * plain < 0.7, 0.3 * plain, np.inf))


def test_distances_of_definitions_14() -> None:
    assert distances(np.array([0] * 5 + [1] * 5)).tolist() == [4, 3, 2, 1, 0, 0, 1, 2, 3, 4]


def test_contact_with_an_ignored_region_counts_only_literally() -> None:
    labels = np.array([0, 0, 0, 255, 1, 1, 1, 2])
    assert distances(labels).tolist() == [6, 5, 4, 3, 2, 1, 0, 0]
    assert distances(labels, BoundaryDistance(literal=True)).tolist() == [2, 1, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("limit", [MUCH, 0])
@pytest.mark.parametrize(
    "labels", [np.ones((3, 4), int), np.full((2, 2, 2), 255), np.array([0, 255, 1]), np.zeros((1, 1), int)]
)
def test_without_a_boundary_there_is_no_distance(labels: np.ndarray, limit: int) -> None:
    assert np.isnan(distances(labels, limit=limit)).all()
    assert np.isnan(distances(labels, BoundaryDistance(mm=True), limit, (1.0,) * labels.ndim)).all()


def test_rows_of_a_table_have_no_distance() -> None:
    with Scratch(0) as scratch:
        (found,) = Places(map_of(np.array([0, 1]), table=True), scratch, [BoundaryDistance()]).of(0, 2).values()
    assert found.isnan().all()


def test_millimetres_need_a_spacing() -> None:
    with pytest.raises(MissingError, match="the labels: found no voxel spacing"):
        distances(np.array([0, 1]), BoundaryDistance(mm=True))


def test_windows_are_pieces_of_the_whole_and_a_place_is_computed_once() -> None:
    labels = blobs((9, 11), 3)
    whole, reads = distances(labels).ravel(), []
    found = map_of(labels)
    watched = LabelMap(found.where, found.shape, found.head, lambda a, b: (reads.append((a, b)), found.read(a, b))[1])
    for limit in (MUCH, 0):
        reads.clear()
        with Scratch(limit) as scratch:
            places = Places(watched, scratch, [BoundaryDistance(), BoundaryDistance(), BoundaryDistance(literal=True)])
            assert reads == []
            for a, b in itertools.pairwise([0, 1, 30, 99]):
                pieces = places.of(a, b)
                assert list(pieces) == [BoundaryDistance(), BoundaryDistance(literal=True)]
                assert np.array_equal(pieces[BoundaryDistance()].numpy(), whole[a:b])
            assert len(reads) == 2


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (2.0, 1.0, 0.5), (0.7, 2.1, 2.1)])
@pytest.mark.parametrize("limit", [0, 2**30])
def test_the_finest_spacing_is_the_unit_and_beyond_the_reach_all_is_far(
    spacing: tuple[float, ...] | None, limit: int
) -> None:
    labels = blobs((7, 9, 11), 5, 0.02)
    steps = None if spacing is None else tuple(s / min(spacing) for s in spacing)
    whole = brute(edges_of(labels), steps)
    found = distances(labels, BoundaryDistance(finest=True, reach=2.5), spacing=spacing, limit=limit)
    np.testing.assert_allclose(found, np.where(whole < 2.5, whole, np.inf), rtol=1e-12)


def test_a_place_in_the_predicted_map_needs_scores() -> None:
    with pytest.raises(UsageError, match="labels alone"):
        distances(np.eye(4, dtype=int), Predicted(BoundaryDistance()))
