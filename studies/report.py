"""A page on finished studies: every number of every pipeline, and its change against one of them with an interval.

    python studies/report.py STUDY1 STUDY2 ... --title "Boundary temperature scaling" -o PAGE.md
    python studies/report.py STUDY1 ... --base "pbar" --change ece_10 --metrics ece_10 nll brier entropy iou -o PAGE.md

A STUDY is a folder that `segcal study` finished. Of each cohort a row a pipeline: means over repeats and cases, and the
change of one number against the pipeline that is named as the base. For that a case counts once, as the mean over the
repeats it is tested in, and its group is what is independent: intervals say what other patients, images or sequences
would do to the mean over these partitions. Of few calibration cases: that number's mean over repeats, in how many
repeats it is above the base's, fitted on the same cases, and by how much at most. Writes the numbers as JSON beside the
page. Pictures of each study, into ../images: with --boxes numbers of test cases as box plots, a panel each (lines at
the quartiles, whiskers to the extremes, a cross at the mean); with --reliability the reliability of these pipelines
over all test cases of the first repeat, and in three of them (first, middle and last by name), in the study's fewest
bins.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from segcal.data.files import journal
from segcal.engine import accumulate
from segcal.metrics.binning import Curve
from segcal.metrics.calibration import CalibrationError
from segcal.metrics.statistics.clustered import paired_difference
from segcal.metrics.summary import ACE_BINS, ECE_BINS
from segcal.study import results
from segcal.study.configuration import CLEAN
from segcal.study.results import Finished
from segcal.study.scoring import file_of, read_sums

METRICS = ("nll", "brier", "ece", "ece_predicted_foreground", "ece_predicted_boundary", "ba_ece", "flip_rate")
NAMES = {
    "nll": "NLL",
    "brier": "Brier",
    "ece_predicted_foreground": "ECE, foreground",
    "ece_predicted_boundary": "ECE, boundary",
    "ba_ece": "BA-ECE",
    "flip_rate": "flips, %",
    "iou": "mIoU",
    "ece_correct": "ECE, correct",
    "ece_incorrect": "ECE, mispredicted",
    "ece_10": "ECE, 10 bins",
    "ece_objects_boundary": "ECE, boundary in boxes",
    "ece_objects_interior": "ECE, interior in boxes",
}
PER_CENT = ("flip_rate",)


@dataclass(frozen=True)
class Wanted:
    """What the page shows: `metrics`, and the `change` of one of them against the pipeline `base`."""

    metrics: tuple[str, ...]
    change: str
    base: str


def tables(finished: Finished, wanted: Wanted) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each cohort a row a pipeline."""
    values, groups = finished.by_case({*wanted.metrics, wanted.change})
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for cohort, pipeline in dict.fromkeys(key[:2] for key in values):
        numbers = [values[cohort, pipeline, metric].values() for metric in wanted.metrics]
        row: dict[str, Any] = dict(zip(wanted.metrics, map(_mean, numbers), strict=True))
        base, mine = (values[cohort, p, wanted.change] for p in (wanted.base, pipeline))
        cases = sorted(mine)
        told = [groups[case] for case in cases]
        change = paired_difference([base[case] for case in cases], [mine[case] for case in cases], told)
        row["change"] = {"mean": change.mean, "low": change.low, "high": change.high, "groups": change.groups}
        out.setdefault(cohort, {})[pipeline] = row
    return out


