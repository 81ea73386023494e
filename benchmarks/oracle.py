"""Selective scaling with an oracle in place of its net (W23 Fig. 4): which share of the mispredicted voxels to find,
alone and on top of each calibrator; and with its net, by T1 (W23 6.2).

    python studies/predict.py --shared ../shared --work WORK camvid         # and hippocampus, nuclei; clean
    python -m benchmarks.oracle --work WORK -o docs/results/oracle.md

Half of the groups is fitted on, the other half judged; `--seeds` draws of the halves and of the lots, `--cases` cases
of each half at most, evenly over it. Of each calibrator the rate of lowest ECE (10 bins, mean of images), NLL and Brier
score; the ECE at rates 0, at its lowest and at 1; and the change of ECE from rate 0 to 1 with its interval over the
groups of all draws, a case that is judged in several counting once. `T1`: what is picked by the net that selective
scaling trains on the first draw's half, T2 = 1, and what T1 does to ECE, NLL, Brier score and mean entropy. Methods
that are in the JSON already are kept. The picture goes to docs/images beside the results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import segcal
from benchmarks.boundary import asked, halves, opened
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.fitting.sample import Lots
from segcal.methods import find
from segcal.methods.calibrator import Calibrator
from segcal.methods.lessons import alone
from segcal.methods.selective.map import SelectiveMap
from segcal.metrics.calibration import CalibrationError
from segcal.metrics.likelihood import LogLikelihood
from segcal.metrics.statistics.clustered import paired_difference
from segcal.metrics.statistics.verdict import seen
from segcal.study.oracle import RATES, OracleSweep

DATASETS = ("camvid", "hippocampus", "nuclei")
METHODS = ("ts", "ets", "vs", "dc", "cms-ap", "cms-op", "cdc", "isotonic", "bts", "bts-class")
ALONE = "uncalibrated"
SCORES = ("ece", "nll", "brier")
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 1e10)
SHOWN = (ALONE, "ts", "dc", "cms-op", "cdc", "bts-class")
"""Lines of the picture."""


def swept(test: Cohort, calibrator: Calibrator | None, seed: int, engine: Any) -> dict[str, Any]:
    """Means over cases of the scores at every rate, and of each case the ECE at both ends."""
    sweep = OracleSweep(test.head.channels, Lots(tuple(case.id for case in test), seed))
    through = None if calibrator is None else calibrator.through(0)
    answers, _ = engine.survey(test, {"it": Ask(sweep, by_case=True, through=through)})
    found = {test[case].id: accumulate.result(sweep, state) for case, state in answers["it"].items()}
    means = {name: np.nanmean([getattr(one, name) for one in found.values()], 0).tolist() for name in SCORES}
    return {"means": means, "ends": {case: [float(one.ece[0]), float(one.ece[-1])] for case, one in found.items()}}


def run(args: argparse.Namespace, name: str, engine: Any, found: dict[str, Any], keep: Any) -> None:
    """All draws of one data set, into what is `found` of it."""
    pool = opened(args.work, name)
    if "t1" not in found:
        found["t1"] = by_t1(*halves(pool, 0, args.cases), engine)
        print(name, "T1", found["t1"]["message"], flush=True)
        keep()
    found["groups"] = dict(zip((case.id for case in pool), pool.groups, strict=True))
    for seed in range(args.seeds):
        fit, test = halves(pool, seed, args.cases)
        mine = found.setdefault(str(seed), {})
        for method in (ALONE, *METHODS):
            if method in mine:
                continue
            known = find(method)
            made = None if known is None else known().fit(fit, engine=engine)
            mine[method] = swept(test, made, seed, engine)
            print(name, seed, method, [round(v, 4) for v in mine[method]["means"]["ece"]], flush=True)
            keep()


def by_t1(fit: Cohort, test: Cohort, engine: Any) -> dict[str, Any]:
    """Scores of the other half for each T1, and what the net is worth; no scores where it learnt nothing."""
    made = segcal.SelectiveScaling().fit(fit, engine=engine)
    assert made.solution is not None
    out: dict[str, Any] = {"message": made.solution.message, "scores": {}}
    picked = made.maps[0]
    if not isinstance(picked, SelectiveMap):
        return out
    classes = test.head.channels
    metrics = {"ece": CalibrationError(classes, (10,)), "likelihood": LogLikelihood(classes)}
    maps = {t1: alone(test, 0, SelectiveMap(picked.layers, t1, 1.0), "selective") for t1 in TEMPERATURES}
    asks = {
        (t1, name): Ask(metric, by_case=True, through=one.through(0))
        for t1, one in maps.items()
        for name, metric in metrics.items()
    }
    answers, _ = engine.survey(test, asks)
    for t1 in TEMPERATURES:
        ece = [accumulate.result(metrics["ece"], s).ece(10) for s in answers[t1, "ece"].values()]
        means = [accumulate.result(metrics["likelihood"], s) for s in answers[t1, "likelihood"].values()]
        row = {name: float(np.mean([getattr(one, name) for one in means])) for name in ("nll", "brier", "entropy")}
        out["scores"][f"{t1:g}"] = {"ece": float(np.nanmean(ece)), **row}
    return out


def told(found: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A row: means over draws, and what rate 1 does to the ECE of a case."""
    draws = [one[method] for key, one in found.items() if key.isdigit() and method in one]
    means = {name: np.mean([draw["means"][name] for draw in draws], 0) for name in SCORES}
    cases = sorted({case for draw in draws for case in draw["ends"]})
    by_case = {case: np.mean([draw["ends"][case] for draw in draws if case in draw["ends"]], 0) for case in cases}
    ends = [[float(by_case[case][at]) for case in cases] for at in (0, 1)]
    change = paired_difference(*ends, [found["groups"][case] for case in cases])
    return {
        "lowest": {name: RATES[int(means[name].argmin())] for name in SCORES},
        "means": {name: means[name].tolist() for name in SCORES},
        "change": {"mean": change.mean, "low": change.low, "high": change.high, "smallest": seen(change)},
    }


