from __future__ import annotations

import gzip
import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.formats import grids
from segcal.data.formats.gathering import FLOAT, Held, Row
from segcal.data.formats.grids import VoxelGrid, grid_of, grid_without_reference
from segcal.errors import MissingError, ShapeError, UnreadableError

ORDERS = list(itertools.permutations(range(3)))


def row_of(values, slab, path=None):
    held = Held(1, values.size, FLOAT, path)
    held.put(0, 0, values.ravel())
    return Row(held, 0, slab)


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    axes=st.sampled_from(ORDERS),
    flips=st.tuples(*[st.booleans()] * 3),
    slab=st.sampled_from([1, 40, 300, 1 << 20]),
    piece=st.sampled_from([4, 64, 1 << 20]),
)
def test_pieces_are_the_turned_array_in_file_order(shape, axes, flips, slab, piece):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    normal, grids.PIECE = grids.PIECE, piece
    try:
        written = b"".join(
            bytes(p) for p in VoxelGrid(nibabel.Nifti1Header(), axes, flips, shape, shape).pieces(row_of(values, slab))
        )
    finally:
        grids.PIECE = normal
    expected = values.transpose(axes)
    for axis in range(3):
        expected = np.flip(expected, axis) if flips[axis] else expected
    assert written == expected.tobytes("F")


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_canonical_axes_are_undone(tmp_path, axes, signs):
    """A reader turns the image to RAS and reverses its axes; what is written must be the file's own array again."""
    stored = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[list(axes)] * signs) @ np.array([[1, 0.1, 0], [-0.1, 1, 0.05], [0, -0.05, 1]])
    affine[:3, 3] = (5, -6, 7)
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "a.nii")
    seen = np.ascontiguousarray(
        nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii")).get_fdata(dtype=np.float32).transpose()
    )
    grid = grid_of(tmp_path / "a.nii", seen.shape, reversed_axes=True, canonical=True)
    assert b"".join(bytes(p) for p in grid.pieces(row_of(seen, 50))) == stored.tobytes("F")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 1), (1, 2), (4, 0), (0, 3), (0, 0)])
@pytest.mark.parametrize("big_endian", [False, True])
def test_geometry_is_that_of_the_reference(kit, tmp_path, kind, qform_code, sform_code, big_endian):
    reference, written = tmp_path / "ref.nii.gz", tmp_path / "out.nii"
    kit.nifti(reference, np.zeros((4, 5, 6), np.int16), kit.OBLIQUE, qform_code, sform_code, kind)
    if big_endian:
        image = nibabel.load(reference)
        reference.write_bytes(
            gzip.compress(image.header.as_byteswapped(">").binaryblock + bytes(4) + np.zeros(120, ">i2").tobytes())
        )
    grid = grid_of(reference, (6, 5, 4), reversed_axes=True)
    values = np.random.default_rng(1).random((6, 5, 4)).astype(np.float32)
    written.write_bytes(grid.volume(FLOAT) + b"".join(bytes(p) for p in grid.pieces(row_of(values, 64))))
    out, ref = nibabel.load(written), nibabel.load(reference)
    assert type(out) is kind and out.get_data_dtype() == np.float32 and grid.dtype == np.dtype("<i2")
    assert np.array_equal(out.get_fdata(dtype=np.float32), values.transpose()) and np.array_equal(
        out.affine, ref.affine
    )
    quaternion = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    for name in (
        "dim",
        "pixdim",
        "qform_code",
        "sform_code",
        *quaternion,
        "srow_x",
        "srow_y",
        "srow_z",
        "xyzt_units",
        "descrip",
    ):
        assert np.array_equal(out.header[name], ref.header[name]), name
    assert out.header["cal_max"] == 0 and out.dataobj.slope == 1 and out.dataobj.inter == 0
    if kind is nibabel.Nifti1Image and not big_endian:  # the bytes themselves: dim, pixdim, units, forms
        here, there = written.read_bytes(), gzip.decompress(reference.read_bytes())
        assert all(here[a:b] == there[a:b] for a, b in ((40, 56), (76, 108), (123, 124), (252, 328)))


