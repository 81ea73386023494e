"""Tiles cover a case once, in order; margins reflect, or repeat along short sides."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.surroundings import MARGIN, Grid, margin_index, tiles
from segcal.errors import ShapeError

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
