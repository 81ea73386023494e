"""`segcal check`: what it prints, its exit code, and that the command it suggests works."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segcal.cli import run
from segcal.cli.options import Labelled


def test_the_command_to_type_next_works(segcal: Any, fitting: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    said = segcal("check", *fitting.labelled, "--background", "0", "--groups", "consecutive:2")
    assert said.code == 0
    line = next(line for line in said.out.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[:2] == ["segcal", "fit"]
    assert run([*words[1:], "--quiet", "--workers", "1"]) == 0
    assert (tmp_path / "cal.safetensors").is_file()
    assert words[words.index("--method") + 1] == "auto"
    assert words[words.index("--groups") + 1] == "consecutive:2"


def test_of_one_group_no_choice_is_advised(segcal: Any, fitting: Any) -> None:
    """Nothing can be held out, which auto refuses."""
    found = segcal("check", *fitting.labelled, "--groups", "(p)", "--json").json
    assert "--method ts " in found["next"]


def test_json(segcal: Any, fitting: Any) -> None:
    found = segcal("check", *fitting.labelled, "--json").json
    assert found["layout"] == "a folder of scores"
    assert (found["cases"], found["members"], found["kind"]) == (8, 1, "logits")
    assert found["next"].startswith("segcal fit ")
    assert {"severity", "topic", "text", "do"} == set(found["findings"][0])


def test_without_labels_it_asks_for_them(segcal: Any, fitting: Any) -> None:
    said = segcal("check", *fitting.words)
    assert said.code == 0
    assert "no label maps" in said.out
    assert "--labels LABELS" in said.out


def test_bad_cases_are_named_and_the_code_is_3(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    copied = tmp_path / "results"
    shutil.copytree(fitting.results[0], copied)
    (copied / "p03.npz").write_bytes((copied / "p03.npz").read_bytes()[:-100])
    said = segcal("check", copied, "--labels", fitting.labels)
    assert said.code == 3
    assert "p03" in said.out + said.err
    assert "next:" not in said.out


def test_an_nnunet_ensemble(segcal: Any, nnunet: Any) -> None:
    said = segcal("check", *nnunet.labelled)
    assert said.code == 0
    assert "An nnU-Net prediction folder" in said.out
    assert "3 members, averaged as probabilities" in said.out
    assert "outside the box in which the network looked" in said.out
    single = segcal("check", nnunet.results[0], "--labels", nnunet.labels)
    assert "every delivered label map is the arg max" in single.out


def test_forgotten_groups_are_told_by_every_command_that_reads_labels(
    segcal: Any, cohort_writer: Any, tmp_path: Path
) -> None:
    names = [f"patient{k // 2}_{k % 2}" for k in range(8)]
    folder = cohort_writer(tmp_path / "a", names)
    said = segcal("check", *folder.labelled)
    assert "8 cases begin with one of 4 names" in said.out
    line = next(line for line in said.out.splitlines() if line.startswith("next: "))
    assert line.count("--groups '^(.+)[_-]'") == 1
    file = tmp_path / "cal.safetensors"
    for words in (("fit", *folder.labelled, "-o", file), ("evaluate", *folder.labelled)):
        assert "warning  groups: 8 cases begin with one of 4 names" in segcal(*words).out
        assert "warning: groups: 8 cases begin" in segcal(*words, "--json").json["notes"][0]
        assert "begin with one of" not in segcal(*words, "--groups", "^(.+)[_-]").out


def test_axes_in_another_order_are_seen_and_what_to_type_helps(segcal: Any, tmp_path: Path) -> None:
    """Cubes: scores as SimpleITK has them, (z, y, x), and label files as NIfTI has them."""
    rng, n = np.random.default_rng(0), 16
    grid = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"))
    results, labels = tmp_path / "results", tmp_path / "labels"
    results.mkdir()
    labels.mkdir()
    for k in range(6):
        t = rng.uniform(3, 5) - np.sqrt(((grid - rng.uniform(4, 12, (3, 1, 1, 1))) ** 2).sum(0))
        np.savez_compressed(results / f"c{k}.npz", logits=np.stack([-t, t]).astype(np.float32) * 1.5)
        drawn = (rng.random(t.shape) < 1 / (1 + np.exp(-2 * t))).astype(np.uint8)
        nib.save(nib.Nifti1Image(np.ascontiguousarray(drawn.T), np.eye(4)), labels / f"c{k}.nii.gz")
    words = (results, "--labels", labels)
    file = tmp_path / "cal.safetensors"
    for command in (("check", *words), ("fit", *words, "-o", file), ("evaluate", *words)):
        said = segcal(*command)
        assert "label maps agree better with the scores if read with their axes reversed" in said.out
        assert "Add --zyx." in said.out
    said = segcal("check", *words)
    line = next(line for line in said.out.splitlines() if line.startswith("next: "))
    assert " --zyx " in line
    assert run([*shlex.split(line)[2:-1], str(file), "--quiet", "--workers", "1"]) == 0
    for command in (("check", *words), ("fit", *words, "-o", file), ("evaluate", *words)):
        assert "agree better" not in segcal(*command, "--zyx").out
    for path in labels.iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.ascontiguousarray(np.asarray(image.dataobj).T), np.eye(4)), path)
    said = segcal("check", *words, "--zyx")
    assert "Leave --zyx out." in said.out
    assert "--zyx" not in next(line for line in said.out.splitlines() if line.startswith("next: "))
    assert segcal("check", *words, "--json").json["agreement"]["labels"] is None


def test_every_option_is_carried_into_the_next_command() -> None:
    given = Labelled(
        kind="logits",
        pool="probs",
        cases=("a*",),
        exclude=("ab",),
        classes=("x", "y"),
        zyx=True,
        channel_axis=1,
        networks=5,
        geometry="nnunet",
        images=Path("i"),
        copies=Path("c"),
        labels=Path("l"),
        groups="-(.)",
        mask=Path("m"),
        ignore_index=(9, 8),
        label_map=("255:1",),
        background=0,
    )
    assert all(getattr(given, f.name) != f.default for f in fields(Labelled))
    words = given.words()
    for field in fields(Labelled):
        assert any(word.split("=")[0] == f"--{field.name.replace('_', '-')}" for word in words), field.name
    assert "--groups=-(.)" in words
    assert given.elsewhere(labelled=True) == [
        *("--kind", "logits", "--groups=-(.)", "--mask", "MASKS", "--networks", "5"),
        *(
            "--images",
            "IMAGES",
            "--copies",
            "COPIES",
            "--geometry",
            "nnunet",
            "--ignore-index",
            "9",
            "8",
            "--label-map",
            "255:1",
        ),
        *("--zyx", "--channel-axis", "1"),
    ]
    assert Labelled().elsewhere(labelled=True) == Labelled().elsewhere(labelled=False) == []


def test_what_cannot_be_used_is_said_with_quiet_too(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    shutil.copytree(fitting.results[0], tmp_path / "results")
    first = sorted((tmp_path / "results").glob("*.npz"))[0]
    first.write_bytes(first.read_bytes()[:100])
    for more in (["--quiet"], ["--json", "-"]):
        said = segcal("check", tmp_path / "results", "--labels", fitting.labels, *more)
        assert said.code == 3
        assert said.err.startswith("error: ") and first.name in said.err


def test_masks_of_0_and_255(segcal: Any, cohort_writer: Any, tmp_path: Path) -> None:
    """The advice is followed: the foreground is fitted, as of masks of 0 and 1."""
    folder = cohort_writer(tmp_path / "plain", ["a", "b", "c"], classes=2)
    other = tmp_path / "masks"
    other.mkdir()
    for path in folder.labels.iterdir():
        np.save(other / path.name, np.load(path) * np.uint8(255))
    said = segcal("check", *folder.words, "--labels", other)
    assert said.code == 3
    assert "(--label-map 255:1)" in said.out
    assert "--ignore-index" not in said.out
    told = segcal("check", *folder.words, "--labels", other, "--label-map", "255:1", "--json").json
    plain = segcal("check", *folder.labelled, "--json").json
    assert told["uncalibrated"] == plain["uncalibrated"]
    assert " --label-map 255:1" in told["next"]
    ignored = segcal("check", *folder.words, "--labels", other, "--ignore-index", "255", "--json").json
    finding = next(f for f in ignored["findings"] if f["topic"] == "classes")
    assert finding["do"].endswith("If the ignored 255 is this class, give --label-map 255:1 instead.")


def test_cases_are_left_out_by_name(segcal: Any, fitting: Any) -> None:
    found = segcal("check", *fitting.labelled, "--cases", "p0[0-3]", "--exclude", "p01", "p03", "--json").json
    assert found["cases"] == 2
    assert found["next"].count("--exclude p01 p03") == 1
    for word, why in (("x*", "names no case"), ("p*", "leaves no case")):
        said = segcal("check", *fitting.labelled, "--exclude", word)
        assert said.code == 2
        assert why in said.err
