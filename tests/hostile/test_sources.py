"""Bad input, from the outside: every message names the file, says what was found and expected and what to do, and
nothing is left behind.
"""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from segcal.data.files.journal import Scratch
from segcal.data.formats.discover import open_cohort
from segcal.errors import (
    DataError,
    LabelError,
    MissingError,
    OutputError,
    ScoreError,
    SegcalError,
    ShapeError,
    UnreadableError,
    UnsafeFileError,
)

CLASSES = {"background": 0, "a": 1, "b": 2}


@pytest.fixture(scope="module")
def writers() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "source_writers", Path(__file__).parents[1] / "data" / "formats" / "reading" / "writers.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(writers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two members m0, m1 with one case, labels in y, scratch space in s."""
    rng = np.random.default_rng(3)
    for k in range(2):
        writers.describe(tmp_path / f"m{k}", CLASSES)
        writers.save_case(tmp_path / f"m{k}", "case", writers.probabilities(rng, 3, (4, 5, 6)))
    writers.save_map(tmp_path / "y" / "case.nii.gz", rng.integers(0, 3, (4, 5, 6)))
    (tmp_path / "s").mkdir()
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path / "s"))
    return tmp_path


def use(root: Path, limit: int = 1) -> None:
    """All that a fit does with a cohort's files."""
    cohort = open_cohort([root / "m0", root / "m1"], root / "y").labelled()
    with Scratch(limit) as scratch:
        for k in range(len(cohort)):
            with cohort.open(k, scratch) as reader:
                blocks = [reader.block(*cut) for cut in cohort.cuts(k)]
                for block in blocks:
                    reader.prepare(block)
                reader.record([reader.note(b) for b in blocks])


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def probabilities(root: Path) -> np.ndarray[Any, Any]:
    with np.load(root / "m1" / "case.npz") as archive:
        return np.array(archive["probabilities"])


def save(root: Path, p: np.ndarray[Any, Any]) -> None:
    np.savez_compressed(root / "m1" / "case.npz", probabilities=p)


def remove_npz(root: Path, writers: ModuleType) -> None:
    (root / "m1" / "case.npz").unlink()


def remove_label(root: Path, writers: ModuleType) -> None:
    (root / "y" / "case.nii.gz").rename(root / "y" / "other.nii.gz")


def truncate(root: Path, writers: ModuleType) -> None:
    path = root / "m1" / "case.npz"
    path.write_bytes(path.read_bytes()[:-30])


def damage(root: Path, writers: ModuleType) -> None:
    path = root / "m1" / "case.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4] = b"\0\xff\0\xff"
    path.write_bytes(data)


def code(root: Path, writers: ModuleType) -> None:
    (root / "m1" / "case.pkl").write_bytes(pickle.dumps({"spacing": Runs(f"touch {root / 'ran'}")}))


def bomb(root: Path, writers: ModuleType) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3, 4, 5, 6)})
    with zipfile.ZipFile(root / "m1" / "case.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probabilities.npy", header.getvalue() + bytes(10**8))


def objects(root: Path, writers: ModuleType) -> None:
    np.savez(root / "m1" / "case.npz", probabilities=np.array([[Runs("true")]], dtype=object))


def other_shape(root: Path, writers: ModuleType) -> None:
    writers.save_map(root / "y" / "case.nii.gz", np.zeros((4, 5, 7)))


def other_geometry(root: Path, writers: ModuleType) -> None:
    writers.save_map(root / "y" / "case.nii.gz", np.zeros((4, 5, 6)), np.eye(4))


def other_classes(root: Path, writers: ModuleType) -> None:
    writers.describe(root / "m1", {"background": 0, "a": 1, "c": 2})


def more_classes(root: Path, writers: ModuleType) -> None:
    save(root, np.full((4, 4, 5, 6), 0.25, np.float32))


def truncated_label(root: Path, writers: ModuleType) -> None:
    path = root / "y" / "case.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])


