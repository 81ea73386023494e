"""Tiles cover a case once, in order; margins reflect, or repeat along short sides."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.files.journal import Scratch
from segcal.data.surroundings import MARGIN, Contexts, Grid, Surroundings, margin_index, tiles
from segcal.errors import ShapeError
from segcal.testing.examples import learnable_cohort

sides = st.integers(1, 30)


@given(shape=st.tuples(sides, sides, sides), limit=st.integers(1, 500), data=st.data())
def test_tiles_cover_what_is_asked_for_once_and_are_always_the_same(shape, limit, data) -> None:
    grid = Grid(shape)
    every = [t.span(grid) for t in tiles(grid, limit)]
    assert every[0][0] == 0
    assert every[-1][1] == grid.voxels
    assert all(a[1] == b[0] for a, b in pairwise(every))
    assert all(stop - start <= max(limit, shape[2]) for start, stop in every)
    start = data.draw(st.integers(0, grid.voxels - 1))
    stop = data.draw(st.integers(start + 1, grid.voxels))
    assert [t.span(grid) for t in tiles(grid, limit, start, stop)] == [
        (a, b) for a, b in every if a < stop and b > start
    ]


def test_no_voxel_no_tile() -> None:
    assert list(tiles(Grid((3, 4, 5)), 10, 7, 7)) == []
    assert list(tiles(Grid((0, 4, 5)), 10)) == []


@given(side=st.integers(5, 40))
def test_margins_reflect_as_numpy_does(side) -> None:
    assert margin_index(0, side, side) == np.pad(np.arange(side), MARGIN, mode="reflect").tolist()


@given(side=st.integers(1, 4))
def test_short_sides_repeat_as_numpy_does(side) -> None:
    assert margin_index(0, side, side) == np.pad(np.arange(side), MARGIN, mode="edge").tolist()


@given(side=st.integers(1, 40), data=st.data())
def test_a_part_s_margin_is_part_of_the_whole_s(side, data) -> None:
    start = data.draw(st.integers(0, side - 1))
    stop = data.draw(st.integers(start + 1, side))
    part = margin_index(start, stop, side)
    assert part == margin_index(0, side, side)[start : stop + 2 * MARGIN]
    assert min(part) >= max(0, start - MARGIN)
    assert max(part) < min(side, stop + MARGIN)


def test_two_or_three_axes() -> None:
    assert Grid.of((4, 5), 2, "x") == Grid((1, 4, 5), 0)
    assert Grid.of((3, 4, 5), 2, "x") == Grid((3, 4, 5), 2)
    for spatial in ((), (4,), (2, 2, 2, 2)):
        with pytest.raises(ShapeError, match="two or three"):
            Grid.of(spatial, 0, "x")


@given(side=st.integers(1, 30), margin=st.integers(0, 8))
def test_a_margin_of_any_width(side: int, margin: int) -> None:
    mode = "reflect" if side > margin else "edge"
    assert margin_index(0, side, side, margin) == np.pad(np.arange(side), margin, mode=mode).tolist()


def test_how_far_one_sees_decides_the_grid() -> None:
    assert Grid.of((3, 4, 5), 1, "x", 2) == Grid((3, 4, 5), 1, 2)
    assert Grid.of((3, 4, 5), 1, "x", None) == Grid((3, 4, 5), 1, 0)
    assert Grid.of((7,), 0, "x", 0) == Grid((1, 7, 1), 0, 0)
    assert Grid.of((3, 4, 5), 2, "x", 0) == Grid((1, 60, 1), 0, 0)


def test_what_several_ask_for_is_drawn_once() -> None:
    """And nothing is read before it is asked for."""
    opened = []

    class Voxel:
        def on(self, around: Surroundings) -> Voxel:
            opened.append(around.case.id)
            return self

        def read(self, start: int, stop: int) -> torch.Tensor:
            return torch.arange(start, stop)

    cohort, voxel, other = learnable_cohort(1), Voxel(), Voxel()
    with Scratch(1 << 20) as scratch, cohort.open(0, scratch) as reader:
        contexts = Contexts(reader, scratch, [voxel, other, voxel])
        assert len(opened) == 2
        found = contexts.of(3, 7)
        assert found[voxel].tolist() == found[other].tolist() == [3, 4, 5, 6]
        prepared = reader.prepare(reader.block(3, 7), contexts=contexts.of)
        assert prepared.part(cohort.head, 0).contexts[voxel].tolist() == [3, 4, 5, 6]
        assert prepared.take(torch.tensor([1, 3])).contexts[voxel].tolist() == [4, 6]
        assert Contexts(reader, scratch, ()).of(0, 9) == {}
