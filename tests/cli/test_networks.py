"""A calibrator of one fold is not applied to a mean of five without a word, whatever nnU-Net records: --networks says
it, --go-on goes on, and plain folders are left in peace.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

SETTINGS = "predict_from_raw_data_args.json"
NEWER = {"output_folder_or_list_of_truncated_output_files": "out", "folder_with_segs_from_prev_stage": None}


@pytest.fixture
def newer(nnunet: Any, tmp_path: Path) -> Path:
    """The predictions of one member as nnU-Net 2.2 and later leave them."""
    folder = shutil.copytree(nnunet.results[0], tmp_path / "newer")
    (folder / SETTINGS).write_text(json.dumps(NEWER))
    return folder


@pytest.fixture
def training(nnunet: Any, tmp_path: Path) -> Path:
    """The same as the validation of a fold."""
    folder = tmp_path / "Dataset901_Demo" / "Trainer__Plans__3d"
    shutil.copytree(nnunet.results[0], folder / "fold_0" / "validation")
    for name in ("dataset.json", "plans.json"):
        shutil.move(folder / "fold_0" / "validation" / name, folder)
    (folder / "fold_0" / "validation" / SETTINGS).unlink()
    return folder


def test_validation_against_predictions(segcal: Any, nnunet: Any, newer: Path, training: Path, tmp_path: Path) -> None:
    cal, labels = tmp_path / "cal.safetensors", ["--labels", nnunet.labels]
    assert segcal("fit", training, *labels, "-o", cal, "--no-crossfit").code == 0
    commands = {
        "apply": ["apply", cal, newer, "-o", tmp_path / "out"],
        "evaluate": ["evaluate", newer, *labels, "--calibrator", cal, "--fitted", "include"],
        "audit": ["audit", cal, newer],
    }
    for words in commands.values():
        refused = segcal(*words)
        assert refused.code == 2
        assert "an unknown number of networks" in refused.err and "--networks" in refused.err
        assert segcal(*words, "--networks", "5").code == 2
        gone_on = segcal(*words, "--go-on")
        assert gone_on.code == 0 and "an unknown number of networks" in " ".join(gone_on.out.split())
    assert segcal(*commands["apply"], "--networks", "1", "--overwrite").code == 0
    for name in ("evaluate", "audit"):
        assert segcal(*commands[name], "--networks", "1").code == 0
    contradicted = segcal("fit", training, *labels, "-o", cal, "--networks", "5")
    assert contradicted.code == 2 and "expected 1, as nnU-Net recorded" in contradicted.err


def test_all_folds_of_a_training_are_for_the_mean_of_their_networks(
    segcal: Any, nnunet: Any, newer: Path, training: Path, tmp_path: Path
) -> None:
    first, second = training / "fold_0" / "validation", training / "fold_1" / "validation"
    second.mkdir(parents=True)
    names = sorted(path.name for path in first.glob("*.npz"))
    for name in names[len(names) // 2 :]:
        for path in first.glob(f"{name.removesuffix('.npz')}.*"):
            shutil.move(path, second)
    cal, labels = tmp_path / "cal.safetensors", ["--labels", nnunet.labels]
    fitted = segcal("fit", training, *labels, "-o", cal, "--no-crossfit")
    assert "validation predictions of 2 folds, a single network each" in " ".join(fitted.out.split())
    assert [line.endswith("--networks 2") for line in fitted.out.splitlines() if line.startswith("next:")] == [True] * 2
    said = segcal("check", training, *labels)
    assert "for the mean of these networks, and for each alone" in " ".join(said.out.split())
    refused = segcal("apply", cal, newer, "-o", tmp_path / "out")
    assert refused.code == 2 and "(1 would match, and 2 for the mean of all folds)" in " ".join(refused.err.split())
    assert segcal("apply", cal, newer, "-o", tmp_path / "out", "--networks", "3").code == 2
    applied = segcal("apply", cal, newer, "-o", tmp_path / "out", "--networks", "2", "--json")
    assert applied.code == 0
    assert any("right where they are the networks of those folds" in note for note in applied.json["notes"])
    alone = segcal("evaluate", newer, *labels, "--calibrator", cal, "--networks", "1", "--fitted", "include")
    assert alone.code == 0 and "of those folds" not in alone.out


def test_predictions_of_equal_records_go_on_with_a_note(segcal: Any, nnunet: Any, newer: Path, tmp_path: Path) -> None:
    cal, words = tmp_path / "cal.safetensors", [newer, "--labels", nnunet.labels]
    fitted = segcal("fit", *words, "-o", cal, "--no-crossfit", "--json", tmp_path / "fit.json")
    assert "Add --networks 5 for the mean of five folds" in " ".join(fitted.out.split())
    assert any("is not recorded" in note for note in json.loads((tmp_path / "fit.json").read_text())["notes"])
    assert "how many networks in each is not known" in " ".join(segcal("inspect", cal).out.split())
    applied = segcal("apply", cal, newer, "-o", tmp_path / "out", "--json")
    assert applied.code == 0
    (note,) = [n for n in applied.json["notes"] if "networks" in n]
    assert "recorded neither here nor in the fit" in note and "what nnU-Net recorded (previous stage) agree" in note
    assert "Add --networks 5" in " ".join(segcal("check", *words).out.split())
    assert segcal("apply", cal, newer, "-o", tmp_path / "other", "--networks", "5").code == 2


def test_what_is_said_at_the_fit_is_asked_for_later_and_typed_for_the_user(
    segcal: Any, nnunet: Any, newer: Path, tmp_path: Path
) -> None:
    cal, words = tmp_path / "cal.safetensors", [newer, "--labels", nnunet.labels]
    fitted = segcal("fit", *words, "-o", cal, "--no-crossfit", "--networks", "5")
    assert fitted.code == 0 and "is not recorded" not in fitted.out
    assert [line.endswith("--networks 5") for line in fitted.out.splitlines() if line.startswith("next:")] == [True] * 2
    assert "--networks 5" in segcal("check", *words, "--networks", "5").out
    assert segcal("apply", cal, newer, "-o", tmp_path / "out", "--networks", "5").code == 0
    assert segcal("apply", cal, newer, "-o", tmp_path / "out", "--overwrite").code == 2


def test_plain_folders_are_not_asked(segcal: Any, fitting: Any, heldout: Any, tmp_path: Path) -> None:
    cal = tmp_path / "cal.safetensors"
    for words in (
        ["check", *fitting.labelled],
        ["fit", *fitting.labelled, "-o", cal, "--no-crossfit"],
        ["evaluate", *heldout.labelled, "--calibrator", cal],
        ["apply", cal, *heldout.words, "-o", tmp_path / "out"],
    ):
        said = segcal(*words)
        assert said.code == 0 and "networks" not in said.out + said.err
