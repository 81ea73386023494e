"""From the files of a study to its tidy tables (`segcal.study.results`): sums read case by case, made into numbers, and
merged over the cases of a repeat.

Costs: one case's sums and one merged state a pipeline in memory. What is not defined is NaN. A file that should be
there and is not: MissingError that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal.data.files.reading import json_object, shown
from segcal.engine import accumulate
from segcal.engine.accumulate import Accumulator, State
from segcal.errors import DataError, MissingError, UnreadableError
from segcal.methods import parameters
from segcal.methods.calibrator import Calibrator
from segcal.methods.parameterisation import ParameterCount
from segcal.methods.strengths import in_words
from segcal.metrics.registry import added
from segcal.metrics.summary import ACE_BINS, SPATIAL, CaseScores, scores_of
from segcal.study.configuration import CLEAN
from segcal.study.design import Arm, Design
from segcal.study.fits import loaded
from segcal.study.pipelines import Pipeline
from segcal.study.results import Rows, means, table
from segcal.study.scoring import BESIDE, energy_file, file_of, read_sums, suites

OF_CASE = ("nll", "brier", "entropy", "ece", "dice", "iou", "flip_rate", *SPATIAL)
"""Metrics of a case, beside the ECE of further bin counts."""

PREDICTED = {"predicted_foreground": "foreground", "predicted_boundary": "boundary"}
"""Strata of what the scores predict before any calibrator, by what their metrics end in."""


def gather(design: Design, folder: Path, done: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """All tidy tables but the samples; `done` is called after each repeat of each cohort."""
    found: dict[str, Rows] = {name: [] for name in ("scores", "pooled", "curves", "bands", "sizes", "sizes_pooled")}
    seen = Seen({})
    for cohort in design.cohorts:
        for repeat in design.repeats:
            for name, rows in _of_repeat(design, folder, cohort, repeat, seen).items():
                found[name] += rows
            done()
    found["fits"] = _fits(design, folder, seen)
    found["cases"] = seen.rows(_groups(design))
    found["energy"] = _energies(design, folder)
    groups = _groups(design)
    found["partition"] = [
        {"repeat": r, "case": case.id, "group": groups[case.id], "role": role}
        for r in design.repeats
        for case, role in zip(design.clean, design.partitions[r].roles, strict=True)
    ]
    return {name: table(name, rows) for name, rows in found.items()}


@dataclass(frozen=True, eq=False)
class Seen:
    """Digests of labels and mean logits by cohort and case, as fits and scores saw them."""

    digests: dict[tuple[str, str], tuple[str, str]]

    def add(self, cohort: str, case: str, digests: tuple[str, str]) -> None:
        """DataError where a case is not what it was."""
        if self.digests.setdefault((cohort, case), digests) != digests:
            raise DataError(
                f"{cohort} case {case}",
                found="other labels or predictions in one part of the study than in another",
                expected="files that stay as they are while a study runs",
                do="Begin anew in another folder.",
            )

    def rows(self, groups: Mapping[str, str]) -> Rows:
        """A row a case."""
        return [
            {"cohort": cohort, "case": case, "group": groups.get(case, case), "labels": labels, "scores": scores}
            for (cohort, case), (labels, scores) in sorted(self.digests.items())
        ]


def _of_repeat(design: Design, folder: Path, cohort: str, repeat: int, seen: Seen) -> dict[str, Rows]:
    """What one repeat says of one cohort."""
    keys, groups = suites(design.clean.head, design.configuration), _groups(design)
    labels: dict[str, tuple[str, int | None]] = {p.name: (p.name, None) for p in design.pipelines}
    if cohort == CLEAN:
        labels |= {
            arm.label(p): (p.name, arm.size)
            for arm in design.arms
            if arm.repeat == repeat and arm.size is not None
            for p in arm.pipelines
        }
    merged: dict[str, dict[tuple[int, str], State]] = {label: {} for label in labels}
    out: dict[str, Rows] = {name: [] for name in ("scores", "pooled", "curves", "bands", "sizes", "sizes_pooled")}
    values: dict[str, Rows] = {label: [] for label in labels}
    for case in design.tested(cohort, repeat):
        path = file_of(folder, repeat, cohort, case)
        if not path.is_file():
            raise MissingError(
                str(path),
                found="nothing",
                expected="the sums of a case",
                do="Run every part of the study before they are merged.",
            )
        sums = read_sums(path)
        seen.add(cohort, case, sums.digests)
        for label in labels:
            states = sums.states(label, keys)
            for metric, value in _numbers(design, keys, states).items():
                values[label].append({"case": case, "group": groups.get(case, case), "metric": metric, "value": value})
            for key, state in states.items():
                merged[label][key] = (
                    state if key not in merged[label] else accumulate.merge(keys[key], merged[label][key], state)
                )
    sized = {p.name for p in design.configuration.sized()} if cohort == CLEAN else set()
    for label, (name, size) in labels.items():
        if not merged[label]:
            continue
        about = {"repeat": repeat, "pipeline": name}
        parts = _parts(design, keys, merged[label])
        pooled = [{**about, "metric": metric, "value": value} for metric, value in _pooled(design, parts).items()]
        if size is not None or name in sized:
            # the main fit is one of the sizes
            by_size = {**about, "size": design.configuration.split.calibration if size is None else size}
            out["sizes"] += [{**by_size, **row} for row in values[label]]
            out["sizes_pooled"] += [{**row, **by_size} for row in pooled]
        if size is None:
            here = {**about, "cohort": cohort}
            out["scores"] += [{**here, **row} for row in values[label]]
            out["pooled"] += [{**row, **here} for row in pooled]
            out["curves"] += [{**here, **row} for row in _curve(keys, merged[label], len(parts))]
            out["bands"] += [{**here, **row} for row in _bands(keys, merged[label], len(parts))]
    return out


def _parts(
    design: Design, keys: Mapping[tuple[int, str], Accumulator], states: Mapping[tuple[int, str], State]
) -> list[CaseScores]:
    return [
        scores_of(
            {name: a for (p, name), a in keys.items() if p == part and name not in BESIDE},
            {name: s for (p, name), s in states.items() if p == part and name not in BESIDE},
        )
        for part in range(len(design.clean.head.parts))
    ]


def _numbers(
    design: Design, keys: Mapping[tuple[int, str], Accumulator], states: Mapping[tuple[int, str], State]
) -> dict[str, float]:
    """A case's metrics, means over the parts of the head."""
    parts = _parts(design, keys, states)
    rows = [p.row() for p in parts]
    strata, objects = ([accumulate.result(a, states[k]) for k, a in keys.items() if k[1] == name] for name in BESIDE)
    return {
        **{metric: means([float(row[metric]) for row in rows]) for metric in OF_CASE},
        **{
            f"{metric}_{where}": means([found[stratum].number(metric) for found in strata])
            for where, stratum in PREDICTED.items()
            for metric in ("nll", "brier", "ece")
        },
        **{
            f"ece_objects_{where}": means([getattr(found, f"{where}_inside").ece for found in objects])
            for where in ("boundary", "interior")
            if objects
        },
        **means_of(parts, pooled=False),
        **{f"ece_{b}": means([p.calibration.ece(b) for p in parts]) for b in design.configuration.bins},
    }


