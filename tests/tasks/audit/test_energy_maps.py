"""Images of the free energy: values, place, what is left out, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

import segcal
from segcal.engine.serial import Serial
from segcal.errors import ShapeError
from segcal.methods.temperature import ScaleMap


def energy(cohort: Any, case: int) -> np.ndarray:
    z = np.mean([f.array.astype(np.float64) for f in cohort[case].scores], 0)
    return np.asarray(np.log(np.exp(z).sum(0)))


def test_a_volume_holds_the_free_energy_of_every_voxel_on_its_grid(
    random_cohort: Any, make_calibrator: Any, tmp_path: Path
) -> None:
    cohort = random_cohort(shape=(4, 5, 6), crop=((0, 4), (1, 5), (0, 6)), spacing=(3.0, 1.0, 0.5))
    segcal.audit(
        make_calibrator(cohort.head, ScaleMap(1.0)), cohort, Serial(), shifts=(), energy_maps=tmp_path / "maps"
    )
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["case0.nii.gz", "case1.nii.gz"]
    for case in (0, 1):
        image = nibabel.load(tmp_path / "maps" / f"case{case}.nii.gz")
        values = np.asarray(image.dataobj)
        assert image.header.get_zooms() == (3.0, 1.0, 0.5)
        assert np.isnan(values[:, 0]).all()
        np.testing.assert_allclose(values[:, 1:], energy(cohort, case)[:, 1:], rtol=1e-6)


def test_axes_that_are_reversed_are_turned(random_cohort: Any, make_calibrator: Any, tmp_path: Path) -> None:
    cohort = random_cohort(shape=(4, 5, 6))
    segcal.audit(
        make_calibrator(cohort.head, ScaleMap(1.0)), cohort, Serial(), shifts=(), energy_maps=tmp_path, zyx=True
    )
    np.testing.assert_allclose(
        np.asarray(nibabel.load(tmp_path / "case0.nii.gz").dataobj), energy(cohort, 0).T, rtol=1e-6
    )


@pytest.mark.parametrize("whole", [False, True])
def test_a_picture_is_drawn_with_its_scale(
    random_cohort: Any, make_calibrator: Any, tmp_path: Path, whole: bool
) -> None:
    cohort = random_cohort()
    calibrator = make_calibrator(cohort.head, ScaleMap(1.0))
    segcal.audit(
        (lambda z: calibrator.log_probs(z).exp()) if whole else calibrator,
        cohort,
        segcal.Threads(2),
        shifts=(),
        energy_maps=tmp_path,
    )
    for case in (0, 1):
        with Image.open(tmp_path / f"case{case}.png") as image:
            shown = np.asarray(image.convert("RGB"))
        assert min(shown.shape[:2]) > 200 and len(np.unique(shown.reshape(-1, 3), axis=0)) > 100


def test_a_case_of_one_axis_has_no_image_and_leaves_no_file(
    random_cohort: Any, make_calibrator: Any, tmp_path: Path
) -> None:
    cohort = random_cohort(shape=(50,))
    with pytest.raises(ShapeError, match="spatial axes"):
        segcal.audit(make_calibrator(cohort.head, ScaleMap(1.0)), cohort, Serial(), energy_maps=tmp_path)
    assert list(tmp_path.iterdir()) == []
