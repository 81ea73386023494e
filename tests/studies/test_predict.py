"""`studies/predict.py` on the real networks: its layout, its groups, and that it goes on where it stopped.

Skipped where the networks are absent.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcal.study.shift import photometric

ROOT = Path(__file__).parents[2]


@pytest.fixture
def predict(shared: Path, tmp_path: Path) -> Path:
    """A folder with one nucleus image, clean and strongly corrupted, of one network."""
    pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install segcal[test]")
    call(shared, tmp_path, "nuclei", "--cohorts", "clean", "strong")
    return tmp_path


def call(shared: Path, work: Path, *words: str, code: int = 0) -> str:
    command = [
        sys.executable,
        str(ROOT / "studies" / "predict.py"),
        "--shared",
        str(shared),
        "--work",
        str(work),
        "--limit",
        "1",
        "--members",
        "1",
        "--images",
        *words,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_predictions_on_clean_and_corrupted_images(predict: Path, shared: Path) -> None:
    clean, strong = predict / "nuclei-clean", predict / "nuclei-strong"
    with (strong / "groups.csv").open() as file:
        (row,) = csv.DictReader(file)
    name = row["case"]
    assert row["group"] == name
    images = [np.asarray(Image.open(folder / "images" / f"{name}.png")) for folder in (clean, strong)]
    assert np.array_equal(images[1], photometric.choose(f"{name}.png", "strong").apply(images[0]))
    assert np.array_equal(images[0], np.asarray(Image.open(shared / "data" / "nuclei_fluo" / "images" / f"{name}.png")))
    labels = np.asarray(Image.open(strong / "labels" / f"{name}.png"))
    files = [folder / "member0" / f"{name}.npz" for folder in (clean, strong)]
    logits = [np.load(file)["logits"] for file in files]
    for z in logits:
        assert (z.dtype, z.shape) == (np.float32, (2, *labels.shape))
    # the network finds the nuclei, on the clean image at least, and sees that the images differ
    assert np.mean(logits[0].argmax(0) == labels) > 0.9
    assert np.abs(logits[0] - logits[1]).max() > 0.1
    before = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    call(shared, predict, "nuclei", "--cohorts", "clean", "strong")
    assert files[0].stat().st_mtime_ns == before[0]
    assert np.array_equal(np.load(files[1])["logits"], logits[1])


def test_an_unknown_cohort(predict: Path, shared: Path) -> None:
    assert "hippocampus has no cohort mild; it has clean, bias, motion" in call(
        shared, predict, "hippocampus", "--cohorts", "mild", code=2
    )
