"""`--figures` of evaluate, fit and audit: two pictures, never over what others wrote, nor where one reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PICTURES = ["reliability.png", "worst_cases.png"]


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_evaluate_draws_twice_and_replaces_only_its_own(
    segcal: Any, heldout: Any, calibrator: Path, tmp_path: Path
) -> None:
    words = ["evaluate", *heldout.labelled, "--calibrator", calibrator, "--figures", tmp_path / "figs"]
    said = segcal(*words)
    assert said.code == 0, said.err
    assert names(tmp_path / "figs") == PICTURES
    assert all(f"written: {tmp_path / 'figs' / name}" in said.out for name in PICTURES)
    sizes = []
    for name in PICTURES:
        with Image.open(tmp_path / "figs" / name) as image:
            sizes.append(image.size)
    assert min(min(size) for size in sizes) > 300
    found = segcal(*words, "--json").json
    assert found["figures"] == {Path(n).stem: str(tmp_path / "figs" / n) for n in PICTURES}
    (tmp_path / "figs" / PICTURES[1]).write_text("somebody's")
    refused = segcal(*words)
    assert (refused.code, "--overwrite" in refused.err) == (3, True)
    for folder in (heldout.labels, heldout.results[0], heldout.labels.parent):
        refused = segcal(*words[:-1], folder, "--overwrite")
        assert (refused.code, "read from" in refused.err) == (2, True)
    assert (tmp_path / "figs" / PICTURES[1]).read_text() == "somebody's"


def test_fit_draws_cross_fitted_cases_a_folder_a_method(segcal: Any, regions: Any, tmp_path: Path) -> None:
    fit = ["fit", *regions.labelled, "--folds", "2"]
    said = segcal(*fit, "--method", "ts,ets", "-o", tmp_path / "cals", "--figures", tmp_path / "figs")
    assert said.code == 0, said.err
    assert names(tmp_path / "figs") == [f"{m}/{name}" for m in ("ets", "ts") for name in PICTURES]
    bare = [*fit, "-o", tmp_path / "ts.safetensors", "--no-crossfit", "--figures", tmp_path / "none"]
    refused = segcal(*bare)
    assert (refused.code, "--no-crossfit" in refused.err) == (2, True)
    assert not (tmp_path / "none").exists() and not (tmp_path / "ts.safetensors").exists()


def test_fit_auto_and_audit_draw_volumes_over_their_image(segcal: Any, nnunet: Any, tmp_path: Path) -> None:
    images, cal = tmp_path / "images", tmp_path / "cal.safetensors"
    images.mkdir()
    for path in nnunet.labels.glob("*.nii.gz"):
        (images / path.name.replace(".nii.gz", "_0000.nii.gz")).write_bytes(path.read_bytes())
    words = [*nnunet.labelled, "--images", images, "--figures"]
    auto = ["--method", "auto", "--among", "ts,dc", "--folds", "2"]
    assert segcal("fit", *words, tmp_path / "fit", *auto, "-o", cal).code == 0
    said = segcal("audit", cal, *words, tmp_path / "audit", "--shifts", "1", "--json")
    assert set(said.json["figures"]) == {"reliability", "worst_cases"}
    assert names(tmp_path / "fit") == names(tmp_path / "audit") == PICTURES
    bare = segcal("audit", cal, *nnunet.words, "--figures", tmp_path / "bare")
    assert (bare.code, "--labels" in bare.err) == (3, True)


def test_an_image_with_no_number_in_places_is_drawn_all_the_same(segcal: Any, heldout: Any, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in heldout.results[0].glob("*.npz"):
        image = np.arange(480.0).reshape(24, 20)
        image[:5] = np.nan
        np.save(images / f"{path.stem}.npy", image)
    said = segcal("evaluate", *heldout.labelled, "--images", images, "--figures", tmp_path / "figs")
    assert said.code == 0, said.err
    assert names(tmp_path / "figs") == PICTURES


@pytest.mark.parametrize("name", ["$x_{", "a<script>", "_b"])
def test_names_of_files_are_drawn_as_they_are(segcal: Any, cohort_writer: Any, tmp_path: Path, name: str) -> None:
    folder = cohort_writer(tmp_path, [name, "other"])
    said = segcal("evaluate", *folder.labelled, "--classes", name, "b", "c", "--figures", tmp_path / "figs")
    assert said.code == 0, said.err
    assert names(tmp_path / "figs") == PICTURES