def picture(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """ECE, and NLL under it, by rate."""
    figure, axes = plt.subplots(2, len(rows), figsize=(3.6 * len(rows), 5.6), layout="constrained", squeeze=False)
    for column, (name, methods) in zip(axes.T, rows.items(), strict=True):
        for method in SHOWN:
            for axis, score in zip(column, ("ece", "nll"), strict=True):
                values = methods[method]["means"][score]
                (line,) = axis.plot(RATES, values, label=method)
                lowest = int(np.argmin(values))
                axis.plot(RATES[lowest], values[lowest], marker="o", color=line.get_color())
        column[0].set(title=name, ylabel="ECE, 10 bins" if name == next(iter(rows)) else "")
        column[1].set(xlabel="share of mispredicted voxels found", ylabel="NLL" if name == next(iter(rows)) else "")
        for axis in column:
            axis.set_ylim(bottom=0)
    axes[0, -1].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def page(found: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], image: str) -> str:
    """As Markdown."""
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = ["# How many mispredicted voxels to find", "", f"Made by `{found['made']}`. {text}", ""]
    lines += [f"![ECE and NLL by detection rate]({image})", ""]
    for name, methods in rows.items():
        lines += [f"## {name}", ""]
        lines += [
            "| | rate of lowest ECE | ECE at 0 | lowest | at 1 | ECE from rate 0 to 1 | rate of lowest NLL | Brier |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for method, row in methods.items():
            ece, change, lowest = row["means"]["ece"], row["change"], row["lowest"]
            told = "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**change)
            lines.append(
                f"| {method} | {lowest['ece']:.0%} | {ece[0]:.4f} | {min(ece):.4f} | {ece[-1]:.4f} | {told}"
                f" | {lowest['nll']:.0%} | {lowest['brier']:.0%} |"
            )
        lines.append("")
        t1 = found[name]["t1"]
        lines += [f"Selective scaling there: {t1['message']}.", ""]
        if t1["scores"]:
            lines += ["| T1 | ECE | NLL | Brier | mean entropy |", "|---|---|---|---|---|"]
            for temperature, row in t1["scores"].items():
                lines.append(f"| {temperature} | " + " | ".join(f"{row[k]:.4f}" for k in (*SCORES, "entropy")) + " |")
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    args, engine = asked(__doc__, 3)
    data = args.output.with_suffix(".json")
    cases = "" if args.cases is None else f" --cases {args.cases}"
    fresh = {"made": f"python -m benchmarks.oracle --work WORK --seeds {args.seeds}{cases} -o {args.output}"}
    found: dict[str, Any] = json.loads(data.read_text()) if data.exists() else fresh

    def keep() -> None:
        with journal.atomic(data) as temporary:
            temporary.write_text(json.dumps(found))

    for name in args.datasets:
        run(args, name, engine, found.setdefault(name, {}), keep)
    rows = {
        name: {method: told(found[name], method) for method in (ALONE, *METHODS)} for name in DATASETS if name in found
    }
    image = args.output.parent.parent / "images" / "oracle.png"
    picture(rows, image)
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(found, rows, f"../images/{image.name}"))


if __name__ == "__main__":
    main()
