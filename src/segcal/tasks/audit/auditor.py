"""`segcal.audit`: which promises of a calibrator, or of any callable, are proven from parameters, and which are seen to
hold on data.

One pass over the files. Measured of every voxel but padding: labels, orders and ties of what is delivered against the
scores as given; how far gauge shifts of the raw logits move it, beside a plain softmax under the same shifts;
saturation. Of scored voxels, as in `evaluate`: the flip audit and the free-energy spread of each case. Invariance is
seen to hold where no shift moves a delivered float32 probability further than it moves a plain softmax's, or than one
unit in the last place (2^-24), since what lies next to a rounding boundary may round the other way for either. Without
labels there is no flip audit; without raw logits of a softmax head there is no gauge and no free energy; `notes` say
so. Costs: a calibration for each probe (six unless given) beside that of the scores. Nothing measurable: the parameters
alone speak. Source: K26 Appendix A, definitions 2 to 4, 7.3, 7.7, 7.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.case import ROLES
from segcal.data.cohort import Cohort
from segcal.data.head import Head
from segcal.data.padding import found_note
from segcal.engine import accumulate
from segcal.engine.accumulate import State
from segcal.engine.engine import Engine
from segcal.errors import UsageError
from segcal.methods.calibrator import Calibrator
from segcal.metrics.flips import FlipAudit
from segcal.tasks.audit.boundaries import WITHIN
from segcal.tasks.audit.findings import UNIT, Audit, Finding, Flipped, PartParameters, Spread
from segcal.tasks.audit.measures import Moved, Preserved
from segcal.tasks.audit.measuring import Key, Plan
from segcal.tasks.audit.parameters import counts
from segcal.tasks.audit.probes import SIZES, Probe, has_gauge, probes
from segcal.tasks.audit.proofs import PROMISES, proofs
from segcal.tasks.audit.subjects import Function, VoxelWise, WholeCase
from segcal.tasks.matching import check_match, level


def audit(
    subject: Calibrator | Function,
    cohort: Cohort,
    engine: Engine,
    *,
    shifts: Sequence[float] = SIZES,
    seed: int = 0,
    energy_maps: str | Path | None = None,
    zyx: bool = False,
    go_on: bool = False,
) -> Audit:
    """Audit a calibrator, or a callable that takes scores (1, C, *spatial), float64 tensors, to probabilities of that
    shape, on a cohort with or without labels.

    `shifts`: sizes of the gauge shifts. `energy_maps`: a folder for one image of the free energy a case (`zyx`: axes of
    plain arrays are reversed, which NIfTI has to know). Raises MismatchError as `check_match`, UsageError for sizes or
    for maps where there is no free energy, and the first error of a case that cannot be read.
    """
    cohort = engine.scorable(cohort)
    notes: list[str] = [*cohort.doubts, *cohort.notes]
    if isinstance(subject, Calibrator):
        notes += check_match(subject, cohort, go_on=go_on)
        subject, cohort, said = level(subject, cohort)
        notes += said
    whole: VoxelWise | WholeCase = WholeCase(subject, cohort.pooled_kind)
    if isinstance(subject, Calibrator) and not subject.needs.case:
        whole = VoxelWise(subject)
    if energy_maps is not None and not cohort.has_logits:
        raise UsageError(
            "energy_maps",
            found=f"scores of kind {cohort.pooled_kind}",
            expected="raw logits of a softmax head",
            do="Pool logits as logits, or leave the maps out.",
        )
    labelled = all(case.labels is not None for case in cohort)
    asked = probes(cohort, shifts, seed)
    plan = Plan(whole, asked, labelled, None if energy_maps is None else Path(energy_maps), zyx)
    measures = plan.measures(cohort)
    total: dict[Key, State] = {key: accumulate.zero(measure) for key, measure in measures.items()}

    def each(index: int, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        for key, state in summary["states"].items():
            total[key] = accumulate.merge(measures[key], total[key], state)
        return _row(cohort, plan, index, summary, measures)

    outcomes = engine.map(cohort, plan, "auditing cases", keep_members=bool(asked), each=each)
    rows: list[Mapping[str, Any]] = []
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        assert outcome.summary is not None
        rows.append(outcome.summary)
    notes += _notes(cohort, labelled, asked)
    result = {key: accumulate.result(measures[key], state) for key, state in total.items()}
    return _audit(subject, cohort, plan, result, rows, notes)


def _audit(
    subject: Calibrator | Function,
    cohort: Cohort,
    plan: Plan,
    result: Mapping[Key, Any],
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> Audit:
    head = cohort.head
    preserved: Preserved = result["preservation"]
    shifts: dict[Probe, Moved] = {probe: result[probe] for probe in plan.probes}
    near = [sum(row[f"changed_within_{d}"] for row in rows) for d in WITHIN]
    calibrator = subject if isinstance(subject, Calibrator) else None
    maps = (
        [] if calibrator is None else [(head.parts[k], head.part_classes(k), m) for k, m in enumerate(calibrator.maps)]
    )
    return Audit(
        subject=calibrator.method if calibrator is not None else getattr(subject, "__name__", type(subject).__name__),
        classes=head.classes,
        cases=len(cohort),
        members=cohort.members,
        pool=cohort.pool,
        kind=cohort.pooled_kind,
        roles={name: sum(row[name] for row in rows) for name in ROLES},
        findings=_findings(calibrator, preserved, shifts),
        parameters=[
            PartParameters(part, m.named, proofs(m, classes), m.at_bounds(classes)) for part, classes, m in maps
        ],
        counts=None if calibrator is None else counts(calibrator),
        preserved=preserved,
        shifts=shifts,
        flips=Flipped(
            _flips(head, result) if plan.flips else None, preserved.labels_changed, dict(zip(WITHIN, near, strict=True))
        ),
        saturated=result["saturation"],
        spread=_spread(rows),
        per_case=rows,
        notes=notes,
    )


def _findings(calibrator: Calibrator | None, preserved: Preserved, shifts: Mapping[Probe, Moved]) -> list[Finding]:
    moved_less = all(m.largest <= max(m.plain, UNIT) for m in shifts.values()) if shifts else None
    held = {
        PROMISES[0]: moved_less,
        PROMISES[1]: preserved.labels_changed == 0,
        PROMISES[2]: preserved.orders_changed == 0,
    }
    seen = {
        PROMISES[0]: _shifts_seen(shifts),
        PROMISES[1]: _changed_seen(preserved.labels_changed, preserved.voxels, "label", preserved.label_gap),
        PROMISES[2]: _changed_seen(preserved.orders_changed, preserved.voxels, "order of classes", preserved.order_gap),
    }
    given = None if calibrator is None else calibrator.guarantees()
    return [
        Finding(
            name,
            None if given is None else getattr(given, name),
            "nothing is known of a callable" if given is None else given.reasons.get(name, ""),
            held[name],
            seen[name],
        )
        for name in PROMISES
    ]


def _shifts_seen(shifts: Mapping[Probe, Moved]) -> str:
    if not shifts:
        return "no raw logits of a softmax head: nothing to shift"
    probe, worst = max(shifts.items(), key=lambda item: (item[1].largest, item[0].size))
    if worst.largest == 0:
        return f"no probability moved under shifts of up to {probe.size:g}"
    labels = f" and change {worst.labels_changed:,} labels" if worst.labels_changed else ""
    return (
        f"shifts of up to {probe.size:g} a {probe.unit} move probabilities by up to {worst.largest:.2g}{labels} (a"
        f" plain softmax: {worst.plain:.2g})"
    )


def _changed_seen(count: int, voxels: int, what: str, gap: float) -> str:
    if count == 0:
        return f"no {what} changed in {voxels:,} voxels"
    return (
        f"{what} changed in {count:,} of {voxels:,} voxels ({100 * count / voxels:.3g} %), over up to {gap:.2g} of"
        " probability"
    )


def _row(
    cohort: Cohort, plan: Plan, index: int, summary: Mapping[str, Any], measures: Mapping[Key, accumulate.Mergeable]
) -> dict[str, Any]:
    found = {key: accumulate.result(measures[key], state) for key, state in summary["states"].items()}
    preserved: Preserved = found["preservation"]
    row = {
        "case": cohort[index].id,
        **dict(zip(ROLES, summary["roles"], strict=True)),
        "labels_changed": preserved.labels_changed,
        "orders_changed": preserved.orders_changed,
        "ties": preserved.ties,
        "scores_at_floor": found["saturation"].scores_at_floor,
        "free_energy_mean": found["energy"].mean,
        "free_energy_std": found["energy"].std,
        "largest_shift_change": max((found[probe].largest for probe in plan.probes), default=None),
        **{f"changed_within_{d}": n for d, n in zip(WITHIN, summary["near"], strict=True)},
    }
    if plan.flips:
        flips = _flips(cohort.head, found)
        row |= {"harmful": flips.harmful, "beneficial": flips.beneficial, "neutral": flips.neutral}
    return row


def _flips(head: Head, result: Mapping[Key, Any]) -> FlipAudit:
    each = [result["flips", part] for part in range(len(head.parts))]
    return FlipAudit(
        sum(f.harmful for f in each),
        sum(f.beneficial for f in each),
        sum(f.neutral for f in each),
        sum(f.voxels for f in each),
    )


def _spread(rows: Sequence[Mapping[str, Any]]) -> Spread | None:
    stds = np.array([row["free_energy_std"] for row in rows], np.float64)
    known = stds[~np.isnan(stds)]
    if not known.size:
        return None
    p25, p50, p75 = np.percentile(known, [25, 50, 75], method="linear").tolist()
    return Spread(float(known.mean()), p25, p50, p75, int(known.size))


def _notes(cohort: Cohort, labelled: bool, asked: Sequence[Probe]) -> list[str]:
    out = []
    if not labelled:
        out.append("no labels: the flip audit is left out")
    if not has_gauge(cohort):
        out.append(f"scores of kind {cohort.kind}, or of a region head, have no gauge: shifts are left out")
    elif not asked:
        out.append("no shift was asked for")
    out += found_note(cohort)
    if not cohort.has_logits:
        out.append("the pooled scores are no raw logits: there is no free energy to measure")
    return out
