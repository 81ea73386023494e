"""Predictions of the shape of the paper's three data sets, made up: to see `brats.yaml`, `cityscapes.yaml` and
`roadseg.yaml` work without the data.

    python studies/paper/synthetic.py brats OUT
    BRATS=OUT segcal study studies/paper/brats.yaml --dry-run

    python studies/paper/synthetic.py brats OUT --cases 24
    segcal study OUT/study.yaml -o STUDY

OUT receives member0 ... member4 as five calls of `nnUNetv2_predict --save_probabilities` leave them (`--layout npz`:
CASE.npz with key `logits`), labels, folders mild and strong of the same shape where the paper has corrupted images, and
study.yaml: the paper's configuration on these folders, its split scaled to the number of cases. Number of cases,
classes, members, names and groups are those of the data; images are tiny, and what is on them is noise with patches: no
number made from them says anything. Promises: a case depends on the data set, its name and the seed alone. An OUT that
is not empty is refused.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, special

HERE = Path(__file__).parent
MEMBERS = 5
PATCH = 1.5
"""Width in voxels of the patches."""


@dataclass(frozen=True)
class DataSet:
    """What one of the paper's held-out pools looks like (K26 Table 1).

    `shape`: of an image here, (z, y, x). `shifted`: folders of corrupted images, and their noise.
    """

    name: str
    classes: tuple[str, ...]
    names: Callable[[int], list[str]]
    pool: int
    shape: tuple[int, int, int]
    ending: str
    shifted: tuple[tuple[str, float], ...] = ()

    @property
    def crop(self) -> tuple[tuple[int, int], ...]:
        """The box in which the networks looked: a voxel less on each side of a volume, all of an image."""
        return tuple((1, n - 1) if self.shape[0] > 1 else (0, n) for n in self.shape)


def brats_names(count: int) -> list[str]:
    """Patients of one, two or three visits, numbered from 100 as in BraTS GLI 2024."""
    visits = ((patient, visit) for patient in range(2000, 2000 + count) for visit in range(1 + patient % 3))
    return sorted(
        f"BraTS-GLI-{patient:05d}-{100 + visit}" for (patient, visit), _ in zip(visits, range(count), strict=False)
    )


def cityscapes_names(count: int) -> list[str]:
    """The validation set's three cities, in its proportions."""
    cities = ["frankfurt"] * 267 + ["lindau"] * 59 + ["munster"] * 174
    return sorted(f"{cities[k * len(cities) // count]}_{k // 100:06d}_{19 + 30 * k:06d}" for k in range(count))


def roads_names(count: int) -> list[str]:
    """Tiles of an aerial survey."""
    return [f"{10078660 + 15 * k}_15" for k in range(count)]


SCENE = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
)

DATA_SETS = {
    d.name: d
    for d in (
        DataSet("brats", ("background", "NETC", "SNFH", "ET", "RC"), brats_names, 271, (5, 8, 9), ".nii.gz"),
        DataSet(
            "cityscapes",
            ("background", *SCENE, "motorcycle", "bicycle"),
            cityscapes_names,
            500,
            (1, 8, 10),
            ".png",
            (("mild", 0.6), ("strong", 2.0)),
        ),
        DataSet("roadseg", ("background", "road"), roads_names, 243, (1, 10, 10), ".png"),
    )
}


@dataclass(frozen=True)
class Predicted:
    """A case: `labels` (z, y, x), and raw `logits` (classes, z, y, x) of each network."""

    labels: NDArray[np.uint8]
    logits: tuple[NDArray[np.float32], ...]


