"""Valid inputs to start from: small cohorts in every layout and format, with calibrators of every method, a study and
its parts. Written once, by a process of its own, whose threads and memory end with it.

    NURSERY/LAYOUT/...          results (or member0, member1), labels, mask, images, groups.csv, study.yaml
    NURSERY/LAYOUT.calibrators  METHOD.safetensors
    NURSERY/parts               part1, part2 of a study
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("case_0", "case_1", "case_2", "case_3")
CLASSES = 3
FLAT = (10, 12)
DEEP = (4, 8, 7)


@dataclass(frozen=True)
class Layout:
    """How predictions lie: their folders, and what the files do not say themselves."""

    name: str
    results: tuple[str, ...] = ("results",)
    words: tuple[str, ...] = ()
    spatial: bool = True


LAYOUTS = (
    Layout("npz"),
    Layout("ensemble", ("member0", "member1")),
    Layout("npy", words=("--kind", "probs")),
    Layout("zarr", words=("--kind", "logits")),
    Layout("nifti", words=("--kind", "probs")),
    Layout("pictures"),
    Layout("nnunet", ("member0", "member1")),
    Layout("crossval"),
    Layout("regions"),
)

FLAT_METHODS = (
    ("ts,ets,vs,ms,ms-c,dc,cdc,cms-ap,cms-op,isotonic,histogram", "--no-crossfit"),
    ("iop", "--epochs", "1", "--no-crossfit"),
    ("lts", "--epochs", "1"),
    ("lts-raw", "--epochs", "1", "--no-crossfit"),
)

STUDY = """\
name: fuzz
data:
  results: results
  labels: labels
split:
  calibration: 1
  validation: 1
repeats: 1
seed: 0
pipelines: [p0, TS(p0)]
replicates: 50
samples: 1
bins: [20]
"""


def softmax(z: NDArray[Any]) -> NDArray[np.float32]:
    """Over the first axis."""
    e = np.exp(z - z.max(0))
    return (e / e.sum(0)).astype(np.float32)


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Logits twice too large, and labels drawn from the right ones."""
    z = rng.normal(0, 1.5, (CLASSES, *shape))
    labels = (z + rng.gumbel(size=z.shape)).argmax(0).astype(np.uint8)
    return (2 * z).astype(np.float32), labels


def grow(root: Path) -> None:
    """Write everything below `root`."""
    from segcal.cli import run

    for layout in LAYOUTS:
        WRITERS[layout.name](root / layout.name, np.random.default_rng(1))
    for layout in LAYOUTS:
        _calibrators(run, root, layout)
    for k in (1, 2):
        study = root / "npz" / "study.yaml"
        part = root / "parts" / f"part{k}"
        two = root / "npz" / "two.yaml"
        two.write_text(study.read_text().replace("repeats: 1", "repeats: 2"))
        _done(run(["study", str(two), "-o", str(part), "--part", f"{k}/2", "--quiet", "--workers", "1"]))
        two.unlink()


def _done(code: int) -> None:
    if code:
        raise RuntimeError(f"a valid command ended with {code}")


def _calibrators(run: Callable[[Sequence[str]], int], root: Path, layout: Layout) -> None:
    base = root / layout.name
    words = [*(str(base / r) for r in layout.results), *layout.words, "--quiet", "--workers", "1"]
    words += ["--labels", str(base / "labels")]
    out = root / f"{layout.name}.calibrators"
    out.mkdir()
    if layout.name == "npz":
        _done(run(["evaluate", *words, "--part", "1/1", "--sums", str(base / "sums.safetensors")]))
        for names, *more in FLAT_METHODS:
            target = out if "," in names else out / f"{names}.safetensors"
            _done(run(["fit", *words, "--method", names, "-o", str(target), *more]))
        for name in ("cms-op", "cms-ap", "cdc", "dc"):
            target = out / f"auto-{name}.safetensors"
            _done(run(["fit", *words, "--method", "auto", "--among", name, "--may-change-labels", "-o", str(target)]))
    elif layout.name == "pictures":
        more = ["--images", str(base / "images"), "--epochs", "1", "--no-crossfit"]
        _done(run(["fit", *words, "--method", "lts-image", "-o", str(out / "lts-image.safetensors"), *more]))
    else:
        _done(run(["fit", *words, "--method", "ts,dc", "-o", str(out), "--no-crossfit"]))


def _groups(root: Path) -> None:
    (root / "groups.csv").write_text("case,group\n" + "".join(f"{n},{'ab'[k % 2]}\n" for k, n in enumerate(NAMES)))


def _npz(root: Path, rng: np.random.Generator, members: Sequence[str] = ("results",)) -> None:
    for folder in ("labels", "mask", "images", *members):
        (root / folder).mkdir(parents=True)
    for name in NAMES:
        z, labels = drawn(rng, FLAT)
        np.save(root / "labels" / f"{name}.npy", labels)
        np.save(root / "mask" / f"{name}.npy", (rng.random(FLAT) < 0.9).astype(np.uint8))
        np.save(root / "images" / f"{name}.npy", rng.random(FLAT).astype(np.float32))
        for folder in members:
            noisy = z + rng.normal(0, 0.2, z.shape).astype(np.float32)
            np.savez_compressed(root / folder / f"{name}.npz", logits=noisy)
    _groups(root)
    (root / "study.yaml").write_text(STUDY.replace("results: results", f"results: [{', '.join(members)}]"))


