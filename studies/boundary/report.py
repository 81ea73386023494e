"""A page on the studies of boundary temperature scaling: every number with an interval over groups.

    python studies/boundary/report.py STUDY1 STUDY2 ... -o docs/results/boundary_studies.md

A STUDY is a folder that `segcal study studies/boundary/NAME.yaml` finished. Of each cohort a row a pipeline: means over
repeats and cases, and the change of NLL against temperature scaling. For that a case counts once, as the mean over the
repeats it is tested in, and its group is what is independent; so intervals say what other patients, images or sequences
would do to the mean of ten partitions. Of few calibration cases: the mean NLL over repeats, and how many repeats are
worse than temperature scaling fitted on the same cases. Writes the numbers as JSON beside the page.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.files import journal
from segcal.metrics.statistics.clustered import paired_difference
from segcal.study import results
from segcal.study.results import Finished

BASE = "TS(pbar)"
COLUMNS = {
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "ece_predicted_foreground": "ECE, foreground",
    "ece_predicted_boundary": "ECE, boundary",
    "ba_ece": "BA-ECE",
    "flip_rate": "flips, %",
}
Values = Mapping[tuple[str, str], Mapping[str, float]]
"""By pipeline and metric, of each case its mean over repeats."""


def of_cohort(finished: Finished, cohort: str) -> tuple[Values, dict[str, str]]:
    """Numbers of the cases of a cohort, and their groups."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    groups = {}
    for row in finished.rows("scores"):
        if row["cohort"] == cohort and row["metric"] in COLUMNS:
            found[row["pipeline"], row["metric"]][row["case"]].append(row["value"])
            groups[row["case"]] = row["group"]
    means = {key: {case: _mean(values) for case, values in by_case.items()} for key, by_case in found.items()}
    return means, groups


def table(finished: Finished, cohort: str) -> dict[str, dict[str, Any]]:
    """A row a pipeline."""
    values, groups = of_cohort(finished, cohort)
    pipelines = list(dict.fromkeys(p for p, _ in values))
    cases = sorted(groups)
    out = {}
    for pipeline in pipelines:
        row: dict[str, Any] = {metric: _mean(values[pipeline, metric].values()) for metric in COLUMNS}
        for metric in ("nll", "ece_predicted_boundary"):
            base, mine = ([values[p, metric][case] for case in cases] for p in (BASE, pipeline))
            change = paired_difference(base, mine, [groups[case] for case in cases])
            row[f"{metric} against {BASE}"] = {"mean": change.mean, "low": change.low, "high": change.high}
        out[pipeline] = row
    return out


def of_sizes(finished: Finished) -> dict[str, dict[str, dict[str, float]]]:
    """By size and pipeline: mean NLL, and in how many repeats it is above that of temperature scaling."""
    found: dict[tuple[int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in finished.rows("sizes"):
        if row["metric"] == "nll":
            found[row["size"], row["pipeline"]][row["repeat"]].append(row["value"])
    means = {key: {repeat: _mean(values) for repeat, values in by.items()} for key, by in found.items()}
    out: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (size, pipeline), by in sorted(means.items()):
        worse = sum(by[repeat] > means[size, BASE][repeat] for repeat in by)
        worst = max(by[repeat] - means[size, BASE][repeat] for repeat in by)
        out[str(size)][pipeline] = {"nll": _mean(by.values()), "worse": worse, "worst": worst, "repeats": len(by)}
    return out


def _mean(values: Any) -> float:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def page(found: Mapping[str, Any], command: str) -> str:
    """As Markdown."""
    lines = ["# Studies of boundary temperature scaling", "", f"Made by `{command}`.", ""]
    lines += [" ".join((__doc__ or "").split("\n\n")[2].split()), ""]
    for name, study in found.items():
        lines += [f"## {name}", "", study["about"], ""]
        for cohort, rows in study["cohorts"].items():
            lines += [f"### {name}, {cohort}", ""]
            lines += [f"| | {' | '.join(COLUMNS.values())} | NLL against {BASE} |", "|---" * (len(COLUMNS) + 2) + "|"]
            for pipeline, row in rows.items():
                cells = [_shown(metric, row[metric]) for metric in COLUMNS]
                change = row[f"nll against {BASE}"]
                told = (
                    f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]" if pipeline != BASE else ""
                )
                lines.append(f"| {pipeline} | {' | '.join(cells)} | {told} |")
            lines.append("")
        if study["sizes"]:
            lines += [*_sizes(name, study["sizes"]), ""]
    return "\n".join(lines)


def _sizes(name: str, sizes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    pipelines = list(next(iter(sizes.values())))
    lines = [f"### {name}, few cases: NLL, repeats worse than {BASE}, and the worst of them", ""]
    lines += [f"| calibration cases | {' | '.join(pipelines)} |", "|---" * (len(pipelines) + 1) + "|"]
    for size, row in sizes.items():
        cells = [
            f"{one['nll']:.4f}" + ("" if p == BASE else f" ({one['worse']:.0f}, {one['worst']:+.4f})")
            for p, one in row.items()
        ]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return lines


def _shown(metric: str, value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{100 * value:.2f}" if metric == "flip_rate" else f"{value:.4f}"


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
    args = parser.parse_args(argv)
    found: dict[str, Any] = {}
    for folder in args.studies:
        finished = results.read(folder)
        cohorts = list(dict.fromkeys(row["cohort"] for row in finished.rows("scores")))
        found[folder.name] = {
            "about": about(finished),
            "cohorts": {cohort: table(finished, cohort) for cohort in cohorts},
            "sizes": of_sizes(finished),
        }
    names = " ".join(folder.name for folder in args.studies)
    command = f"python studies/boundary/report.py {names} -o {args.output}"
    with journal.atomic(args.output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(found, command))


if __name__ == "__main__":
    main()
