"""Local temperature scaling beside temperature scaling on three real ensembles: the start, the gates, training and
held-out NLL, and a picture of temperatures.

    python benchmarks/local_temperature.py --shared ../shared --work WORK -o docs/results/local_temperature.md

Predictions are those of `real_ensembles.py` (mean of the logits of five networks; written to WORK if they are not
there), split by the same groups: fitted on one half, scored on the other. `--cases N` takes N of each half, evenly over
it; the page says how many. The picture goes to docs/images/temperature.png beside the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_ensembles import group_of, halves

import segcal
from segcal import LocalTemperatureScaling, TemperatureScaling
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.surroundings import Surroundings
from segcal.engine.serial import Serial
from segcal.fitting.training import Examples, Settings, train
from segcal.methods.calibrator import Calibrator
from segcal.methods.local.fit import TreeModel
from segcal.methods.local.map import LocalMap
from segcal.metrics.statistics.clustered import paired_difference

DATASETS = {"hippocampus": "hippocampus", "nuclei": "nuclei_fluo", "camvid": "camvid_half"}
METHODS: dict[str, dict[str, Any]] = {
    "lts": {},
    "lts-raw": {"source": "logits"},
    "lts-image": {"image": True},
    "ibts": {"level": "image"},
}


def open_pool(args: argparse.Namespace, name: str) -> Cohort:
    """The pool with its images and groups."""
    root = args.work / f"{name}-npz"
    if not (root / "done").exists():
        subprocess.run(
            [sys.executable, "write_predictions.py", name, str(root.resolve()), "--layout", "npz"],
            check=True,
            cwd=args.shared / "zoo",
        )
        (root / "done").touch()
    options = {"ignore_index": 255} if name == "camvid" else {"background": 0}
    images = args.shared / "data" / DATASETS[name] / "images"
    cohort = segcal.open_cohort(
        [root / f"member{k}" for k in range(5)], root / "labels", pool="logits", images=images, **options
    )
    return cohort.grouped(group_of(args.shared, name, [c.id for c in cohort]))


def some(cohort: Cohort, names: list[str], count: int | None) -> Cohort:
    """`count` of the cases, evenly over them."""
    chosen = (
        names
        if count is None
        else [names[i] for i in np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))]
    )
    return cohort.select(chosen)


def start_error(cohort: Cohort) -> float:
    """Largest change of a log-probability by the map that training starts from, over one case."""
    classes = len(cohort.head.classes)
    calibrator = Calibrator(cohort.head, cohort.pooled_kind, [LocalMap.start(classes)], "start")
    with Scratch(2**30) as scratch, cohort.open(0, scratch) as reader:
        z = reader.block(0, cohort[0].voxels).scores.reshape(1, classes, *cohort[0].shape)
    return float((calibrator.log_probs(z) - torch.log_softmax(z.double(), 1)).abs().max())


def gate_gradient(cohort: Cohort) -> float:
    """Largest entry of the gates' gradient after the first step, from the identity."""
    method = LocalTemperatureScaling(start="identity")
    first = LocalMap.start(len(cohort.head.classes))
    examples, seen = Examples(cohort, Serial(), 2**30), list[float]()
    cases = [(examples, i) for i in range(min(8, len(cohort)))]
    settings = Settings(method.learning_rate, 0.0, 1, 1, method.batch, 1, 0)
    train(
        TreeModel(method, 0, first),
        [first.weight, first.bias],
        cases,
        cases[:1],
        settings,
        Serial(),
        lambda step, found: seen.append(float(found[0][4:].abs().max())),
    )
    return seen[1]


