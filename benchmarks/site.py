"""Another site: what a calibrator from elsewhere is worth there, and what one temperature from a few labelled cases
adds (`segcal fit SITE --after cal.safetensors`).

    python studies/predict.py --shared ../shared --work WORK nuclei --cohorts clean shifted
    python -m benchmarks.site --work WORK -o docs/results/site.md

Nuclei, the mean of five networks. Calibrators are fitted on `--cases` clean images; the site are images of other
acquisitions, each its own group. Of these `--judged` are judged in all draws; in each of `--draws` draws 1, 3 or 10
others are labelled. Compared by NLL and ECE, means over the judged images, then over draws with their range: the scores
as they are; the calibrator as it came; a temperature after it; and temperature scaling on the labelled cases alone. The
change against the calibrator as it came with its interval over the judged images, which count once, as means over
draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import segcal
from benchmarks.outcomes import opened
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.engine.engine import Engine
from segcal.methods import methods
from segcal.methods.calibrator import Calibrator
from segcal.metrics.statistics.clustered import clustered_mean
from segcal.tasks.refit import refit

METHODS = ("ts", "bts-both")
LABELLED = (1, 3, 10)
SCORES = ("nll", "ece")


def scored(cohort: Cohort, calibrator: Calibrator | None, engine: Engine) -> dict[str, list[float]]:
    """Each score of each case."""
    found = segcal.evaluate(cohort, calibrator, engine)
    summary = found.uncalibrated if found.calibrated is None else found.calibrated
    rows = {row["case"]: row for row in summary.per_case}
    return {score: [rows[case.id][score] for case in cohort] for score in SCORES}


def chosen(cohort: Cohort, index: NDArray[np.int64]) -> Cohort:
    """These cases, in the cohort's order."""
    return cohort.select([cohort[i].id for i in sorted(index.tolist())])


def measured(work: Path, cases: int, judged: int, draws: int, seed: int, engine: Engine) -> dict[str, Any]:
    """Scores by way and number of labelled cases: of each draw, of each case."""
    clean, site = opened(work, "nuclei-clean"), opened(work, "nuclei-shifted")
    fitted = clean[:: len(clean) // cases][:cases]
    order = np.random.default_rng(seed).permutation(len(site))
    test = chosen(site, order[:judged])
    found: dict[str, Any] = {"uncalibrated": {"0": [scored(test, None, engine)]}}
    for name in METHODS:
        method = methods()[name]()
        came = method.fit(fitted, engine=engine)
        found[name] = {"0": [scored(test, came, engine)]}
        for k in LABELLED:
            found[name][str(k)] = []
            for draw in range(draws):
                few = np.random.default_rng((seed, k, draw)).permutation(order[judged:])[:k]
                labelled = chosen(site, few)
                after = refit(came, labelled, engine).fits["ts"].calibrator
                found[name][str(k)].append(scored(test, after, engine))
                if name == METHODS[0]:
                    alone = segcal.TemperatureScaling().fit(labelled, engine=engine)
                    found.setdefault("ts alone", {}).setdefault(str(k), []).append(scored(test, alone, engine))
                print(name, k, draw, np.mean(found[name][str(k)][-1]["nll"]), flush=True)
    return found


def page(found: dict[str, Any], command: str, settings: dict[str, int]) -> str:
    """The table."""
    lines = [
        "# Another site",
        f"Made by `{command}`.",
        " ".join((__doc__ or "").split("\n\n")[2].split()),
        f"{settings['cases']} clean images fitted, {settings['judged']} of the site judged, {settings['draws']} draws.",
    ]
    table = [
        "| way | labelled there | NLL | ECE | NLL against the calibrator as it came |",
        "|---|---:|---|---|---|",
    ]
    for name, by_count in found.items():
        for k, draws in by_count.items():
            cells = []
            for score in SCORES:
                means = [float(np.mean(one[score])) for one in draws]
                spread = f" ({min(means):.4f} to {max(means):.4f})" if len(means) > 1 else ""
                cells.append(f"{np.mean(means):.4f}{spread}")
            change = ""
            base = found.get("ts" if name == "ts alone" else name, {}).get("0")
            if k != "0" and base is not None:
                cases = np.mean([one["nll"] for one in draws], 0) - np.asarray(base[0]["nll"])
                one = clustered_mean(cases.tolist(), [str(i) for i in range(len(cases))])
                change = f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
            table.append(f"| {name} | {k} | {cells[0]} | {cells[1]} | {change} |")
    return "\n\n".join([*lines, "\n".join(table)]) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--judged", type=int, default=24)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    settings = {"cases": options.cases, "judged": options.judged, "draws": options.draws}
    found = measured(options.work, *settings.values(), options.seed, segcal.Serial())
    command = "python -m benchmarks.site --work WORK -o docs/results/site.md"
    with journal.atomic(options.output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "found": found}) + "\n")
    with journal.atomic(options.output) as temporary:
        temporary.write_text(page(found, command, settings))


if __name__ == "__main__":
    main()
