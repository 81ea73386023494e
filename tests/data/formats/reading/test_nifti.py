"""NIfTI: every order of axes against nibabel, scaling, geometry, damage."""

from __future__ import annotations

import gzip
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segcal.data.files.journal import Scratch
from segcal.data.formats.nifti import Axes, NiftiField, read_header
from segcal.errors import MissingError, ShapeError, UnreadableError, UnsafeFileError, UsageError

REVERSED = Axes(reverse=True)


def save(path: Path, array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None = None) -> None:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.mark.parametrize("limit", [1, 300, 1 << 20])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_maps_and_scores(
    ending: str, limit: int, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    labels = rng.integers(0, 200, (5, 6, 7)).astype(np.uint8)
    save(tmp_path / f"y{ending}", labels)
    assert np.array_equal(read(NiftiField.find(tmp_path / f"y{ending}"), limit), labels)
    assert np.array_equal(read(NiftiField.find(tmp_path / f"y{ending}", axes=REVERSED), limit), labels.T)
    scores = rng.normal(size=(5, 6, 7, 3)).astype(np.float32)
    for stored in (scores, scores[:, :, :, None]):
        save(tmp_path / f"z{ending}", stored)
        field = NiftiField.find(tmp_path / f"z{ending}", scores=True)
        assert (field.shape, field.channels) == ((5, 6, 7), 3)
        assert np.array_equal(read(field, limit), np.moveaxis(scores, -1, 0))
        assert np.array_equal(
            read(NiftiField.find(tmp_path / f"z{ending}", scores=True, axes=REVERSED), limit), scores.T
        )


@pytest.mark.parametrize("limit", [1, 200, 1 << 20])
def test_canonical_axes_are_those_of_nibabel(
    limit: int, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    labels = rng.integers(0, 99, (4, 5, 6)).astype(np.int16)
    for k, (order, signs) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    ):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[list(order)] * np.array(signs) + 0.05
        save(tmp_path / f"{k}.nii", labels, affine)
        expected = np.asarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / f"{k}.nii")).dataobj)
        assert np.array_equal(read(NiftiField.find(tmp_path / f"{k}.nii", axes=Axes(canonical=True)), limit), expected)
        assert np.array_equal(
            read(NiftiField.find(tmp_path / f"{k}.nii", axes=Axes(reverse=True, canonical=True)), limit), expected.T
        )


@pytest.mark.parametrize("limit", [1, 1 << 20])
def test_scaling_is_honoured(limit: int, tmp_path: Path, read: Callable[..., Any]) -> None:
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    save(tmp_path / "a.nii", stored)
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<ff", data, 112, 0.5, -3)  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(data)
    expected = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    assert expected[0, 0, 1] == -3 + 0.5 * stored[0, 0, 1]
    assert np.array_equal(read(NiftiField.find(tmp_path / "a.nii"), limit), expected)


def test_trailing_axes_and_planes(tmp_path: Path, read: Callable[..., Any]) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save(tmp_path / "a.nii.gz", labels[:, :, None, None])
    assert np.array_equal(read(NiftiField.find(tmp_path / "a.nii.gz")), labels[:, :, None])
    save(tmp_path / "b.nii.gz", labels)
    assert np.array_equal(read(NiftiField.find(tmp_path / "b.nii.gz", axes=REVERSED)), labels.T)


def test_wrong_number_of_axes(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8))
    save(tmp_path / "b.nii", np.zeros((2, 3, 4, 5), np.uint8))
    with pytest.raises(ShapeError, match="scores of shape"):
        NiftiField.find(tmp_path / "a.nii", scores=True)
    with pytest.raises(ShapeError, match="one value a voxel"):
        NiftiField.find(tmp_path / "b.nii")
    save(tmp_path / "c.nii", np.zeros((2, 3), np.uint8))
    with pytest.raises(UsageError, match="not volumes"):
        NiftiField.find(tmp_path / "c.nii", axes=Axes(canonical=True))


def test_geometry(tmp_path: Path) -> None:
    affine = np.diag([-1.5, 2.0, 3.0, 1.0])
    save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8), affine)
    head = read_header(tmp_path / "a.nii.gz")
    assert np.array_equal(head.affine, affine) and head.zooms == (1.5, 2.0, 3.0)
    (stated,) = {tuple(a.ravel()) for a in head.stated}
    assert stated == tuple(affine.ravel())


def test_damaged_files(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(MissingError, match="no such file"):
        NiftiField.find(tmp_path / "none.nii")
    (tmp_path / "text.nii.gz").write_text("not a volume")
    with pytest.raises(UnreadableError, match=r"text\.nii\.gz"):
        NiftiField.find(tmp_path / "text.nii.gz")
    save(tmp_path / "a.nii", rng.integers(0, 9, (9, 9, 9)).astype(np.uint8))
    (tmp_path / "short.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-10])
    with pytest.raises(UnreadableError, match="expected 1081"):
        NiftiField.find(tmp_path / "short.nii")
    save(tmp_path / "a.nii.gz", rng.integers(0, 9, (90, 90, 90)).astype(np.uint8))
    (tmp_path / "short.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-90000])
    field = NiftiField.find(tmp_path / "short.nii.gz")
    for limit in (1, 1 << 24):
        with (
            Scratch(limit) as scratch,
            pytest.raises(UnreadableError, match=r"short\.nii\.gz.*truncated"),
            field.open(scratch),
        ):
            pass


def test_header_that_claims_too_much(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_data_shape((30000, 30000, 30000))
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(image.header.binaryblock) + bytes(12)))
    with pytest.raises(UnsafeFileError, match="claim to unpack to 27000000000000"):
        NiftiField.find(tmp_path / "bomb.nii.gz")


def test_colours_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "rgb.nii", np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(UnreadableError, match="expected real numbers"):
        NiftiField.find(tmp_path / "rgb.nii")
