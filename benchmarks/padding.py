"""What nnU-Net's padding does to calibration numbers: taken as logits, as log-probabilities, or left out, on real volumes.

    python benchmarks/padding.py --shared ../shared --work WORK -o docs/results/padding.md

Outside the box it cropped to, nnU-Net writes p = (1, 0, ..., 0). The logits of the hippocampus ensemble (WORK/hippocampus-npz, mean of five networks) are given that padding in three
ways; groups are split as in `real_ensembles.py`, temperature scaling is fitted on one half and scored on the other. segcal never takes padding for logits: that variant is made here.
Checks: segcal's own reading of nnU-Net folders with `--crop 3` (WORK/hippocampus-nnunet-crop-3) gives the numbers of the padding left out. Predictions are written to WORK if absent.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from real_ensembles import group_of, halves

import segcal
from segcal.calibrators import ScaleMap
from segcal.cases import Cohort
from segcal.scores import FLOOR

Array = NDArray[Any]

MEMBERS = 5
CHECKED = 3
"""Crop width at which segcal's own reader is compared."""

CLASSES, FRACTION = 5, 0.571
"""Of K26's BraTS: its classes, and the share of padding that explains its uncalibrated ECE."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Mean `logits` (C, x, y, z) of the networks, `labels` and where the networks looked (x, y, z)."""

    logits: Array
    labels: Array
    inside: NDArray[np.bool_]