def means_of(parts: Sequence[CaseScores], *, pooled: bool) -> dict[str, float]:
    """Metrics from outside, means over the parts of the head."""
    return {
        key: means([p.more[key] for p in parts])
        for key, kind in added().items()
        if kind.pooled is pooled and all(key in p.more for p in parts)
    }


def _pooled(design: Design, parts: list[CaseScores]) -> dict[str, float]:
    rows = [p.row() for p in parts]
    return {
        "ace": means([p.calibration.ace(ACE_BINS) for p in parts]),
        **{f"ace_{b}": means([p.calibration.ace(b) for p in parts]) for b in design.configuration.bins},
        "ece_pooled": means([float(row["ece"]) for row in rows]),
        "classwise_ece": means([float(row["classwise_ece"]) for row in rows]),
        **means_of(parts, pooled=True),
        **{kind: float(sum(row[kind] for row in rows)) for kind in ("harmful", "beneficial", "neutral", "voxels")},
    }


def _joined(
    keys: Mapping[tuple[int, str], Accumulator], states: Mapping[tuple[int, str], State], name: str, parts: int
) -> Any:
    """One accumulator's result over the voxels of all parts."""
    total = states[0, name]
    for part in range(1, parts):
        total = accumulate.merge(keys[0, name], total, states[part, name])
    return accumulate.result(keys[0, name], total)