def _ensemble(root: Path, rng: np.random.Generator) -> None:
    _npz(root, rng, ("member0", "member1"))


def _npy(root: Path, rng: np.random.Generator) -> None:
    for folder in ("labels", "results"):
        (root / folder).mkdir(parents=True)
    for name in NAMES:
        z, labels = drawn(rng, FLAT)
        np.save(root / "results" / f"{name}.npy", softmax(z))
        np.save(root / "labels" / f"{name}.npy", labels)
    _groups(root)


def _zarr(root: Path, rng: np.random.Generator) -> None:
    import zarr

    for folder in ("labels", "results"):
        (root / folder).mkdir(parents=True)
    for k, name in enumerate(NAMES):
        z, labels = drawn(rng, FLAT)
        stored = zarr.create_array(
            root / "results" / f"{name}.zarr",
            shape=z.shape,
            chunks=(CLASSES, 5, 12),
            dtype="f4",
            zarr_format=2 if k % 2 else 3,
        )
        stored[:] = z
        np.save(root / "labels" / f"{name}.npy", labels)


def _nifti(root: Path, rng: np.random.Generator) -> None:
    import nibabel

    for folder in ("labels", "results", "images"):
        (root / folder).mkdir(parents=True)
    affine = np.diag([-1.5, -2.0, 3.0, 1.0])
    for k, name in enumerate(NAMES):
        z, labels = drawn(rng, DEEP)
        ending = ".nii" if k % 2 else ".nii.gz"
        scores = np.moveaxis(softmax(z), 0, -1)
        nibabel.save(nibabel.Nifti1Image(scores, affine), root / "results" / f"{name}{ending}")
        nibabel.save(nibabel.Nifti1Image(labels, affine), root / "labels" / f"{name}{ending}")
        image = rng.random(DEEP).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, affine), root / "images" / f"{name}_0000{ending}")


def _pictures(root: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    for folder in ("labels", "results", "images"):
        (root / folder).mkdir(parents=True)
    for k, name in enumerate(NAMES):
        z, labels = drawn(rng, FLAT)
        np.savez_compressed(root / "results" / f"{name}.npz", logits=z)
        ending = ".tif" if k % 2 else ".png"
        Image.fromarray(labels).save(root / "labels" / f"{name}{ending}")
        shape = (*FLAT, 3)
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(root / "images" / f"{name}{ending}")
    (root / "study.yaml").write_text(STUDY.replace("labels: labels", "labels: labels\n  images: images"))
    _groups(root)


def _nnunet(root: Path, rng: np.random.Generator) -> None:
    from segcal.data.simulate.cohort import Design, Simulation
    from segcal.data.simulate.nnunet import write_nnunet
    from segcal.data.simulate.truth import Truth

    design = Design(classes=("background", "kidney", "tumour"), shape=(4, 9, 8), margin=(1, 1, 1), members=2)
    write_nnunet(Simulation(design, Truth.general(3, 1), 1), range(4), root)
    (root / "labelsTr").rename(root / "labels")
    study = STUDY.replace("results: results", "results: [member0, member1]")
    (root / "study.yaml").write_text(study)


def _crossval(root: Path, rng: np.random.Generator) -> None:
    from segcal.data.simulate.cohort import Design, Simulation
    from segcal.data.simulate.nnunet import write_nnunet
    from segcal.data.simulate.truth import Truth

    design = Design(classes=("background", "kidney", "tumour"), shape=(4, 9, 8), margin=(1, 1, 1), members=2)
    simulation = Simulation(design, Truth.general(3, 1), 1)
    results = root / "results"
    made = root / "made"
    write_nnunet(simulation, range(4), made)
    for fold in (0, 1):
        validation = results / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True)
        for path in sorted((made / f"member{fold}").iterdir()):
            if path.name in ("dataset.json", "plans.json"):
                (results / path.name).write_bytes(path.read_bytes())
            elif path.suffix != ".json":
                number = sorted({p.name.split(".")[0] for p in (made / "labelsTr").iterdir()})
                if number.index(path.name.split(".")[0]) % 2 == fold:
                    path.rename(validation / path.name)
    (made / "labelsTr").rename(root / "labels")
    shutil.rmtree(made)


def _regions(root: Path, rng: np.random.Generator) -> None:
    for folder in ("labels", "results"):
        (root / folder).mkdir(parents=True)
    described = {
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
        "file_ending": ".npy",
    }
    (root / "results" / "dataset.json").write_text(json.dumps(described))
    for name in NAMES:
        z = rng.normal(0, 1.5, FLAT)
        inside = np.stack([z, z - 1])
        drawn = rng.random(FLAT) < 1 / (1 + np.exp(-inside))
        labels = np.where(drawn[0] & drawn[1], 2, np.where(drawn[0], 1, 0)).astype(np.uint8)
        np.save(root / "labels" / f"{name}.npy", labels)
        p = (1 / (1 + np.exp(-2 * inside))).astype(np.float32)
        np.savez_compressed(root / "results" / f"{name}.npz", probabilities=p)


WRITERS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "npz": _npz,
    "ensemble": _ensemble,
    "npy": _npy,
    "zarr": _zarr,
    "nifti": _nifti,
    "pictures": _pictures,
    "nnunet": _nnunet,
    "crossval": _crossval,
    "regions": _regions,
}