def cropped(width: int) -> Callable[[Volume], Volume]:
    """The outer voxels become padding, as with the zoo's `--crop`; what they were is lost, foreground included."""

    def make(volume: Volume) -> Volume:
        inside = np.zeros(volume.labels.shape, bool)
        inside[tuple(slice(min(width, n // 4), n - min(width, n // 4)) for n in inside.shape)] = True
        return Volume(volume.logits, volume.labels, inside)

    return make


def surrounded(width: int) -> Callable[[Volume], Volume]:
    """Padding is added around the volume, all of it background: as where nnU-Net crops an empty border away."""

    def make(volume: Volume) -> Volume:
        around = [(width, width)] * 3
        return Volume(np.pad(volume.logits, [(0, 0), *around]), np.pad(volume.labels, around), np.pad(volume.inside, around))

    return make


PADDINGS: dict[str, Callable[[Volume], Volume]] = {
    "crop 1": cropped(1),
    f"crop {CHECKED}": cropped(CHECKED),
    "crop 5": cropped(5),
    "border 5 added": surrounded(5),
    "border 7 added": surrounded(7),
}
READINGS = {"p taken as logits": lambda p: p, "log p": lambda p: np.log(np.maximum(p, FLOOR)), "left out": None}


def read(args: argparse.Namespace, names: list[str]) -> dict[str, Volume]:
    """Every case: mean logits and labels."""
    out = {}
    for name in names:
        members = [np.load(args.work / "hippocampus-npz" / f"member{k}" / f"{name}.npz")["logits"] for k in range(MEMBERS)]
        logits = np.mean(members, axis=0, dtype=np.float64)
        labels = np.asarray(nibabel.load(args.work / "hippocampus-npz" / "labels" / f"{name}.nii.gz").dataobj).astype(np.int64)
        out[name] = Volume(logits, labels, np.ones(labels.shape, bool))
    return out


def cohort(volumes: dict[str, Volume], reading: Callable[[Array], Array] | None, groups: dict[str, str]) -> Cohort:
    """Volumes whose padding is filled with `reading` of (1, 0, ...), or masked."""
    scores, labels, masks = [], [], []
    for volume in volumes.values():
        p = np.zeros((len(volume.logits), 1))
        p[0] = 1
        filled = volume.logits.copy()
        filled[:, ~volume.inside] = 0 if reading is None else reading(p)
        scores.append(filled)
        labels.append(volume.labels)
        masks.append(volume.inside if reading is None else np.ones_like(volume.inside))
    return segcal.cohort_from_arrays(scores, labels, kind="logits", background=0, mask=masks, groups=[groups[n] for n in volumes], ids=list(volumes))


def numbers(found: Cohort, calibrator: segcal.Calibrator | None = None) -> dict[str, Any]:
    """The block of an evaluation: calibrated, if there is a calibrator."""
    evaluation = segcal.evaluate(found, calibrator, segcal.Threads())
    block = evaluation.uncalibrated if evaluation.calibrated is None else evaluation.calibrated
    return dict(block.block)


def measured(volumes: dict[str, Volume], groups: dict[str, str], fit: list[str], test: list[str]) -> list[dict[str, Any]]:
    """A row for each reading of one padding."""
    halves_of = {name: {n: volumes[n] for n in half} for name, half in (("fit", fit), ("test", test))}
    inside = cohort(halves_of["test"], None, groups)
    fraction = 1 - np.mean([v.inside.mean() for v in volumes.values()])
    lost = sum(int((v.labels[~v.inside] > 0).sum()) for v in volumes.values()) / sum(int((~v.inside).sum()) for v in volumes.values())
    rows = []
    for title, reading in READINGS.items():
        fitting, testing = (cohort(halves_of[half], reading, groups) for half in ("fit", "test"))
        calibrator = segcal.TemperatureScaling().fit(fitting)
        scale = calibrator.maps[0]
        assert isinstance(scale, ScaleMap)
        before, after, there = numbers(testing), numbers(testing, calibrator), numbers(inside, calibrator)
        rows.append(
            {"padding": fraction, "lost": lost, "reading": title, "before": before, "after": after, "inside": there, "temperature": 1 / float(scale.beta)},
        )
    return rows


def written(args: argparse.Namespace, layout: tuple[str, ...]) -> Path:
    """A folder of the zoo's predictions."""
    root: Path = args.work / "-".join(["hippocampus", *(o.strip("-") for o in layout if o != "--layout")])
    if not (root / "done").exists():
        subprocess.run([sys.executable, "write_predictions.py", "hippocampus", str(root.resolve()), *layout], check=True, cwd=args.shared / "zoo")
        (root / "done").touch()
    return root


def own_reading(root: Path, groups: dict[str, str], test: list[str]) -> dict[str, Any]:
    """Numbers of the nnU-Net folders as segcal reads them: the crop box is in the .pkl files."""
    opened = segcal.open_cohort([root / f"member{k}" for k in range(MEMBERS)], root / "labelsTr", pool="logits").grouped(groups)
    return numbers(opened.select(test))


def shown(value: float) -> str:
    return f"{value:.4f}"


def page(args: argparse.Namespace, found: dict[str, list[dict[str, Any]]], own: dict[str, Any], count: int) -> str:
    def vector(classes: int) -> tuple[float, float, float]:
        p = np.exp(1) / (np.exp(1) + classes - 1)
        return p, -np.log(p), np.log(np.exp(1) + classes - 1)

    here, there = vector(3), vector(CLASSES)
    lines = [
        "# What padding does",
        "",
        f"Made by `python benchmarks/padding.py {args.told}`. Hippocampus MRI, 3 classes, the mean of the logits of five networks; {count} volumes, half of the subjects",
        "to fit temperature scaling on, half for every number below. NLL and ECE (50 bins) are means over volumes.",
        "",
        "nnU-Net looks only at the box around what is not zero, and fills the rest of the probabilities with (1, 0, ..., 0). There are three ways to read that:",
        "",
        f"- **p taken as logits.** Then softmax gives the background {there[0]:.4f} for five classes and {here[0]:.4f} for three: right at every such voxel, and",
        f"  far too unsure. Its NLL is {there[1]:.4f} ({here[1]:.4f} for three classes), its error {1 - there[0]:.4f} ({1 - here[0]:.4f}), its free energy {there[2]:.4f} ({here[2]:.4f}).",
        f"- **log p**, floored at {FLOOR:g}. Certain, and right wherever the padding is background; an NLL of {-np.log(FLOOR):.1f} wherever it is not.",
        "- **left out**, as segcal does: padding is neither fitted nor scored.",
        "",
        "| padding | share of voxels | foreground in it | read as | NLL | ECE | std of F | T | NLL after | ECE after | NLL after, inside | ECE after, inside |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        for row in rows:
            before, after, inside = row["before"], row["after"], row["inside"]
            cells = [name, f"{100 * row['padding']:.1f} %", f"{100 * row['lost']:.2f} %", row["reading"], shown(before["nll"]), shown(before["ece"])]
            cells += [f"{before['free_energy_std']:.2f}", f"{row['temperature']:.3f}", shown(after["nll"]), shown(after["ece"]), shown(inside["nll"]), shown(inside["ece"])]
            lines.append("| " + " | ".join(cells) + " |")
    as_logits = {name: rows[0] for name, rows in found.items()}
    left_out = {name: rows[-1] for name, rows in found.items()}
    worst = max(as_logits, key=lambda name: as_logits[name]["padding"])
    wide, kept = as_logits[worst], left_out[worst]
    mixed = wide["padding"] * here[1] + (1 - wide["padding"]) * kept["before"]["nll"]
    certain = found[worst][1]
    lines += [
        "",
        "*crop N*: the outer N voxels become padding (`--crop N`); they hold some foreground, which real nnU-Net crops do not. *border N added*: N voxels of background around",
        "the volume. *inside*: the same temperature, scored where the networks looked. *std of F*: over the voxels of a volume, mean over volumes.",
        "",
        f"segcal's own reading of nnU-Net folders with crop {CHECKED} gives NLL {shown(own['nll'])} and ECE {shown(own['ece'])} on the same cases,"
        f" and the padding left out {shown(left_out[f'crop {CHECKED}']['before']['nll'])} and {shown(left_out[f'crop {CHECKED}']['before']['ece'])}.",
        "",
        "## What it says",
        "",
        f"- Taken as logits, padding *is* the result. With {100 * wide['padding']:.0f} % of it, NLL is {shown(wide['before']['nll'])} where the networks themselves have",
        f"  {shown(kept['before']['nll'])}; share times {here[1]:.4f} plus the rest times that is {shown(mixed)}. ECE is {shown(wide['before']['ece'])} in place of {shown(kept['before']['ece'])},",
        f"  and the spread of the free energy {wide['before']['free_energy_std']:.2f} in place of {kept['before']['free_energy_std']:.2f}.",
        f"- One temperature cannot serve both. It turns from {kept['temperature']:.3f} to {wide['temperature']:.3f}: the padding asks for certainty. NLL over all voxels then falls from",
        f"  {shown(wide['before']['nll'])} to {shown(wide['after']['nll'])}, which looks like a great success of temperature scaling, while where the networks looked it is",
        f"  {shown(wide['inside']['nll'])}, worse than before any calibration ({shown(kept['before']['nll'])}) and than with the right temperature ({shown(kept['inside']['nll'])}).",
        f"- As log p, padding dilutes. Temperature stays ({certain['temperature']:.3f}), and NLL and ECE shrink with the share of padding: {shown(certain['before']['nll'])} and",
        f"  {shown(certain['before']['ece'])} with {100 * certain['padding']:.0f} % of it. Numbers of images with different borders cannot be compared. Where padding hides foreground, the floor decides.",
        "",
        "**The paper's BraTS numbers.** K26 (Tables 3 and 4) prints for the uncalibrated ensemble NLL .522 (mean of probabilities) and .523 (of logits), ECE .340, and a std of F of 8.77.",
        f"A share of {FRACTION} of voxels with padding taken as logits gives {FRACTION * there[1]:.3f} and {FRACTION * (1 - there[0]):.3f} by itself, and much of a head MRI is air. Temperature scaling then takes NLL",
        "from .523 to .029 and ECE from .340 to .007, while errors that do not count padding most do not fall: BA-ECE .046 to .048, ACE .096 to .167. That is what happens above, where one",
        "temperature sharpens the padding at the cost of the rest. It is an inference from printed numbers, for the code is not public. With padding left out, expect",
        "other uncalibrated numbers on BraTS than the paper's, and smaller gains.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="only so many cases")
    args = parser.parse_args()
    args.told = f"--shared ../shared --work WORK -o {args.output}" + (f" --limit {args.limit}" if args.limit else "")
    npz = written(args, ("--layout", "npz"))
    nnunet = written(args, ("--layout", "nnunet", "--crop", str(CHECKED)))
    names = sorted(p.stem for p in (npz / "member0").glob("*.npz"))[: args.limit]
    groups = group_of(args.shared, "hippocampus", names)
    fit, test = halves(groups)
    volumes = read(args, names)
    found = {}
    for title, padding in PADDINGS.items():
        found[title] = measured({n: padding(v) for n, v in volumes.items()}, groups, fit, test)
        print(title, [(row["reading"], row["before"]["nll"], row["before"]["ece"], row["temperature"]) for row in found[title]], flush=True)
    own = own_reading(nnunet, groups, test)
    ours = found[f"crop {CHECKED}"][-1]["before"]
    if not (abs(own["nll"] - ours["nll"]) < 1e-5 and abs(own["ece"] - ours["ece"]) < 1e-5):
        sys.exit(f"segcal reads the nnU-Net folders as NLL {own['nll']}, ECE {own['ece']}; left out by hand it is {ours['nll']}, {ours['ece']}")
    args.output.write_text(page(args, found, own, len(names)), encoding="utf-8")


if __name__ == "__main__":
    main()
