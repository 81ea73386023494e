"""Every source keeps the laws of sources: arrays, tensors, tables, files of every format, nnU-Net's folders, simulated
predictions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from segcal import cohort_from_arrays, open_cohort
from segcal.data.cohort import Cohort
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth
from segcal.testing.examples import learnable
from segcal.testing.law import Law
from segcal.testing.sources import SOURCE_LAWS

_SPEC = importlib.util.spec_from_file_location(
    "law_writers", Path(__file__).parents[1] / "data" / "formats" / "reading" / "writers.py"
)
assert _SPEC is not None and _SPEC.loader is not None
WRITERS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(WRITERS)

SHAPE = (3, 4, 5)
Z, Y = learnable(2, SHAPE)
Z32 = Z.astype(np.float32)
P32 = (np.exp(Z - Z.max(1, keepdims=True)) / np.exp(Z - Z.max(1, keepdims=True)).sum(1, keepdims=True)).astype(
    np.float32
)
AFFINE = np.diag([1.5, 2.0, 3.0, 1.0])


def labels_in(folder: Path) -> Path:
    for k, y in enumerate(Y):
        nibabel.save(nibabel.Nifti1Image(y.astype(np.uint8), AFFINE), folder / f"case{k}.nii.gz")
    return folder


def written(
    write: Callable[[Path, Any], None], ending: str, scores: Any = Z32, **options: Any
) -> Callable[[Path], Cohort]:
    """A plain folder of scores beside a folder of NIfTI labels."""

    def open_(base: Path) -> Cohort:
        folder, labels = base / "scores", base / "labels"
        if not folder.exists():
            folder.mkdir()
            labels.mkdir()
            labels_in(labels)
            for k, z in enumerate(scores):
                write(folder / f"case{k}{ending}", z)
        return open_cohort(folder, labels, background=0, **options)

    return open_


def save_zarr(path: Path, z: Any) -> None:
    array = zarr.create_array(store=str(path), shape=z.shape, chunks=(1, 2, 2, 3), dtype=z.dtype)
    array[...] = z


def save_nifti(path: Path, z: Any) -> None:
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(z, 0, -1), AFFINE), path)


def palettes(base: Path) -> Cohort:
    """Images: scores in .npz, labels as PNG with a palette."""
    z, y = learnable(2, (6, 7))
    folder, labels = base / "scores", base / "labels"
    if not folder.exists():
        folder.mkdir()
        labels.mkdir()
        for k in range(2):
            np.savez(folder / f"case{k}.npz", logits=z[k].astype(np.float32))
            image = Image.fromarray(y[k].astype(np.uint8), "L").convert("P")
            image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
            image.putdata(y[k].ravel().tolist())
            image.save(labels / f"case{k}.png")
    return open_cohort(folder, labels)


def simulated(base: Path) -> Cohort:
    """nnU-Net's prediction folders of an ensemble, with crop padding."""
    folder = base / "cohort"
    if not folder.exists():
        design = Design(("background", "kidney", "tumour"), (4, 9, 8), margin=(1, 1, 2), members=2)
        write_nnunet(Simulation(design, Truth.general(3)), [0, 1], folder)
    return open_cohort([folder / "member0", folder / "member1"], folder / "labelsTr", pool="logits")


def regions(base: Path) -> Cohort:
    """nnU-Net's prediction folder of region-based training, with axes the network saw in another order."""
    folder = base / "predictions"
    if not folder.exists():
        p = (1 / (1 + np.exp(-Z[:, :2]))).astype(np.float32)
        WRITERS.describe(
            folder, {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, forward=(2, 0, 1), order=[1, 2]
        )
        for k in range(2):
            WRITERS.save_case(folder, f"case{k}", p[k], delivered=Y[k], box=[[0, 3], [1, 4], [0, 4]], forward=(2, 0, 1))
            WRITERS.save_map(base / "labels" / f"case{k}.nii.gz", np.where(Y[k] == 1, 3, Y[k]))
    return open_cohort(folder, base / "labels")


def table(base: Path) -> Cohort:
    del base
    return cohort_from_arrays(
        np.moveaxis(Z, 1, -1).reshape(-1, 3), Y.ravel(), groups=np.repeat(["a", "b", "a", "c"], Y.size // 4)
    )


OPENERS: dict[str, Callable[[Path], Cohort]] = {
    "arrays": lambda base: cohort_from_arrays(Z, Y, mask=Y > 0),
    "arrays of other strides": lambda base: cohort_from_arrays(np.asfortranarray(Z32)[:, :, ::-1], Y[:, ::-1]),
    "tensors": lambda base: cohort_from_arrays(torch.from_numpy(Z).requires_grad_(), torch.from_numpy(Y)),
    "half precision": lambda base: cohort_from_arrays(torch.from_numpy(Z).bfloat16(), torch.from_numpy(Y)),
    "a table": table,
    "npz, compressed": written(lambda path, z: np.savez_compressed(path, logits=z), ".npz"),
    "npz, stored": written(lambda path, z: np.savez(path, probabilities=z), ".npz", P32),
    "npz, classes last": written(lambda path, z: np.savez(path, logits=np.moveaxis(z, 0, -1)), ".npz", channel_axis=-1),
    "npy": written(lambda path, z: np.save(path, z), ".npy", kind="logits"),
    "npy, axes reversed": written(
        lambda path, z: np.save(path, np.ascontiguousarray(z.transpose(0, 3, 2, 1))), ".npy", kind="logits", zyx=True
    ),
    "npy in Fortran order, big endian": written(
        lambda path, z: np.save(path, np.asfortranarray(z.astype(">f8"))), ".npy", kind="logits"
    ),
    "zarr": written(save_zarr, ".zarr", kind="logits"),
    "nifti": written(save_nifti, ".nii.gz", kind="logits"),
    "png labels": palettes,
    "nnU-Net, simulated": simulated,
    "nnU-Net, regions": regions,
}


@pytest.mark.parametrize("law", SOURCE_LAWS, ids=str)
@pytest.mark.parametrize("name", list(OPENERS))
def test_keeps_the_law(name: str, law: Law[Any], tmp_path: Path) -> None:
    law.check(lambda: OPENERS[name](tmp_path))
