"""How often nominal 95 % bootstrap intervals of a study cover the truth, over repeats, cases, and where the variance
lies.

    python -m benchmarks.coverage -o docs/results/coverage.md --data src/segcal/metrics/statistics/coverage.csv

A study: R repeats, each tested on n cases drawn from one pool of 1.4 n (the paper's test sets are .70 to .80 of their
pools), values x = sqrt(ratio) a_r + sqrt(shared) c_i + sqrt(1 - shared) e_ri with standard normal a, c, e, so the true
mean is 0. Every interval is made by `segcal.metrics.statistics.Resamples` itself. Studies are columns; as the statistic
is linear, the replicates of a, c and e are computed once and mixed for every pair of variances. Partitions differ
between `PARTITIONS` blocks of studies.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from segcal.metrics.statistics.coverage import Cell
from segcal.metrics.statistics.resamples import ByGroup, Resamples, Scheme, TwoLevel

REPEATS = (1, 2, 3, 5, 10, 30)
CASES = (10, 30, 100)
RATIOS = (0.0, 0.01, 0.1, 1.0)
SHARED = (0.0, 0.5, 0.9)
PARTITIONS = 4
STUDIES = 500
"""Simulated studies a partition."""

POOL = 1.4


class Naive(ByGroup):
    """Every row of every repeat taken for independent."""

    name = "rows"


SCHEMES: Mapping[str, Scheme] = {s.name: s for s in (TwoLevel(), ByGroup(), ByGroup(repeats=True), Naive())}


def cells(
    schemes: Sequence[Scheme],
    repeats: int,
    cases: int,
    *,
    partitions: int = PARTITIONS,
    studies: int = STUDIES,
    seed: int = 0,
) -> Iterator[Cell]:
    """Coverage of each scheme for every pair of variances at one size of study."""
    hits = {(s.name, ratio, shared): 0 for s in schemes for ratio in RATIOS for shared in SHARED}
    for part in range(partitions):
        rng = np.random.default_rng([seed, repeats, cases, part])
        pool = math.ceil(POOL * cases)
        case = np.concatenate([np.sort(rng.permutation(pool)[:cases]) for _ in range(repeats)])
        repeat = np.repeat(np.arange(repeats), cases)
        draws = (
            rng.normal(size=(repeats, studies))[repeat],
            rng.normal(size=(pool, studies))[case],
            rng.normal(size=(repeat.size, studies)),
        )
        for scheme in schemes:
            groups = range(repeat.size) if isinstance(scheme, Naive) else None
            resamples = Resamples(scheme, repeat.tolist(), case.tolist(), groups, seed=part)
            a, c, e = (resamples.replicated(d) for d in draws)
            missing = bool(np.isnan(a).any())
            for ratio in RATIOS:
                for shared in SHARED:
                    mixed = math.sqrt(ratio) * a + math.sqrt(shared) * c + math.sqrt(1 - shared) * e
                    low, high = (
                        np.nanpercentile(mixed, [2.5, 97.5], axis=0)
                        if missing
                        else np.percentile(mixed, [2.5, 97.5], axis=0)
                    )
                    hits[scheme.name, ratio, shared] += int(((low <= 0) & (high >= 0)).sum())
    for (name, ratio, shared), count in hits.items():
        yield Cell(name, repeats, cases, ratio, shared, count / (partitions * studies))


def data(found: Sequence[Cell]) -> str:
    """The cells as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scheme", "repeats", "cases", "ratio", "shared", "coverage"])
    writer.writerows([c.scheme, c.repeats, c.cases, c.ratio, c.shared, f"{c.coverage:.4f}"] for c in found)
    return out.getvalue()


def _range(
    found: Sequence[Cell],
    name: str,
    repeats: int | None = None,
    shared: Sequence[float] = SHARED,
    ratios: Sequence[float] = RATIOS,
) -> str:
    chosen = [
        c.coverage
        for c in found
        if c.scheme == name and repeats in (None, c.repeats) and c.shared in shared and c.ratio in ratios
    ]
    return f"{100 * min(chosen):.1f} to {100 * max(chosen):.1f} %"


def _within(found: Sequence[Cell], name: str, shared: Sequence[float], ratios: Sequence[float] = RATIOS) -> str:
    chosen = [
        c.coverage for c in found if c.scheme == name and c.repeats == 30 and c.shared in shared and c.ratio in ratios
    ]
    return f"{sum(abs(c - 0.95) <= 0.02 for c in chosen)} of {len(chosen)}"


