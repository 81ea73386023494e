"""Every format that is written keeps the laws of sinks, with and without maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import zarr

from segcal.data.cohort import Cohort
from segcal.data.formats.registry import FORMATS
from segcal.testing.law import Law
from segcal.testing.sinks import SINK_LAWS, SinkSubject, example

MAPS = ("entropy", "confidence", "error", "probability")

READ: dict[str, Callable[[Path], Any]] = {
    "npz": lambda path: np.load(path)["probabilities"],
    "npy": np.load,
    "zarr": lambda path: np.asarray(zarr.open_array(path, mode="r")[...]),
    "nifti": lambda path: np.moveaxis(np.asarray(nibabel.load(path).dataobj), -1, 0),
    "nnunet": lambda path: np.load(path)["probabilities"],
}


def from_nnunet(folder: Path) -> Cohort:
    """The example as nnU-Net's prediction folder would have it."""
    cohort = example()
    folder.mkdir()
    (folder / "dataset.json").write_text('{"labels": {}}')
    (folder / "plans.json").write_text('{"plans_name": "nnUNetPlans"}')
    cases = []
    for case in cohort:
        label_map, properties = folder / f"{case.id}.nii.gz", folder / f"{case.id}.pkl"
        nibabel.save(
            nibabel.Nifti1Image(np.zeros(case.shape[::-1], np.uint8), np.diag([1.5, 2.0, 3.0, 1.0])), label_map
        )
        properties.write_bytes(b"never a pickle")
        cases.append(replace(case, files={"folder": folder, "properties": properties, "label_map": label_map}))
    return replace(cohort, cases=tuple(cases))


@pytest.mark.parametrize("law", SINK_LAWS, ids=str)
@pytest.mark.parametrize("maps", [(), MAPS], ids=["plain", "maps"])
@pytest.mark.parametrize("name", list(FORMATS))
def test_keeps_the_law(name: str, maps: tuple[str, ...], law: Law[Any], tmp_path: Path) -> None:
    cohort = from_nnunet(tmp_path / "in") if name == "nnunet" else example()
    law.check(SinkSubject(lambda folder: FORMATS[name](folder, maps, cohort.head.classes), READ[name], cohort))


def test_no_format_is_left_out() -> None:
    assert set(READ) == set(FORMATS)
