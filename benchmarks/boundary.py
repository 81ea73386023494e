"""Boundary temperature scaling beside the other methods on three real ensembles: held-out numbers, knots, a picture.

    python studies/predict.py --shared ../shared --work WORK hippocampus    # and nuclei, camvid; clean, shifted
    python -m benchmarks.boundary --work WORK -o docs/results/boundary.md

Half of the groups is fitted on, the other half judged; `--seeds` draws of the halves, `--cases` cases of each half at
most, evenly over it. `knots`: other knots, fitted on a half of the first draw's calibration half and judged on the rest
of that half; the test half is not read for it. Means over the draws; intervals of a change over the groups of the first
draw. Nuclei fitted on clean images are judged on other acquisitions, too, where WORK has them. Parts that are in the
JSON already are kept, so that an interrupted run goes on. The picture goes to docs/images beside the results.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

import segcal
from segcal import BoundaryTemperatureScaling
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.surroundings import Contexts
from segcal.methods import find
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import AnyMethod
from segcal.metrics.statistics.clustered import paired_difference

DATASETS: dict[str, dict[str, Any]] = {
    "hippocampus": {"background": 0},
    "nuclei": {"background": 0},
    "camvid": {"ignore_index": 255},
}
METHODS = ("ts", "ets", "cms-ap", "cms-op", "dc", "cdc", "bts", "bts-class", "bts-both")
ON = {"bts-class on cms-op": "held-out", "bts-class on cms-op, fitted outputs": "fitted"}
KNOTS: dict[str, tuple[float, ...]] = {
    "0 1 2 4 8 16": (0, 1, 2, 4, 8, 16),
    "0 2 8": (0, 2, 8),
    "0 1 3 9": (0, 1, 3, 9),
    "0 1 2 4 8": (0, 1, 2, 4, 8),
    "0 1 2 3 4 6 8 12 16 24": (0, 1, 2, 3, 4, 6, 8, 12, 16, 24),
}
COLUMNS = ("nll", "brier", "ece", "foreground ece", "boundary ece", "ba_ece", "flips, %", "fit, s")


def opened(work: Path, name: str, cohort: str = "clean") -> Cohort:
    """The five networks' mean probabilities, with groups."""
    root = work / f"{name}-{cohort}"
    found = segcal.open_cohort(sorted(root.glob("member*")), root / "labels", **DATASETS[name])
    with (root / "groups.csv").open() as file:
        return found.grouped({row["case"]: row["group"] for row in csv.DictReader(file)})


def evenly(names: Sequence[str], count: int | None) -> list[str]:
    """At most `count` of them."""
    if count is None or count >= len(names):
        return list(names)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))]


