"""How often a gain is claimed on few cases, where there is none and where there is one.

    python -m benchmarks.claims -o docs/results/claims.md

Cohorts are simulated with known truth. *No gain to be had*: the scores are the posterior that labels were drawn from,
so whatever is fitted is at best as good, and every claimed gain is false. *A gain*: the truth is softer by a
temperature that is worth `GAIN` nats a voxel. On every cohort `--method auto` is run among `METHODS`, which fits each
and scores it cross-fitted; what it chose, and temperature scaling, are then evaluated on as many new cases. A claim is
the word "better" of a verdict.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

import segcal
from benchmarks.strata import flowing
from segcal.data.cohort import Cohort
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.truth import Truth
from segcal.methods.affine.fit import DirichletCalibration
from segcal.methods.temperature import TemperatureScaling
from segcal.metrics.statistics.verdict import BETTER, METRICS, WORSE
from segcal.tasks.evaluate import Evaluation, evaluate

COHORTS = 200
SIZES = (2, 3, 4, 5)
"""Cases of a cohort without a gain to be had."""

MANY = 10
"""Cases of a cohort with a gain."""

GAIN = 0.05
NOMINAL = 0.025
"""Share of 95 % intervals that lie below the truth by chance."""

DESIGN = Design(classes=("background", "organ", "lesion"), shape=(4, 16, 16), margin=(0, 0, 0), members=1)
METHODS = {"ts": TemperatureScaling(), "dc": DirichletCalibration(lambda_=1e-3)}
"""What auto chooses among: strengths are given, since choosing them too takes most of the time."""


def cohort(truth: Truth, seed: int, first: int, count: int) -> Cohort:
    """Cases `first` to `first + count` of the simulation of a seed."""
    drawn = [Simulation(DESIGN, truth, seed).case(i) for i in range(first, first + count)]
    return segcal.cohort_from_arrays(
        np.stack([c.log_probs for c in drawn]),
        np.stack([c.labels for c in drawn]).astype(int),
        kind="log_probs",
        background=0,
        ids=[f"{seed}-{i}" for i in range(first, first + count)],
    )


def divergence(beta: float, cases: int = 40) -> float:
    """Nats a voxel that the scores lose against a truth of inverse temperature `beta`."""
    truth, out = Truth.temperature(len(DESIGN.classes), beta), []
    for i in range(cases):
        x = Simulation(DESIGN, Truth.temperature(len(DESIGN.classes), 1.0), 10**6).case(i).log_probs
        q = truth.log_posterior(x)
        out.append(float((np.exp(q) * (q - x)).sum(0).mean()))
    return float(np.mean(out))


def softer(gain: float = GAIN) -> float:
    """The inverse temperature whose truth is worth `gain`."""
    return float(optimize.brentq(lambda beta: divergence(beta) - gain, 0.2, 0.99, xtol=1e-3))


def run(truth: Truth, seed: int, cases: int, engine: segcal.Serial) -> dict[str, dict[str, Any]]:
    """What is claimed on one cohort, by way of evaluation."""
    fitting, new = cohort(truth, seed, 0, cases), cohort(truth, seed, cases, cases)
    found = segcal.recommend(fitting, engine, keep_map=False, methods=METHODS)
    fits = {name: c.fit for name, c in found.candidates.items() if c.fit is not None}
    out = {f"{name}, cross-fitted": claimed(found.candidates[name].evaluation) for name in METHODS}
    out["auto, the choice out of sample"] = claimed(found.evaluation)
    out["ts, on new cases"] = claimed(evaluate(new, fits["ts"].calibrator, engine))
    out["auto, on new cases"] = claimed(evaluate(new, found.calibrator, engine))
    weighed = segcal.fit_methods({"dc": DirichletCalibration()}, fitting, engine)["dc"].calibrator.solution
    assert weighed is not None
    out["dc, strengths weighed: 'NLL at least X below temperature scaling'"] = {"nll": "at least" in weighed.message}
    return out


def claimed(found: Evaluation) -> dict[str, Any]:
    """Whether the sentence claims a gain, which metrics are called better overall, whether any of all cells is, whether
    NLL is called worse, and how many bands are named.
    """
    verdict = found.verdict
    assert verdict is not None
    words = [cell.word for cell in verdict.cells]
    return {
        "gain": verdict.sentence.startswith("Better"),
        **{name: verdict.at("overall", name).word == BETTER for name in METRICS},
        "any": BETTER in words,
        "worse": verdict.at("overall", "nll").word == WORSE,
        "bands": len(verdict.bands),
    }


def measure(
    truth: Truth, cases: int, cohorts: int, engine: segcal.Serial, keep: Path | None = None
) -> list[dict[str, Any]]:
    """One row a way of evaluation: how often each is claimed over the cohorts.

    `keep`: a file of finished cohorts, a line each, from which an interrupted run goes on.
    """
    known = {}
    if keep is not None and keep.is_file():
        lines = [json.loads(line) for line in keep.read_text().splitlines()]
        known = {one["seed"]: one["told"] for one in lines if one["cases"] == cases}
    told = []
    for seed in range(cohorts):
        if seed not in known:
            known[seed] = run(truth, seed, cases, engine)
            if keep is not None:
                with keep.open("a") as file:
                    file.write(json.dumps({"cases": cases, "seed": seed, "told": known[seed]}) + "\n")
        told.append(known[seed])
    rows = []
    for way in told[0]:
        names = told[0][way]
        counts = {name: sum(bool(one[way][name]) for one in told) for name in names}
        rows.append({"way": way, "cases": cases, "cohorts": cohorts, "claims": counts})
    return rows


def share(count: int, cohorts: int) -> str:
    """Per cent with its exact 95 % interval."""
    low, high = stats.binomtest(count, cohorts).proportion_ci(method="exact")
    return f"{100 * count / cohorts:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def page(none: Sequence[Mapping[str, Any]], some: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    """The page."""

    def rows(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
        return [
            f"| {row['cases']} | {row['way']} | "
            + " | ".join(share(row["claims"][n], row["cohorts"]) if n in row["claims"] else "-" for n in names)
            + " |"
            for row in found
        ]

    worst = max(none, key=lambda row: row["claims"]["nll"])
    power = {row["way"]: row["claims"]["nll"] / row["cohorts"] for row in some if "at least" not in row["way"]}
    least = min(power, key=lambda way: power[way])
    lines = [
        "# What is claimed on few cases",
        "",
        f"Made by `{told['command']}` (some half an hour of one core):",
        f"{told['cohorts']} simulated cohorts a row, {' x '.join(map(str, DESIGN.shape))} voxels a case,",
        f"{len(DESIGN.classes)} classes; `auto` chooses among {', '.join(METHODS)}. Per cent of cohorts in which the",
        "verdict says *better*, with exact 95 % intervals. A 95 % interval lies on one given side of the truth 2.5 %",
        "of the time: more than that, beyond what the simulation's own interval allows, is over-claiming.",
        "",
        "## No gain to be had",
        "",
        "Scores are the true probabilities: every claim is false. Below three groups nothing is claimed by design.",
        f"Most claims of a lower NLL: {share(worst['claims']['nll'], worst['cohorts'])} % ({worst['way']},",
        f"{worst['cases']} cases). *gain claimed*: the sentence in front says so, by NLL or Brier; *any*: any of the",
        "twelve cells of a verdict does; each word is right as often as its",
        "interval says one by one, not all together. *worse*: NLL called worse, which is true here.",
        "",
        "| cases | evaluated | gain claimed | NLL | Brier | ECE | ACE | any | worse | a band named off |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows(none, ("gain", "nll", "brier", "ece", "ace", "any", "worse", "bands")),
        "",
        f"## A gain of {GAIN:g} nats, {MANY} cases",
        "",
        f"The truth is softer by a temperature of {1 / told['beta']:.3g}. Fewest claims of a lower NLL: {least},"
        f" {100 * power[least]:.1f} %.",
        "",
        "| cases | evaluated | gain claimed | NLL | Brier | ECE | ACE | any | worse | a band named off |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows(some, ("gain", "nll", "brier", "ece", "ace", "any", "worse", "bands")),
        "",
        "There the gain is all temperature scaling's, so a claim that dc goes below it would be false.",
        "",
    ]
    return flowing(lines)


def main() -> None:
    """Measure, and write the page and its JSON beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--keep", type=Path, help="a file of finished cohorts, to go on from after an interruption")
    args = parser.parse_args()
    engine, classes = segcal.Serial(), len(DESIGN.classes)
    none: list[dict[str, Any]] = []
    for cases in SIZES:
        none += measure(Truth.temperature(classes, 1.0), cases, args.cohorts, engine, args.keep)
        print(f"{cases} cases done", file=sys.stderr)
    beta = softer()
    some = measure(Truth.temperature(classes, beta), MANY, args.cohorts, engine, args.keep)
    told = {
        "command": f"python -m benchmarks.claims -o {args.output} --cohorts {args.cohorts}",
        "cohorts": args.cohorts,
        "beta": beta,
    }
    args.output.with_suffix(".json").write_text(json.dumps({**told, "no_gain": none, "gain": some}, indent=1) + "\n")
    args.output.write_text(page(none, some, told))


if __name__ == "__main__":
    main()