def _curve(
    keys: Mapping[tuple[int, str], Accumulator], states: Mapping[tuple[int, str], State], parts: int
) -> Iterator[dict[str, Any]]:
    curve = _joined(keys, states, "calibration", parts).curve(ACE_BINS)
    for bin_, (voxels, confidence, accuracy) in enumerate(
        zip(curve.counts.tolist(), curve.confidence.tolist(), curve.accuracy.tolist(), strict=True)
    ):
        yield {"bins": ACE_BINS, "bin": bin_, "voxels": voxels, "confidence": confidence, "accuracy": accuracy}


def _bands(keys: Mapping[tuple[int, str], Accumulator], states: Mapping[tuple[int, str], State], parts: int) -> Rows:
    found: Rows = _joined(keys, states, "spatial", parts).curve.rows()
    return found


def _fits(design: Design, folder: Path, seen: Seen) -> Rows:
    classes = len(design.clean.head.part_classes(0))
    counts = {row.name: row.counts[classes] for row in parameters.table((classes,)) if classes in row.counts}
    rows = []
    for arm in design.arms:
        found = loaded(folder, arm)
        for p in arm.pipelines:
            data = found[arm.label(p)].data
            for record in () if data is None or p.view != "zbar" else data.records:
                seen.add(CLEAN, record.id.removeprefix("validation/"), (record.labels, record.scores))
        rows += [_fit(arm, p, found[arm.label(p)], counts.get(p.method or "")) for p in arm.pipelines]
    return rows


def _fit(arm: Arm, pipeline: Pipeline, calibrator: Calibrator, count: ParameterCount | None) -> dict[str, Any]:
    solution, promises = calibrator.solution, calibrator.guarantees()
    assert solution is not None
    settings, gap = solution.settings, solution.certificate.get("gap")
    strengths = settings.get("strengths")
    judged = [row["weight"] * row["nll"] for row in solution.selection if "weight" in row]
    preserves = (
        "order"
        if promises.preserves_order == "proven"
        else "argmax"
        if promises.preserves_argmax == "proven"
        else "none"
    )
    return {
        "repeat": arm.repeat,
        "size": arm.size,
        "pipeline": pipeline.name,
        "method": pipeline.method,
        "view": pipeline.view,
        "cases": len(arm.calibration),
        "optimised": None if count is None else count.optimised * len(calibrator.head.parts),
        "identifiable": (
            None if count is None or count.identifiable is None else count.identifiable * len(calibrator.head.parts)
        ),
        "translation_invariant": promises.translation_invariant,
        "preserves": preserves,
        "objective": solution.objective,
        "nll": solution.nll,
        "validation_nll": settings.get("validation_nll", math.fsum(judged) if judged else None),
        "strengths": None if strengths is None else in_words(strengths),
        "status": solution.status,
        "gap": None if gap is None or not math.isfinite(gap) else gap,
        "passes": solution.passes,
        "message": solution.message,
    }


def _energies(design: Design, folder: Path) -> Rows:
    if not design.has_energy:
        return []
    groups = _groups(design)
    rows = []
    for case in design.clean:
        path = energy_file(folder, case.id)
        if not path.is_file():
            raise MissingError(
                str(path),
                found="nothing",
                expected="the spread of a case's free energy, which the first part measures",
                do="Run the first part to its end.",
            )
        spread = json_object(path, "Remove it, and run the first part again.")
        counts = {str(m) for m in range(1, design.clean.members + 1)}
        if set(spread) != counts or not all(isinstance(v, float) for v in spread.values()):
            raise UnreadableError(
                str(path),
                found=shown(spread),
                expected="a number for the first member, the first two, and so on",
                do="Remove it, and run the first part again.",
            )
        rows += [
            {"members": int(m), "case": case.id, "group": groups[case.id], "std": value} for m, value in spread.items()
        ]
    return sorted(rows, key=lambda row: (row["members"], row["case"]))


def _groups(design: Design) -> dict[str, str]:
    """The group of each case."""
    return {
        case.id: group for cohort in design.cohorts.values() for case, group in zip(cohort, cohort.groups, strict=True)
    } | design.groups