def halves(cohort: Cohort, seed: int, count: int | None) -> tuple[Cohort, Cohort]:
    """Cases to fit on and to judge, of different groups."""
    groups = sorted(set(cohort.groups))
    np.random.default_rng(seed).shuffle(groups)
    first = set(groups[: len(groups) // 2])
    sides: tuple[list[str], list[str]] = ([], [])
    for case, group in zip(cohort, cohort.groups, strict=True):
        sides[group not in first].append(case.id)
    fit, judged = (cohort.select(evenly(side, count)) for side in sides)
    return fit, judged


def compared(fit: Cohort, tests: Mapping[str, Cohort], methods: Mapping[str, AnyMethod], engine: Any) -> dict[str, Any]:
    """Of each test cohort a row a method: numbers, and the NLL of each case."""
    out: dict[str, Any] = {name: {} for name in tests}
    for name, method in methods.items():
        began = time.process_time()
        calibrator = method.fit(fit, engine=engine)
        seconds = time.process_time() - began
        for where, test in tests.items():
            before, after = rows(calibrator, test, engine)
            out[where].setdefault("uncalibrated", before)
            out[where][name] = after | {"fit, s": seconds}
            shown = {k: round(v, 4) for k, v in out[where][name].items() if k != "cases"}
            print(where, name, shown, flush=True)
    return out


def rows(calibrator: Calibrator, test: Cohort, engine: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers without and with a calibrator."""
    found = segcal.evaluate(test, calibrator, engine)
    assert found.calibrated is not None
    assert found.verdict is not None
    out = []
    for side, summary in (("before", found.uncalibrated), ("after", found.calibrated)):
        strata = {(cell.where, cell.metric): getattr(cell, side) for cell in found.verdict.cells}
        out.append(
            {
                **{name: float(summary.block[name]) for name in ("nll", "brier", "ece", "ba_ece")},
                **{
                    f"{where} ece": strata[where, "ece"]
                    for where in ("foreground", "boundary")
                    if (where, "ece") in strata
                },
                "flips, %": 100 * float(summary.block.get("flip_rate") or 0.0),
                "cases": {r["case"]: r["nll"] for r in summary.per_case},
            }
        )
    return out[0], out[1]


def methods() -> dict[str, AnyMethod]:
    """Everything that is compared."""
    found = {name: known() for name in METHODS if (known := find(name)) is not None}
    return found | {
        name: BoundaryTemperatureScaling(by="class", on="cms-op", outputs=outputs) for name, outputs in ON.items()
    }


def run(args: argparse.Namespace, name: str, engine: Any) -> dict[str, Any]:
    """All draws of one data set."""
    pool, draws = opened(args.work, name), []
    shifted = {"shifted": opened(args.work, name, "shifted")} if (args.work / f"{name}-shifted").is_dir() else {}
    shifted = {where: c.select(evenly([case.id for case in c], args.cases)) for where, c in shifted.items()}
    for seed in range(args.seeds):
        fit, test = halves(pool, seed, args.cases)
        found = compared(fit, {"clean": test, **shifted}, methods(), engine)
        group = {case.id: g for c in (test, *shifted.values()) for case, g in zip(c, c.groups, strict=True)}
        draws.append({"fit": len(fit), "test": len(test), "groups": len(set(test.groups)), "found": {}})
        for where, table in found.items():
            draws[-1]["found"][where] = {m: told(one, table["ts"], group) for m, one in table.items()}
    return {"draws": draws}


def told(one: Mapping[str, Any], ts: Mapping[str, Any], group: Mapping[str, str]) -> dict[str, Any]:
    """A row with its change against temperature scaling in place of its cases."""
    cases = sorted(one["cases"])
    change = paired_difference(
        [ts["cases"][c] for c in cases], [one["cases"][c] for c in cases], [group[c] for c in cases]
    )
    numbers = {k: v for k, v in one.items() if k != "cases"}
    return numbers | {"against ts": {"mean": change.mean, "low": change.low, "high": change.high}}


def knots(args: argparse.Namespace, name: str, engine: Any) -> dict[str, float]:
    """NLL of other knots, within the calibration half."""
    fit, judged = halves(halves(opened(args.work, name), 0, None)[0], 1, args.cases)
    out = {}
    for label, wanted in KNOTS.items():
        made = BoundaryTemperatureScaling(by="class", knots=wanted).fit(fit, engine=engine)
        out[label] = rows(made, judged, engine)[1]["nll"]
        print(name, "knots", label, out[label], flush=True)
    return out


def picture(args: argparse.Namespace, path: Path, engine: Any) -> None:
    """T over a slice of a volume, beside the label map that is predicted, and by distance for each class."""
    fit, test = halves(opened(args.work, "hippocampus"), 0, args.cases)
    made = BoundaryTemperatureScaling(by="class").fit(fit, engine=engine)
    case = test[0]
    with Scratch(2**30) as scratch, test.open(0, scratch) as reader:
        z = reader.scores(0, case.voxels)
        drawn = Contexts(reader, scratch, made.contexts).of(0, case.voxels)
        (context,) = drawn.values()
        temperature = made.maps[0].temperature(context, z).reshape(case.shape).numpy()
        labels = test.head.predicted(z, test.pooled_kind).reshape(case.shape).numpy()
    middle = int((labels > 0).sum((1, 2)).argmax())
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
    axes[0].imshow(labels[middle].T, cmap="viridis", origin="lower", interpolation="nearest")
    axes[0].set_title("predicted label map")
    shown = axes[1].imshow(np.log2(temperature[middle]).T, cmap="RdBu_r", vmin=-1.5, vmax=1.5, origin="lower")
    axes[1].set_title("T")
    bar = figure.colorbar(shown, ax=axes[1], shrink=0.85)
    bar.set_ticks([-1, 0, 1], labels=["1/2", "1", "2"])
    table, at = made.maps[0].temperatures()["distance"], list(made.maps[0].look.distance)
    for name, line in zip(("background", "anterior", "posterior"), table.tolist(), strict=True):
        axes[2].plot(range(len(at)), line, marker="o", label=name)
    axes[2].set_xticks(range(len(at)), [f"{d:g}" for d in at])
    axes[2].axhline(1, color="grey", linewidth=0.8)
    unit = "mm" if made.maps[0].look.mm else "voxels"
    axes[2].set(xlabel=f"distance to the boundary, {unit}", ylabel="T", title="T by distance")
    axes[2].legend(frameon=False)
    for one in axes[:2]:
        one.set_axis_off()
    figure.savefig(path, dpi=150)


def shown(column: str, values: Sequence[float]) -> str:
    """A cell: the mean over the draws."""
    if not values:
        return ""
    return f"{np.mean(values):.1f}" if column == "fit, s" else f"{np.mean(values):.4f}"


def page(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    out = [
        "# Boundary temperature scaling on real ensembles",
        "",
        f"Made by `{found['made']['command']}`. {' '.join(__doc__.split(chr(10) * 2)[2].split())}",
        "",
    ]
    for name, one in found["datasets"].items():
        draws = one["draws"]
        first = draws[0]
        for where in first["found"]:
            count = f"{len(draws)} draws of halves" if len(draws) > 1 else "one draw of halves"
            out += [f"## {name}, {where}", ""]
            out += [f"{count}, {first['fit']} cases fitted on, {first['test']} judged of {first['groups']} groups.", ""]
            out += ["| | " + " | ".join(COLUMNS) + " | NLL against ts |", "|---" * (len(COLUMNS) + 2) + "|"]
            for method in first["found"][where]:
                mine = [d["found"][where][method] for d in draws]
                cells = [shown(column, [m[column] for m in mine if column in m]) for column in COLUMNS]
                change = mine[0]["against ts"]
                cells.append(f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]")
                out.append(f"| {method} | " + " | ".join(cells) + " |")
            out.append("")
    if found["knots"]:
        names = list(found["knots"])
        out += ["## Knots", "", "NLL of `bts-class` within the calibration half.", ""]
        out += ["| knots, voxels | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        out += [f"| {k} | " + " | ".join(f"{found['knots'][n][k]:.5f}" for n in names) + " |" for k in KNOTS]
        out.append("")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", type=int, help="of each half, at most")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = segcal.Threads(args.workers)
    data = args.output.with_suffix(".json")
    command = f"python -m benchmarks.boundary --work WORK --seeds {args.seeds} --cases {args.cases} -o {args.output}"
    fresh: dict[str, Any] = {"made": {"command": command}, "datasets": {}, "knots": {}}
    found = json.loads(data.read_text()) if data.exists() else fresh
    for name in args.datasets:
        for part, make in (("datasets", run), ("knots", knots)):
            if name not in found[part]:
                found[part][name] = make(args, name, engine)
                with journal.atomic(data) as temporary:
                    temporary.write_text(json.dumps(found, indent=1))
    picture(args, args.output.parent.parent / "images" / "boundary_temperature.png", engine)
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(found))


if __name__ == "__main__":
    main()
