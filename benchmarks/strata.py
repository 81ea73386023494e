"""What each metric says of the true posterior, and of the same posterior sharpened or softened: where sharpening
"pays", the metric rewards over-confidence.

    python -m benchmarks.strata -o docs/results/strata.md

Cases are simulated: labels are drawn at every voxel from a posterior that is known (`segcal.data.simulate`), so the
true probabilities can be scored themselves. What they score is each metric's floor: what is left of it when nothing is
wrong. A proper reading of calibration must not get better when the truth is sharpened.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import segcal
from segcal.data.cohort import Cohort
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.truth import Truth
from segcal.methods.calibrator import Calibrator
from segcal.methods.temperature import ScaleMap
from segcal.metrics.statistics.estimate import Estimate
from segcal.tasks.evaluate import Evaluation, compare, evaluate

CASES = 40
SHARPER = 1.5
DESIGN = Design(shape=(10, 28, 28), margin=(0, 0, 0), members=1)

ROWS: Mapping[str, tuple[str, ...]] = {
    "all voxels": ("nll", "brier", "ece", "ece_pooled", "ace", "classwise_ece"),
    "strata chosen by labels": ("ece_interior", "ece_boundary", "ece_roi", "ece_correct", "ece_incorrect", "ba_ece"),
    "predicted foreground": ("nll", "brier", "ece", "ace"),
    "predicted boundary": ("nll", "brier", "ece", "ace"),
}
STRATA = {"predicted foreground": "foreground", "predicted boundary": "boundary"}


def true_cohort(cases: int = CASES, seed: int = 0) -> Cohort:
    """Cases whose scores are the log-posterior that their labels were drawn from."""
    simulation = Simulation(DESIGN, Truth.temperature(len(DESIGN.classes), 1.0), seed)
    drawn = [simulation.case(i) for i in range(cases)]
    return segcal.cohort_from_arrays(
        np.stack([c.log_probs for c in drawn]),
        np.stack([c.labels for c in drawn]).astype(int),
        kind="log_probs",
        background=0,
    )


def scaled(cohort: Cohort, beta: float) -> Evaluation:
    """The truth, and the truth to the power of `beta`."""
    calibrator = Calibrator(cohort.head, cohort.pooled_kind, [ScaleMap(beta) for _ in cohort.head.parts], "ts")
    return evaluate(cohort, calibrator, segcal.Serial())


def table(cohort: Cohort) -> list[dict[str, Any]]:
    """One row a metric: of the truth, sharpened and softened, and whether the interval of the sharpened one's change
    lies below zero: whether over-confidence is rewarded.
    """
    sharp, soft = scaled(cohort, SHARPER), scaled(cohort, 1 / SHARPER)
    assert sharp.calibrated is not None and soft.calibrated is not None
    assert sharp.verdict is not None and soft.verdict is not None
    rows = []
    for where, names in ROWS.items():
        for name in names:
            if where in STRATA:
                cell = sharp.verdict.at(STRATA[where], name)
                values = (cell.before, cell.after, soft.verdict.at(STRATA[where], name).after)
                change = cell.change
            else:
                values = tuple(s.block[name] for s in (sharp.uncalibrated, sharp.calibrated, soft.calibrated))
                change = sharp.differences[name] if name in sharp.differences else by_case(sharp, name)
            rows.append(
                {
                    "where": where,
                    "metric": name,
                    **dict(zip(("true", "sharpened", "softened"), values, strict=True)),
                    "change": change.to_json(),
                    "rewards_over_confidence": change.high < 0,
                }
            )
    return rows


def by_case(found: Evaluation, name: str) -> Estimate:
    """The change of a number that is a mean over cases."""
    assert found.calibrated is not None
    return compare(found.cohort, found.uncalibrated, found.calibrated, name)


def page(rows: list[dict[str, Any]], cases: int, command: str) -> str:
    """The page."""
    lines = [
        "# Strata, floors, and what rewards over-confidence",
        "",
        f"Made by `{command}`: {cases} simulated cases of {' x '.join(map(str, DESIGN.shape))} voxels whose",
        "labels were",
        "drawn from known probabilities. *True* are these probabilities themselves, so its column is each",
        "metric's floor;",
        f"*sharpened* is the same to the power of {SHARPER:g}, *softened* to the power of 1 / {SHARPER:g},",
        "both wrong.",
        "A metric is fit to judge by only where the truth has the lowest number.",
        "",
        "| voxels | metric | true | sharpened | softened | change when sharpened, 95 % | rewards over-confidence |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        change = row["change"]
        numbers = " | ".join(f"{row[name]:.4f}" for name in ("true", "sharpened", "softened"))
        lines.append(
            f"| {row['where']} | `{row['metric']}` | {numbers} | {change['mean']:+.4f} ({change['low']:+.4f} to"
            f" {change['high']:+.4f}) | {'**yes**' if row['rewards_over_confidence'] else 'no'} |"
        )
    wrong = [f"`{r['metric']}`" for r in rows if r["rewards_over_confidence"]]
    lines += [
        "",
        f"Lower for the sharpened truth than for the truth itself: {', '.join(wrong)}."
        if wrong
        else "None is rewarded.",
        "Why: a stratum chosen by labels is chosen by the outcome. Voxels far inside a *labelled* class, or",
        "those that turned",
        "out right, are right more often than any honest forecast can say beforehand, so the forecast looks",
        "under-confident",
        "there, and sharpening it mends what was not broken. A stratum chosen by the *prediction* is known",
        "before the outcome:",
        "in it the true probabilities stay calibrated. The verdict of `evaluate`, `fit` and `auto` therefore",
        "shows all voxels,",
        "the predicted foreground and the predicted boundary, and no stratum of labels. Numbers of label",
        "strata stay in the",
        "JSON, for comparison with papers; read them beside the floors above.",
        "",
        "`ece_incorrect` errs the other way: it falls for any softer probabilities.",
        "",
        "The floors of `ece` and `ace` are not 0: with finitely many voxels a bin's share of hits differs",
        "from its confidence by",
        "chance, most in bins with few voxels, which `ace` weighs like any other. Two calibrators at the",
        "floor cannot be told",
        "apart by them.",
        "",
    ]
    return flowing(lines)


def flowing(lines: Sequence[str]) -> str:
    """Lines of prose that follow each other as one paragraph; headings and tables as they are."""
    out = [""]
    for line in lines:
        prose = bool(line) and line[0] not in "#|-"
        if prose and out[-1] and out[-1][0] not in "#|-":
            out[-1] += f" {line}"
        else:
            out.append(line)
    return "\n".join(out[1:])


def main() -> None:
    """Measure, and write the page and its JSON beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=CASES)
    args = parser.parse_args()
    command = "python -m benchmarks.strata " + " ".join(sys.argv[1:])
    rows = table(true_cohort(args.cases))
    args.output.with_suffix(".json").write_text(
        json.dumps({"command": command, "cases": args.cases, "rows": rows}, indent=1) + "\n"
    )
    args.output.write_text(page(rows, args.cases, command))


if __name__ == "__main__":
    main()
