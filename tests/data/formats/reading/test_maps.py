"""Label maps of every format, found by the name of their case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import zarr
from PIL import Image

from segcal.data.formats.label_maps import ENDINGS, Maps, by_case, ending, open_map, stem
from segcal.data.formats.nifti import AS_STORED, Axes
from segcal.errors import MissingError, ShapeError, UsageError


def save(path: Path, labels: np.ndarray[Any, Any]) -> None:
    known = ending(path, ENDINGS)
    if ".nii" in known:
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), path)
    elif known == ".npy":
        np.save(path, labels)
    elif known == ".npz":
        np.savez_compressed(path, y=labels)
    elif known == ".zarr":
        zarr.create_array(path, shape=labels.shape, chunks=(2, 2), dtype=labels.dtype)[...] = labels
    elif known in (".mha", ".nrrd", ".gipl"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels.T), str(path))
    else:
        Image.fromarray(labels).save(path)


@pytest.mark.parametrize("known", ENDINGS)
def test_every_format(known: str, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    labels = rng.integers(0, 9, (5, 6)).astype(np.uint8)
    save(tmp_path / f"a.b{known}", labels)
    found = Maps.find(tmp_path)
    assert found.path("a.b") == tmp_path / f"a.b{known}" and found.path("a") is None
    field = open_map(found.required("a.b"), (1, 5, 6), AS_STORED)
    assert field.shape == (1, 5, 6) and np.array_equal(read(field), labels[None])
    with pytest.raises(MissingError, match="no map for case c"):
        found.required("c")


def test_npz_of_several_arrays(tmp_path: Path, read: Callable[..., Any]) -> None:
    np.savez(tmp_path / "a.npz", labels=np.arange(4), other=np.zeros(4))
    assert read(open_map(tmp_path / "a.npz", (4,), AS_STORED)).tolist() == [0, 1, 2, 3]
    np.savez(tmp_path / "b.npz", x=np.arange(4), y=np.zeros(4))
    with pytest.raises(UsageError, match=r"arrays \['x', 'y'\]"):
        open_map(tmp_path / "b.npz", (4,), AS_STORED)


def test_shapes_that_differ(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.uint8))
    assert open_map(tmp_path / "a.nii.gz", (5, 4, 3), Axes(reverse=True)).shape == (5, 4, 3)
    with pytest.raises(ShapeError, match=r"found shape \(3, 4, 5\); expected \(5, 4, 3\) as the scores.*zyx=True"):
        open_map(tmp_path / "a.nii.gz", (5, 4, 3), AS_STORED)
    with pytest.raises(ShapeError, match="leave zyx=True"):
        open_map(tmp_path / "a.nii.gz", (3, 4, 5), Axes(reverse=True))
    with pytest.raises(ShapeError, match="same grid"):
        open_map(tmp_path / "a.nii.gz", (3, 4, 6), AS_STORED)


def test_names(tmp_path: Path) -> None:
    assert [stem(Path(n)) for n in ("a.nii.gz", "a.nii", "scan.v2.npz", "B.PNG", "a.pkl")] == [
        "a",
        "a",
        "scan.v2",
        "B",
        "a.pkl",
    ]
    for name in ("b.npz", "a.NPZ", "._a.npz", ".npz", "a.txt"):
        (tmp_path / name).touch()
    assert list(by_case(tmp_path, (".npz",))) == ["a", "b"]
    (tmp_path / "a.npy").touch()
    with pytest.raises(UsageError, match=r"a\.NPZ and a\.npy|a\.npy and a\.NPZ"):
        by_case(tmp_path, ENDINGS)
    with pytest.raises(MissingError, match="no such folder"):
        by_case(tmp_path / "none", ENDINGS)
    with pytest.raises(MissingError, match="found a file; expected a folder"):
        by_case(tmp_path / "b.npz", ENDINGS)


def test_folders_that_serve_no_case(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no label map"):
        Maps.find(tmp_path)
    with pytest.raises(MissingError, match="no such file or folder"):
        Maps.find(tmp_path / "none")
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(MissingError, match="names as of the cases, such as b"):
        Maps.find(tmp_path).check(["b", "c"])
    single = Maps.find(tmp_path / "a.npy")
    single.check(["b"])
    assert single.path("b") == tmp_path / "a.npy"
    with pytest.raises(UsageError, match="one file for 2 cases"):
        single.check(["b", "c"])
    with pytest.raises(UsageError, match=r"'\.gif'"):
        open_map(tmp_path / "a.gif", (3,), AS_STORED)
