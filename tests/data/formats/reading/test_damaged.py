"""A damaged file costs its case: in any format, any layout, as scores or labels, of any member."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import zarr
from PIL import Image

from segcal.data.formats.discover import open_cohort
from segcal.engine.serial import Serial
from segcal.errors import DataError, UnreadableError, UsageError

NAMES = ("a", "b", "c")


def save_npz(path: Path, values: np.ndarray[Any, Any]) -> None:
    np.savez_compressed(path, values)


def save_nifti(path: Path, values: np.ndarray[Any, Any]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(values, 0, -1) if values.ndim == 4 else values, np.eye(4)), path)


def save_zarr(path: Path, values: np.ndarray[Any, Any]) -> None:
    zarr.save_array(path, values)


def save_picture(path: Path, values: np.ndarray[Any, Any]) -> None:
    Image.fromarray(values.astype(np.uint8)).save(path)


def half(path: Path) -> None:
    """Half of a file; of a store, that of the file that describes it."""
    path = path / "zarr.json" if path.is_dir() else path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nothing(path: Path) -> None:
    path = path / "zarr.json" if path.is_dir() else path
    path.write_bytes(b"")


def others(path: Path) -> None:
    """What is a whole file of another kind."""
    path = path / "zarr.json" if path.is_dir() else path
    path.write_bytes(b"<html><body>404 Not Found</body></html>" * 20)


HARMS = pytest.mark.parametrize("harm", [half, nothing, others])


def folder(root: Path, rng: np.random.Generator, shape: tuple[int, ...], ending: str, label_ending: str) -> None:
    savers = {
        ".npz": save_npz,
        ".npy": np.save,
        ".zarr": save_zarr,
        ".nii.gz": save_nifti,
        ".nii": save_nifti,
        ".png": save_picture,
        ".tif": save_picture,
    }
    for place in ("m0", "m1", "y"):
        (root / place).mkdir()
    for name in NAMES:
        for member in ("m0", "m1"):
            savers[ending](root / member / f"{name}{ending}", rng.normal(size=(3, *shape)).astype(np.float32))
        savers[label_ending](root / "y" / f"{name}{label_ending}", rng.integers(0, 3, shape).astype(np.uint8))


def readable_cases(root: Path) -> tuple[list[str], dict[str, DataError]]:
    """Which cases can be read to their end, and why not the others."""
    cohort = open_cohort([root / "m0", root / "m1"], root / "y", kind="logits", damaged="exclude")
    failed: dict[str, DataError] = {}
    records = Serial().survey(cohort, {}, failed=failed)[1]
    return [r.id for r in records], {**cohort.damaged, **failed}


@HARMS
@pytest.mark.parametrize("ending", [".npz", ".npy", ".zarr", ".nii.gz", ".nii"])
def test_damaged_scores_of_a_member_cost_their_case(
    ending: str, harm: Callable[[Path], None], tmp_path: Path, rng: np.random.Generator
) -> None:
    folder(tmp_path, rng, (4, 5, 6), ending, ".npy")
    assert readable_cases(tmp_path) == (list(NAMES), {})
    spoilt = tmp_path / "m1" / f"b{ending}"
    harm(spoilt)
    kept, damaged = readable_cases(tmp_path)
    assert kept == ["a", "c"] and list(damaged) == ["b"]
    assert damaged["b"].where.startswith(str(spoilt))


@HARMS
@pytest.mark.parametrize("ending", [".npz", ".npy", ".zarr", ".nii.gz", ".nii", ".png", ".tif"])
def test_damaged_labels_cost_their_case(
    ending: str, harm: Callable[[Path], None], tmp_path: Path, rng: np.random.Generator
) -> None:
    shape = (40, 50) if ending in (".png", ".tif") else (4, 5, 6)
    folder(tmp_path, rng, shape, ".npy", ending)
    spoilt = tmp_path / "y" / f"a{ending}"
    harm(spoilt)
    kept, damaged = readable_cases(tmp_path)
    assert kept == ["b", "c"] and list(damaged) == ["a"]
    assert damaged["a"].where.startswith(str(spoilt))


@pytest.mark.parametrize("what", ["m1/b.npz", "m0/b.npz", "m1/b.pkl", "y/b.nii.gz"])
@HARMS
def test_a_damaged_file_of_nnunet_costs_its_case(
    what: str, harm: Callable[[Path], None], writers: ModuleType, tmp_path: Path, rng: np.random.Generator
) -> None:
    for member in ("m0", "m1"):
        writers.describe(tmp_path / member, {"background": 0, "x": 1, "y": 2})
        for name in NAMES:
            p = writers.probabilities(rng, 3, (4, 5, 6))
            writers.save_case(tmp_path / member, name, p, box=[[0, 4], [0, 5], [0, 6]])
            writers.save_map(tmp_path / member / f"{name}.nii.gz", p.argmax(0))
    for name in NAMES:
        writers.save_map(tmp_path / "y" / f"{name}.nii.gz", rng.integers(0, 3, (4, 5, 6)))
    harm(tmp_path / what)
    cohort = open_cohort([tmp_path / "m0", tmp_path / "m1"], tmp_path / "y", damaged="exclude")
    failed: dict[str, DataError] = {}
    records = Serial().survey(cohort, {}, failed=failed)[1]
    assert [r.id for r in records] == ["a", "c"] and list({**cohort.damaged, **failed}) == ["b"]


def test_all_are_refused_unless_told_to_leave_out_and_every_damaged_case_is_named(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    folder(tmp_path, rng, (4, 5), ".npz", ".npy")
    half(tmp_path / "m0" / "a.npz")
    half(tmp_path / "y" / "c.npy")
    with pytest.raises(UnreadableError, match=r"m0/a\.npz: .*1 more case.*: c\).*--exclude"):
        open_cohort([tmp_path / "m0", tmp_path / "m1"], tmp_path / "y", kind="logits")
    left = open_cohort([tmp_path / "m0", tmp_path / "m1"], tmp_path / "y", kind="logits", damaged="exclude")
    assert [c.id for c in left] == ["b"] and list(left.damaged) == ["a", "c"]
    assert left.select(["b"]).whole().damaged == {} and list(left.select(["[bc]"]).damaged) == ["c"]
    with pytest.raises(UnreadableError, match=r"m0/a\.npz"):
        left.select(["a", "c"])
    with pytest.raises(UsageError, match="names no case"):
        left.select(["d"])


def test_where_all_are_damaged_the_first_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    folder(tmp_path, rng, (4, 5), ".npz", ".npy")
    for name in NAMES:
        half(tmp_path / "m1" / f"{name}.npz")
    with pytest.raises(UnreadableError, match=r"m1/a\.npz.*b, c") as caught:
        open_cohort([tmp_path / "m0", tmp_path / "m1"], tmp_path / "y", kind="logits", damaged="exclude")
    assert "--exclude" not in str(caught.value)  # there are no others to choose


def test_an_archive_without_arrays_is_damaged(tmp_path: Path, rng: np.random.Generator) -> None:
    folder(tmp_path, rng, (4, 5), ".npz", ".npz")
    np.savez(tmp_path / "m0" / "a.npz")
    np.savez(tmp_path / "y" / "c.npz")
    kept, damaged = readable_cases(tmp_path)
    assert kept == ["b"] and all("no array in it" in str(error) for error in damaged.values()) and len(damaged) == 2
