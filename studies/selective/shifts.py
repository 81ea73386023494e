"""Two of the paper's kinds of shift, from predictions that are there: time, and position of slices.

    python studies/predict.py --shared ../shared --work WORK camvid         # and hippocampus; clean
    python studies/selective/shifts.py --work WORK

Time (W23's DAVIS, SpaceNet-7 by time): WORK/camvid-first and WORK/camvid-second, the first half of the frames of each
sequence and the second, as links to the files of WORK/camvid-clean, with the rows of its groups.csv. Position (W23's
BraTS, layer 75 to layer 100): WORK/hippocampus-clean/lower and /upper, masks of the lower and of the upper half of the
slices in which a case has labels, the third axis of its file. Files that are there already are left alone.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np

from segcal.data.files import journal


def halves(cases: list[str]) -> tuple[list[str], list[str]]:
    """Frames of the first and of the second half of each sequence, whose name stands before the first '_'."""
    sequences = defaultdict(list)
    for case in sorted(cases):
        sequences[case.split("_")[0]].append(case)
    middle = {name: -(-len(frames) // 2) for name, frames in sequences.items()}
    first = [case for name, frames in sequences.items() for case in frames[: middle[name]]]
    return first, [case for name, frames in sequences.items() for case in frames[middle[name] :]]


def linked(clean: Path, folder: Path, cases: list[str]) -> None:
    """A cohort of some cases of another."""
    wanted = set(cases)
    for source in sorted(clean.rglob("*.*")):
        target = folder / source.relative_to(clean)
        if source.name != "groups.csv" and source.stem in wanted and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    with (clean / "groups.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case"] in wanted]
    with journal.atomic(folder / "groups.csv") as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, ("case", "group"), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def masked(labels: Path, lower: Path, upper: Path) -> None:
    """Masks of both halves of the slices that have labels."""
    image = nibabel.load(labels)
    known = np.flatnonzero(np.asarray(image.dataobj).any((0, 1)))
    if not len(known):
        return
    cut = int(known[len(known) // 2])
    for target, some in ((lower, slice(None, cut)), (upper, slice(cut, None))):
        if target.exists():
            continue
        mask = np.zeros(image.shape, np.uint8)
        mask[:, :, some] = 1
        target.parent.mkdir(parents=True, exist_ok=True)
        with journal.atomic(target) as temporary:
            nibabel.save(nibabel.Nifti1Image(mask, image.affine), temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    clean = args.work / "camvid-clean"
    for name, cases in zip(("first", "second"), halves([p.stem for p in (clean / "labels").iterdir()]), strict=True):
        linked(clean, args.work / f"camvid-{name}", cases)
        print(f"camvid-{name}: {len(cases)} frames")
    root = args.work / "hippocampus-clean"
    labels = sorted((root / "labels").iterdir())
    for path in labels:
        masked(path, root / "lower" / path.name, root / "upper" / path.name)
    print(f"hippocampus-clean/lower and /upper: {len(labels)} masks each")


if __name__ == "__main__":
    main()
