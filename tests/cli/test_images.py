"""`--images`: fit, evaluate and apply a calibrator that looks at images and at neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

QUICK = ("--epochs", "2", "--patience", "2", "--learning-rate", "0.003")


@pytest.fixture(scope="module")
def images(fitting: Any, heldout: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One array a case, of both cohorts."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for of in (fitting, heldout):
        for path in of.results[0].glob("*.npz"):
            np.save(folder / f"{path.stem}.npy", rng.random((24, 20)))
    return folder


def test_fit_evaluate_and_apply_with_images(
    segcal: Any, fitting: Any, heldout: Any, images: Path, tmp_path: Path
) -> None:
    cal = tmp_path / "lts.safetensors"
    said = segcal(
        "fit", *fitting.labelled, "--method", "lts-image", "--images", images, *QUICK, "--folds", "2", "-o", cal
    )
    assert said.code == 0, said.err
    assert "Cross-fitted" in said.out
    found = segcal("evaluate", *heldout.labelled, "--calibrator", cal, "--images", images, "--json").json
    assert found["calibrated"]["nll"] < found["uncalibrated"]["nll"]
    assert found["calibrated"]["flip_rate"] == 0
    assert segcal("apply", cal, *heldout.words, "--images", images, "-o", tmp_path / "out").code == 0
    nll = []
    for source in sorted(heldout.results[0].glob("*.npz")):
        p = np.load(tmp_path / "out" / source.name)["probabilities"]
        np.testing.assert_array_equal(p.argmax(0), np.load(source)["logits"].argmax(0))
        labels = np.load(heldout.labels / f"{source.stem}.npy")
        nll.append(-np.log(np.take_along_axis(p, labels[None].astype(int), 0)).mean())
    assert np.mean(nll) == pytest.approx(found["calibrated"]["nll"], abs=1e-5)
    told = segcal("inspect", cal, "--json").json
    assert told["method"] == "lts-image"
    assert told["parameters"]["softmax"]["parameters"] == 7 * 76 + 26 + 76
    assert told["guarantees"]["preserves_order"] == "proven"
    assert segcal("inspect", cal).code == 0


def test_images_that_are_missing_are_asked_for(
    segcal: Any, fitting: Any, heldout: Any, images: Path, tmp_path: Path
) -> None:
    said = segcal("fit", *fitting.labelled, "--method", "lts-image", "-o", tmp_path / "lts.safetensors")
    assert said.code == 3
    assert "--images" in said.err
    cal = tmp_path / "lts.safetensors"
    assert (
        segcal(
            "fit", *fitting.labelled, "--method", "lts-image", "--images", images, *QUICK, "--no-crossfit", "-o", cal
        ).code
        == 0
    )
    for words in (
        ["evaluate", *heldout.labelled, "--calibrator", cal],
        ["apply", cal, *heldout.words, "-o", tmp_path / "out"],
    ):
        said = segcal(*words)
        assert said.code == 3
        assert "--images" in said.err
    assert not (tmp_path / "out").exists()


def test_both_sources_and_levels_in_one_call(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal(
        "fit",
        *fitting.labelled,
        "--method",
        "ts,lts,lts-raw",
        "--level",
        "image",
        *QUICK,
        "--no-crossfit",
        "-o",
        tmp_path / "cals",
        "--json",
    )
    assert said.code == 0, said.err
    assert {p.stem for p in (tmp_path / "cals").iterdir()} == {"ts", "lts", "lts-raw"}
    found = {name: m["solution"] for name, m in said.json["methods"].items()}
    assert found["lts"]["nll"] <= found["ts"]["nll"] + 1e-6
    assert found["lts"]["certificate"]["gap"] is None


def test_options_of_training_beside_exact_methods_are_refused(segcal: Any, fitting: Any, tmp_path: Path) -> None:
    said = segcal("fit", *fitting.labelled, "--method", "ts", "--epochs", "3", "-o", tmp_path / "x.safetensors")
    assert said.code == 2
    assert "expected one of iop, lts" in said.err
