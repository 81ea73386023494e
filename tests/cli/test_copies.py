"""`segcal copies`, and `--copies` from fit to apply."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

QUICK = ("--option", "width=4", "--option", "prior_epochs=1", "--epochs", "2")
ALONE = ("--option", "image=false")


def shaken(results: Path, folder: Path) -> list[Path]:
    """Three folders of predictions of copies."""
    rng, out = np.random.default_rng(0), []
    for k in range(3):
        (folder / f"copy{k}").mkdir(parents=True)
        for path in results.glob("*.npz"):
            z = np.load(path)["logits"]
            np.savez(folder / f"copy{k}" / path.name, logits=z + rng.normal(0, 0.3, z.shape).astype(np.float32))
        out.append(folder / f"copy{k}")
    return out


@pytest.fixture
def copies(segcal: Any, fitting: Any, heldout: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Condensed copies of both cohorts."""
    out = (tmp_path / "fit-copies", tmp_path / "held-copies")
    for of, folder in zip((fitting, heldout), out, strict=True):
        said = segcal("copies", *shaken(of.results[0], tmp_path / f"{folder.name}-of"), "-o", folder)
        assert said.code == 0, said.err
        assert f"cases written to {folder}, 3 copies each" in said.out
        assert "next: segcal fit RESULTS --labels LABELS --copies" in said.out
    return out


def test_from_folders_of_copies_to_delivered_files(
    segcal: Any, fitting: Any, heldout: Any, copies: tuple[Path, Path], tmp_path: Path
) -> None:
    cal = tmp_path / "cal.safetensors"
    words = ("--method", "susceptibility", *QUICK, *ALONE, "--folds", "2", "-o", cal)
    said = segcal("fit", *fitting.labelled, "--copies", copies[0], *words)
    assert said.code == 0, said.err
    assert "--copies COPIES" in said.out, "the next command asks for copies of the other cases"
    assert not list(tmp_path.glob(".cal*")), "no checkpoint is left"
    said = segcal("evaluate", *heldout.labelled, "--calibrator", cal, "--copies", copies[1], "--json")
    assert said.code == 0, said.err
    found = said.json
    assert found["calibrated"]["flip_rate"] == 0
    assert segcal("apply", cal, *heldout.words, "--copies", copies[1], "-o", tmp_path / "out").code == 0
    for source in sorted(heldout.results[0].glob("*.npz")):
        p = np.load(tmp_path / "out" / source.name)["probabilities"]
        np.testing.assert_array_equal(p.argmax(0), np.load(source)["logits"].argmax(0))
    assert segcal("audit", cal, *heldout.words, "--copies", copies[1]).code == 0
    told = segcal("inspect", cal, "--json").json
    assert told["parameters"]["softmax"]["looks_at"] == "scores, shape, mean, spread"


def test_copies_of_another_making_are_refused(
    segcal: Any, fitting: Any, heldout: Any, copies: tuple[Path, Path], tmp_path: Path
) -> None:
    cal = tmp_path / "cal.safetensors"
    fit = ("fit", *fitting.labelled, "--method", "susceptibility", *QUICK, *ALONE, "--no-crossfit", "-o", cal)
    assert segcal(*fit, "--copies", copies[0]).code == 0
    record = copies[1] / "copies.json"
    told = json.loads(record.read_text())
    told["made"]["copies"] = 180
    record.write_text(json.dumps(told))
    said = segcal("evaluate", *heldout.labelled, "--calibrator", cal, "--copies", copies[1])
    assert said.code == 2
    assert "180" in said.err
    assert segcal("evaluate", *heldout.labelled, "--calibrator", cal).code == 3
    assert "--copies" in segcal(*fit).err


def test_words_that_do_not_fit(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    one = segcal("copies", *fitting.words, "-o", tmp_path / "out")
    assert one.code == 2
    assert "two or more" in one.err
    (tmp_path / "net.onnx").write_bytes(b"no network")
    bare = segcal("copies", *fitting.words, "--segmenter", tmp_path / "net.onnx", "-o", tmp_path / "out")
    assert bare.code == 2
    assert "--images" in bare.err
    itself = segcal("copies", *fitting.words, "--copies", tmp_path, "-o", tmp_path / "out")
    assert itself.code == 2
    images = tmp_path / "images"
    images.mkdir()
    for path in fitting.results[0].glob("*.npz"):
        np.save(images / f"{path.stem}.npy", np.zeros((24, 20), np.float32))
    pytest.importorskip("onnxruntime")
    words = ("--segmenter", tmp_path / "net.onnx", "--images", images, "-o", tmp_path / "out")
    broken = segcal("copies", *fitting.words, *words)
    assert broken.code == 3
    assert "net.onnx" in broken.err


def test_a_network_predicts_copies_here(segcal: Any, shared: Path, tmp_path: Path) -> None:
    """The zoo's own network, given as its file and how it prepares an image, says of the image what it says."""
    pytest.importorskip("onnxruntime")
    script = shared / "zoo" / "write_predictions.py"
    command = [sys.executable, str(script), "hippocampus", str(tmp_path), "--layout", "npz", "--limit", "2"]
    subprocess.run([*command, "--members", "1"], check=True, capture_output=True, timeout=300)
    results, images = tmp_path / "member0", shared / "data" / "hippocampus" / "images"
    still = ("--contrast", 1, 1, "--brightness", 0, 0, "--gamma", 1, 1, "--noise", 0, "--count", 2)
    network = ("--segmenter", shared / "zoo" / "hippocampus" / "member0.onnx", "--normalise", "zscore")
    words = ("--images", images, *network, "--multiple", 4, "--border", "zero", "-o", tmp_path / "copies")
    said = segcal("copies", results, *words, *still)
    assert said.code == 0, said.err
    for source in sorted(results.glob("*.npz")):
        z = np.load(source)["logits"].astype(float)
        p = np.exp(z - z.max(0)) / np.exp(z - z.max(0)).sum(0)
        found = np.load(tmp_path / "copies" / source.name)
        np.testing.assert_allclose(found["mean"], p, atol=1e-5)
        assert (found["spread"] == 0).all()