def page(found: Sequence[Cell], command: str, seconds: float) -> str:
    """The figures as a page."""
    own, pool = (0.0,), tuple(s for s in SHARED if s > 0)
    error = 100 * math.sqrt(0.05 * 0.95 / (PARTITIONS * STUDIES))
    lines = [
        "# Coverage of bootstrap intervals",
        "",
        (
            f"Made by `{command}` in {seconds:.0f} s. Share of {PARTITIONS * STUDIES} simulated studies whose nominal"
            " 95 % interval (2000 draws) held the true mean;"
        ),
        f"standard error {error:.1f} points at 95 %.",
        "",
        (
            "A study has R repeats, each tested on n cases out of a pool of 1.4 n; a value is sqrt(ratio) a_r +"
            " sqrt(shared) c_i + sqrt(1 - shared) e_ri."
        ),
        (
            "*ratio* is the variance between repeats (fits) over that between cases. *shared* is the part of the latter"
            " that a case keeps from repeat to repeat: 0 is what a new"
        ),
        (
            "set of cases for every repeat would give; with partitions of one pool it is near 1 for a metric itself,"
            " for an image that is hard in one repeat is hard in the next."
        ),
        "The truth is the mean over new fits and new cases.",
        "",
        "## What it says",
        "",
        (
            "| bootstrap | R = 3, cases not shared | R = 3, cases shared | R = 30, cases not shared | R = 30, cases"
            " shared | R = 30 within 2 points, not shared | and shared |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for name in SCHEMES:
        ranges = [_range(found, name, r, s) for r in (3, 30) for s in (own, pool)]
        lines.append(
            f"| {name} | " + " | ".join([*ranges, _within(found, name, own), _within(found, name, pool)]) + " |"
        )
    seen = partial(_range, found)
    lines += [
        "",
        (
            "- **Two-level** (the paper's: repeats, then cases in each). At R = 30 it lies within 2 points of 95 %"
            " where its assumptions hold, that is where cases are not shared and"
        ),
        (
            f"  repeats differ (ratio 1: {seen('two-level', 30, own, (1.0,))}). Where repeats do not differ (ratio 0)"
            f" it covers {seen('two-level', 30, own, (0.0,))}:"
        ),
        (
            "  the spread of repeat means already holds the cases' share, and the second level adds it again, at most"
            " doubling the variance."
        ),
        (
            "  Where repeats share cases it is too narrow, and **more repeats make it worse**"
            f" ({seen('two-level', 30, pool)} at R = 30): it divides the variance of cases by"
        ),
        "  the number of repeats, though it sees the same cases again.",
        (
            "- **Three repeats** are too few for any of them once fits differ as much as cases (ratio 1: two-level"
            f" {seen('two-level', 3, ratios=(1.0,))},"
        ),
        (
            f"  groups and repeats {seen('groups and repeats', 3, ratios=(1.0,))}). Three repeat means resampled have a"
            " variance a third too small,"
        ),
        "  and percentiles do not widen for it as a t interval does.",
        (
            "- **Groups** alone are right for one fixed set of fits, or where fits hardly differ (ratio 0:"
            f" {seen('groups', ratios=(0.0,))} over all R and n),"
        ),
        f"  and far too narrow where they do (ratio 1: {seen('groups', ratios=(1.0,))}).",
        (
            f"- **Groups and repeats** is the one for partitions of one pool: {seen('groups and repeats', 30, pool)} at"
            " R = 30 with shared cases. What falls short of 93 % is n = 10,"
        ),
        (
            "  where percentiles of some ten cases are narrow whatever the scheme. With cases not shared it is"
            " conservative"
        ),
        (
            f"  ({seen('groups and repeats', 30, own)}), as the two-level one is: resampling both margins counts what"
            " is left over (e) more than once."
        ),
        (
            "- **Rows**, every row independent, is wrong for every study whose repeats share cases"
            f" ({seen('rows', 30, pool)} at R = 30)."
        ),
        "",
        (
            "So the study's intervals and paired differences resample groups and repeats; the paper's two-level"
            " intervals are printed beside them for comparison. Where the measured"
        ),
        "coverage may lie below 90 %, the tables print the figures above for their own R and n as a warning.",
        "",
    ]
    for name in SCHEMES:
        lines += [
            f"## {name}",
            "",
            "| R | n | "
            + " | ".join(f"ratio {ratio:g}, shared {shared:g}" for ratio in RATIOS for shared in SHARED)
            + " |",
        ]
        lines += ["|---" * (2 + len(RATIOS) * len(SHARED)) + "|"]
        at = {(c.repeats, c.cases, c.ratio, c.shared): c.coverage for c in found if c.scheme == name}
        lines += [
            f"| {r} | {n} | "
            + " | ".join(f"{100 * at[r, n, ratio, shared]:.1f}" for ratio in RATIOS for shared in SHARED)
            + " |"
            for r in REPEATS
            for n in CASES
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure every cell, and write the page and the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    begun = time.perf_counter()
    found = []
    for r in REPEATS:
        for n in CASES:
            found += cells(list(SCHEMES.values()), r, n)
            print(f"R = {r}, n = {n}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    if args.data:
        args.data.write_text(data(found))
    args.output.write_text(
        page(found, "python -m benchmarks.coverage " + " ".join(sys.argv[1:]), time.perf_counter() - begun)
    )


if __name__ == "__main__":
    main()
