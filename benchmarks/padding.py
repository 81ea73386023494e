"""What nnU-Net's padding does to calibration numbers: taken as logits, as log-probabilities, or left out, on real
volumes.

    python benchmarks/padding.py --shared ../shared --work WORK -o docs/results/padding.md

Outside the box it cropped to, nnU-Net writes p = (1, 0, ..., 0). The logits of the hippocampus ensemble
(WORK/hippocampus-npz, mean of five networks) are given that padding in three ways; groups are split as in
`real_ensembles.py`, temperature scaling is fitted on one half and scored on the other. segcal never takes padding for
logits: that variant is made here. Checks: segcal's own reading of nnU-Net folders with `--crop 3`
(WORK/hippocampus-nnunet-crop-3) gives the numbers of the padding left out. Predictions are written to WORK if absent;
all numbers go to a .json beside the page.
"""

from __future__ import annotations

import argparse
import json
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
from segcal.data.cohort import Cohort
from segcal.data.scores import FLOOR
from segcal.methods.temperature import ScaleMap

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
        return Volume(
            np.pad(volume.logits, [(0, 0), *around]), np.pad(volume.labels, around), np.pad(volume.inside, around)
        )

    return make


PADDINGS: dict[str, Callable[[Volume], Volume]] = {
    "crop 1": cropped(1),
    f"crop {CHECKED}": cropped(CHECKED),
    "crop 5": cropped(5),
    "border 5 added": surrounded(5),
    "border 7 added": surrounded(7),
}
ERRORS = ("nll", "ece", "ba_ece", "ace", "dice", "free_energy_std", "voxels")
READINGS = {"p taken as logits": lambda p: p, "log p": lambda p: np.log(np.maximum(p, FLOOR)), "left out": None}


def read(args: argparse.Namespace, names: list[str]) -> dict[str, Volume]:
    """Every case: mean logits and labels."""
    out = {}
    for name in names:
        members = [
            np.load(args.work / "hippocampus-npz" / f"member{k}" / f"{name}.npz")["logits"] for k in range(MEMBERS)
        ]
        logits = np.mean(members, axis=0, dtype=np.float64)
        labels = np.asarray(nibabel.load(args.work / "hippocampus-npz" / "labels" / f"{name}.nii.gz").dataobj).astype(
            np.int64
        )
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
    return segcal.cohort_from_arrays(
        scores, labels, kind="logits", background=0, mask=masks, groups=[groups[n] for n in volumes], ids=list(volumes)
    )


def numbers(found: Cohort, calibrator: segcal.Calibrator | None = None) -> dict[str, Any]:
    """Errors of an evaluation: calibrated, if there is a calibrator."""
    evaluation = segcal.evaluate(found, calibrator, segcal.Threads())
    block = evaluation.uncalibrated if evaluation.calibrated is None else evaluation.calibrated
    return {key: block.block[key] for key in ERRORS}


def measured(
    volumes: dict[str, Volume], groups: dict[str, str], fit: list[str], test: list[str]
) -> list[dict[str, Any]]:
    """A row for each reading of one padding."""
    halves_of = {name: {n: volumes[n] for n in half} for name, half in (("fit", fit), ("test", test))}
    inside = cohort(halves_of["test"], None, groups)
    fraction = 1 - np.mean([v.inside.mean() for v in volumes.values()])
    lost = sum(int((v.labels[~v.inside] > 0).sum()) for v in volumes.values()) / sum(
        int((~v.inside).sum()) for v in volumes.values()
    )
    rows = []
    for title, reading in READINGS.items():
        fitting, testing = (cohort(halves_of[half], reading, groups) for half in ("fit", "test"))
        calibrator = segcal.TemperatureScaling().fit(fitting)
        scale = calibrator.maps[0]
        assert isinstance(scale, ScaleMap)
        before, after, there = numbers(testing), numbers(testing, calibrator), numbers(inside, calibrator)
        rows.append(
            {
                "padding": fraction,
                "lost": lost,
                "reading": title,
                "before": before,
                "after": after,
                "inside": there,
                "temperature": 1 / float(scale.beta),
            }
        )
    return rows