def predicted(data: DataSet, name: str, noise: float, seed: int = 0) -> Predicted:
    """Overconfident networks that disagree, and see less the more `noise` there is; each voxel's logits have an offset
    that means nothing.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    widths = (0.0, *(PATCH if n > 1 else 0.0 for n in data.shape))
    truth = ndimage.gaussian_filter(rng.normal(size=(len(data.classes), *data.shape)), widths)
    truth *= 2.5 / truth.std()
    truth[0] += 1.5
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(0).astype(np.uint8)
    logits = [
        2 * (truth + rng.normal(0, 0.5 + noise, truth.shape)) + rng.normal(0, 2, data.shape) for _ in range(MEMBERS)
    ]
    return Predicted(labels, tuple(z.astype(np.float32) for z in logits))


def write(data: DataSet, folder: Path, cases: int, *, layout: str = "nnunet", seed: int = 0) -> Path:
    """Write `cases` cases and study.yaml; returns the latter. SystemExit for a folder that is not empty."""
    if folder.is_dir() and any(folder.iterdir()):
        sys.exit(f"{folder}: is not empty; choose another folder")
    names = data.names(cases)
    for part, noise in (("", 0.0), *data.shifted):
        members = [folder / part / f"member{k}" for k in range(MEMBERS)]
        for k, member in enumerate(members):
            member.mkdir(parents=True)
            if layout == "nnunet":
                describe(data, member, k, cases)
        (folder / "labels").mkdir(exist_ok=True)
        for name in names:
            case = predicted(data, name, noise, seed)
            if not part:
                save_map(data, folder / "labels" / name, case.labels)
            for member, logits in zip(members, case.logits, strict=True):
                if layout == "nnunet":
                    save_prediction(data, member, name, logits)
                else:
                    # axes as in the label files: (x, y, z) for NIfTI, (y, x) for pictures
                    np.savez_compressed(
                        member / f"{name}.npz",
                        logits=logits.transpose(0, 3, 2, 1) if data.ending == ".nii.gz" else logits[:, 0],
                    )
    reduced = folder / "study.yaml"
    reduced.write_text("\n".join(scaled(data, folder, cases)) + "\n", encoding="utf-8")
    return reduced


def describe(data: DataSet, folder: Path, seed: int, cases: int) -> None:
    """What nnU-Net copies beside predictions."""
    labels = {name: k for k, name in enumerate(data.classes)}
    axes = [0, 1, 2]
    for name, content in (
        (
            "dataset.json",
            {"channel_names": {"0": "image"}, "labels": labels, "numTraining": cases, "file_ending": data.ending},
        ),
        (
            "plans.json",
            {
                "dataset_name": f"Dataset900_{data.name}",
                "plans_name": "nnUNetResEncUNetMPlans",
                "transpose_forward": axes,
                "transpose_backward": axes,
            },
        ),
        (
            "predict_from_raw_data_args.json",
            {"save_probabilities": True, "use_mirroring": True, "tile_step_size": 0.5, "use_folds": ["all"]},
        ),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def save_prediction(data: DataSet, folder: Path, name: str, logits: NDArray[np.float32]) -> None:
    """CASE.npz, CASE.pkl and the label map; outside the crop box p is exactly (1, 0, ...), as nnU-Net writes it."""
    inside = tuple(slice(low, high) for low, high in data.crop)
    p = np.zeros(logits.shape, np.float32)
    p[0] = 1
    p[:, *inside] = special.softmax(logits, axis=0)[:, *inside]
    np.savez_compressed(folder / f"{name}.npz", probabilities=p)
    properties = {
        "spacing": [1.0, 1.0, 1.0] if data.shape[0] > 1 else [999.0, 1.0, 1.0],
        "shape_before_cropping": data.shape,
        "bbox_used_for_cropping": [list(axis) for axis in data.crop],
        "shape_after_cropping_and_before_resampling": tuple(high - low for low, high in data.crop),
    }
    (folder / f"{name}.pkl").write_bytes(pickle.dumps(properties))
    save_map(data, folder / name, p.argmax(0).astype(np.uint8))


def save_map(data: DataSet, path: Path, labels: NDArray[np.uint8]) -> None:
    """Labels (z, y, x) as NIfTI, whose axes are the other way round, or as PNG."""
    if data.ending == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), np.eye(4)), f"{path}{data.ending}")
    else:
        Image.fromarray(labels[0]).save(f"{path}{data.ending}")


def scaled(data: DataSet, folder: Path, cases: int) -> Iterator[str]:
    """The paper's configuration on `folder`, line by line, with its split and calibration set sizes in proportion to
    `cases`; sizes leave two cases to validate.
    """
    left = 0
    for line in (HERE / f"{data.name}.yaml").read_text(encoding="utf-8").splitlines():
        found = re.match(r"(  (calibration|validation|test|sizes): )([\d\[\], ]+)$", line)
        if found is None:
            yield line.replace(f"${data.name.upper()}", str(folder.resolve()))
            continue
        numbers = [max(2, int(n) * cases // data.pool) for n in re.findall(r"\d+", found[3])]
        if found[2] == "sizes":
            yield f"{found[1]}{[n for n in dict.fromkeys(numbers) if n <= left - 2]}"
        else:
            left += numbers[0] if found[2] != "test" else 0
            yield f"{found[1]}{numbers[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(DATA_SETS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, help="as many cases instead of the whole pool")
    parser.add_argument("--layout", choices=("nnunet", "npz"), default="nnunet")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = DATA_SETS[args.data]
    configuration = write(data, args.out, args.cases or data.pool, layout=args.layout, seed=args.seed)
    print(f"{data.name.upper()}={args.out.resolve()} segcal study {HERE / data.name}.yaml --dry-run")
    print(f"segcal study {configuration} -o STUDY")


if __name__ == "__main__":
    main()
