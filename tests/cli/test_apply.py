"""`segcal apply`: what is written, what is refused, how a run goes on, and what is left when cases fail."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "segcal.json"
    }


def test_probabilities_keep_every_label(segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = segcal("apply", calibrator, *heldout.words, "-o", out, "--maps", "entropy,confidence")
    assert (said.code, said.err) == (0, "")
    assert "4 case(s) written" in said.out
    assert "labels that calibration flipped: 0 of" in said.out
    for source in heldout.results[0].iterdir():
        p = np.load(out / source.name)["probabilities"]
        assert p.dtype == np.float32
        np.testing.assert_array_equal(p.argmax(0), np.load(source)["logits"].argmax(0))
        np.testing.assert_array_equal(np.load(out / "confidence" / f"{source.stem}.npy"), p.max(0))


def test_nnunet_comes_back_in_its_layout_with_the_delivered_map_as_it_was(
    segcal: Any, nnunet: Any, tmp_path: Path
) -> None:
    single = nnunet.results[0]
    words = [single, "--labels", nnunet.labels]
    assert segcal("fit", *words, "-o", tmp_path / "cal.safetensors", "--no-crossfit").code == 0
    said = segcal(
        "apply",
        tmp_path / "cal.safetensors",
        single,
        "-o",
        tmp_path / "out",
        "--maps",
        "error",
        "--json",
        tmp_path / "a.json",
    )
    assert said.code == 0
    assert "padding, passed through unchanged" in said.out
    assert "post-processing" in said.out
    for name in [p.name for p in single.glob("*.nii.gz")]:
        assert (tmp_path / "out" / name).read_bytes() == (single / name).read_bytes()
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["padding"] == sum(case["padding"] for case in found["cases"]) > 0
    assert (found["written"], found["failed"], found["delivered_differs"]) == (4, 0, 0)


def test_existing_outputs_are_refused_then_overwritten(
    segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path
) -> None:
    words = ["apply", calibrator, *heldout.words, "-o", tmp_path / "out"]
    assert segcal(*words).code == 0
    before = files(tmp_path / "out")
    refused = segcal(*words)
    assert refused.code == 3
    assert "--overwrite" in refused.err
    assert files(tmp_path / "out") == before
    broken = tmp_path / "out" / "q00.npz"
    broken.write_bytes(b"not the result")
    assert segcal(*words, "--overwrite").code == 0
    assert files(tmp_path / "out") == before


def test_resume_leaves_finished_cases_alone(segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path) -> None:
    words = ["apply", calibrator, *heldout.words, "-o", tmp_path / "out", "--maps", "entropy"]
    assert segcal(*words).code == 0
    before = files(tmp_path / "out")
    kept, gone = tmp_path / "out" / "q00.npz", tmp_path / "out" / "entropy" / "q01.npy"
    stamp = kept.stat().st_mtime_ns
    gone.unlink()
    said = segcal(*words, "--resume")
    assert said.code == 0
    assert "3 case(s) were finished before" in said.out
    assert "1 case(s) written" in said.out
    assert files(tmp_path / "out") == before
    assert kept.stat().st_mtime_ns == stamp
    again = segcal(*words, "--resume")
    assert again.code == 0
    assert "4 case(s) were finished before" in again.out


def test_resume_writes_again_what_is_older_than_the_run(
    segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path
) -> None:
    words = ["apply", calibrator, *heldout.words, "-o", tmp_path / "out"]
    assert segcal(*words).code == 0
    stale = tmp_path / "out" / "q02.npz"
    right = stale.read_bytes()
    stale.write_bytes(b"of another run")
    begun = (tmp_path / "out" / "segcal.json").stat().st_mtime
    os.utime(stale, (begun - 10, begun - 10))
    said = segcal(*words, "--resume", "--json")
    assert said.json["skipped"] == ["q00", "q01", "q03"]
    assert stale.read_bytes() == right


def test_resume_does_not_mix_two_runs(
    segcal: Any, heldout: Any, fitting: Any, calibrator: Path, tmp_path: Path
) -> None:
    words = ["apply", calibrator, *heldout.words, "-o", tmp_path / "out"]
    assert segcal(*words).code == 0
    maps = segcal(*words, "--resume", "--maps", "entropy")
    assert maps.code == 2
    assert "maps" in maps.err
    other = tmp_path / "other.safetensors"
    assert segcal("fit", *fitting.labelled, "--method", "ets", "--no-crossfit", "-o", other).code == 0
    changed = segcal("apply", other, *heldout.words, "-o", tmp_path / "out", "--resume")
    assert changed.code == 2
    assert "calibrator" in changed.err
    (tmp_path / "out" / "segcal.json").write_text("[")
    assert segcal(*words, "--resume").code == 3
    (tmp_path / "out" / "segcal.json").unlink()
    assert segcal(*words, "--resume").code == 2


def test_a_broken_case_does_not_stop_the_others(segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path) -> None:
    copied = tmp_path / "results"
    shutil.copytree(heldout.results[0], copied)
    bad = copied / "q01.npz"
    with np.load(bad) as good:
        broken = good["logits"].copy()
    broken[0, 3, 3] = np.nan
    np.savez_compressed(bad, logits=broken)
    out = tmp_path / "out"
    said = segcal("apply", calibrator, copied, "-o", out, "--json", tmp_path / "a.json")
    assert said.code == 4
    assert "q01" in said.err
    assert "1 of 4" in said.err
    assert sorted(files(out)) == ["q00.npz", "q02.npz", "q03.npz"]
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["written"], found["failed"]) == (3, 1)
    assert [c["case"] for c in found["cases"] if c["error"] is not None] == ["q01"]
    shutil.copy(heldout.results[0] / "q01.npz", bad)
    repaired = segcal("apply", calibrator, copied, "-o", out, "--resume")
    assert repaired.code == 0
    assert "3 case(s) were finished before" in repaired.out


def test_if_every_case_fails_nothing_is_partly_done(
    segcal: Any, cohort_writer: Any, calibrator: Path, tmp_path: Path
) -> None:
    folder = cohort_writer(tmp_path / "in", ["x"])
    np.savez_compressed(folder.results[0] / "x.npz", logits=np.full((3, 24, 20), np.inf, np.float32))
    said = segcal("apply", calibrator, *folder.words, "-o", tmp_path / "out")
    assert said.code == 3
    assert list((tmp_path / "out").glob("*.npz")) == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--maps", "colours"], 2, "colours"),
        (["--maps", "entropy,entropy"], 2, "entropy"),
        (["--format", "nnunet"], 2, "nnunet"),
        (["--overwrite", "--resume"], 2, "--resume"),
        (["--cases", "nobody"], 2, "nobody"),
    ],
)
def test_wrong_arguments_leave_nothing(
    segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path, words: list[str], code: int, told: str
) -> None:
    said = segcal("apply", calibrator, *heldout.words, "-o", tmp_path / "out", *words)
    assert said.code == code
    assert told in said.err
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(segcal: Any, heldout: Any, calibrator: Path) -> None:
    before = files(heldout.results[0])
    said = segcal("apply", calibrator, *heldout.words, "-o", heldout.results[0], "--overwrite")
    assert said.code == 2
    assert "input" in said.err
    assert files(heldout.results[0]) == before
    assert not (heldout.results[0] / "segcal.json").exists()


def test_a_mismatch_stops_it_unless_told_to_go_on(
    segcal: Any, cohort_writer: Any, calibrator: Path, tmp_path: Path
) -> None:
    pair = cohort_writer(tmp_path / "pair", ["x"], members=2, seed=9)
    refused = segcal("apply", calibrator, *pair.words, "-o", tmp_path / "out")
    assert refused.code == 2
    assert not (tmp_path / "out").exists()
    gone_on = segcal("apply", calibrator, *pair.words, "-o", tmp_path / "out", "--go-on")
    assert gone_on.code == 0
    assert "note: " in gone_on.out


@pytest.mark.parametrize("format", ["npz", "npy", "zarr"])
def test_formats(segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path, format: str) -> None:
    assert segcal("apply", calibrator, *heldout.words, "-o", tmp_path / "out", "--format", format).code == 0
    assert len(list((tmp_path / "out").glob(f"*.{format}"))) == 4
    assert segcal(
        "apply", calibrator, *heldout.words, "-o", tmp_path / "out", "--format", format, "--resume", "--json"
    ).json["skipped"] == ["q00", "q01", "q02", "q03"]


@pytest.mark.parametrize("zyx", [False, True])
def test_nifti_has_the_axes_of_the_arrays_or_their_reverse_as_told(
    segcal: Any, calibrator: Path, tmp_path: Path, zyx: bool
) -> None:
    told = ["--zyx"] if zyx else []
    z = np.random.default_rng(0).normal(0, 2, (3, 4, 5, 6)).astype(np.float32)
    (tmp_path / "new").mkdir()
    np.savez(tmp_path / "new" / "a.npz", logits=z)
    run = ["apply", calibrator, tmp_path / "new", "-o", tmp_path / "out", "--format", "nifti", "--maps", "confidence"]
    assert segcal(*run, *told).code == 0
    assert segcal("apply", calibrator, tmp_path / "new", "-o", tmp_path / "npz").code == 0
    p = np.load(tmp_path / "npz" / "a.npz")["probabilities"]
    axes = (3, 2, 1) if zyx else (1, 2, 3)
    written = nibabel.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), p.transpose(*axes, 0))
    confidence = nibabel.load(tmp_path / "out" / "confidence" / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(confidence.dataobj), p.transpose(0, *axes).max(0))
    said = segcal(*run, *([] if zyx else ["--zyx"]), "--resume")
    assert said.code == 2 and "zyx" in said.err
    assert segcal(*run, *told, "--resume").code == 0


def test_nifti_scores_read_in_the_reverse_order_come_back_on_their_own_grid(
    segcal: Any, calibrator: Path, tmp_path: Path
) -> None:
    z = np.random.default_rng(0).normal(0, 2, (4, 5, 6, 3)).astype(np.float32)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    (tmp_path / "new").mkdir()
    nibabel.save(nibabel.Nifti1Image(z, affine), tmp_path / "new" / "a.nii.gz")
    for name, told in (("as-stored", []), ("reversed", ["--zyx"])):
        words = ["apply", calibrator, tmp_path / "new", "-o", tmp_path / name, "--format", "nifti", "--kind", "logits"]
        assert segcal(*words, *told).code == 0
        written = nibabel.load(tmp_path / name / "a.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(written.dataobj).argmax(-1), z.argmax(-1))
        np.testing.assert_array_equal(written.affine, affine)