def written(args: argparse.Namespace, layout: tuple[str, ...]) -> Path:
    """A folder of the zoo's predictions."""
    root: Path = args.work / "-".join(["hippocampus", *(o.strip("-") for o in layout if o != "--layout")])
    if not (root / "done").exists():
        subprocess.run(
            [sys.executable, "write_predictions.py", "hippocampus", str(root.resolve()), *layout],
            check=True,
            cwd=args.shared / "zoo",
        )
        (root / "done").touch()
    return root


def own_reading(root: Path, groups: dict[str, str], test: list[str]) -> dict[str, Any]:
    """Numbers of the nnU-Net folders as segcal reads them: the crop box is in the .pkl files."""
    opened = segcal.open_cohort(
        [root / f"member{k}" for k in range(MEMBERS)], root / "labelsTr", pool="logits"
    ).grouped(groups)
    return numbers(opened.select(test))


def constants(classes: int) -> tuple[float, float, float]:
    """Of (1, 0, ..., 0) taken as logits: the probability of background, -log of it, the free energy."""
    whole = float(np.exp(1)) + classes - 1
    return float(np.exp(1)) / whole, float(np.log(whole)) - 1, float(np.log(whole))


def page(command: str, found: dict[str, list[dict[str, Any]]], own: dict[str, Any], count: int) -> str:
    """The page, its numbers from what was measured."""
    here, there = constants(3), constants(CLASSES)
    ours = found[f"crop {CHECKED}"][-1]["before"]
    widest = max(found, key=lambda name: found[name][0]["padding"])
    wide, certain, kept = found[widest]
    share, before, after = wide["padding"], wide["before"], wide["after"]
    expected = share * here[1] + (1 - share) * kept["before"]["nll"]
    cut = found["crop 5"]
    return f"""# What padding does

Made by `python benchmarks/padding.py {command}`.
Hippocampus MRI, 3 classes, the mean of the logits of five networks; {count} volumes, half of the subjects to fit temperature scaling on, half for every number
below. NLL and ECE (50 bins) are means over volumes.

nnU-Net looks only at the box around what is not zero, and fills the rest of the probabilities with (1, 0, ..., 0). There are three ways to read that:

- **p taken as logits.** Then softmax gives the background {there[0]:.7f} for five classes and {here[0]:.7f} for three: right at every such voxel,
  and far too unsure. NLL there is {there[1]:.7f} ({here[1]:.7f} for three classes), confidence misses accuracy by {1 - there[0]:.4f} ({1 - here[0]:.4f}),
  and the free energy is {there[2]:.7f} ({here[2]:.7f}).
- **log p**, floored at {FLOOR:g}. Certain, and right wherever the padding is background; an NLL of {-np.log(FLOOR):.1f} wherever it is not.
- **left out**, as segcal does: padding is neither fitted nor scored.

| padding | share of voxels | foreground in it | read as | NLL | ECE | std of F | T | NLL after | ECE after | NLL after, inside | ECE after, inside |
|---|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(line(name, row) for name, rows in found.items() for row in rows)}

*crop N*: the outer N voxels become padding (`--crop N`), and the foreground they hold is lost, which real nnU-Net crops avoid.
*border N added*: N voxels of background around the volume. *after*: temperature scaling, fitted and scored with the padding read that way;
*inside*: the same temperature, scored where the networks looked. *std of F*: over the voxels of a volume, mean over volumes.

segcal's own reading of nnU-Net folders with crop {CHECKED} gives NLL {own["nll"]:.4f} and ECE {own["ece"]:.4f} on the same cases;
the padding left out by hand gives {ours["nll"]:.4f} and {ours["ece"]:.4f}.

## What it says

- **Taken as logits, padding is the result.** With {100 * share:.0f} % of it ({widest}) NLL is {before["nll"]:.4f} where the networks themselves have {kept["before"]["nll"]:.4f}:
  its share times {here[1]:.4f}, and the rest times that, is {expected:.4f}. ECE is {before["ece"]:.4f} in place of {kept["before"]["ece"]:.4f},
  the spread of the free energy {before["free_energy_std"]:.2f} in place of {kept["before"]["free_energy_std"]:.2f}.
- **One temperature cannot serve both.** It turns from {kept["temperature"]:.3f} to {wide["temperature"]:.3f}: the padding asks for certainty.
  Over all voxels NLL goes from {before["nll"]:.4f} to {after["nll"]:.4f} and ECE from {before["ece"]:.4f} to {after["ece"]:.4f}, which looks like a great success of
  temperature scaling. Where the networks looked NLL is {wide["inside"]["nll"]:.4f}, against {kept["before"]["nll"]:.4f} before any calibration and
  {kept["inside"]["nll"]:.4f} with the right temperature.
  Over all voxels BA-ECE goes from {before["ba_ece"]:.4f} to {after["ba_ece"]:.4f} and ACE from {before["ace"]:.4f} to {after["ace"]:.4f}.
- **As log p, padding dilutes.** The temperature stays ({certain["temperature"]:.3f}), while NLL and ECE shrink with the share of padding, to {certain["before"]["nll"]:.4f}
  and {certain["before"]["ece"]:.4f}: numbers of data with different borders cannot be compared. Where padding hides foreground the floor decides:
  with crop 5, {100 * cut[1]["lost"]:.3f} % of the padding, T is {cut[1]["temperature"]:.3f} in place of {cut[2]["temperature"]:.3f}.

**The paper's BraTS numbers.** K26 (Tables 3 and 4) prints for the uncalibrated ensemble NLL .522 (mean of probabilities) and .523 (of logits), ECE .340 and a std
of F of 8.77. A share of {FRACTION} of voxels with padding taken as logits gives {FRACTION * there[1]:.3f} and {FRACTION * (1 - there[0]):.3f} by itself, and much of a head MRI
is air. Temperature scaling then takes NLL from .523 to .029 and ECE from .340 to .007, while ACE, which counts every confidence alike, rises from .096 to .167: as
above, where one temperature sharpens the padding at the cost of the rest. (BA-ECE hardly moves there, .046 to .048; above it falls.) It is an inference from printed
numbers, since the code is not public. With padding left out, expect other uncalibrated numbers on BraTS than the paper's, and smaller gains.
"""


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    before, after, inside = row["before"], row["after"], row["inside"]
    cells = [
        name,
        f"{100 * row['padding']:.1f} %",
        f"{100 * row['lost']:.3f} %",
        row["reading"],
        f"{before['nll']:.4f}",
        f"{before['ece']:.4f}",
        f"{before['free_energy_std']:.2f}",
    ]
    cells += [
        f"{row['temperature']:.3f}",
        *(f"{block[key]:.4f}" for block in (after, inside) for key in ("nll", "ece")),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="only so many cases")
    args = parser.parse_args()
    command = f"--shared ../shared --work WORK -o {args.output}" + (f" --limit {args.limit}" if args.limit else "")
    npz = written(args, ("--layout", "npz"))
    nnunet = written(args, ("--layout", "nnunet", "--crop", str(CHECKED)))
    names = sorted(p.stem for p in (npz / "member0").glob("*.npz"))[: args.limit]
    groups = group_of(args.shared, "hippocampus", names)
    fit, test = halves(groups)
    volumes = read(args, names)
    found = {}
    for title, padding in PADDINGS.items():
        found[title] = measured({n: padding(v) for n, v in volumes.items()}, groups, fit, test)
        print(
            title,
            [(row["reading"], row["before"]["nll"], row["before"]["ece"], row["temperature"]) for row in found[title]],
            flush=True,
        )
    own = own_reading(nnunet, groups, test)
    ours = found[f"crop {CHECKED}"][-1]["before"]
    if not (abs(own["nll"] - ours["nll"]) < 1e-5 and abs(own["ece"] - ours["ece"]) < 1e-5):
        sys.exit(
            f"segcal reads the nnU-Net folders as NLL {own['nll']}, ECE {own['ece']}; left out by hand it is"
            f" {ours['nll']}, {ours['ece']}"
        )
    args.output.with_suffix(".json").write_text(
        json.dumps({"cases": len(names), "own": own, "paddings": found}, indent=1), encoding="utf-8"
    )
    args.output.write_text(page(command, found, own, len(names)), encoding="utf-8")


if __name__ == "__main__":
    main()