def of_sizes(finished: Finished, wanted: Wanted) -> dict[str, dict[str, dict[str, float]]]:
    """By size and pipeline: the mean of the number, and in how many repeats it is above the base's."""
    found: dict[tuple[int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in finished.rows("sizes"):
        if row["metric"] == wanted.change:
            found[row["size"], row["pipeline"]][row["repeat"]].append(row["value"])
    means = {key: {repeat: _mean(values) for repeat, values in by.items()} for key, by in found.items()}
    out: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (size, pipeline), by in sorted(means.items()):
        above = [by[repeat] - means[size, wanted.base][repeat] for repeat in by]
        worse = sum(difference > 0 for difference in above)
        out[str(size)][pipeline] = {"mean": _mean(by.values()), "worse": worse, "worst": max(above), "of": len(by)}
    return out


def _mean(values: Any) -> float:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def page(found: Mapping[str, Any], title: str, wanted: Wanted, command: str) -> str:
    """As Markdown."""
    lines = [f"# {title}", "", f"Made by `{command}`.", "", " ".join((__doc__ or "").split("\n\n")[2].split()), ""]
    heads = [*map(_name, wanted.metrics), f"{_name(wanted.change)} against {wanted.base}"]
    for name, study in found.items():
        lines += [f"## {name}", "", study["about"], ""]
        for told, image in study["pictures"].items():
            lines += [f"![{told}]({image})", ""]
        for cohort, rows in study["cohorts"].items():
            lines += [f"### {name}, {cohort}", "", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
            for pipeline, row in rows.items():
                cells = [_shown(metric, row[metric]) for metric in wanted.metrics]
                told = (
                    "" if pipeline == wanted.base else "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**row["change"])
                )
                lines.append(f"| {pipeline} | {' | '.join(cells)} | {told} |")
            lines.append("")
        if study["sizes"]:
            lines += [*_sizes(name, study["sizes"], wanted), ""]
    return "\n".join(lines)


def _sizes(name: str, sizes: Mapping[str, Mapping[str, Mapping[str, float]]], wanted: Wanted) -> list[str]:
    pipelines = list(next(iter(sizes.values())))
    lines = [f"### {name}, few cases: {_name(wanted.change)} (repeats above {wanted.base}, by how much at most)", ""]
    lines += [f"| calibration cases | {' | '.join(pipelines)} |", "|---" * (len(pipelines) + 1) + "|"]
    for size, row in sizes.items():
        cells = [
            f"{one['mean']:.4f}" + ("" if p == wanted.base else f" ({one['worse']:.0f}, {one['worst']:+.4f})")
            for p, one in row.items()
        ]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return lines


def _name(metric: str) -> str:
    return NAMES.get(metric, metric.upper() if metric in ("ece", "ace") else metric)


def _shown(metric: str, value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{100 * value:.2f}" if metric in PER_CENT else f"{value:.4f}"


def draw(finished: Finished, metrics: Sequence[str], path: Path) -> None:
    """Box plots of the test cases, each the mean over the repeats it is tested in."""
    values, _ = finished.by_case(metrics)
    pipelines = list(dict.fromkeys(pipeline for cohort, pipeline, _ in values if cohort == CLEAN))
    figure, axes = plt.subplots(1, len(metrics), figsize=(4.8 * len(metrics), 0.36 * len(pipelines) + 1.2), sharey=True)
    for axis, metric in zip(np.atleast_1d(axes), metrics, strict=True):
        known = [[v for v in values[CLEAN, p, metric].values() if not math.isnan(v)] for p in pipelines]
        marks = {"marker": "x", "markeredgecolor": "black"}
        axis.boxplot(known, orientation="horizontal", whis=(0, 100), showmeans=True, meanprops=marks)
        axis.set_yticks(range(1, len(pipelines) + 1), pipelines)
        axis.set_xlabel(_name(metric))
        axis.set_xlim(left=0)
    np.atleast_1d(axes)[0].invert_yaxis()
    figure.tight_layout()
    with journal.atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def curves(finished: Finished, pipelines: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """Reliability of each pipeline over all test cases of the first repeat, and in three of them, by panel."""
    bins = tuple(sorted({ACE_BINS, ECE_BINS, *finished.about["configuration"]["bins"]}))
    metric = CalibrationError(len(finished.about["classes"]), bins)
    keys, roles = {(0, "calibration"): metric}, finished.about["roles"][0]
    cases = sorted(case for case, role in roles.items() if role == "test")
    total = {pipeline: accumulate.zero(metric) for pipeline in pipelines}
    single = {cases[k]: dict[str, Curve]() for k in (0, len(cases) // 2, len(cases) - 1)}
    for case in cases:
        sums = read_sums(file_of(finished.folder, 0, CLEAN, case))
        for pipeline in pipelines:
            (state,) = sums.states(pipeline, keys).values()
            total[pipeline] = accumulate.merge(metric, total[pipeline], state)
            if case in single:
                single[case][pipeline] = accumulate.result(metric, state).curve(bins[0])
    pooled = {p: accumulate.result(metric, state).curve(bins[0]) for p, state in total.items()}
    return {f"{len(cases)} test cases": pooled, **single}


def draw_reliability(panels: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """A panel each; bins without voxels are left out, the ECE in brackets."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 4.2), sharey=True, layout="constrained")
    for axis, (told, pipelines) in zip(axes, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", lw=0.9, ls="--")
        for pipeline, curve in pipelines.items():
            known = curve.counts > 0
            label = f"{pipeline} ({curve.ece:.4f})"
            axis.plot(curve.confidence[known], curve.accuracy[known], marker="o", ms=3.5, lw=1.1, label=label)
        axis.set(title=told, xlabel="confidence", xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
        axis.legend(frameon=False, fontsize="x-small", loc="lower right")
    axes[0].set_ylabel("accuracy")
    with journal.atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def about(finished: Finished) -> str:
    """What was done."""
    described = finished.about
    roles = [list(one.values()) for one in described["roles"]]
    counts = {role: sum(r == role for r in roles[0]) for role in ("calibration", "validation", "test")}
    groups = len(set(described["groups"].values())) if described.get("groups") else counts["test"]
    return (
        f"{len(roles)} repeats; {counts['calibration']} calibration, {counts['validation']} validation and"
        f" {counts['test']} test cases in the first, {groups} groups in all; {described['members']} networks."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--title", default="Studies")
    parser.add_argument("--base", default="TS(pbar)", help="the pipeline that changes are against")
    parser.add_argument("--change", default="nll", help="the number whose change is shown")
    parser.add_argument(
        "--metrics", nargs="+", default=list(METRICS), help="of a case, as results/scores.csv names them"
    )
    parser.add_argument("--boxes", nargs="+", default=[], help="numbers of cases to draw")
    parser.add_argument("--reliability", nargs="+", default=[], help="pipelines whose reliability to draw")
    args = parser.parse_args(argv)
    wanted, found = Wanted(tuple(args.metrics), args.change, args.base), dict[str, Any]()
    for folder in args.studies:
        finished = results.read(folder)
        pictures, images = dict[str, str](), args.output.parent.parent / "images"
        if args.boxes:
            image = images / f"{args.output.stem}-{folder.name}.png"
            draw(finished, args.boxes, image)
            pictures["test cases"] = f"../images/{image.name}"
        if args.reliability:
            image = images / f"{args.output.stem}-{folder.name}-reliability.png"
            draw_reliability(curves(finished, args.reliability), image)
            pictures["reliability"] = f"../images/{image.name}"
        found[folder.name] = {
            "pictures": pictures,
            "about": about(finished),
            "cohorts": tables(finished, wanted),
            "sizes": of_sizes(finished, wanted),
        }
    words = [folder.name for folder in args.studies] + ["--title", args.title, "--base", args.base]
    words += ["--change", args.change, "--metrics", *args.metrics]
    for option in ("boxes", "reliability"):
        words += [f"--{option}", *some] if (some := getattr(args, option)) else []
    words += ["-o", str(args.output)]
    with journal.atomic(args.output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(found, args.title, wanted, f"python studies/report.py {shlex.join(words)}"))


if __name__ == "__main__":
    main()
