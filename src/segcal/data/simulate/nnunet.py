"""A simulated cohort on disk as `nnUNetv2_predict --save_probabilities` leaves it: one folder a network, and the labels
beside them.

FOLDER/member0 ... memberM-1 hold CASE.npz ('probabilities' float32 (C, z, y, x)), CASE.pkl (geometry and crop box),
CASE.nii.gz (the arg max), dataset.json, plans.json and predict_from_raw_data_args.json; FOLDER/labelsTr holds the
labels. Outside the crop box the probability of background is exactly 1, as nnU-Net writes it. Promises: FOLDER is
complete or absent. A FOLDER that is not empty: OutputError. No case: MissingError.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from segcal.data.files import journal
from segcal.data.simulate.cohort import Design, SimulatedCase, Simulation
from segcal.errors import MissingError, OutputError

ENDING = ".nii.gz"
ORIGIN = (-40.0, 25.0, 110.0)

Each = Callable[[Callable[[int], None], Iterable[int]], Iterator[Any]]
"""How work is spread over items: `map`, or an engine's `each`."""


def write_nnunet(
    simulation: Simulation,
    cases: Sequence[int],
    folder: str | os.PathLike[str],
    each: Each = map,
    done: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write the cases of these indices to `folder`, and call `done` after each; returns the networks' folders, in
    order.
    """
    target = Path(folder)
    if not cases:
        raise MissingError(str(target), found="no case to write", expected="at least one index", do="Ask for a case.")
    if target.is_dir() and any(target.iterdir()):
        raise OutputError(
            str(target),
            found="a folder that is not empty",
            expected="a new or an empty one",
            do="Choose another folder, or delete this one.",
        )
    names = [f"member{m}" for m in range(simulation.design.members)]
    with journal.atomic(target) as building:
        for fold, name in enumerate(names):
            _describe(building / name, simulation.design, fold, len(cases))
        (building / "labelsTr").mkdir()

        def work(index: int) -> None:
            case = simulation.case(index)
            _save_map(building / "labelsTr" / f"{case.name}{ENDING}", case.labels, simulation.design)
            for m, name in enumerate(names):
                _predict(building / name, case, m, simulation.design)
            done()

        for _ in each(work, cases):
            continue
    return [target / name for name in names]


def _describe(folder: Path, design: Design, fold: int, count: int) -> None:
    """What nnU-Net copies beside predictions from the training folder, and the settings it was called with."""
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {name: k for k, name in enumerate(design.classes)},
        "numTraining": count,
        "file_ending": ENDING,
    }
    plans = {
        "dataset_name": "Dataset901_Demo",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
    }
    settings = {
        "save_probabilities": True,
        "use_mirroring": True,
        "tile_step_size": 0.5,
        "use_folds": [fold],
        "checkpoint_name": "checkpoint_final.pth",
    }
    folder.mkdir(parents=True)
    for name, content in (
        ("dataset.json", dataset),
        ("plans.json", plans),
        ("predict_from_raw_data_args.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _predict(folder: Path, case: SimulatedCase, member: int, design: Design) -> None:
    inside = case.inside
    p = np.zeros(case.log_probs.shape, np.float32)
    p[0] = 1
    p[:, inside] = np.exp(case.members[member][:, inside])
    np.savez_compressed(folder / f"{case.name}.npz", probabilities=p)
    _save_map(folder / f"{case.name}{ENDING}", p.argmax(0).astype(np.uint8), design)
    properties = {
        "spacing": list(design.spacing),
        "shape_before_cropping": design.shape,
        "bbox_used_for_cropping": [list(axis) for axis in design.crop],
        "shape_after_cropping_and_before_resampling": tuple(high - low for low, high in design.crop),
        "sitk_stuff": {
            "spacing": design.spacing[::-1],
            "origin": ORIGIN,
            "direction": tuple(np.eye(3).ravel().tolist()),
        },
    }
    (folder / f"{case.name}.pkl").write_bytes(pickle.dumps(properties))


def _save_map(path: Path, labels: NDArray[np.uint8], design: Design) -> None:
    # NIfTI has its axes the other way round, and its world the first two mirrored against SimpleITK's
    affine = np.diag([*design.spacing[::-1], 1.0])
    affine[:3, 3] = ORIGIN
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine), path)
