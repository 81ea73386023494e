"""Scoring a cohort before and after calibration, in one pass over its files; and cross-fitted numbers of a fit.

Every number is exact and mergeable (`segcal.metrics`); differences are paired over cases with intervals clustered by
group. Cases a calibrator was fitted on are recognised by digest and never called a test: they are refused, left out, or
scored under the name "in-sample". Cross-fitted numbers score each case with a calibrator that saw neither it nor its
group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from segcal.calibrators import Calibrator
from segcal.cases import Cohort, Record
from segcal.engines import Ask, Engine
from segcal.errors import HeldOutError
from segcal.head import Head
from segcal.matching import check_match, fitted_cases
from segcal.methods.method import Fit
from segcal.metrics.summary import Summary, combine_parts, suite, summarise
from segcal.statistics import Estimate, paired_difference

COMPARED = ("nll", "brier", "ece", "ace", "classwise_ece", "ba_ece", "dice", "iou", "flip_rate")
"""Per-case numbers whose change is reported with an interval."""

Fitted = Literal["refuse", "exclude", "include"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Numbers of a cohort before and after.

    `differences`: calibrated minus uncalibrated, mean over cases. `in_sample`: cases the calibrator was fitted on.
    `notes`: what a reader must know.
    """

    cohort: Cohort
    uncalibrated: Summary
    calibrated: Summary | None
    differences: Mapping[str, Estimate]
    records: Sequence[Record]
    in_sample: Sequence[str] = ()
    notes: Sequence[str] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` writes."""
        after = {} if self.calibrated is None else {row["case"]: row for row in self.calibrated.per_case}
        group = dict(zip((c.id for c in self.cohort), self.cohort.groups, strict=True))
        rows = []
        for row in self.uncalibrated.per_case:
            numbers = {k: v for k, v in row.items() if k != "case"}
            entry: dict[str, Any] = {
                "case": row["case"],
                "group": group[row["case"]],
                "in_sample": row["case"] in self.in_sample,
                "uncalibrated": numbers,
            }
            if after:
                entry["calibrated"] = {k: v for k, v in after[row["case"]].items() if k != "case"}
            rows.append(entry)
        return {
            "cases": len(self.cohort),
            "voxels": self.uncalibrated.block["voxels"],
            "uncalibrated": self.uncalibrated.block,
            "calibrated": None if self.calibrated is None else self.calibrated.block,
            "differences": {name: e.to_json() for name, e in self.differences.items()},
            "per_case": rows,
            "in_sample": list(self.in_sample),
            "notes": list(self.notes),
        }


def evaluate(
    cohort: Cohort, calibrator: Calibrator | None, engine: Engine, *, fitted: Fitted = "refuse", go_on: bool = False
) -> Evaluation:
    """Score `cohort` without and with `calibrator`.

    Raises HeldOutError for cases it was fitted on, unless `fitted` says to leave them out or to include them as
    in-sample; MismatchError as `check_match`.
    """
    notes: list[str] = []
    if calibrator is not None:
        notes += check_match(calibrator, cohort, go_on=go_on)
        cohort = _without_fitted(cohort, calibrator, engine, fitted, notes)
    stages: dict[str, list[tuple[frozenset[int] | None, Calibrator | None]]] = {"uncalibrated": [(None, None)]}
    if calibrator is not None:
        stages["calibrated"] = [(None, calibrator)]
    summaries, records = _score(cohort, stages, engine)
    seen = [] if calibrator is None else fitted_cases(calibrator, records)
    if seen and fitted != "include":
        raise _seen(seen, len(cohort))
    after = summaries.get("calibrated")
    notes += _without_boundary(summaries["uncalibrated"])
    return Evaluation(
        cohort,
        summaries["uncalibrated"],
        after,
        compare(cohort, summaries["uncalibrated"], after),
        records,
        seen,
        notes,
    )


def _without_boundary(summary: Summary) -> list[str]:
    bare = [row["case"] for row in summary.per_case if row["ba_ece"] is None]
    shown = ", ".join(bare[:3]) + (", ..." if len(bare) > 3 else "")
    return (
        [f"BA-ECE is not defined for {len(bare)} case(s) with one label only, or of a table: {shown}"] if bare else []
    )


def crossfitted(cohort: Cohort, fits: Mapping[str, Fit], engine: Engine) -> dict[str, Evaluation]:
    """Held-out numbers of cross-fitted methods, from one pass: each case scored by the calibrator fitted without its
    fold.
    """
    stages: dict[str, list[tuple[frozenset[int] | None, Calibrator | None]]] = {"uncalibrated": [(None, None)]}
    for name, fit in fits.items():
        stages[name] = [(frozenset(fold), calibrator) for fold, calibrator in zip(fit.folds, fit.held_out, strict=True)]
    summaries, records = _score(cohort, stages, engine)
    before = summaries["uncalibrated"]
    return {
        name: Evaluation(cohort, before, summaries[name], compare(cohort, before, summaries[name]), records)
        for name in fits
    }


def compare(cohort: Cohort, before: Summary, after: Summary | None) -> dict[str, Estimate]:
    """Paired differences after minus before of the per-case numbers, clustered by group."""
    if after is None:
        return {}
    group = dict(zip((c.id for c in cohort), cohort.groups, strict=True))
    groups = [group[row["case"]] for row in before.per_case]

    def column(summary: Summary, name: str) -> list[float]:
        by_case = {row["case"]: row[name] for row in summary.per_case}
        return [
            float("nan") if by_case[row["case"]] is None else float(by_case[row["case"]]) for row in before.per_case
        ]

    return {name: paired_difference(column(before, name), column(after, name), groups) for name in COMPARED}


def _score(
    cohort: Cohort, stages: Mapping[str, Sequence[tuple[frozenset[int] | None, Calibrator | None]]], engine: Engine
) -> tuple[dict[str, Summary], list[Record]]:
    head = cohort.head
    parts = range(len(head.parts))
    suites = {part: suite(len(head.part_classes(part)), head.part_background(part)) for part in parts}
    asks = {
        (stage, part, name, k): Ask(
            accumulator, part, cases, by_case=True, through=None if calibrator is None else calibrator.through(part)
        )
        for stage, pieces in stages.items()
        for k, (cases, calibrator) in enumerate(pieces)
        for part in parts
        for name, accumulator in suites[part].items()
    }
    answers, records = engine.survey(cohort, asks)
    out = {}
    for stage, pieces in stages.items():
        by_part = []
        for part in parts:
            states: dict[str, dict[str, Any]] = {case.id: {} for case in cohort}
            for name in suites[part]:
                for k in range(len(pieces)):
                    for case, state in answers[stage, part, name, k].items():
                        states[cohort[case].id][name] = state
            by_part.append(summarise(suites[part], states, head.part_classes(part)))
        out[stage] = _joined(head, by_part)
    return out, records


def _joined(head: Head, by_part: Sequence[Summary]) -> Summary:
    return by_part[0] if head.rows == head.channels else combine_parts(by_part, head.parts)


def _without_fitted(cohort: Cohort, calibrator: Calibrator, engine: Engine, fitted: Fitted, notes: list[str]) -> Cohort:
    """Refuse or leave out fitted cases before the long pass.

    Where nothing is left out, cases of the same name are looked at first, since they are the likely ones.
    """
    if calibrator.data is None or fitted == "include":
        return cohort
    names = {r.id for r in calibrator.data.records}
    likely = cohort if fitted == "exclude" else _subset(cohort, [c.id for c in cohort if c.id in names])
    if likely is None:
        return cohort
    seen = fitted_cases(calibrator, engine.survey(likely, {})[1])
    if not seen:
        return cohort
    rest = _subset(cohort, [c.id for c in cohort if c.id not in set(seen)])
    if fitted == "refuse" or rest is None:
        raise _seen(seen, len(cohort))
    notes.append(f"{len(seen)} case(s) the calibrator was fitted on were left out")
    return rest


def _subset(cohort: Cohort, ids: Sequence[str]) -> Cohort | None:
    wanted = set(ids)
    return replace(cohort, cases=tuple(c for c in cohort if c.id in wanted)) if wanted else None


def _seen(seen: Sequence[str], count: int) -> HeldOutError:
    shown = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
    return HeldOutError(
        "held-out cases",
        found=f"{len(seen)} of {count} that the calibrator was fitted on ({shown}), recognised by their content",
        expected="cases it has not seen",
        do=(
            "Evaluate other cases; or pass --fitted exclude to leave these out, --fitted include for in-sample numbers."
            " `segcal inspect` shows the cross-fitted numbers of the fit."
        ),
    )
