"""Which layout is this: decisions by names alone, messages that say what was looked for, and the real ensembles."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.discover import open_cohort
from segcal.errors import MissingError, UsageError


def test_files_are_cases_or_members(tmp_path: Path) -> None:
    for name in ("m0/a", "m0/b", "m1/a", "m1/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / f"{name}.npz", logits=np.zeros((2, 3)))
    cases = open_cohort([tmp_path / "m0" / "b.npz", tmp_path / "m0" / "a.npz"])
    assert [c.id for c in cases] == ["a", "b"] and cases.members == 1
    members = open_cohort([tmp_path / "m0" / "a.npz", str(tmp_path / "m1" / "a.npz")])
    assert len(members) == 1 and members.members == 2
    with pytest.raises(MissingError, match="no scores for case b"):
        open_cohort([tmp_path / "m0" / "a.npz", tmp_path / "m0" / "b.npz", tmp_path / "m1" / "a.npz"])


def test_a_single_case_with_its_label_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "scan.npz", logits=np.zeros((2, 3, 4)))
    Image.fromarray(np.ones((3, 4), np.uint8)).save(tmp_path / "truth.png")
    cohort = open_cohort(tmp_path / "scan.npz", tmp_path / "truth.png")
    assert cohort.labelled()[0].id == "scan"


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="paths: found no path"):
        open_cohort([])
    with pytest.raises(MissingError, match="no such file or folder"):
        open_cohort(tmp_path / "none")
    with pytest.raises(
        MissingError, match=r"an empty folder; expected CASE\.npz.*nnU-Net prediction folder.*nnU-Net results folder"
    ):
        open_cohort(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingError, match=r"neither scores nor an nnU-Net layout, but notes\.txt"):
        open_cohort(tmp_path)
    with pytest.raises(UsageError, match=r"scores of undeclared kind|a file ending in '.txt'"):
        open_cohort(tmp_path / "notes.txt")


def test_folder_of_members(tmp_path: Path) -> None:
    for name in ("member0", "member1", "labels"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.zeros((2, 3)))
    with pytest.raises(
        UsageError,
        match=r"folders only: labels, member0, member1.*Name the members of the ensemble: \S+member0 \S+member1$",
    ):
        open_cohort(tmp_path)


def test_layouts_do_not_mix(writers: ModuleType, tmp_path: Path, rng: np.random.Generator) -> None:
    writers.describe(tmp_path / "n", {"background": 0, "a": 1})
    p = writers.probabilities(rng, 2, (2, 3, 4))
    writers.save_case(tmp_path / "n", "a", p)
    (tmp_path / "p").mkdir()
    np.savez(tmp_path / "p" / "a.npz", probabilities=p)
    with pytest.raises(UsageError, match="a folder of scores; expected an nnU-Net prediction folder"):
        open_cohort([tmp_path / "n", tmp_path / "p"])


SHARED = Path(os.environ.get("SEGCAL_SHARED", Path(__file__).resolve().parents[4].parent / "shared"))
WRITER = SHARED / "zoo" / "write_predictions.py"
needs_zoo = pytest.mark.skipif(
    not WRITER.is_file() or importlib.util.find_spec("onnxruntime") is None,
    reason="needs the real ensembles (SEGCAL_SHARED or ../shared) and onnxruntime",
)


def write(out: Path, dataset: str, *options: str) -> Path:
    subprocess.run(
        [sys.executable, str(WRITER), dataset, str(out), "--limit", "2", *options],
        check=True,
        capture_output=True,
        cwd=WRITER.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return out


def whole(cohort: Cohort, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pooled scores, labels and roles of a case, through a budget so small that all goes through files; every block is
    prepared and noted.
    """
    with Scratch(1 << 16) as scratch, cohort.open(index, scratch) as reader:
        blocks = [reader.block(a, b) for a, b in cohort.cuts(index)]
        record = reader.record([reader.note(b) for b in blocks])
        prepared = sum(reader.prepare(b).targets.shape[1] for b in blocks)
    roles = np.concatenate([b.role.numpy() for b in blocks])
    assert record.roles == tuple(np.bincount(roles, minlength=4)) and prepared == record.roles[0]
    return (
        np.concatenate([b.scores.numpy() for b in blocks], 1),
        np.concatenate([b.labels.numpy() for b in blocks if b.labels is not None]),
        roles,
    )


@needs_zoo
@pytest.mark.parametrize("regions", [(), ("--regions",)])
def test_real_volumes_as_nnunet_leaves_them(regions: tuple[str, ...], tmp_path: Path) -> None:
    root = write(
        tmp_path / "z",
        "hippocampus",
        "--layout",
        "nnunet",
        "--members",
        "2",
        "--crop",
        "3",
        "--transpose",
        "--postprocess",
        *regions,
    )
    members = [root / "member0", root / "member1"]
    cohort = open_cohort(members, root / "labelsTr")
    for k, case in enumerate(cohort):
        scores, labels, roles = whole(cohort, k)
        each = [np.load(m / f"{case.id}.npz")["probabilities"] for m in members]
        assert np.allclose(scores, np.mean(each, 0, dtype=np.float64).reshape(scores.shape), rtol=0, atol=1e-15)
        assert np.array_equal(
            labels, np.asarray(nibabel.load(root / "labelsTr" / f"{case.id}.nii.gz").dataobj).reshape(-1, order="F")
        )
        inside = np.zeros(case.shape, bool)
        inside[3:-3, 3:-3, 3:-3] = True
        assert np.array_equal(roles, np.where(inside, 0, 2).reshape(-1))
    for member in members:
        for path in member.glob("*.pkl"):
            path.unlink()
    bare = open_cohort(members, root / "labelsTr")
    for k in range(len(cohort)):
        assert bare[k].crop is None
        for read, recorded in zip(whole(bare, k), whole(cohort, k), strict=True):
            assert np.array_equal(read, recorded)
    path = members[1] / f"{cohort[0].id}.npz"
    np.savez(path, probabilities=np.load(path)["probabilities"].round(3))
    coarse = open_cohort(members[1], root / "labelsTr")
    with pytest.raises(MissingError, match="certain predictions look alike"):
        whole(coarse, 0)
    whole(coarse, 1)


@needs_zoo
def test_real_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    root = write(tmp_path / "z", "hippocampus", "--layout", "nnunet-results", "--members", "2")
    cohort = open_cohort(root / "nnUNet_results").labelled()
    assert len(cohort) == 2
    for k, case in enumerate(cohort):
        scores, labels, _ = whole(cohort, k)
        assert np.array_equal(
            scores, np.load(case.files["folder"] / f"{case.id}.npz")["probabilities"].reshape(scores.shape)
        )
        truth = root / "nnUNet_preprocessed" / "Dataset900_hippocampus" / "gt_segmentations" / f"{case.id}.nii.gz"
        assert np.array_equal(labels, np.asarray(nibabel.load(truth).dataobj).reshape(-1, order="F"))


@needs_zoo
def test_real_pictures_with_an_ignored_label(tmp_path: Path) -> None:
    root = write(tmp_path / "z", "camvid", "--layout", "npz", "--members", "1")
    cohort = open_cohort(root / "member0", root / "labels", ignore_index=255)
    assert cohort.has_logits
    for k, case in enumerate(cohort):
        scores, labels, roles = whole(cohort, k)
        truth = np.asarray(Image.open(root / "labels" / f"{case.id}.png")).reshape(-1)
        assert np.array_equal(scores, np.load(root / "member0" / f"{case.id}.npz")["logits"].reshape(11, -1))
        assert np.array_equal(labels, truth) and np.array_equal(roles == 1, truth == 255)
