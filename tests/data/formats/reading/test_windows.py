"""Windows and transpositions: whatever the layout, budget and offsets, the numbers are those that NumPy gives."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.data.files.journal import Scratch
from segcal.data.formats.raw import Grid, grid, room
from segcal.data.formats.windows import ArrayWindow, Reshaped, open_file, open_stream
from segcal.errors import OutputError, ShapeError, UnreadableError


@st.composite
def grids(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], Grid]:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    axes = tuple(draw(st.permutations(range(len(shape)))))
    channelled = draw(st.booleans())
    flips = (
        tuple(draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))))
        if not channelled and draw(st.booleans())
        else ()
    )
    dtype = np.dtype(draw(st.sampled_from(["<f4", ">f4", "<f2", "<i2", "u1", "?"])))
    values = (
        np.random.default_rng(draw(st.integers(0, 9))).integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    )
    return values, Grid(shape, dtype, axes, channelled, flips=flips)


def wanted(values: np.ndarray[Any, Any], lies: Grid) -> np.ndarray[Any, Any]:
    out = values.transpose(lies.axes)
    for axis, flip in enumerate(lies.flips):
        out = np.flip(out, axis) if flip else out
    return out.reshape(out.shape[0], -1) if lies.channelled else out.reshape(-1)


@settings(max_examples=150, deadline=None)
@given(grids(), st.sampled_from([1, 40, 10**6]), st.integers(0, 5), st.data())
def test_every_layout_reads_as_numpy_says(
    case: tuple[np.ndarray[Any, Any], Grid], limit: int, offset: int, data: st.DataObject
) -> None:
    values, lies = case
    whole = wanted(values, lies)
    with tempfile.TemporaryDirectory() as folder, Scratch(limit) as scratch:
        path = Path(folder) / "values"
        path.write_bytes(b"x" * offset + values.tobytes())
        pieces = [values.tobytes()[a : a + 7] for a in range(0, values.nbytes, 7)]
        with open_file(path, offset, lies, scratch, "values") as a, open_stream(pieces, lies, scratch, "values") as b:
            for _ in range(3):
                start = data.draw(st.integers(0, lies.voxels))
                stop = data.draw(st.integers(start, lies.voxels))
                for window in (a, b):
                    got = window.read(start, stop)
                    assert got.dtype == lies.dtype
                    assert np.array_equal(got, whole[..., start:stop])
        assert scratch._folder is None or not list(scratch._folder.iterdir())


@pytest.mark.parametrize("limit", [8, 256, 2048, 1 << 20])
@pytest.mark.parametrize("axes", [(3, 2, 1, 0), (0, 3, 2, 1), (3, 0, 1, 2), (2, 0, 3, 1), (1, 0, 2, 3), (0, 1, 3, 2)])
def test_transposition_of_every_budget(axes: tuple[int, ...], limit: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5, 6, 4)).astype(np.float32)
    (tmp_path / "v").write_bytes(values.tobytes())
    lies = Grid(values.shape, values.dtype, axes, False)
    with Scratch(limit) as scratch, open_file(tmp_path / "v", 0, lies, scratch, "v") as window:
        assert np.array_equal(window.read(3, 801), values.transpose(axes).reshape(-1)[3:801])


def test_scaled_values(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int16)
    (tmp_path / "v").write_bytes(values.tobytes())
    lies = replace(grid((2, 3, 4), values.dtype, "v", fortran=False, channel_axis=0), slope=0.5, intercept=-1.0)
    with (
        Scratch(4) as small,
        Scratch(400) as large,
        open_file(tmp_path / "v", 0, lies, small, "v") as a,
        open_stream([values.tobytes()], lies, large, "v") as b,
    ):
        for window in (a, b):
            assert np.array_equal(window.read(5, 11), (values.reshape(2, 12)[:, 5:11] * 0.5 - 1.0))


def test_strided_array_is_not_copied_and_not_writable() -> None:
    values = np.arange(2 * 60.0).reshape(5, 12, 2).transpose(2, 0, 1)
    part = ArrayWindow(values, True).read(7, 29)
    assert np.array_equal(part, values.reshape(2, -1)[:, 7:29])
    plain = np.arange(12.0)
    got = ArrayWindow(plain, False).read(2, 5)
    assert np.shares_memory(got, plain) and not got.flags.writeable and plain.flags.writeable


def test_no_voxel_gives_empty_windows() -> None:
    assert ArrayWindow(np.zeros((3, 0, 4)), True).read(0, 0).shape == (3, 0)


def test_too_few_numbers_are_refused(tmp_path: Path) -> None:
    lies = grid((4, 5), np.dtype("f4"), "v", fortran=False, channel_axis=None)
    (tmp_path / "v").write_bytes(bytes(70))
    for limit in (1, 1000):
        with Scratch(limit) as scratch:
            with (
                pytest.raises(UnreadableError, match="70 bytes of values; expected 80"),
                open_stream([bytes(70)], lies, scratch, "v"),
            ):
                pass
            with (
                open_file(tmp_path / "v", 0, lies, scratch, "v") as window,
                pytest.raises(UnreadableError, match="ends 10 bytes early"),
            ):
                window.read(0, 20)


def test_no_room_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="SEGCAL_SCRATCH"):
        room(tmp_path / "x", 1 << 60)


def test_arrays_that_are_no_fields() -> None:
    with pytest.raises(UnreadableError, match="complex64"):
        grid((4,), np.dtype("c8"), "v", fortran=False, channel_axis=None)
    with pytest.raises(ShapeError, match="at least one spatial axis"):
        grid((4,), np.dtype("f4"), "v", fortran=False, channel_axis=0)
    with pytest.raises(ShapeError, match="a class axis at 2"):
        grid((4, 3), np.dtype("f4"), "v", fortran=False, channel_axis=2)


def test_reshaped_field_keeps_its_voxels(tmp_path: Path) -> None:
    from segcal.data.formats.npz import NpyField

    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    field = Reshaped(NpyField.find(tmp_path / "a.npy", channel_axis=None), (1, 2, 3))
    assert (field.shape, field.channels, field.where) == ((1, 2, 3), None, str(tmp_path / "a.npy"))
    with Scratch(1) as scratch, field.open(scratch) as window:
        assert window.read(1, 5).tolist() == [1, 2, 3, 4]