def interpolated_label(root: Path, writers: ModuleType) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((6, 5, 4), 0.5, np.float32), writers.AFFINE), root / "y" / "case.nii.gz")


def label_out_of_range(root: Path, writers: ModuleType) -> None:
    writers.save_map(root / "y" / "case.nii.gz", np.full((4, 5, 6), 255))


def not_a_number(root: Path, writers: ModuleType) -> None:
    p = probabilities(root)
    p[1, 2, 3, 4] = np.nan
    save(root, p)


def wrong_sum(root: Path, writers: ModuleType) -> None:
    save(root, probabilities(root) * 0.5)


def colours(root: Path, writers: ModuleType) -> None:
    (root / "y" / "case.nii.gz").unlink()
    Image.new("RGB", (6, 5)).save(root / "y" / "case.png")


def nothing_but_padding(root: Path, writers: ModuleType) -> None:
    for k in range(2):
        writers.save_case(root / f"m{k}", "case", probabilities(root), box=[[0, 0], [0, 5], [0, 6]])


def empty(root: Path, writers: ModuleType) -> None:
    for path in (root / "m1").iterdir():
        path.unlink()


@pytest.mark.parametrize("limit", [1, 1 << 20])
@pytest.mark.parametrize(
    ("spoil", "error", "where", "words"),
    [
        (remove_npz, MissingError, "m1", "--save_probabilities"),
        (remove_label, MissingError, "y", "such as case"),
        (truncate, UnreadableError, "m1/case.npz", "truncated"),
        (damage, UnreadableError, "m1/case.npz", "damaged"),
        (code, UnsafeFileError, "m1/case.pkl", "system"),
        (bomb, UnsafeFileError, "m1/case.npz", "unpacks to 100000128 bytes"),
        (objects, UnsafeFileError, "m1/case.npz", "Python objects"),
        (other_shape, ShapeError, "y/case.nii.gz", "(4, 5, 7)"),
        (other_geometry, ShapeError, "y/case.nii.gz", "affine"),
        (other_classes, ShapeError, "m1/dataset.json", "background, a, c"),
        (more_classes, ShapeError, "m1/case.npz", "4 classes"),
        (truncated_label, UnreadableError, "y/case.nii.gz", "truncated"),
        (interpolated_label, LabelError, "y/case.nii.gz", "0.5"),
        (label_out_of_range, LabelError, "y/case.nii.gz", "[255]"),
        (not_a_number, ScoreError, "m1/case.npz", "nan"),
        (wrong_sum, ScoreError, "m1/case.npz", "sum to 0.5"),
        (colours, UnreadableError, "y/case.png", "mode RGB"),
        (nothing_but_padding, LabelError, "y/case.nii.gz", "120 padding"),
        (empty, MissingError, "m1", "an empty folder"),
    ],
)
def test_every_message_names_the_file(
    spoil: Callable[[Path, ModuleType], None],
    error: type[SegcalError],
    where: str,
    words: str,
    limit: int,
    folders: Path,
    writers: ModuleType,
) -> None:
    use(folders, limit)
    spoil(folders, writers)
    with pytest.raises(error) as caught:
        use(folders, limit)
    assert caught.value.where == str(folders / where)
    assert (
        words in str(caught.value)
        and caught.value.found
        and caught.value.expected
        and re.match(r"[A-Z]", caught.value.do)
    )
    assert isinstance(caught.value, DataError) and caught.value.exit_code == 3
    assert not (folders / "ran").exists() and not any((folders / "s").iterdir())


def test_a_case_without_labels_is_named(folders: Path, writers: ModuleType) -> None:
    for k in range(2):
        writers.save_case(folders / f"m{k}", "second", probabilities(folders))
    with pytest.raises(MissingError, match=r"case second: found no label file.*--labels"):
        use(folders)


def test_full_disk(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcal.data.formats.raw.shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OutputError, match="SEGCAL_SCRATCH"):
        use(folders)
    assert not any((folders / "s").iterdir())
