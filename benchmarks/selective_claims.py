"""What W23 claims, each of it marked: holds, does not hold, or cannot be told.

    python -m benchmarks.selective_claims STUDY1 STUDY2 ... -o docs/results/selective_claims.md

A STUDY is a finished one of studies/selective; docs/results/oracle.json and docs/results/families.json, which their
commands write, lie beside the output. A claim is taken apart into comparisons, one a data set, cohort or calibrator: a
difference of means of cases with an interval over groups; a case that is tested in several repeats counts once, as
their mean. A claim holds where every comparison is told its way, does not hold where one is told the other way, and
cannot be told else: then the smallest difference is named that these cases would show in four of five designs like
this one. ECE has 10 bins, as W23's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.boundary import DATASETS
from benchmarks.families import FAMILIES, rows_of
from benchmarks.oracle import ALONE, METHODS, told
from segcal.data.files import journal
from segcal.metrics.statistics.clustered import paired_difference
from segcal.metrics.statistics.verdict import seen
from segcal.study import results
from segcal.study.configuration import CLEAN

SELECTIVE, PLAIN = "selective(p0)", "p0"
OTHERS = ("p0", "TS(p0)", "vs(p0)", "DC(p0)", "meta-cal-star(p0)", "LTS(p0)", "pbar")
"""Columns of Tables 1 and 2."""

STACKED = {"selective(TS(p0))": "TS(p0)", "selective(DC(p0))": "DC(p0)"}
METRICS = ("ece_10", "ece_objects_boundary", "ece_objects_interior", "entropy")
OUTCOMES = ("told its way", "told the other way", "not told")


@dataclass(frozen=True)
class Comparison:
    """`what` is compared; a difference that the claim says is below 0, with its interval, and the `smallest` one that
    would have been seen.
    """

    what: str
    mean: float
    low: float
    high: float
    smallest: float

    @staticmethod
    def of(what: str, change: Mapping[str, Any], sign: int = 1) -> Comparison:
        """From a `change` of a benchmark's record; with `sign` -1 the other way round."""
        low, high = sorted((sign * change["low"], sign * change["high"]))
        if not change.get("told", True):  # networks of different seeds disagree
            low, high = min(low, 0.0), max(high, 0.0)
        return Comparison(what, sign * change["mean"], low, high, change["smallest"])

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        return OUTCOMES[0 if self.high < 0 else 1 if self.low > 0 else 2]


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, and what bears on it; `note`: what a reader must know besides."""

    words: str
    source: str
    comparisons: tuple[Comparison, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        """By the rule of this page."""
        outcomes = {one.outcome for one in self.comparisons}
        if not outcomes:
            return "not measured"
        if OUTCOMES[1] in outcomes:
            return "does not hold"
        return "holds" if outcomes == {OUTCOMES[0]} else "cannot be told"


@dataclass(frozen=True)
class Cases:
    """Numbers of a study's cases, means over repeats: by cohort, pipeline and metric; `groups` by case."""

    name: str
    numbers: Mapping[tuple[str, str, str], Mapping[str, float]]
    groups: Mapping[str, str]

    @property
    def cohorts(self) -> list[str]:
        """Clean first."""
        return list(dict.fromkeys(cohort for cohort, _, _ in self.numbers))

    def has(self, *pipelines: str, metric: str = "ece_10") -> bool:
        """Whether all of them are there."""
        return all((CLEAN, pipeline, metric) in self.numbers for pipeline in pipelines)

    def difference(self, cohort: str, less: tuple[str, str], more: tuple[str, str], what: str) -> Comparison:
        """What is claimed to be less, minus what is claimed to be more: each a pipeline and a metric."""
        one, other = (self.numbers[cohort, *key] for key in (less, more))
        cases = sorted(one)
        change = paired_difference([other[c] for c in cases], [one[c] for c in cases], [self.groups[c] for c in cases])
        return Comparison(f"{self.name}, {what}", change.mean, change.low, change.high, seen(change))


def read(folder: Path) -> Cases:
    """Of a finished study."""
    finished = results.read(folder)
    name = str(finished.about["configuration"]["name"]).removeprefix("selective scaling, ")
    return Cases(name, *finished.by_case(METRICS))


