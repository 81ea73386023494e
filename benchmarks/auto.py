"""`--method auto` on three real ensembles, on few cases of them, and on cohorts that are calibrated already.

    python benchmarks/auto.py --work WORK -o docs/results/auto.md

WORK holds `NAME-clean` (member0 to member4, labels, groups.csv) for nuclei, hippocampus and camvid, as
`studies/predict.py` leaves them. Half of the groups are used to choose and fit, the other half to score what was
chosen; groups stay whole. What methods that look around a voxel add to the time is the difference between two runs of
the same command, one after the other, with and without them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import segcal
from segcal.cli import run as command_line
from segcal.data import splits
from segcal.data.cohort import Cohort
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.truth import Truth
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.methods import methods
from segcal.methods.calibrator import Calibrator
from segcal.methods.temperature import ScaleMap
from segcal.metrics.likelihood import LogLikelihood
from segcal.metrics.statistics.clustered import paired_difference
from segcal.metrics.statistics.estimate import Estimate
from segcal.tasks.choose import FREE, Recommendation

AROUND = "bts,bts-class,bts-both"
"""Methods that look around a voxel."""

EVERY = "ts,ms-c,ets,vs,ms,dc,cms-ap,cms-op,cdc,histogram,isotonic"
"""Every other that is compared unless told otherwise."""

AMONG = {"camvid": "ts,ets,vs,dc,cms-ap,cms-op,isotonic,histogram"}
"""Methods compared where all would take too long: with eleven classes, a nested cross-validation of cdc, ms and ms-c is
left out.
"""

COHORTS = {"nuclei": ("--background", "0"), "hippocampus": ("--background", "0"), "camvid": ("--ignore-index", "255")}
SMALL = ("nuclei", "hippocampus")
SIZES = (5, 20)
SECTIONS = ("cohorts", "few", "calibrated")
COMPARED = ("ts", "vs", "dc", "cms-ap", "isotonic", "histogram")
"""Methods compared on few cases: one of each kind."""
HEAD = (
    "cohort",
    "cases",
    "asked",
    "chosen",
    "NLL minus that of ts, mean of draws",
    "worst draw (95 % interval)",
    "draws above ts",
    "of these, interval above 0",
)
UNSEEN = "best without the rule"


@dataclass(frozen=True, eq=False)
class Halves:
    """A real cohort: cases to choose on, cases to score, and the words that open it on the command line."""

    name: str
    fit: Cohort
    test: Cohort
    words: tuple[str, ...]


def opened(work: Path, name: str, limit: int | None = None) -> Halves:
    """Half of the groups to choose on (an even choice of `limit` of their cases), half to score."""
    root = work / f"{name}-clean"
    members = [root / f"member{k}" for k in range(5)]
    options = {"background": 0} if "--background" in COHORTS[name] else {"ignore_index": 255}
    cohort = segcal.open_cohort(members, root / "labels", **options).grouped(
        splits.groups_from_table(root / "groups.csv")
    )
    fit, test = (
        replace(cohort, cases=tuple(cohort.cases[i] for i in half)) for half in splits.folds(cohort.groups, 2, 0).test
    )
    if limit is not None:
        fit, test = (replace(c, cases=c.cases[:: max(1, len(c) // limit)][:limit]) for c in (fit, test))
    words = (
        *(str(m) for m in members),
        "--labels",
        str(root / "labels"),
        *COHORTS[name],
        "--groups",
        str(root / "groups.csv"),
    )
    return Halves(name, fit, test, words)


def printed(command: str, words: Sequence[str], cases: Cohort, folders: Mapping[str, str]) -> tuple[str, float]:
    """What a command prints on these cases, folders of this machine under other names, and the seconds it took."""
    chosen = [part for case in cases for part in ("--cases", case.id)]
    said, started = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(said):
        code = command_line([command, *words, *chosen])
    if code:
        raise SystemExit(f"segcal {command} {shlex.join(words)}: exit {code}")
    seconds, text = time.perf_counter() - started, said.getvalue()
    for folder, name in folders.items():
        text = text.replace(folder, name)
    return text.rstrip(), seconds


def chosen_for(halves: Halves, workers: int, work: Path, folder: Path) -> list[str]:
    """A section: what auto chooses, with and without methods that look around, and how that does on the other half."""
    calibrator, few = folder / f"{halves.name}.safetensors", AMONG.get(halves.name, EVERY)
    shared, folders = (*halves.words, "--workers", str(workers)), {f"{folder}/": "", str(work): "WORK"}
    took = {}
    for among in (few, f"{few},{AROUND}"):
        wanted = ("--method", "auto", "--among", among, "-o", str(calibrator), "--overwrite")
        text, took[among] = printed("fit", (*shared, *wanted), halves.fit, folders)
    verdict, _ = printed("evaluate", (*shared, "--calibrator", str(calibrator)), halves.test, folders)
    without, seconds = took.values()
    note = (
        f"{len(halves.fit)} cases in {len(set(halves.fit.groups))} groups, from half of the pool; {seconds:.0f} s with"
        f" {workers} worker(s), reading included, and {without:.0f} s without {AROUND}. `--among {few},{AROUND}`."
    )
    print(f"{halves.name}: {seconds:.0f} s, {without:.0f} s without", file=sys.stderr, flush=True)
    other = f"What was chosen, on {len(halves.test)} cases of the other half:"
    return [f"## {halves.name}", "", note, "", "```", text, "```", "", other, "", "```", verdict, "```", ""]


def held_out(halves: Halves, calibrators: dict[str, Calibrator], engine: segcal.Threads) -> dict[str, list[float]]:
    """NLL of each case of the second half, mean over parts, from one pass."""
    parts = range(len(halves.test.head.parts))
    metrics = {part: LogLikelihood(len(halves.test.head.part_classes(part))) for part in parts}
    asks = {
        (name, part): Ask(metrics[part], part, by_case=True, through=c.through(part))
        for name, c in calibrators.items()
        for part in parts
    }
    found, _ = engine.survey(halves.test, asks)
    return {
        name: [
            float(np.mean([accumulate.result(metrics[part], found[name, part][i]).nll for part in parts]))
            for i in range(len(halves.test))
        ]
        for name in calibrators
    }


def drawn(cohort: Cohort, size: int, seed: int) -> Cohort:
    """`size` cases of different groups."""
    rng = np.random.default_rng([seed, size])
    groups = sorted(set(cohort.groups))
    chosen = [groups[i] for i in rng.permutation(len(groups))[:size]]
    first = [int(rng.choice([i for i, g in enumerate(cohort.groups) if g == group])) for group in chosen]
    return replace(cohort, cases=tuple(cohort.cases[i] for i in sorted(first)))


def identity(cohort: Cohort) -> Calibrator:
    return Calibrator(cohort.head, cohort.pooled_kind, [ScaleMap(1.0) for _ in cohort.head.parts], "uncalibrated")


def lowest(found: Recommendation) -> str:
    return min(
        (name for name in found.candidates if not name.endswith(FREE)), key=lambda name: found.candidates[name].nll
    )


def few_cases(halves: Halves, draws: int, engine: segcal.Threads) -> list[str]:
    """Rows of the table: how what is chosen on few cases does on the second half, against temperature scaling fitted on
    the same cases.
    """
    rows = []
    for size in SIZES:
        calibrators: dict[str, Calibrator] = {}
        names: dict[str, list[str]] = {"map kept": [], "labels may change": [], UNSEEN: []}
        for seed in range(draws):
            found = segcal.recommend(
                drawn(halves.fit, size, seed), engine, methods={name: methods()[name]() for name in COMPARED}
            )
            for kind, name in zip(names, (found.chosen, found.unconstrained, lowest(found)), strict=True):
                fit = found.candidates[name].fit
                calibrators[f"{kind} {seed}"] = identity(halves.fit) if fit is None else fit.calibrator
                names[kind].append(name)
            ts = found.candidates["ts"].fit
            assert ts is not None
            calibrators[f"ts {seed}"] = ts.calibrator
        nll = held_out(halves, calibrators, engine)
        for kind, chosen in names.items():
            against = [paired_difference(nll[f"ts {s}"], nll[f"{kind} {s}"], halves.test.groups) for s in range(draws)]
            rows.append(row(halves.name, size, kind, chosen, against))
    return rows


def row(name: str, size: int, kind: str, chosen: list[str], against: list[Estimate]) -> str:
    counts = ", ".join(f"{n} x {method}" for method, n in Counter(chosen).most_common())
    mean = float(np.mean([e.mean for e in against]))
    worst = max(against, key=lambda e: e.mean)
    worse = sum(e.mean > 0 for e in against)
    surely = sum(e.low > 0 for e in against)
    return (
        f"| {name} | {size} | {kind} | {counts} | {mean:+.4f} | {worst.mean:+.4f} ({worst.low:+.4f} to"
        f" {worst.high:+.4f}) | {worse} | {surely} |"
    )


def calibrated_already(seeds: int, engine: segcal.Threads) -> list[str]:
    """Rows of the table of simulated cohorts whose labels are drawn from the scores themselves, and of ones that are
    over-confident by a quarter.
    """
    design = Design(shape=(8, 20, 20), margin=(0, 0, 0), members=1)
    rows = []
    for beta in (1.0, 0.8):
        for size in SIZES:
            chosen = []
            for seed in range(seeds):
                simulation = Simulation(design, Truth.temperature(len(design.classes), beta), seed)
                cases = [simulation.case(i) for i in range(size)]
                labels = np.stack([c.labels for c in cases]).astype(int)
                chosen.append(
                    segcal.recommend(
                        segcal.cohort_from_arrays(np.stack([c.log_probs for c in cases]), labels, kind="log_probs"),
                        engine,
                    ).chosen
                )
            rows.append(
                f"| {1 / beta:g} | {size} | {seeds} |"
                f" {', '.join(f'{n} x {name}' for name, n in Counter(chosen).most_common())} |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cohorts", nargs="+", default=list(COHORTS), choices=list(COHORTS))
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--limit", type=int, help="cases of the first half to choose on, for a quicker look")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--scratch", type=Path, default=Path("auto-calibrators"), help="where fitted calibrators are left"
    )
    args = parser.parse_args()
    engine = segcal.Threads(args.workers)
    args.scratch.mkdir(exist_ok=True, parents=True)
    lines = [
        "# `--method auto` on real and simulated cohorts",
        "",
        "Made by `python benchmarks/auto.py " + shlex.join(_words()) + "`.",
        "",
    ]
    for name in args.cohorts if "cohorts" in args.sections else ():
        lines += chosen_for(opened(args.work, name, args.limit), args.workers, args.work, args.scratch)
        args.output.write_text("\n".join(lines))
    if "few" in args.sections:
        lines += [
            "## Few cases",
            "",
            (
                f"{args.draws} draws of 5 and of 20 cases, each of another group, from the first half; scored on the"
                " second half (intervals over its groups)."
            ),
            "",
        ]
        lines += [
            (
                f"Compared: {', '.join(COMPARED)}. `{UNSEEN}`: what the lowest cross-fitted NLL alone would choose,"
                " without the rule of one standard error."
            ),
            "",
        ]
        lines += [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
        for name in (n for n in SMALL if n in args.cohorts):
            lines += few_cases(opened(args.work, name), args.draws, engine)
            print(f"{name}: few cases done", file=sys.stderr, flush=True)
            args.output.write_text("\n".join(lines))
        lines.append("")
    if "calibrated" in args.sections:
        lines += [
            "## Calibrated already",
            "",
            (
                "Simulated cohorts of four classes; T is the true temperature of the scores, 1 where they are right as"
                " they are."
            ),
            "",
        ]
        lines += ["| T | cases | seeds | chosen |", "|---|---|---|---|", *calibrated_already(args.seeds, engine), ""]
    args.output.write_text("\n".join(lines))
    print(json.dumps({"written": str(args.output)}), file=sys.stderr)


def _words() -> list[str]:
    """The arguments, with WORK in place of a folder of this machine, and without the one of the calibrators."""
    out = sys.argv[1:]
    out[out.index("--work") + 1] = "WORK"
    if "--scratch" in out:
        at = out.index("--scratch")
        del out[at : at + 2]
    return out


if __name__ == "__main__":
    main()
