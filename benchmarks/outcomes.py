"""What probabilities let a person do, on real ensembles, before and after calibration: which cases are bad, how large
structures are, where they may also be, and whether new cases are unlike.

    python studies/predict.py --shared ../shared --work WORK nuclei
    python studies/predict.py --shared ../shared --work WORK hippocampus --cohorts clean bias motion ghosting spike
    python -m benchmarks.outcomes --work WORK -o docs/results/outcomes.md

In each of `--draws` draws a third of the groups is fitted on. The others are dealt `--deals` times into a half that
sets thresholds and a half that is judged, at 90 % for bounds and intervals and 10 % for outer masks: coverage by group
(all cases of it), the width of an interval over the mean soft volume, the share of a structure that a mask misses (mean
over groups) and its size over the structure's. Means over deals, then draws, with the range over draws; rank
correlation and AURC over all that were not fitted on, with an interval over groups in the first draw. New cases: how
often the comparison with the reference fires on the judged half, and on shifted images of the same cases.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import segcal
from segcal.data import splits
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine
from segcal.methods import find
from segcal.methods.calibrator import Calibrator
from segcal.outcomes.drift import drift
from segcal.outcomes.reference import Gathering, dice_errors, statistics_of, volume_errors, volume_scale
from segcal.outcomes.sums import THRESHOLDS, CaseOutcome, joined, structures, sums_of
from segcal.outcomes.triage import ordering
from segcal.tasks.reference import set_aside

DATASETS = ("nuclei", "hippocampus")
METHODS = ("ts", "bts-both")
UNCALIBRATED = "uncalibrated"
ALPHA = 0.1


def opened(work: Path, name: str) -> Cohort:
    """The five networks' predictions."""
    folder = work / name
    found = segcal.open_cohort(sorted(folder.glob("member*")), folder / "labels", background=0)
    return splits.grouped(found, str(folder / "groups.csv"))


def outcomes(cohort: Cohort, calibrator: Calibrator | None, engine: Engine) -> list[CaseOutcome]:
    """The sums of each case."""
    sums, found = sums_of(cohort.head), dict[int, CaseOutcome]()

    def keep(case: int, states: Mapping[int, Any]) -> None:
        found[case] = joined([accumulate.result(sums[part], states[part]) for part in sorted(states)])

    through = [None if calibrator is None else calibrator.through(part) for part in range(len(sums))]
    asks = {part: Ask(one, part, by_case=True, through=through[part]) for part, one in enumerate(sums)}
    engine.survey(cohort, asks, keep)
    return [found[k] for k in range(len(cohort))]