def of_studies(studies: list[Cases]) -> list[Claim]:
    """Tables 1 and 2, Figures 4 (stacked) and 5, section 6."""
    tables: dict[bool, list[Comparison]] = {True: [], False: []}
    stacked, boundary, lower, entropy, metacal = ([] for _ in range(5))
    for one in studies:
        for cohort in one.cohorts:
            where = cohort if cohort != CLEAN else "in domain"
            tables[cohort == CLEAN] += [
                one.difference(cohort, (SELECTIVE, "ece_10"), (p, "ece_10"), f"{where}: selective - {p}")
                for p in OTHERS
                if one.has(p)
            ]
            stacked += [
                one.difference(cohort, (both, "ece_10"), (p, "ece_10"), f"{where}: {both} - {p}")
                for both, p in STACKED.items()
                if one.has(both, p)
            ]
            entropy.append(
                one.difference(cohort, (PLAIN, "entropy"), (SELECTIVE, "entropy"), f"{where}: {PLAIN} - selective")
            )
            if cohort != CLEAN:
                metacal.append(
                    one.difference(
                        cohort,
                        (SELECTIVE, "ece_10"),
                        ("meta-cal-star(p0)", "ece_10"),
                        f"{where}: selective - meta-cal-star",
                    )
                )
        if one.has(PLAIN, SELECTIVE, metric="ece_objects_boundary"):
            inside, edge = "ece_objects_interior", "ece_objects_boundary"
            boundary.append(one.difference(CLEAN, (PLAIN, inside), (PLAIN, edge), "interior - boundary, uncalibrated"))
            lower += [
                one.difference(CLEAN, (SELECTIVE, metric), (PLAIN, metric), f"{told}: selective - uncalibrated")
                for told, metric in (("interior", inside), ("boundary", edge))
            ]
    return [
        Claim(
            "In domain, selective scaling has a lower ECE than every other calibrator",
            "6.1.1, Table 1",
            tuple(tables[True]),
        ),
        Claim(
            "Under shift, selective scaling has a lower ECE than every other calibrator",
            "6.1.2, Table 2",
            tuple(tables[False]),
        ),
        Claim("Under shift, selective scaling is better than Meta-Cal*", "6.1.2", tuple(metacal)),
        Claim("On top of other calibrators, selective scaling lowers their ECE", "6.1.3", tuple(stacked)),
        Claim(
            "In objects' bounding boxes, boundary voxels are less calibrated than interior ones",
            "6.1.3, Fig. 5",
            tuple(boundary),
        ),
        Claim(
            "Selective scaling has the lower mean ECE on boundary and on interior voxels", "6.1.3, Fig. 5", tuple(lower)
        ),
        Claim("Selective scaling raises the entropy", "6.2", tuple(entropy)),
    ]


def of_oracle(found: Mapping[str, Any]) -> list[Claim]:
    """Figure 4."""
    alone, stacked = [], []
    for name in (name for name in found if name in DATASETS):
        for method in (ALONE, *METHODS):
            one = Comparison.of(f"{name}, {method}: all found - none", told(found[name], method)["change"])
            (alone if method == ALONE else stacked).append(one)
    note = "NLL and Brier score are lowest with every misprediction found; the ECE at some share between, or at none."
    return [
        Claim("The more mispredictions are found, the lower the ECE", "6.1.3, Fig. 4", tuple(alone), note),
        Claim("So it is on top of every calibrator", "6.1.3, Fig. 4", tuple(stacked), note),
    ]


def of_families(found: Mapping[str, Any]) -> list[Claim]:
    """Figure 2."""
    rows = {key: rows_of(found[key], family) for key, family in FAMILIES.items() if key in found}

    def ends(key: str, what: str, sign: int) -> tuple[Comparison, ...]:
        return (Comparison.of(what, rows[key]["changes"]["ece_10"], sign),) if key in rows else ()

    scales = [c for name in ("nuclei", "hippocampus") for c in ends(f"scales, {name}", f"{name}: six scales - one", 1)]
    correct = [
        Comparison.of(f"{key.partition(', ')[2]}: correct - mispredicted", rows[key]["apart"])
        for key in rows
        if key.startswith("zoo")
    ]
    contradiction = (
        "The paper contradicts itself: its text says that larger crops are better calibrated, the caption of its"
        " supplement's Fig. 2 that miscalibration tends to increase with crop size."
    )
    supplement = "Larger crops give less calibrated networks (supplement)"
    exact = (
        "It says little: exactly, the ECE of mispredicted voxels is their mean confidence and that of correct ones 1 -"
        " theirs, of a perfectly calibrated network, too."
    )
    capacity = ends("capacity", "nuclei: width 4 - width 32", -1)
    crops, against = (ends("crops", f"nuclei: crop {a} - crop {b}", k) for a, b, k in ((192, 64, 1), (64, 192, -1)))
    return [
        Claim("Larger networks are less calibrated", "4.1, Fig. 2a", capacity),
        Claim("Larger crops give better calibrated networks (text)", "4.2, Fig. 2b", crops, contradiction),
        Claim(supplement, "supplement, Fig. 2", against, contradiction),
        Claim("Multi-scale testing improves calibration", "4.3, Fig. 2c", tuple(scales)),
        Claim("Mispredicted voxels are worse calibrated than correct ones", "4.4, Fig. 2d", tuple(correct), exact),
    ]


def page(claims: list[Claim], made: str) -> str:
    """As Markdown."""
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = ["# What the second paper claims", "", f"Made by `{made}`. {text}", ""]
    lines += ["| claim | where | verdict | told its way, the other way, not told |", "|---|---|---|---|"]
    for claim in claims:
        counts = ", ".join(str(sum(one.outcome == outcome for one in claim.comparisons)) for outcome in OUTCOMES)
        lines.append(f"| {claim.words} | {claim.source} | **{claim.verdict}** | {counts} |")
    lines.append("")
    for claim in claims:
        lines += [f"## {claim.words}: {claim.verdict}", "", *([claim.note, ""] if claim.note else [])]
        lines += ["| | difference | |", "|---|---|---|"] if claim.comparisons else []
        for one in claim.comparisons:
            seen_from = f", one of {one.smallest:.4f} would have been" if one.outcome == OUTCOMES[2] else ""
            lines.append(
                f"| {one.what} | {one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}] | {one.outcome}{seen_from} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    beside = {name: args.output.with_name(f"{name}.json") for name in ("oracle", "families")}
    oracle, families = (json.loads(path.read_text()) if path.exists() else {} for path in beside.values())
    claims = [*of_families(families), *of_studies([read(folder) for folder in args.studies]), *of_oracle(oracle)]
    names = " ".join(folder.name for folder in args.studies)
    with journal.atomic(args.output) as temporary:
        temporary.write_text(page(claims, f"python -m benchmarks.selective_claims {names} -o {args.output}"))


if __name__ == "__main__":
    main()
