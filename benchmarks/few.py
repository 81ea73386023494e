"""Defaults with five patients: each method's loss against temperature scaling, draw by draw, and against fiducio's.

    python studies/predict.py --shared ../shared --work WORK camvid        # and hippocampus, nuclei; clean
    python -m benchmarks.few --work WORK --keep KEEP -o docs/results/few.md

Only calibration halves are read: the half of the groups that `benchmarks.arena` calibrates on, whose test halves stay
sealed. A draw is one case of each of `--size` of these groups; cases of the half's other groups judge, `--judges` at
most, evenly. NLL, mean over cases. Simulated cohorts (`--simulated` draws each) have a known gain: none beyond a
temperature, where whatever is lost is over-fitting; or a truth that a matrix undoes and a temperature does not, scaled
so that the best map gains `GAINS` nats on the best temperature. fiducio is given `--limit` voxels of a draw, ours all.
What is finished lies in KEEP; a fit that fails is an error. `--all`: instead of a draw, the whole half, judged on the
other.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from benchmarks.arena import Case, Fit, Frozen, Training, entrants, evenly, frozen
from benchmarks.pages import written
from segcal.data.files import journal
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.truth import Truth

COHORTS = ("camvid", "hippocampus", "nuclei")
METHODS = ("dc", "cdc", "cms-ap", "cms-op")
REFERENCE, WHO = "segcal ts", ("fiducio", "segcal")
DESIGN = Design(shape=(6, 28, 28), margin=(0, 0, 0), members=1)
CLASSES = len(DESIGN.classes)
GAINS = (0.0, 0.02, 0.05)
SIZES = {0.0: 5, 0.05: 5, 0.02: 20}
"""Cases to fit on, by the gain there is to be had."""


def nll(cases: Sequence[Case], apply: Any) -> list[float]:
    """Of each case, its mean."""
    out = []
    for case in cases:
        found, kept = np.asarray(apply(case)), case.labels >= 0
        own = np.take_along_axis(found, np.maximum(case.labels, 0)[None], 0)[0][kept]
        out.append(float(-np.maximum(own, np.log(1e-12)).mean()))
    return out


def drawn(half: Frozen, size: int, number: int, judges: int) -> tuple[list[Case], list[Case]]:
    """One draw of a calibration half: cases to fit on, and those of its other groups."""
    some = half.draw(size, number, 1)
    if some is None:
        sys.exit(f"{half.name}: fewer than {size} groups")
    taken = {case.group for case in some}
    return some, evenly([case for case in half.calibration if case.group not in taken], judges)


def truth_of(gain: float, seed: int) -> Truth:
    """A temperature, moved towards a general matrix as far as gives a map that much to gain."""
    plain, general = Truth.temperature(CLASSES, 0.65), Truth.general(CLASSES, seed)
    if gain == 0:
        return plain
    looked = Simulation(DESIGN, plain, 10**6)
    scores = [looked.case(i).log_probs.reshape(CLASSES, -1) for i in range(6)]
    x = np.concatenate(scores, 1)

    def mixed(share: float) -> Truth:
        return Truth(
            plain.weight + share * (general.weight - plain.weight), plain.bias + share * (general.bias - plain.bias)
        )

    def over(share: float) -> float:
        q = mixed(share).log_posterior(x)

        def loss(beta: float) -> float:
            p = beta * x - np.log(np.exp(beta * x).sum(0))
            return float((np.exp(q) * (q - p)).sum(0).mean())

        return float(optimize.minimize_scalar(loss, bounds=(0.05, 3), method="bounded").fun) - gain

    return mixed(optimize.brentq(over, 0.0, 8.0, xtol=1e-3))


def simulated(gain: float, number: int, judges: int) -> tuple[list[Case], list[Case]]:
    """Cases to fit on and to judge, of one simulated cohort."""
    made = Simulation(DESIGN, truth_of(gain, number % 4), number)

    def case(index: int) -> Case:
        one = made.case(index)
        arrays = one.log_probs.astype(np.float32), one.labels.astype(np.int64)
        return Case(one.name, one.name, lambda: arrays, DESIGN.spacing)

    size = SIZES[gain]
    cases = [case(i) for i in range(size + judges)]
    return cases[:size], cases[size:]


def draws(args: argparse.Namespace) -> Iterator[tuple[str, int, Any]]:
    """Every draw: where it is from, its number, and what gives its cases."""
    for name in args.cohorts:
        half = frozen(name, args.work / f"{name}-clean", {}, args.judges)
        for number in range(1 if args.all else args.draws):
            if args.all:
                yield f"{name}, all", 0, lambda h=half: (list(h.calibration), list(h.judging["clean"]))
            else:
                yield name, number, lambda h=half, n=number: drawn(h, args.size, n, args.judges)
    for gain in GAINS if args.simulated else ():
        for number in range(args.simulated):
            yield f"simulated, gain {gain:g}", number, lambda g=gain, n=number: simulated(g, n, args.judges)


def run(args: argparse.Namespace, fits: Mapping[str, Fit]) -> dict[str, dict[str, dict[str, float]]]:
    """NLL by cohort, draw and entrant."""
    found: dict[str, dict[str, dict[str, float]]] = json.loads(args.keep.read_text()) if args.keep.is_file() else {}
    for cohort, number, cases in draws(args):
        mine = found.setdefault(cohort, {}).setdefault(str(number), {})
        theirs = number < args.peers and not cohort.startswith("simulated")
        wanted = [name for name in fits if name not in mine and (theirs or not name.startswith("fiducio"))]
        if not wanted:
            continue
        fitted, judging = cases()
        background = None if cohort.startswith("camvid") else 0
        mine.setdefault("identity", float(np.mean(nll(judging, lambda case: case.log_probs))))
        for name in wanted:
            mine[name] = float(np.mean(nll(judging, fits[name](Training(fitted, background, args.limit)))))
        with journal.atomic(args.keep) as aside:
            aside.write_text(json.dumps(found, indent=1) + "\n")
        excess = {name: round(mine[name] - mine[REFERENCE], 4) for name in wanted if name != REFERENCE}
        print(cohort, number, round(mine[REFERENCE], 4), excess, flush=True)
    return found


def page(found: Mapping[str, Mapping[str, Mapping[str, float]]], told: Mapping[str, Any]) -> str:
    """A row a cohort and method, then means over real cohorts."""
    lines = ["# Defaults with five patients", "", f"Made by `{told['command']}`.", "", *told["about"], ""]
    lines += [
        "| data | draws | method | ts | ours | fiducio | ours minus ts: mean | 95th percentile | worst |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    excess: dict[str, list[float]] = {name: [] for name in METHODS}
    means: dict[str, list[tuple[float, float, float]]] = {name: [] for name in METHODS}
    for cohort, by_draw in found.items():
        for name in METHODS:
            ours, ts = (np.array([one[key] for one in by_draw.values()]) for key in (f"segcal {name}", REFERENCE))
            both = [one for one in by_draw.values() if f"fiducio {name}" in one]
            peer, beside = (float(np.mean([one[f"{who} {name}"] for one in both] or [np.nan])) for who in WHO)
            theirs = f"{peer:.4f}, ours {beside:.4f} ({len(both)} draws)" if both else ""
            over = ours - ts
            high = f"{np.percentile(over, 95):+.4f}" if len(over) > 1 else ""
            lines.append(
                f"| {cohort} | {len(over)} | {name} | {ts.mean():.4f} | {ours.mean():.4f} | {theirs} |"
                f" {over.mean():+.4f} | {high} | {over.max():+.4f} |"
            )
            if cohort in COHORTS:
                excess[name] += over.tolist()
                means[name].append((ts.mean(), ours.mean(), peer, beside))
    if any(means.values()):
        lines += ["", "Real cohorts together:", ""]
        lines += [
            "| method | ts | ours | fiducio, ours in the same draws | 95th percentile of ours minus ts | worst |",
            "|---|---|---|---|---|---|",
        ]
        for name in METHODS:
            ts, ours, peer, beside = np.mean(means[name], 0)
            high, worst = np.percentile(excess[name], 95), max(excess[name])
            lines.append(f"| {name} | {ts:.4f} | {ours:.4f} | {peer:.4f}, {beside:.4f} | {high:+.4f} | {worst:+.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not there yet; the page and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--cohorts", nargs="*", default=list(COHORTS), choices=COHORTS)
    parser.add_argument("--size", type=int, default=5)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--judges", type=int, default=15)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--simulated", type=int, default=0)
    parser.add_argument("--peers", type=int, default=0, help="so many draws of real cohorts by fiducio, too")
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument("--keep", type=Path, required=True, help="JSON of finished draws")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if args.keep.resolve() == args.output.with_suffix(".json").resolve():
        sys.exit("--keep and the JSON beside -o are one file; name another to keep draws in")
    known, versions, _ = entrants(Path(__file__).parent / "entrants")
    names = [REFERENCE, *(f"segcal {name}" for name in METHODS)]
    names += [f"fiducio {name}" for name in METHODS]
    found = run(args, {name: known[name] for name in names})
    about = [
        f"{args.size} cases of as many groups of a calibration half, judged on at most {args.judges} cases of its other"
        f" groups; {args.limit} voxels of a draw for fiducio {versions.get('fiducio', '')}. Simulated: "
        + ", ".join(f"{size} cases where {gain:g} nats are to be gained" for gain, size in SIZES.items())
        + "."
    ]
    told = {"command": "python -m benchmarks.few " + shlex.join(sys.argv[1:]), "about": about}
    written(args.output, page(found, told), {**told, "nll": found})


if __name__ == "__main__":
    main()
