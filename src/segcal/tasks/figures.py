"""The figures of an evaluation in a folder: reliability.png, overall, in the predicted foreground and at its boundary,
before and after; and worst_cases.png, a slice of each of the cases of highest NLL. For a page (`frames`) more of these
cases, several slices each.

The slice of a case is the one with most voxels whose predicted label is wrong, of equal ones that with most foreground.
Where the case's place in space is known it is turned as a radiologist sees it: anterior or superior up, the patient's
right on the left. What lies far from any foreground is cut away. Both errors are of one label map, that of the scores
as given. Promises: nothing that is read is written over (`claim`); files are complete or absent; memory for one slice a
case. Costs: the worst cases are read twice more. Cases of one axis or of more than three have no slice, and no case
left means no picture of cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files import claims
from segcal.engine.engine import Engine
from segcal.methods.calibrator import Calibrator
from segcal.metrics.strata import BOUNDARY, FOREGROUND, NEAR
from segcal.metrics.summary import ACE_BINS
from segcal.report import figures, slices, strips
from segcal.report.page import Frames, Picture
from segcal.tasks.evaluate import Evaluation
from segcal.tasks.planes import Look, Planes
from segcal.tasks.scoring import Scored

RELIABILITY, WORST = "reliability.png", "worst_cases.png"

CASES = 4
"""Cases that are shown, at most."""

REGIONS = 6
"""Regions whose reliability is shown, at most."""

ON_A_PAGE, SLICES = 20, 12
"""Cases on a page, and slices of each, at most."""

CASE_BYTES = 600_000
"""Bytes of the slices of a case on a page, at most, but for the one that stays in any case."""


def targets(folder: Path) -> list[Path]:
    """The files that `draw` leaves in `folder`."""
    return [folder / RELIABILITY, folder / WORST]


def claim(folders: Sequence[Path], cohort: Cohort, inputs: Sequence[Path] = (), *, overwrite: bool = False) -> None:
    """See, before any work, that figures may be written into `folders` while the cohort and `inputs` are read. Raises
    as `segcal.data.files.claims`.
    """
    read = [*inputs, *(path for case in cohort for path in case.paths)]
    for folder in folders:
        claims.claim_folder(folder, read)
        claims.claim([(path, claims.FIGURE) for path in targets(folder)], read, overwrite=overwrite)


def draw(
    folder: Path,
    found: Evaluation,
    calibrators: Mapping[str, Calibrator | None],
    engine: Engine,
    *,
    name: str = "",
    zyx: bool = False,
) -> dict[str, Path]:
    """Draw what was evaluated; `calibrators`: by case, the one that gave its numbers, None for those of its scores as
    they are; `name`: the method; `zyx`: as the cohort was opened. Returns the files by what they show.
    """
    after = _after(name)
    drawn = {"reliability": reliability(folder / RELIABILITY, found, name)}
    worst = _worst(found)
    if worst:
        drawn["worst_cases"] = _cases(folder / WORST, found, worst, calibrators, engine, after, zyx)
    return drawn


def reliability(path: Path, found: Evaluation, name: str = "") -> Path:
    """Draw how often voxels are right against how sure the probabilities are, overall and by place."""
    stages = [found.before, *([] if found.after is None else [found.after])]
    parts = found.cohort.head.parts
    rows = {}
    for part, region in list(enumerate(parts))[:REGIONS]:
        panels = []
        for title, place in (
            ("all voxels", None),
            ("predicted foreground", FOREGROUND),
            (f"closer than {NEAR:g} voxels to its boundary", BOUNDARY),
        ):
            blocks = [_block(stage, part, place) for stage in stages]
            if blocks[0] is not None:
                panels.append(figures.Panel(title, blocks[0], blocks[1] if len(blocks) > 1 else None))
        rows[region if len(parts) > 1 else ""] = panels
    return figures.places(rows, path, names=("uncalibrated", _after(name)))


def _block(stage: Scored, part: int, place: str | None) -> dict[str, Any] | None:
    """Curve and ECE of one part in one place, as the tables print it; None: no voxel."""
    results = stage.results[part][0]
    if place is None:
        summary = (stage.summary.parts or (stage.summary,))[part]
        return {"reliability": results["calibration"].curve(ACE_BINS).to_json(), "ece": summary.block["ece"]}
    stratum = results["strata"][place]
    if not stratum.voxels:
        return None
    return {"reliability": stratum.curves[ACE_BINS].to_json(), "ece": stratum.number("ece")}


def frames(
    found: Evaluation,
    calibrators: Mapping[str, Calibrator | None],
    engine: Engine,
    *,
    name: str = "",
    zyx: bool = False,
) -> tuple[Frames, ...]:
    """Slices of the worst cases for a page, all errors on one scale. Arguments as `draw`."""
    worst, after = _worst(found, ON_A_PAGE), _after(name)
    told = {case: _nll(found, case, after) for case in worst}
    twice = found.after is not None
    return _frames(_looked(found.cohort, told, calibrators, engine, after, zyx, twice=twice, most=SLICES), found.cohort)


def frames_of_new(
    cohort: Cohort,
    told: Mapping[str, str],
    calibrator: Calibrator,
    engine: Engine,
    *,
    zyx: bool = False,
) -> tuple[Frames, ...]:
    """Slices of cases without labels for a page: those `told` of, in words, in that order, as far as they can be drawn;
    at most as many as of labelled cases. Errors are those of the delivered label map.
    """
    bare = cohort.bare()
    drawable = {case.id for case in bare if _has_slices(case)}
    chosen = {case: told[case] for case in [case for case in told if case in drawable][:ON_A_PAGE]}
    calibrators = dict.fromkeys(chosen, calibrator)
    after = _after(calibrator.method)
    return _frames(_looked(bare, chosen, calibrators, engine, after, zyx, twice=True, most=SLICES), cohort)


def _frames(drawn: Sequence[Looked], cohort: Cohort) -> tuple[Frames, ...]:
    if not drawn:
        return ()
    head = cohort.head
    top = max(float(np.nanmax(e, initial=0.01)) for each in drawn for one in each.slices for e in one.errors.values())
    count, background = len(head.label_names), head.background
    out = []
    for each in drawn:
        pictures = [
            Picture(
                strips.strip(one, count, background, top),
                f"{each.case}, {one.which or 'the image'}: {', '.join(strips.heads(one))};"
                f" {one.caption.splitlines()[-1]}",
                one.which,
            )
            for one in each.slices
        ]
        kept, heads = _light(pictures, each.first), strips.heads(each.slices[0])
        out.append(Frames(each.case, each.said, heads, tuple(pictures[k] for k in kept), kept.index(each.first)))
    return tuple(out)


def _light(pictures: Sequence[Picture], first: int) -> list[int]:
    """The numbers of slices that stay: all, or every second, fourth ... of them, that of the `first` among them."""
    step, kept = 1, list(range(len(pictures)))
    while len(kept) > 1 and sum(len(pictures[k].png) for k in kept) > CASE_BYTES:
        step *= 2
        kept = list(range(first % step, len(pictures), step))
    return kept


def _after(name: str) -> str:
    return f"calibrated ({name})" if name else "calibrated"


def _worst(found: Evaluation, most: int = CASES) -> list[str]:
    """Names of the cases of highest NLL that can be drawn, the worst first."""
    summary = found.uncalibrated if found.calibrated is None else found.calibrated
    nll = {row["case"]: row["nll"] for row in summary.per_case}
    flat = [case.id for case in found.cohort if _has_slices(case)]
    return sorted((c for c in flat if nll.get(c) is not None), key=lambda c: -nll[c])[:most]


def _has_slices(case: Case) -> bool:
    return len(case.shape) in (2, 3) and not case.table


def _cases(
    path: Path,
    found: Evaluation,
    worst: Sequence[str],
    calibrators: Mapping[str, Calibrator | None],
    engine: Engine,
    name: str,
    zyx: bool,
) -> Path:
    head = found.cohort.head
    told = {case: _nll(found, case, name) for case in worst}
    drawn = _looked(found.cohort, told, calibrators, engine, name, zyx, twice=found.after is not None)
    shown = [one for each in drawn for one in each.slices]
    kind = "in-sample" if found.in_sample else "held-out"
    title = f"The {len(shown)} {kind} cases of highest NLL, of {len(found.cohort)}" if len(shown) > 1 else ""
    return slices.slices(shown, head.label_names, path, background=head.background, title=title)


@dataclass(frozen=True, eq=False)
class Looked:
    """Slices of a case, which to show `first`, and what is `said` of it."""

    case: str
    said: str
    slices: Sequence[slices.Slice]
    first: int


def _looked(
    cohort: Cohort,
    told: Mapping[str, str],
    calibrators: Mapping[str, Calibrator | None],
    engine: Engine,
    name: str,
    zyx: bool,
    *,
    twice: bool,
    most: int = 1,
) -> list[Looked]:
    """At most so many slices of each case that is `told` of, in that order. Raises the first error of a case."""
    if not told:
        return []
    by_name = {case.id: case for case in cohort}
    some = replace(cohort, cases=tuple(by_name[c] for c in told), damaged={})
    out = []
    for outcome in engine.map(some, Look(calibrators, twice, most), "drawing cases"):
        if outcome.error is not None:
            raise outcome.error
        assert outcome.summary is not None
        planes: Planes = outcome.summary["planes"]
        said = told[outcome.id]
        out.append(Looked(outcome.id, said, planes.shown(by_name[outcome.id], zyx, name, said), planes.first))
    return out


def _nll(found: Evaluation, case: str, name: str) -> str:
    """The NLL of a case, before and after, in words."""
    before, after = (
        None if s is None else next(row["nll"] for row in s.per_case if row["case"] == case)
        for s in (found.uncalibrated, found.calibrated)
    )
    return f"NLL {before:.3f}" + ("" if after is None else f" uncalibrated, {after:.3f} {name}")