def run(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Everything about one pool."""
    pool = open_pool(args, name)
    half, other = halves({c.id: g for c, g in zip(pool, pool.groups, strict=True)})
    fit, test = some(pool, half, args.cases), some(pool, other, args.cases)
    engine = segcal.Threads(args.workers)
    row: dict[str, Any] = {
        "pool": name,
        "fit_cases": len(fit),
        "test_cases": len(test),
        "start_error": start_error(test),
        "gate_gradient": gate_gradient(fit),
        "methods": {},
    }
    made: dict[str, Calibrator] = {}
    held: dict[str, list[float]] = {}
    for method in ("ts", *METHODS):
        began = time.perf_counter()
        chosen = (
            TemperatureScaling() if method == "ts" else LocalTemperatureScaling(epochs=args.epochs, **METHODS[method])
        )
        made[method] = chosen.fit(fit, engine=engine)
        seconds = time.perf_counter() - began
        found = segcal.evaluate(test, made[method], engine)
        after = {r["case"]: r["nll"] for r in found.calibrated.per_case}
        held[method] = [float(after[c.id]) for c in test]
        row["uncalibrated"] = {k: found.uncalibrated.block[k] for k in ("nll", "ece", "dice")}
        row["methods"][method] = {
            "seconds": seconds,
            "training": made[method].solution.nll,
            "held_out": {k: found.calibrated.block[k] for k in ("nll", "ece", "dice", "flip_rate")},
            "against_ts": paired_difference(held["ts"], held[method], list(test.groups)).to_json(),
            "message": made[method].solution.message,
        }
        print(
            name,
            method,
            round(seconds, 1),
            row["methods"][method]["training"],
            row["methods"][method]["held_out"]["nll"],
            flush=True,
        )
    row["picture"] = look(test, made["lts"])
    return row


def look(cohort: Cohort, calibrator: Calibrator) -> dict[str, Any]:
    """One plane of one case: image, confidence before, wrong voxels, temperature.

    Of the first ten cases that with the most wrong voxels.
    """
    best: dict[str, Any] = {}
    for index in range(min(10, len(cohort))):
        shape = cohort[index].shape
        with Scratch(2**30) as scratch, cohort.open(index, scratch) as reader:
            block = reader.block(0, cohort[index].voxels)
            tau = calibrator.through(0).on(Surroundings(reader, scratch)).read(0, block.voxels).reshape(shape).numpy()
            image = reader.fields.read("image", 0, block.voxels).reshape(-1, *shape).numpy()
        p = block.scores.double().softmax(0)
        wrong = ((p.argmax(0) != block.labels) & (block.role == 0)).reshape(shape).numpy()
        confidence = p.amax(0).reshape(shape).numpy()
        if len(shape) == 3:
            k = int(wrong.sum((1, 2)).argmax())
            tau, image, wrong, confidence = tau[k], image[:, k], wrong[k], confidence[k]
        if not best or wrong.mean() > best["wrong"].mean():
            best = {
                "case": cohort[index].id,
                "temperature": tau,
                "image": image,
                "wrong": wrong,
                "confidence": confidence,
            }
    return best


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The picture."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), 4, figsize=(12, 2.9 * len(rows)), squeeze=False, layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        found = row["picture"]
        image = np.moveaxis(found["image"], 0, -1)
        image = (image - image.min()) / max(np.ptp(image), 1e-9)
        line[0].imshow(image.squeeze(), cmap="gray")
        shown = line[1].imshow(found["confidence"], cmap="viridis", vmin=1 / 3, vmax=1)
        figure.colorbar(shown, ax=line[1], shrink=0.8)
        line[2].imshow(found["wrong"], cmap="gray_r")
        low, high = np.quantile(found["temperature"], [0.01, 0.99])
        shown = line[3].imshow(found["temperature"], cmap="magma", vmin=low, vmax=high)
        figure.colorbar(shown, ax=line[3], shrink=0.8)
        for axis, title in zip(
            line,
            (f"{row['pool']}, case {found['case']}", "confidence before", "wrong", "temperature (lts)"),
            strict=True,
        ):
            axis.set_title(title, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(rows: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """The results as Markdown."""
    cases = f" --cases {args.cases}" if args.cases else ""
    lines = [
        "# Local temperature scaling on three real ensembles",
        "",
        (
            f"Made by `python benchmarks/local_temperature.py --work WORK{cases} --epochs {args.epochs} -o"
            " docs/results/local_temperature.md`."
        ),
        "",
        (
            "Mean of the logits of five networks. Calibrators are fitted on cases of one half of the groups; held-out"
            " numbers are means over cases of the other half."
        ),
        (
            "`training NLL` is over all voxels of the fit; a fifth of its cases were held out to stop by. `against ts`"
            " is the change of held-out NLL from temperature scaling,"
        ),
        (
            "paired over cases, clustered by group, 95 %. Seconds are of the whole fit, reading included, on a busy"
            " machine: compare them within a table only."
        ),
        "",
    ]
    for row in rows:
        before = row["uncalibrated"]
        lines += [
            f"## {row['pool']}",
            "",
            (
                f"{row['fit_cases']} cases to fit on, {row['test_cases']} to score. Start: log-probabilities change by"
                f" at most {row['start_error']:.1e}. Largest entry of the gates' gradient after the first step:"
                f" {row['gate_gradient']:.2g}."
            ),
            "",
            "| method | training NLL | held-out NLL | against ts | ECE % | Dice % | flips % | seconds |",
            "|---|---|---|---|---|---|---|---|",
            f"| none | | {before['nll']:.4f} | | {100 * before['ece']:.2f} | {100 * before['dice']:.2f} | | |",
        ]
        for name, found in row["methods"].items():
            change, held = found["against_ts"], found["held_out"]
            interval = (
                ""
                if name == "ts"
                else f"{change['mean']:+.4f}"
                + ("" if change["low"] is None else f" [{change['low']:+.4f}, {change['high']:+.4f}]")
            )
            lines.append(
                f"| {name} | {found['training']:.5f} | {held['nll']:.4f} | {interval} | {100 * held['ece']:.2f} |"
                f" {100 * held['dice']:.2f} | {100 * held['flip_rate']:.2f} | {found['seconds']:.0f} |"
            )
        lines += ["", *(f"- {name}: {found['message']}." for name, found in row["methods"].items() if name != "ts"), ""]
    lines += [
        "## A temperature that varies in space",
        "",
        "![Temperatures of one case of each pool](../images/temperature.png)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all pools, write the page, the numbers and the picture; exit with an error where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", type=int, help="cases of each half; all unless given")
    parser.add_argument("--epochs", type=int, default=LocalTemperatureScaling().epochs)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--only", choices=list(DATASETS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rows = [run(args, name) for name in DATASETS if args.only in (None, name)]
    images = args.output.parent.parent / "images"
    images.mkdir(exist_ok=True)
    draw(rows, images / "temperature.png")
    args.output.write_text(page(rows, args))
    args.output.with_suffix(".json").write_text(
        json.dumps([{k: v for k, v in row.items() if k != "picture"} for row in rows], indent=1) + "\n"
    )
    broken = [
        (r["pool"], n)
        for r in rows
        for n, f in r["methods"].items()
        if f["training"] > r["methods"]["ts"]["training"] + 1e-8 or f["held_out"]["flip_rate"]
    ]
    broken += [(r["pool"], "the start") for r in rows if r["start_error"] > 1e-7 or not r["gate_gradient"] > 0]
    if broken:
        raise SystemExit(f"a promise does not hold: {broken}")


if __name__ == "__main__":
    main()
