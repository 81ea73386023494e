"""Small folders as nnU-Net leaves them, written without nnU-Net and without segcal."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

AFFINE = np.diag([-1.5, -2.0, 3.0, 1.0])


def probabilities(
    rng: np.random.Generator, channels: int, shape: tuple[int, ...], sigmoid: bool = False
) -> NDArray[np.float32]:
    """Random probabilities (channels, *shape), summing to one unless `sigmoid`."""
    z = rng.normal(size=(channels, *shape))
    p = 1 / (1 + np.exp(-z)) if sigmoid else np.exp(z) / np.exp(z).sum(0)
    return p.astype(np.float32)


def save_map(path: Path, labels: NDArray[Any], affine: NDArray[Any] = AFFINE) -> None:
    """Labels (Z, Y, X) as NIfTI (X, Y, Z), or of one slice as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" in path.name:
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(labels.T).astype(np.uint8), affine), path)
    else:
        Image.fromarray(labels.reshape(labels.shape[-2:]).astype(np.uint8)).save(path)


def describe(
    folder: Path,
    labels: dict[str, Any],
    *,
    ending: str = ".nii.gz",
    forward: tuple[int, ...] = (0, 1, 2),
    order: list[int] | None = None,
    settings: dict[str, Any] | None = None,
    reader: str = "SimpleITKIO",
) -> None:
    """dataset.json, plans.json and, with `settings`, predict_from_raw_data_args.json."""
    folder.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {
        "channel_names": {"0": "image"},
        "numTraining": 3,
        "file_ending": ending,
        "labels": labels,
    }
    if order is not None:
        described["regions_class_order"] = order
    (folder / "dataset.json").write_text(json.dumps(described))
    plans = {
        "dataset_name": "Dataset007_Toy",
        "transpose_forward": list(forward),
        "transpose_backward": [int(i) for i in np.argsort(forward)],
        "image_reader_writer": reader,
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    if settings is not None:
        (folder / "predict_from_raw_data_args.json").write_text(json.dumps(settings))


def save_case(
    folder: Path,
    name: str,
    p: NDArray[np.float32],
    *,
    delivered: NDArray[Any] | None = None,
    box: list[list[int]] | None = None,
    forward: tuple[int, ...] = (0, 1, 2),
    ending: str = ".nii.gz",
    affine: NDArray[Any] = AFFINE,
) -> None:
    """One case: `p` (C, Z, Y, X); `box` in the array's axes, written in the network's, which are `forward` of them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", probabilities=p)
    shape = p.shape[1:]
    box = [[0, n] for n in shape] if box is None else box
    properties = {
        "spacing": [np.float64(3.0), np.float64(2.0), np.float64(1.5)],
        "shape_before_cropping": tuple(shape[i] for i in forward),
        "bbox_used_for_cropping": [box[i] for i in forward],
        "nibabel_stuff": {"original_affine": affine},
    }
    (folder / f"{name}.pkl").write_bytes(pickle.dumps(properties))
    save_map(folder / f"{name}{ending}", p.argmax(0) if delivered is None else delivered, affine)
