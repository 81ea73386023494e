"""Label maps that nnU-Net writes through SimpleITK: voxels, axes and places as of the same map in NIfTI."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from segcal.cli import run
from segcal.data.formats import label_maps as maps
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.geometry import compared
from segcal.data.formats.itk import ENDINGS
from segcal.data.formats.nifti import AS_STORED, Axes
from segcal.errors import MissingError, ShapeError, UnreadableError, UnsafeFileError, UsageError

SHAPE = (4, 5, 6)
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
TURNED = Axes(reverse=True, canonical=True)


def save(path: Path, values: Any, direction: Any = (-1, 0, 0, 0, -1, 0, 0, 0, 1), vector: bool = False) -> Path:
    """Values (Z, Y, X) as nnU-Net's SimpleITK writer leaves them."""
    image = SimpleITK.GetImageFromArray(values, isVector=vector)
    if image.GetDimension() == 3:
        image.SetSpacing((1.5, 2.0, 3.0))
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), True)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("axes", [AS_STORED, Axes(reverse=True), TURNED])
def test_as_the_same_map_in_nifti(
    ending: str, axes: Axes, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    axes = Axes(reverse=True) if ending == ".gipl" else axes  # which has no directions
    for direction in ((-1, 0, 0, 0, -1, 0, 0, 0, 1), OBLIQUE):
        y = rng.integers(0, 3, SHAPE).astype(np.uint8)
        path, same = (save(tmp_path / f"a{e}", y, direction) for e in (ending, ".nii.gz"))
        expected = read(maps.open_map(same, SHAPE if axes.reverse else SHAPE[::-1], axes))
        for limit in (1, 1 << 20):
            field = maps.open_map(path, expected.shape, axes)
            assert np.array_equal(read(field, limit), expected)
        assert compared([maps.placement(same), maps.placement(path)], "strict") == ""
        assert maps.placement(path).spacing == pytest.approx((1.5, 2.0, 3.0), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_types_and_slices(dtype: Any, tmp_path: Path, read: Callable[..., Any]) -> None:
    y = np.arange(30).reshape(5, 6).astype(dtype)
    path = save(tmp_path / "a.mha", y)
    assert np.array_equal(read(maps.open_map(path, (1, 5, 6), Axes(reverse=True))), y[None])
    with pytest.raises(ShapeError, match=r"a\.mha: found shape \(5, 6\)"):
        maps.open_map(path, (1, 6, 6), Axes(reverse=True))


def test_hostile_and_damaged_files(tmp_path: Path, read: Callable[..., Any]) -> None:
    good = save(tmp_path / "good.mha", np.zeros((8, 8, 8), np.uint8)).read_bytes()
    os.mkfifo(tmp_path / "pipe")

    def refused(name: str, data: bytes, error: type[Exception], match: str) -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error, match=match):
            read(maps.open_map(tmp_path / name, (8, 8, 8), AS_STORED))

    pipe = str(tmp_path / "pipe").encode()
    for other in (b"= " + pipe, b"= LIST", b"=x.raw\r"):
        head = good.partition(b"ElementDataFile")[0] + b"elementDataFile " + other + b"\n"
        refused("a.mha", head + b"ElementDataFile = LOCAL\n", UnsafeFileError, "takes its voxels from")
    refused("a.mha", b"Comment = x\rElementDataFile = /a\nElementDataFile = LOCAL\n", UnreadableError, r"a\.mha: ")
    nrrd = save(tmp_path / "good.nrrd", np.zeros((8, 8, 8), np.uint8)).read_bytes()
    detached = nrrd.replace(b"encoding", b"Data File: " + pipe + b"\nencoding")
    refused("a.nrrd", detached, UnsafeFileError, "takes its voxels from")
    refused("a.nrrd", nrrd.replace(b"encoding: gzip", b"encoding: bzip2"), UnreadableError, "of which raw and gzip are")
    refused("a.mha", good.replace(b"NDims = 3", b"NDims =-3"), UnreadableError, "where one value a voxel")
    refused("a.nrrd", nrrd.replace(b"sizes: 8 8 8", b"sizes: 99999 99999 9"), UnsafeFileError, "claim to unpack")
    refused("a.mha", good.replace(b"DimSize = 8 8 8", b"DimSize = 99999 99999 9"), UnsafeFileError, "claim to unpack")
    refused("a.nrrd", nrrd[:-8], UnreadableError, r"a\.nrrd: found a file that cannot be read")
    gipl = save(tmp_path / "good.gipl", np.zeros((8, 8, 8), np.uint8)).read_bytes()
    refused("a.gipl", gipl[:-1], UnreadableError, "767 bytes; expected 768")
    for name in ("a.mha", "a.nrrd", "a.gipl"):
        refused(name, b"\x1f\x8b" + bytes(400), UnreadableError, f"{name}: ")
        refused(name, b"", UnreadableError, f"{name}: ")
    save(tmp_path / "a.mha", np.zeros((8, 8, 8, 2), np.uint8), vector=True)
    with pytest.raises(UnreadableError, match="elementnumberofchannels '2', of which 1 is read"):
        maps.open_map(tmp_path / "a.mha", (8, 8, 8), AS_STORED)


@pytest.mark.parametrize("ending", ENDINGS)
def test_nnunet_with_these_label_maps(
    ending: str,
    writers: ModuleType,
    tmp_path: Path,
    rng: np.random.Generator,
    read: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Read, compared, applied: what was delivered comes back byte for byte; maps have no format here."""
    P, L = tmp_path / "p", tmp_path / "y"
    writers.describe(P, {"background": 0, "a": 1, "b": 2}, ending=ending)
    for case in "abcd":
        p = writers.probabilities(rng, 3, SHAPE)
        writers.save_case(P, case, p, ending=".png", delivered=np.zeros((1, 5, 6), np.uint8))
        (P / f"{case}.png").unlink()
        save(P / f"{case}{ending}", p.argmax(0).astype(np.uint8))
        save(L / f"{case}{ending}", rng.integers(0, 3, SHAPE).astype(np.uint8))
    cohort = open_cohort(P, L)
    assert np.array_equal(read(cohort[0].fields["delivered"]), read(cohort[0].scores[0]).argmax(0))
    assert cohort[0].spacing == (3.0, 2.0, 1.5) and cohort[0].labels is not None
    cal, out = str(tmp_path / "cal.safetensors"), tmp_path / "out"
    assert run(["fit", str(P), "--labels", str(L), "--method", "ts", "-o", cal]) == 0
    (P / "postprocessing.pkl").write_bytes(b"never opened")
    assert run(["apply", cal, str(P), "-o", str(out)]) == 0
    assert "nnUNetv2_apply_postprocessing" in capsys.readouterr().out
    assert (out / "postprocessing.pkl").read_bytes() == b"never opened"
    assert all((out / f"{c}{ending}").read_bytes() == (P / f"{c}{ending}").read_bytes() for c in "abcd")
    assert run(["apply", cal, str(P), "-o", str(tmp_path / "maps"), "--maps", "entropy"]) != 0
    if ending == ".mha":
        save(L / "a.mha", rng.integers(0, 3, SHAPE).astype(np.uint8), OBLIQUE)
        with pytest.raises(ShapeError, match=r"y/a\.mha: found an affine that differs"):
            open_cohort(P, L).whole()


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "y").mkdir()
    (tmp_path / "p").mkdir()
    np.savez(tmp_path / "p" / "c0.npz", logits=np.zeros((2, 4, 4), np.float32))
    (tmp_path / "y" / "c0.vtk").write_bytes(b"")
    with pytest.raises(MissingError, match=r"no label map that is read, but c0\.vtk; .*\.mha.*convert them"):
        open_cohort(tmp_path / "p", tmp_path / "y")
    (tmp_path / "t").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "t" / "c0.tif")
    with pytest.raises(MissingError, match=r"but c0\.tif; .*savez_compressed"):
        open_cohort(tmp_path / "t", kind="scores")
    with pytest.raises((UsageError, MissingError), match=r"c0\.mha"):
        save(tmp_path / "s" / "c0.mha", np.zeros(SHAPE, np.uint8))
        open_cohort(tmp_path / "s", kind="scores")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("c0.ome.zarr", "c0"),
        ("c0.OME.Zarr", "c0"),
        ("c0.ome.tif", "c0"),
        ("c0.ome.tiff", "c0"),
        (".ome.zarr", ".ome"),
        ("c0.ome.npz", "c0.ome"),
        ("c0.mha", "c0"),
        ("c0.bmp", "c0"),
        ("c0.some.zarr", "c0.some"),
    ],
)
def test_names_of_cases(name: str, case: str) -> None:
    assert maps.stem(Path(name)) == case


def test_bitmaps(tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    """NaturalImage2DIO writes them."""
    y = rng.integers(0, 3, (5, 7)).astype(np.uint8)
    Image.fromarray(y).save(tmp_path / "a.bmp")
    assert np.array_equal(read(maps.open_map(tmp_path / "a.bmp", (5, 7), AS_STORED)), y)
