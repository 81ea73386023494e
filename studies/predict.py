"""Predictions of the real ensembles on clean and on shifted images, for the studies in this folder.

    python studies/predict.py --shared ../shared --work WORK nuclei
    python studies/predict.py --shared ../shared --work WORK hippocampus --replicates 3
    python studies/predict.py --shared ../shared --work WORK camvid --cohorts mild strong --images

Writes WORK/DATASET-COHORT/ with member0/CASE.npz, member1/CASE.npz, ... (key `logits`, float32), labels/,
groups.csv and cohort.json, and with --images the images that the networks saw. Cohorts: camvid and nuclei clean, mild
and strong (K26 Table 6, kind chosen by file name); nuclei also `shifted`, other acquisitions; hippocampus clean and the
MRI artefacts bias, motion, ghosting and spike (needs segcal[torchio]), further replicates as bias-1, bias-2, ...
Groups: camvid runs of 20 consecutive frames of a sequence, hippocampus the inferred subject, nuclei the image. Files
that are there already are left alone, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from segcal.data.files import journal
from segcal.study.shift import artefacts, photometric

SAID = {"camvid": {"ignore_index": 255}, "nuclei": {"background": 0}, "hippocampus": {"background": 0}}
"""Options with which each data set is opened."""

Change = Callable[[str, NDArray[Any]], NDArray[Any]]
"""From the name of a case and its raw image to the image that the networks see."""


@dataclass(frozen=True)
class Cohort:
    """Cases of one `split`, their images changed."""

    name: str
    split: str
    change: Change


def clean(case: str, image: NDArray[Any]) -> NDArray[Any]:
    """As it is."""
    return image


def corrupted(severity: photometric.Severity) -> Change:
    """Photometric corruption, chosen by the file's name."""
    return lambda case, image: photometric.choose(f"{case}.png", severity).apply(image)


def artefact(kind: str, replicate: int) -> Change:
    """An MRI artefact on voxels of 1 mm, which is the grid of this data set."""
    return lambda case, image: artefacts.choose(kind, case, replicate=replicate).apply(image)


def cohorts_of(dataset: str, replicates: int) -> list[Cohort]:
    """What there is for a data set."""
    whole = [Cohort("clean", "pool", clean)]
    if dataset == "hippocampus":
        return whole + [
            Cohort(kind if r == 0 else f"{kind}-{r}", "pool", artefact(kind, r))
            for r in range(replicates)
            for kind in artefacts.ARTEFACTS
        ]
    whole += [Cohort(severity, "pool", corrupted(severity)) for severity in photometric.SEVERITIES]
    return whole + ([Cohort("shifted", "shifted", clean)] if dataset == "nuclei" else [])


def groups_of(zoo: Any, dataset: str, cases: list[str]) -> dict[str, str]:
    """The group of each case."""
    if dataset == "hippocampus":
        info = zoo.info(dataset)["case_info"]
        return {case: info[case]["subject_inferred"] for case in cases}
    if dataset != "camvid":
        return {case: case for case in cases}
    seen: dict[str, int] = {}
    out = {}
    for case in sorted(cases):
        sequence = case.split("_")[0]
        out[case] = f"{sequence}-{seen.get(sequence, 0) // 20}"
        seen[sequence] = seen.get(sequence, 0) + 1
    return out


def source(zoo: Any, dataset: str, case: str, what: str) -> Path:
    """The file of a case's image or labels."""
    folder: str = zoo.FOLDER[dataset]
    return Path(zoo.DATA) / folder / what / f"{case}{'.nii.gz' if dataset == 'hippocampus' else '.png'}"


def write_image(target: Path, image: NDArray[Any], geometry: Path) -> None:
    """The image that the networks saw; a volume on the grid of `geometry`."""
    with journal.atomic(target) as temporary:
        if target.suffix == ".png":
            Image.fromarray(image).save(temporary)
        else:
            nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), nibabel.load(geometry).affine), temporary)


def write(
    zoo: Any, members: list[Any], dataset: str, cohort: Cohort, folder: Path, limit: int | None, images: bool
) -> tuple[int, float, float]:
    """Write one cohort: how many cases, seconds spent on changing images, and on networks."""
    cases = zoo.cases(dataset, cohort.split)[:limit]
    changing = predicting = 0.0
    for case in track(
        cases, description=folder.name, transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()
    ):
        target = folder / "labels" / source(zoo, dataset, case, "labels").name
        if not target.exists():
            with journal.atomic(target) as temporary:
                shutil.copyfile(source(zoo, dataset, case, "labels"), temporary)
        left = {k: path for k in range(len(members)) if not (path := folder / f"member{k}" / f"{case}.npz").exists()}
        seen = folder / "images" / source(zoo, dataset, case, "images").name
        picture = images and not seen.exists()
        if not left and not picture:
            continue
        begun = time.monotonic()
        image = cohort.change(case, zoo.image(dataset, case))
        changed = time.monotonic()
        if picture:
            write_image(seen, image, source(zoo, dataset, case, "images"))
        for k, path in left.items():
            with journal.atomic(path) as temporary:
                np.savez(temporary, logits=members[k](image).astype(np.float32))
        changing, predicting = changing + changed - begun, predicting + time.monotonic() - changed
    with journal.atomic(folder / "groups.csv") as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("case", "group"))
        table.writerows(groups_of(zoo, dataset, cases).items())
    with journal.atomic(folder / "cohort.json") as temporary:  # what label maps do not say themselves
        temporary.write_text(json.dumps(SAID[dataset]) + "\n")
    return len(cases), changing, predicting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("camvid", "hippocampus", "nuclei"))
    parser.add_argument("--shared", type=Path, required=True, help="the folder with data/ and zoo/")
    parser.add_argument("--work", type=Path, required=True, help="where predictions go")
    parser.add_argument("--cohorts", nargs="+", help="only these")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument(
        "--replicates", type=int, default=1, help="random replicates of each MRI artefact (hippocampus)"
    )
    parser.add_argument("--limit", type=int, help="only the first cases")
    parser.add_argument("--images", action="store_true", help="also write the images that the networks saw")
    args = parser.parse_args()
    sys.path.insert(0, str(args.shared / "zoo"))
    sys.dont_write_bytecode = True
    import zoo  # type: ignore[import-not-found]  # of the shared folder

    known = cohorts_of(args.dataset, args.replicates)
    unknown = sorted(set(args.cohorts or ()) - {c.name for c in known})
    if unknown:
        parser.error(f"{args.dataset} has no cohort {', '.join(unknown)}; it has {', '.join(c.name for c in known)}")
    members = zoo.ensemble(args.dataset, args.members)
    for cohort in known:
        if args.cohorts is None or cohort.name in args.cohorts:
            folder = args.work / f"{args.dataset}-{cohort.name}"
            cases, changing, predicting = write(zoo, members, args.dataset, cohort, folder, args.limit, args.images)
            print(
                f"{folder}: {cases} cases; {changing:.0f} s changing images, {predicting:.0f} s running {args.members}"
                " networks and writing",
                flush=True,
            )


if __name__ == "__main__":
    main()
