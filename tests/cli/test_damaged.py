"""A damaged file costs its case, in every command: what is said, what is done for the others, and the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    """What can be opened, and is found damaged when it is read."""
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 8] = bytes(255 - b for b in data[at : at + 8])
    path.write_bytes(data)


@pytest.fixture
def three(cohort_writer: Any, tmp_path: Path) -> Any:
    """Three cases, of which the second is to be damaged."""
    return cohort_writer(tmp_path / "three", ["x0", "x1", "x2"], seed=11)


@pytest.mark.parametrize("harm", [half, flipped])
def test_a_damaged_npz_costs_its_case(segcal: Any, three: Any, calibrator: Path, tmp_path: Path, harm: Any) -> None:
    spoilt = three.results[0] / "x1.npz"
    harm(spoilt)
    said = segcal("check", *three.labelled)
    assert said.code == 3 and f"x1 cannot be used: {spoilt}" in said.out and "3 cases" in said.out
    assert "next:" not in said.out

    told = tmp_path / "told.json"
    said = segcal("evaluate", *three.labelled, "--calibrator", calibrator, "--json", told)
    assert said.code == 4 and f"error: case x1: {spoilt}" in said.err and "1 of 3 case(s) not scored" in said.err
    assert "2 cases in 2 groups" in said.out
    found = json.loads(told.read_text())
    assert found["cases"] == 2 and list(found["failed"]) == ["x1"]
    assert [row["case"] for row in found["per_case"]] == ["x0", "x2"]

    out = tmp_path / "out"
    said = segcal("apply", calibrator, *three.words, "-o", out, "--json", told)
    assert said.code == 4 and f"error: case x1: {spoilt}" in said.err and "1 of 3 case(s) not written" in said.err
    assert sorted(p.name for p in out.glob("*.npz")) == ["x0.npz", "x2.npz"]
    assert {row["case"]: row["error"] is None for row in json.loads(told.read_text())["cases"]} == {
        "x0": True,
        "x1": False,
        "x2": True,
    }

    file = tmp_path / "cal.safetensors"
    said = segcal("fit", *three.labelled, "-o", file)
    assert said.code == 3 and str(spoilt) in said.err and "copy or predict this case again" in said.err
    assert not file.exists()
    said = segcal("fit", *three.labelled, "-o", file, "--cases", "x[02]", "--quiet")
    assert (said.code, said.err) == (0, "") and file.exists()


def test_a_repaired_case_is_written_by_resume(segcal: Any, three: Any, calibrator: Path, tmp_path: Path) -> None:
    spoilt, kept, out = three.results[0] / "x1.npz", tmp_path / "kept.npz", tmp_path / "out"
    shutil.copy(spoilt, kept)
    half(spoilt)
    assert segcal("apply", calibrator, *three.words, "-o", out).code == 4
    said = segcal("apply", calibrator, *three.words, "-o", out, "--resume")
    assert said.code == 4 and "2 case(s) were finished before" in said.out and "case x1" in said.err
    shutil.copy(kept, spoilt)
    said = segcal("apply", calibrator, *three.words, "-o", out, "--resume")
    assert said.code == 0 and "1 case(s) written" in said.out
    assert sorted(p.name for p in out.glob("*.npz")) == ["x0.npz", "x1.npz", "x2.npz"]


def test_a_damaged_label_map_costs_its_case_where_labels_are_read(
    segcal: Any, three: Any, calibrator: Path, tmp_path: Path
) -> None:
    spoilt = three.labels / "x1.npy"
    half(spoilt)
    said = segcal("check", *three.labelled)
    assert said.code == 3 and f"x1 cannot be used: {spoilt}" in said.out
    said = segcal("evaluate", *three.labelled, "--calibrator", calibrator)
    assert said.code == 4 and f"error: case x1: {spoilt}" in said.err
    said = segcal("apply", calibrator, *three.words, "-o", tmp_path / "out")
    assert (said.code, said.err) == (0, "")


def test_check_names_every_damaged_file(segcal: Any, cohort_writer: Any, tmp_path: Path) -> None:
    many = cohort_writer(tmp_path / "many", [f"c{k:02d}" for k in range(40)], shape=(6, 5))
    damaged = [f"c{k:02d}" for k in range(1, 40, 2)]
    for name in damaged[:19]:
        half(many.results[0] / f"{name}.npz")
    half(many.labels / f"{damaged[19]}.npy")
    said = segcal("check", *many.labelled, "--json", tmp_path / "told.json")
    assert said.code == 3
    assert all(name in said.out for name in damaged)
    assert list(json.loads((tmp_path / "told.json").read_text())["failed"]) == damaged
    said = segcal("fit", *many.labelled, "-o", tmp_path / "cal.safetensors")
    assert said.code == 3 and all(name in said.err for name in damaged)


@pytest.mark.parametrize("which", ["scores", "labels"])
def test_where_every_case_is_damaged_nothing_is_done(
    segcal: Any, three: Any, calibrator: Path, tmp_path: Path, which: str
) -> None:
    for path in (three.results[0] if which == "scores" else three.labels).iterdir():
        half(path)
    for words in (
        ["check", *three.labelled],
        ["evaluate", *three.labelled, "--calibrator", calibrator],
        ["fit", *three.labelled, "-o", tmp_path / "cal.safetensors"],
        *([["apply", calibrator, *three.words, "-o", tmp_path / "out"]] if which == "scores" else []),
    ):
        said = segcal(*words)
        assert said.code == 3 and said.err.startswith("error: ") and "x0.np" in said.err
        assert all(name in said.err for name in ("x1", "x2"))
    assert not (tmp_path / "out").exists()


def test_one_damaged_file_of_one_network_costs_its_case(segcal: Any, nnunet: Any, tmp_path: Path) -> None:
    file, root = tmp_path / "cal.safetensors", tmp_path / "copy"
    assert segcal("fit", *nnunet.labelled, "-o", file, "--quiet", "--networks", "1").code == 0
    members = [shutil.copytree(folder, root / folder.name) for folder in nnunet.results]
    names = sorted(p.stem for p in members[0].glob("*.npz"))
    half(members[1] / f"{names[0]}.npz")
    half(members[2] / f"{names[2]}.pkl")
    said = segcal("check", *members, "--labels", nnunet.labels)
    assert said.code == 3 and all(f"{name} cannot be used" in said.out for name in (names[0], names[2]))
    said = segcal("apply", file, *members, "-o", tmp_path / "out", "--networks", "1")
    assert said.code == 4 and "2 of 4 case(s) not written" in said.err
    assert sorted(p.stem for p in (tmp_path / "out").glob("*.npz")) == [names[1], names[3]]
    words = [*members, "--labels", nnunet.labels, "--calibrator", file, "--networks", "1"]
    said = segcal("evaluate", *words, "--fitted", "include")
    assert said.code == 4 and "2 of 4 case(s) not scored" in said.err


def test_a_case_that_is_left_out_is_no_test_case_either(segcal: Any, three: Any, tmp_path: Path) -> None:
    """Numbers with a damaged case are those without it, to the last digit."""
    spoilt = three.results[0] / "x1.npz"
    flipped(spoilt)
    whole = segcal("evaluate", *three.labelled, "--json", "-").json
    alone = segcal("evaluate", *three.labelled, "--cases", "x0", "x2", "--json", "-").json
    assert whole.pop("failed") and not alone.pop("failed")
    assert whole == alone and np.isfinite(whole["uncalibrated"]["nll"])


def test_a_case_of_which_nothing_counts_is_left_out_with_a_note(segcal: Any, three: Any, tmp_path: Path) -> None:
    """Nothing is lost that could have been used: exit 0, unlike a file that cannot be read."""
    path = three.labels / "x1.npy"
    np.save(path, np.full_like(np.load(path), 255))
    given = [*three.labelled, "--ignore-index", "255"]
    said = segcal("check", *given)
    assert said.code == 0
    assert "so left out: x1" in said.out
    fitted = segcal("fit", *given, "-o", tmp_path / "cal.safetensors", "--json").json
    assert fitted["cases"] == 2
    assert any("so left out: x1" in note for note in fitted["notes"])
    for words in (["evaluate"], ["audit", tmp_path / "cal.safetensors"]):
        told = segcal(*words, *given, "--json")
        assert told.code == 0, told.err
        assert any("so left out: x1" in note for note in told.json["notes"])
        assert told.json["cases"] == 2


def test_a_case_of_no_voxel_is_damaged(tmp_path: Path, segcal: Any) -> None:
    """A volume with an axis of length 0: every command names it, the others go on."""
    rng = np.random.default_rng(0)
    for name in ("scores", "labels"):
        (tmp_path / name).mkdir()
    for k in range(4):
        logits = rng.normal(size=(3, 0 if k == 1 else 6, 5)).astype(np.float32)
        np.savez(tmp_path / "scores" / f"c{k}.npz", logits=logits)
        np.savez(tmp_path / "labels" / f"c{k}.npz", labels=rng.integers(3, size=logits.shape[1:]).astype(np.uint8))
    scores, cal = tmp_path / "scores", tmp_path / "cal.safetensors"
    labelled = (scores, "--labels", tmp_path / "labels")
    said = segcal("fit", *labelled, "--method", "ts", "-o", cal)
    assert said.code == 3 and "case c1: found shape (0, 5)" in said.err
    assert segcal("fit", *labelled, "--method", "ts", "-o", cal, "--exclude", "c1").code == 0
    for words, code in (
        (("check", *labelled), 3),
        (("evaluate", *labelled, "--calibrator", cal, "--fitted", "include"), 4),
        (("audit", cal, scores), 3),
        (("apply", cal, scores, "-o", tmp_path / "out"), 4),
    ):
        said = segcal(*words)
        assert said.code == code and "c1" in said.out + said.err, words
