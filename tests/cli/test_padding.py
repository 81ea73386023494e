"""A missing .pkl changes nothing or stops every command alike; foreground that padding hides is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segcal.calibrators import load


def copied(folder: Path, to: Path, without: str) -> Path:
    """The predictions, without the properties whose name matches."""
    shutil.copytree(folder, to)
    for path in to.glob(without):
        path.unlink()
    return to


def temperature(path: Path) -> float:
    (found,) = load(path).maps
    return float(found.describe()["temperature"])


@pytest.mark.parametrize(
    ("without", "said"), [("*_001.pkl", "no .pkl for case_001:"), ("*.pkl", "case_002 and 1 more")]
)
def test_a_missing_pkl_changes_nothing(without: str, said: str, segcal: Any, nnunet: Any, tmp_path: Path) -> None:
    labels = ["--labels", nnunet.labels]
    few = copied(nnunet.results[0], tmp_path / "few", without)
    for name, folder in (("all", nnunet.results[0]), ("few", few)):
        words = ["fit", folder, *labels, "-o", tmp_path / f"{name}.safetensors", "--no-crossfit"]
        told = segcal(*words)
        assert told.code == 0 and (said in told.out.replace("\n", " ")) == (name == "few")
    assert temperature(tmp_path / "few.safetensors") == temperature(tmp_path / "all.safetensors")
    cal = tmp_path / "all.safetensors"
    scored = [
        segcal("evaluate", f, *labels, "--calibrator", cal, "--fitted", "include", "--json", "-").json
        for f in (nnunet.results[0], few)
    ]
    assert scored[0]["calibrated"] == scored[1]["calibrated"] and scored[0]["voxels"] == scored[1]["voxels"]
    assert any("found in the probabilities" in note for note in scored[1]["notes"])
    written = segcal("apply", cal, few, "-o", tmp_path / "out", "--json", "-").json
    assert (
        written["padding"]
        == segcal("apply", cal, nnunet.results[0], "-o", tmp_path / "o", "--json", "-").json["padding"]
    )
    assert any("found in the probabilities" in note for note in written["notes"])


def test_a_case_whose_padding_is_unknown_is_refused_by_every_command(segcal: Any, nnunet: Any, tmp_path: Path) -> None:
    cal, labels = tmp_path / "cal.safetensors", ["--labels", nnunet.labels]
    assert segcal("fit", nnunet.results[0], *labels, "-o", cal, "--no-crossfit").code == 0
    folder = copied(nnunet.results[0], tmp_path / "coarse", "*_001.pkl")
    p = np.load(folder / "case_001.npz")["probabilities"]
    np.savez(folder / "case_001.npz", probabilities=p.astype(np.float16))
    for words, code in (
        (["check", folder, *labels], 3),
        (["fit", folder, *labels, "-o", tmp_path / "new.safetensors"], 3),
        (["fit", folder, *labels, "-o", tmp_path / "new.safetensors", "--method", "auto"], 3),
        (["evaluate", folder, *labels, "--calibrator", cal, "--fitted", "include"], 4),
        (["evaluate", folder, *labels], 4),
        (["apply", cal, folder, "-o", tmp_path / "out"], 4),
        (["audit", cal, folder], 3),
    ):
        said = segcal(*words)
        assert said.code == code, words
        text = " ".join((said.out + said.err).split())
        assert "case_001.npz: found no case_001.pkl, and" in text and "certain predictions look alike" in text, words
    assert not (tmp_path / "new.safetensors").exists()
    assert {p.name for p in (tmp_path / "out").glob("*.npz")} == {f"case_00{k}.npz" for k in (0, 2, 3)}
    masks = tmp_path / "masks"
    masks.mkdir()
    for k in range(4):
        np.save(masks / f"case_00{k}.npy", np.ones(p.shape[1:], np.uint8))
    assert segcal("check", folder, *labels, "--mask", masks).code == 0


def test_foreground_in_padding_is_said(segcal: Any, nnunet: Any, tmp_path: Path) -> None:
    labels = shutil.copytree(nnunet.labels, tmp_path / "labels")
    path = labels / "case_002.nii.gz"
    stored = nibabel.load(path)
    y = np.asarray(stored.dataobj).copy()
    y[0, 0, 0] = 2
    nibabel.save(nibabel.Nifti1Image(y, stored.affine), path)
    found = "voxels, in 1 of 4 cases) lies in crop padding"
    cal = tmp_path / "cal.safetensors"
    for words in (
        ["check", nnunet.results[0], "--labels", labels],
        ["fit", nnunet.results[0], "--labels", labels, "-o", cal],
        ["fit", nnunet.results[0], "--labels", labels, "-o", tmp_path / "auto.safetensors", "--method", "auto"],
        ["evaluate", nnunet.results[0], "--labels", labels],
    ):
        said = segcal(*words)
        assert said.code == 0
        assert f"(1 {found}" in " ".join(said.out.split()), words
    data = load(cal).data
    assert data is not None and [r.hidden for r in data.records] == [0, 0, 1, 0]
    assert found not in segcal("evaluate", nnunet.results[0], "--labels", nnunet.labels).out