def judged(
    all_outcomes: Sequence[CaseOutcome], groups: Sequence[str], names: Sequence[str], seed: int
) -> tuple[dict[str, float], dict[str, list[float]], list[CaseOutcome]]:
    """One deal: numbers of the judged half, the statistics of the half that sets thresholds, and the judged cases."""
    distinct = sorted(set(groups))
    sets = set(np.random.default_rng(seed).permutation(distinct)[: len(distinct) // 2].tolist())
    known = [k for k, g in enumerate(groups) if g in sets]
    fresh: dict[str, list[CaseOutcome]] = {}
    for k, g in enumerate(groups):
        if g not in sets:
            fresh.setdefault(g, []).append(all_outcomes[k])
    made = Gathering(names, [groups[k] for k in known], "set aside")
    for place, k in enumerate(known):
        made.add(place, all_outcomes[k])
    reference = made.done()
    out: dict[str, list[float]] = {}
    for s in range(len(names)):
        dice, volume = reference.dice_bound(s, ALPHA), reference.volume_bound(s, ALPHA)
        cut = int(np.flatnonzero(THRESHOLDS.numpy() == np.float32(reference.threshold(s, ALPHA)))[0])
        for cases in fresh.values():
            errors = [dice_errors(one)[s] for one in cases]
            out.setdefault("dice", []).append(float(not any(e > dice for e in errors)))
            out.setdefault("volume", []).append(float(all(abs(volume_errors(one)[s]) <= volume for one in cases)))
            reach = [2 * volume * volume_scale(one)[s] for one in cases]
            out.setdefault("width", []).append(float(np.mean(reach)) / float(np.mean([o.total[s] for o in cases])))
            hits = sum(one.histogram[1, s] for one in cases if one.histogram is not None)
            both = hits + sum(one.histogram[0, s] for one in cases if one.histogram is not None)
            if hits.sum():
                out.setdefault("missed", []).append(float(hits[: cut + 1].sum() / hits.sum()))
                out.setdefault("size", []).append(float(both[cut + 1 :].sum() / hits.sum()))
    statistics = {name: list(values) for name, values in reference.statistics.items()}
    return (
        {name: float(np.mean(v)) for name, v in out.items()},
        statistics,
        [c for some in fresh.values() for c in some],
    )


def drawn(work: Path, name: str, draw: int, deals: int, engine: Engine) -> dict[str, Any]:
    """One draw of the groups that are fitted on."""
    cohort = opened(work, f"{name}-clean")
    rest, fitted = set_aside(cohort, 1 / 3, draw)
    fits = segcal.fit_methods({m: find(m)() for m in METHODS}, fitted, engine, crossfit=False)  # type: ignore[misc]
    used: dict[str, Calibrator | None] = {UNCALIBRATED: None, **{m: fit.calibrator for m, fit in fits.items()}}
    shifted = {
        p.name.removeprefix(f"{name}-"): opened(work, p.name)
        for p in sorted(work.glob(f"{name}-*"))
        if not p.name.endswith("-clean") and (p / "groups.csv").is_file()
    }
    left, names = {case.id for case in rest}, structures(cohort.head)
    out: dict[str, Any] = {}
    for method, calibrator in used.items():
        clean = outcomes(rest, calibrator, engine)
        group = dict(zip((c.id for c in rest), rest.groups, strict=True))
        order = ordering(dict(zip((c.id for c in rest), clean, strict=True)), group)
        deal = [judged(clean, rest.groups, names, seed) for seed in range(deals)]
        numbers = {key: float(np.mean([one[0][key] for one in deal])) for key in deal[0][0]}
        fires = {"clean": [drift(known, [statistics_of(c) for c in new]).differs for _, known, new in deal]}
        for kind, whole in shifted.items():
            same = tuple(c for c in whole if c.id in left or kind == "shifted")
            other = [statistics_of(one) for one in outcomes(replace(whole, cases=same), calibrator, engine)]
            fires[kind] = [drift(known, other).differs for _, known, _ in deal]
        out[method] = {
            **numbers,
            "ordering": order.to_json(),
            "fires": {kind: float(np.mean(found)) for kind, found in fires.items()},
        }
        print(name, draw, method, {**numbers, **out[method]["fires"]}, flush=True)
    return out


COLUMNS = (
    ("dice", "Dice above its bound"),
    ("volume", "volume in its interval"),
    ("width", "width / volume"),
    ("missed", "missed by the outer mask"),
    ("size", "size of the mask / structure"),
)


def page(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The results in words and tables."""
    lines = [
        "# What probabilities let a person do",
        "",
        "`python -m benchmarks.outcomes --work WORK -o docs/results/outcomes.md`. A third of the groups is fitted on;"
        " of the rest half sets thresholds, half is judged, dealt many times. Bounds and intervals at 90 %, outer masks"
        " at 10 %. Means over deals and draws; in brackets the least and largest draw. Both methods keep every label.",
        "",
    ]
    for name, draws in found.items():
        lines += [f"## {name}, {len(draws)} draws", ""]
        lines += ["| | " + " | ".join(title for _, title in COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
        for method in draws[0]:
            cells = []
            for key, _ in COLUMNS:
                values = [draw[method][key] for draw in draws]
                cells.append(f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines += ["", "| | rank correlation, expected and true Dice | expected minus true | AURC | best | no order |"]
        lines += ["|---|---|---|---|---|---|"]
        for method in draws[0]:
            one = draws[0][method]["ordering"]
            areas = " | ".join(f"{one[key]:.4f}" for key in ("aurc", "aurc_best", "aurc_random"))
            cells = [_interval(one["rank_correlation"]), _interval(one["expected_minus_true_dice"])]
            lines.append(f"| {method} | {' | '.join(cells)} | {areas} |")
        kinds = list(draws[0][UNCALIBRATED]["fires"])
        lines += ["", "Share of deals in which new cases are called unlike:", "", "| | " + " | ".join(kinds) + " |"]
        lines += ["|" + "---|" * (len(kinds) + 1)]
        for method in draws[0]:
            shares = [np.mean([draw[method]["fires"][kind] for draw in draws]) for kind in kinds]
            lines.append(f"| {method} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
        lines.append("")
    return "\n".join(lines)


def _interval(one: Mapping[str, Any]) -> str:
    return f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--deals", type=int, default=50)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    record = args.output.with_suffix(".json")
    kept = json.loads(record.read_text()) if record.is_file() else {}
    design = {"draws": args.draws, "deals": args.deals}
    found: dict[str, list[Any]] = kept.get("found", {}) if kept.get("design") == design else {}
    for name in DATASETS:
        for draw in range(len(found.get(name, [])), args.draws):
            found.setdefault(name, []).append(drawn(args.work, name, draw, args.deals, segcal.Threads(1)))
            with journal.atomic(record) as temporary:
                temporary.write_text(json.dumps({"design": design, "found": found}, indent=1) + "\n")
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(found) + "\n")


if __name__ == "__main__":
    main()