def test_series_has_channels_last_on_the_same_grid(kit, tmp_path):
    kit.nifti(tmp_path / "ref.nii.gz", np.zeros((4, 5, 6), np.uint8), kit.OBLIQUE)
    grid = grid_of(tmp_path / "ref.nii.gz", (4, 5, 6), reversed_axes=False)
    values = np.random.default_rng(1).random((2, 4, 5, 6)).astype(np.float32)
    (tmp_path / "out.nii").write_bytes(
        grid.series(2, FLOAT) + b"".join(bytes(p) for v in values for p in grid.pieces(row_of(v, 64)))
    )
    out, ref = nibabel.load(tmp_path / "out.nii"), nibabel.load(tmp_path / "ref.nii.gz")
    assert out.shape == (4, 5, 6, 2) and np.array_equal(out.get_fdata(dtype=np.float32), np.moveaxis(values, 0, -1))
    assert (
        np.array_equal(out.affine, ref.affine)
        and np.array_equal(out.get_qform(), ref.get_qform())
        and out.header.get_zooms()[:3] == ref.header.get_zooms()
    )


def test_intent_stays_with_a_label_map_only(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    image.header.set_intent("label", name="tissue")
    nibabel.save(image, tmp_path / "ref.nii")
    grid = grid_of(tmp_path / "ref.nii", (4, 3, 2), reversed_axes=True)
    for keep, expected in ((True, "label"), (False, "none")):
        (tmp_path / "out.nii").write_bytes(grid.volume(np.dtype("u1"), intent=keep) + bytes(24))
        assert nibabel.load(tmp_path / "out.nii").header.get_intent()[0] == expected


@pytest.mark.parametrize("stored", [(5, 4), (5, 4, 1)])
def test_a_slice_lies_on_a_flat_file(tmp_path, stored):
    nibabel.save(nibabel.Nifti1Image(np.zeros(stored, np.uint8), np.eye(4)), tmp_path / "a.nii")
    grid = grid_of(tmp_path / "a.nii", (1, 4, 5), reversed_axes=True)
    values = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    (tmp_path / "out.nii").write_bytes(grid.volume(FLOAT) + b"".join(bytes(p) for p in grid.pieces(row_of(values, 64))))
    out = nibabel.load(tmp_path / "out.nii")
    assert out.shape == stored and np.array_equal(out.get_fdata().reshape(5, 4), values[0].T)


def test_without_a_reference_the_place_is_not_made_up():
    header = nibabel.Nifti1Header(grid_without_reference((4, 5), (0.5, 2.0), reversed_axes=False).volume(FLOAT)[:348])
    assert header.get_data_shape() == (4, 5, 1) and header.get_zooms() == (0.5, 2.0, 1.0)
    turned = nibabel.Nifti1Header(
        grid_without_reference((4, 5, 6), (0.5, 2.0, 3.0), reversed_axes=True).volume(FLOAT)[:348]
    )
    assert turned.get_data_shape() == (6, 5, 4) and turned.get_zooms() == (3.0, 2.0, 0.5)
    assert header["qform_code"] == 0 and header["sform_code"] == 0
    assert isinstance(grid_without_reference((40_000, 2), None, reversed_axes=False).header, nibabel.Nifti2Header)
    with pytest.raises(ShapeError, match="4 spatial axes"):
        grid_without_reference((1, 2, 3, 4), None, reversed_axes=False)


def test_references_that_cannot_be_used(kit, tmp_path):
    good = tmp_path / "a.nii.gz"
    kit.nifti(good, np.zeros((4, 5, 6), np.uint8), kit.OBLIQUE)
    with pytest.raises(ShapeError, match=r"a grid of \(4, 5, 6\); expected the grid of the case, \(6, 5, 4\)"):
        grid_of(good, (4, 5, 6), reversed_axes=True)
    with pytest.raises(ShapeError):
        grid_of(good, (5, 6), reversed_axes=False, canonical=True)
    with pytest.raises(MissingError, match="no such file"):
        grid_of(tmp_path / "b.nii", (4, 5, 6), reversed_axes=False)
    cut, flipped = good.read_bytes()[:40], good.read_bytes()[:60] + b"\xff" * 200
    for name, data in (
        ("cut.nii.gz", cut),
        ("text.nii", b"not an image"),
        ("empty.nii", b""),
        ("zip.nii.gz", b"PK\3\4" * 200),
        ("flip.nii.gz", flipped),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableError, match=name):
            grid_of(tmp_path / name, (6, 5, 4), reversed_axes=True)
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(UnreadableError, match=r"rgb\.nii"):
        grid_of(tmp_path / "rgb.nii", (6, 5, 4), reversed_axes=True)
