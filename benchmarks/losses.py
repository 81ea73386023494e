"""Losses that calibrate (M23): networks trained with them, as they are and calibrated afterwards.

    python studies/predict.py --shared ../shared --work WORK nuclei         # and hippocampus; clean: labels and groups
    python studies/networks.py --shared ../shared --work WORK \\
        --losses ce ce+dice ls focal ecp mbls svls nacl-mean nacl-sum nacl-0.01 nacl-0.3
    python studies/networks.py hippocampus --shared ../shared --work WORK --losses ce+dice svls nacl-sum nacl-mean
    python -m benchmarks.losses --work WORK -o docs/results/losses.md

Three networks of each loss, of different seeds, on all cases of the pool. Dice, HD95 and ASD (mean over foreground
classes of a case, where they are defined and finite); ECE and CECE over 15 bins in the whole image and where the label
is foreground; mean |l| and mean largest l of the logits. Then ECE, CECE and NLL after ts, cms-op and lts (40 epochs),
fitted on the other half of the groups. Means of cases, and the range of the three networks; changes against the first
loss of each data set case by case, networks averaged, with an interval over groups, told where it leaves out 0 and each
seed's own change has its sign. Networks in the JSON already are kept; losses without predictions are left out and
named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import segcal
from benchmarks.boundary import DATASETS, halves, opened
from benchmarks.families import Asked, changed, means
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.places.region import ForegroundRegion
from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.engine.ask import Ask
from segcal.methods import find
from segcal.metrics.calibration import CalibrationError
from segcal.metrics.classwise import ClasswiseCalibrationError
from segcal.metrics.likelihood import LogLikelihood
from segcal.metrics.overlap import Overlap
from segcal.metrics.region import RegionCalibration
from segcal.metrics.surface import surface_distances

SEEDS, BINS = 3, 15
LOSSES = {
    "nuclei": ("ce", "ce+dice", "ls", "focal", "ecp", "mbls", "svls", "nacl-mean", "nacl-sum", "nacl-0.01", "nacl-0.3"),
    "hippocampus": ("ce+dice", "svls", "nacl-sum", "nacl-mean"),
}
FOLDERS = {"nuclei": "w8-c128-n1000", "hippocampus": "hippocampus-w4-c32-n800"}
METHODS: dict[str, dict[str, Any]] = {"ts": {}, "cms-op": {}, "lts": {"epochs": 40}}
HEADS = {
    "dice": "Dice",
    "hd95": "HD95",
    "asd": "ASD",
    "nll": "NLL",
    "ece": "ECE",
    "cece": "CECE",
    "foreground ece": "ECE, foreground",
    "foreground cece": "CECE, foreground",
    "size": "mean size of l",
    "largest": "mean largest l",
}
LATER = ("nll", "ece", "cece")


@dataclass(frozen=True)
class Magnitude:
    """Mean |l| over voxels and classes, and mean largest l over voxels, of raw logits."""

    classes: int

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Sums."""
        return {"voxels": Count(), "size": ExactSum(), "largest": ExactSum()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        assert rows.free_energy is not None
        logits = rows.log_probs.double() + rows.free_energy.double()
        return {"voxels": rows.voxels, "size": logits.abs().mean(0).sum(), "largest": logits.amax(0).sum()}

    def result(self, values: Mapping[str, Array]) -> dict[str, float]:
        """Both."""
        n = max(int(values["voxels"]), 1)
        return {name: float(values[name]) / n for name in ("size", "largest")}


def folder_of(dataset: str, loss: str, seed: int) -> str:
    """Where a network's predictions are."""
    return f"networks/{FOLDERS[dataset]}{'' if loss == 'ce' else f'-{loss}'}-s{seed}"


def surfaces(predictions: Path, labels: Path, classes: int) -> dict[str, float | None]:
    """HD95 and ASD, means over the foreground classes where they are finite."""
    decided, truth = np.load(predictions)["logits"].argmax(0), read(labels)
    found = [surface_distances(decided == k, truth == k) for k in range(1, classes)]
    out: dict[str, float | None] = {}
    for name in ("hd95", "asd"):
        known = [v for one in found if np.isfinite(v := getattr(one, name))]
        out[name] = float(np.mean(known)) if known else None
    return out


def read(path: Path) -> Any:
    """A label map."""
    if path.suffix == ".png":
        from PIL import Image

        return np.asarray(Image.open(path))
    import nibabel

    return np.asarray(nibabel.load(path).dataobj)


def cases_of(work: Path, dataset: str, folder: str, engine: Any) -> dict[str, dict[str, float | None]]:
    """Numbers of each case, as trained and after each method fitted on the other half."""
    clean, labels = opened(work, dataset), work / f"{dataset}-clean" / "labels"
    found = segcal.open_cohort([work / folder], labels, **DATASETS[dataset])
    cohort: Cohort = found.grouped(dict(zip((case.id for case in clean), clean.groups, strict=True)))
    classes = cohort.head.channels
    metrics: dict[str, Any] = {
        "likelihood": LogLikelihood(classes),
        "ece": CalibrationError(classes, (BINS,)),
        "cece": ClasswiseCalibrationError(classes, BINS),
        "overlap": Overlap(classes, 0),
        "foreground": RegionCalibration(classes, BINS, ForegroundRegion(1)),
        "magnitude": Magnitude(classes),
    }
    out: dict[str, dict[str, float | None]] = {}
    sides = halves(cohort, 0, None)
    for fit, judged in (sides, sides[::-1]):
        made = {
            name: known(**options).fit(fit, engine=engine) for name, options in METHODS.items() if (known := find(name))
        }
        asks = {("", what): Ask(metric, by_case=True) for what, metric in metrics.items()}
        asks |= {
            (name, what): Ask(metrics[what], by_case=True, through=one.through(0))
            for name, one in made.items()
            for what in ("likelihood", "ece", "cece")
        }
        answers, _ = engine.survey(judged, asks)
        for k, case in enumerate(judged):
            row: dict[str, float | None] = {}
            for name in ("", *made):
                told = {w: accumulate.result(metrics[w], answers[n, w][k]) for n, w in asks if n == name}
                own = {"nll": told["likelihood"].nll, "ece": told["ece"].ece(BINS), "cece": told["cece"].cece}
                row |= {f"{name} {what}".strip(): value for what, value in own.items()}
                if not name:
                    row |= {"dice": told["overlap"].mean_dice, **told["magnitude"]}
                    row |= {"foreground ece": told["foreground"].ece, "foreground cece": told["foreground"].sce}
            path = next(iter(labels.glob(f"{case.id}.*")))
            row |= surfaces(work / folder / f"{case.id}.npz", path, classes)
            out[case.id] = {n: None if v is None or np.isnan(v) else round(v, 7) for n, v in row.items()}
    return out


def page(found: Mapping[str, Any], missing: Sequence[str], made: str) -> str:
    """As Markdown."""
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = ["# Losses that calibrate", "", f"Made by `{made}`. {text}", ""]
    lines += [f"Left out for want of predictions: {'; '.join(missing)}.", ""] if missing else []
    for dataset, mine in found.items():
        cases, (first, *_) = sorted(mine["groups"]), mine["losses"]
        lines += [
            f"## {dataset}, as trained",
            "",
            f"| | {' | '.join(HEADS.values())} |",
            "|---" * (len(HEADS) + 1) + "|",
        ]
        for loss, networks in mine["losses"].items():
            lines.append(f"| {loss} | {' | '.join(_ranged(networks, metric, cases) for metric in HEADS)} |")
        lines += ["", f"Changes against {first}:", "", f"| | {' | '.join(HEADS.values())} |"]
        lines.append("|---" * (len(HEADS) + 1) + "|")
        for loss, networks in list(mine["losses"].items())[1:]:
            cells = [_change(mine, (mine["losses"][first], m), (networks, m)) for m in HEADS]
            lines.append(f"| {loss} | {' | '.join(cells)} |")
        for metric in LATER:
            lines += ["", f"## {dataset}, {HEADS[metric]} before and after calibration", ""]
            heads = ["as trained", *METHODS, f"ts, against {first} with ts"]
            lines += [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
            for loss, networks in mine["losses"].items():
                names = [metric, *(f"{method} {metric}" for method in METHODS)]
                cells = [_ranged(networks, name, cases) for name in names]
                told = "" if loss == first else _change(mine, (mine["losses"][first], names[1]), (networks, names[1]))
                lines.append(f"| {loss} | {' | '.join([*cells, told])} |")
        lines.append("")
    return "\n".join(lines)


def _ranged(networks: Mapping[str, Any], metric: str, cases: Sequence[str]) -> str:
    each = np.nanmean(means(networks, metric, cases), 1)
    digits = 2 if metric in ("hd95", "asd", "size", "largest") else 4
    return f"{each.mean():.{digits}f} ({each.min():.{digits}f} to {each.max():.{digits}f})"


def _change(mine: Mapping[str, Any], first: tuple[Any, str], last: tuple[Any, str]) -> str:
    told = changed(first, last, mine["groups"])
    text = f"{told['mean']:+.4f} [{told['low']:+.4f}, {told['high']:+.4f}]"
    return text if told["told"] else f"{text}, not told (seen from {told['smallest']:.4f})"


def main() -> None:
    args, missing = Asked.of(__doc__), []
    for dataset, wanted in LOSSES.items():
        cases = partial(cases_of, args.work, dataset, engine=args.engine)
        for loss in wanted:
            names = [folder_of(dataset, loss, seed) for seed in range(SEEDS)]
            if args.there(names, dataset):
                mine = args.found.setdefault(dataset, {"losses": {}, "groups": args.groups(dataset)})
                args.networks(mine["losses"].setdefault(loss, {}), names, cases, f"{dataset} {loss}")
            elif loss not in args.found.get(dataset, {"losses": {}})["losses"]:
                missing.append(f"{dataset} {loss}")
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(args.found, missing, f"python -m benchmarks.losses --work WORK -o {args.output}"))


if __name__ == "__main__":
    main()
