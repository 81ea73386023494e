"""The figures of an evaluation in a folder: reliability.png, overall, in the predicted foreground and at its boundary,
before and after; and worst_cases.png, a slice of each of the cases of highest NLL.

The slice of a case is the one with most voxels whose predicted label is wrong, of equal ones that with most foreground.
Where the case's place in space is known it is turned as a radiologist sees it: anterior or superior up, the patient's
right on the left. What lies far from any foreground is cut away. Both errors are of one label map, that of the scores
as given. Promises: nothing that is read is written over (`claim`); files are complete or absent; memory for one slice a
case. Costs: the worst cases are read twice more. Cases of one axis or of more than three have no slice, and no case
left means no picture of cases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.case import PADDING, SCORED, Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files import claims
from segcal.data.files.journal import Scratch
from segcal.data.formats.nifti import grid_for
from segcal.data.reader import CaseReader
from segcal.data.rows import Block
from segcal.data.surroundings import Contexts
from segcal.engine.engine import Engine
from segcal.methods.calibrator import Calibrator
from segcal.metrics.strata import BOUNDARY, FOREGROUND, NEAR
from segcal.metrics.summary import ACE_BINS
from segcal.report import figures, slices
from segcal.tasks.evaluate import Evaluation, Scored
from segcal.tasks.matching import level

RELIABILITY, WORST = "reliability.png", "worst_cases.png"

CASES = 4
"""Cases that are shown, at most."""

REGIONS = 6
"""Regions whose reliability is shown, at most."""

PLANES = ("sagittal", "coronal", "axial")


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
    after = f"calibrated ({name})" if name else "calibrated"
    drawn = {"reliability": _reliability(folder / RELIABILITY, found, after)}
    worst = _worst(found)
    if worst:
        drawn["worst_cases"] = _cases(folder / WORST, found, worst, calibrators, engine, after, zyx)
    return drawn


def _reliability(path: Path, found: Evaluation, name: str) -> Path:
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
    return figures.places(rows, path, names=("uncalibrated", name))


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


def _worst(found: Evaluation) -> list[str]:
    """Names of the cases of highest NLL that can be drawn, the worst first."""
    summary = found.uncalibrated if found.calibrated is None else found.calibrated
    nll = {row["case"]: row["nll"] for row in summary.per_case}
    flat = [case.id for case in found.cohort if len(case.shape) in (2, 3) and not case.table]
    return sorted((c for c in flat if nll.get(c) is not None), key=lambda c: -nll[c])[:CASES]


def _cases(
    path: Path,
    found: Evaluation,
    worst: Sequence[str],
    calibrators: Mapping[str, Calibrator | None],
    engine: Engine,
    name: str,
    zyx: bool,
) -> Path:
    by_name = {case.id: case for case in found.cohort}
    some = replace(found.cohort, cases=tuple(by_name[c] for c in worst), damaged={})
    outcomes = engine.map(some, _Look(calibrators, found.after is not None), "drawing the worst cases")
    before, after = (
        {} if s is None else {row["case"]: row["nll"] for row in s.per_case}
        for s in (found.uncalibrated, found.calibrated)
    )
    head, shown = some.head, []
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        assert outcome.summary is not None
        plane: Plane = outcome.summary["plane"]
        nll = f"NLL {before[outcome.id]:.3f}" + (f" uncalibrated, {after[outcome.id]:.3f} {name}" if after else "")
        shown.append(plane.shown(by_name[outcome.id], zyx, name, nll))
    kind = "in-sample" if found.in_sample else "held-out"
    title = f"The {len(shown)} {kind} cases of highest NLL, of {len(found.cohort)}" if len(shown) > 1 else ""
    return slices.slices(shown, head.label_names, path, background=head.background, title=title)


@dataclass(frozen=True, eq=False)
class _Look:
    """Finds the slice of a case and takes what lies in it."""

    calibrators: Mapping[str, Calibrator | None]
    twice: bool

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[Plane]:
        """Look through the labels of the case for the slice, then open it."""
        cohort, case = reader.cohort, reader.cohort[reader.index]
        given, calibrator = self.calibrators[case.id], None
        if given is not None:
            calibrator, levelled, _ = level(given, cohort)
            reader = replace(reader, cohort=levelled)
        with contextlib.ExitStack() as stack:
            image = case.fields.get("image")
            window = None if image is None else stack.enter_context(image.open(scratch))
            contexts = Contexts(reader, scratch, () if calibrator is None else calibrator.contexts)
            channels = 0 if image is None else image.channels or 1
            plane = Plane(cohort, case, calibrator, self.twice, contexts, window, channels)
            plane.choose(reader)
            yield plane


@dataclass(eq=False)
class Plane:
    """One slice of an open case, filled block by block."""

    cohort: Cohort
    case: Case
    calibrator: Calibrator | None
    twice: bool
    contexts: Contexts | None
    window: Window | None
    channels: int
    at: int = 0
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the case as a volume; an image is one slice."""
        shape = self.case.shape
        return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])

    @property
    def axis(self) -> int:
        """Across which its slices lie; that of one voxel, where there is one."""
        return self.shape.index(1) if 1 in self.shape else self.case.slice_axis

    def _where(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of voxels start..stop: the slice, and the position in it."""
        inner, n = int(np.prod(self.shape[self.axis + 1 :], dtype=np.int64)), self.shape[self.axis]
        outer, rest = np.divmod(np.arange(start, stop), inner * n)
        return rest // inner, outer * inner + rest % inner

    def choose(self, reader: CaseReader) -> None:
        """Find the slice with most wrong labels, and make room for it."""
        head, count = self.cohort.head, self.shape[self.axis]
        wrong, full = np.zeros(count), np.zeros(count)
        for start, stop in reader.cohort.cuts(reader.index) if count > 1 else ():
            block = reader.block(start, stop)
            assert block.labels is not None
            where, scored = self._where(start, stop)[0], (block.role == SCORED).numpy()
            predicted = head.predicted(block.scores, block.kind)
            wrong += np.bincount(where[scored & (predicted != block.labels).numpy()], minlength=count)
            full += np.bincount(where[scored & head.foreground(block.labels.numpy())], minlength=count)
        self.at = int(np.lexsort((full, wrong))[-1])
        names = ["labels", "predicted", "before", *(["after"] if self.twice else [])]
        names += [f"image{c}" for c in range(self.channels)]
        self.values = {name: np.full(self.case.voxels // count, np.nan) for name in names}

    def block(self, block: Block) -> None:
        """Take what of a block lies in the slice."""
        start, stop = block.start, block.start + block.voxels
        where, place = self._where(start, stop)
        inside = where == self.at
        if not inside.any():
            return
        assert block.labels is not None
        head, scored, looked = self.cohort.head, block.role == SCORED, block.role != PADDING
        predicted = head.predicted(block.scores, block.kind)
        p = head.probabilities(head.canonical(block.scores, block.kind, self.cohort.resolution))
        found = {
            "labels": torch.where(scored, block.labels.double(), torch.nan),
            "predicted": torch.where(looked, predicted.double(), torch.nan),
            "before": torch.where(scored, head.error(p, predicted).double(), torch.nan),
        }
        if self.twice:
            if self.calibrator is not None and self.contexts is not None:
                p = self.calibrator.deliver(block.scores, block.kind, self.contexts.of(start, stop))
            found["after"] = torch.where(scored, head.error(p, predicted).double(), torch.nan)
        for name, values in found.items():
            self.values[name][place[inside]] = values.numpy()[inside]
        if self.window is not None:
            image = np.atleast_2d(np.array(self.window.read(start, stop), np.float64))
            for c in range(self.channels):
                self.values[f"image{c}"][place[inside]] = image[c, inside]

    def summary(self) -> dict[str, Any]:
        """Itself, without what it was read from."""
        return {"plane": replace(self, contexts=None, window=None)}

    def shown(self, case: Case, zyx: bool, name: str, nll: str) -> slices.Slice:
        """The slice as it is drawn."""
        rest = [a for a in range(3) if a != self.axis]
        spacing = (1.0,) * 3 if case.spacing is None or len(case.shape) == 2 else case.spacing
        planes = {k: v.reshape([self.shape[a] for a in rest]) for k, v in self.values.items()}
        known = grid_for(case, zyx).anatomy if len(case.shape) == 3 and self.shape[self.axis] > 1 else None
        if known is not None:
            (first, up), (second, left) = known[rest[0]], known[rest[1]]
            # up is superior, or else anterior; the patient's right, or else anterior, is on the left
            turned = first < second
            planes = {k: np.flip(v, tuple(a for a, turn in enumerate((up, left)) if turn)) for k, v in planes.items()}
            planes = {k: v.T for k, v in planes.items()} if turned else planes
            rest = rest[::-1] if turned else rest
        box = _box(self.cohort, planes)
        planes = {k: v[box] for k, v in planes.items()}
        labels, predicted = (np.nan_to_num(planes[k], nan=-1).astype(np.int64) for k in ("labels", "predicted"))
        stages = {"before": "uncalibrated", "after": name}
        errors = {title: planes[k] for k, title in stages.items() if k in planes}
        which = ""
        if self.shape[self.axis] > 1:
            plane = f"{PLANES[known[self.axis][0]]} slice" if known is not None else "slice"
            which = f", {plane} {self.at + 1} of {self.shape[self.axis]}"
        return slices.Slice(
            labels,
            predicted,
            errors,
            _image([planes[f"image{c}"] for c in range(self.channels)]),
            f"{case.id}{which} · {nll}\n{told(labels, predicted, errors)}",
            spacing[rest[0]] / spacing[rest[1]],
        )


def told(labels: NDArray[Any], predicted: NDArray[Any], errors: Mapping[str, NDArray[Any]]) -> str:
    """What of a slice is wrong, what the probabilities say of it, and which of the first two errors is closer."""
    scored = (labels >= 0) & (predicted >= 0)
    if not scored.any():
        return "no voxel of this slice is scored"
    wrong = float((labels != predicted)[scored].mean())
    expected = {name: float(np.nanmean(error)) for name, error in errors.items()}
    gaps = [round(abs(value - wrong), 3) for value in list(expected.values())[:2]]
    closer = gaps.index(min(gaps)) if len(set(gaps)) > 1 else -1
    said = ", ".join(
        f"{value:.1%} {name}{' (closer)' if k == closer else ''}" for k, (name, value) in enumerate(expected.items())
    )
    return f"of the labels shown {wrong:.1%} are wrong; expected {said}"


def _box(cohort: Cohort, planes: Mapping[str, NDArray[Any]]) -> tuple[slice, slice]:
    """Rows and columns around all foreground and whatever is wrong, with a margin."""
    there = np.zeros(planes["labels"].shape, bool)
    for name in ("labels", "predicted"):
        known = ~np.isnan(planes[name])
        there[known] |= cohort.head.foreground(planes[name][known].astype(np.int64))
    if not there.any():
        return slice(None), slice(None)
    out = []
    for axis in (1, 0):
        seen = np.flatnonzero(there.any(axis))
        margin = max(4, (seen[-1] - seen[0]) // 4)
        out.append(slice(max(0, seen[0] - margin), seen[-1] + 1 + margin))
    return out[0], out[1]


def _image(channels: Sequence[NDArray[Any]]) -> NDArray[np.float64] | None:
    """From 0 to 1 between the 1st and 99th percentile; three channels are colours, of others the first is shown."""
    if not channels or not np.isfinite(channels[0]).any():
        return None
    chosen = np.stack(channels, -1) if len(channels) == 3 else np.asarray(channels[0])
    low, high = np.percentile(chosen[np.isfinite(chosen)], [1, 99])
    scaled = (chosen - low) / (high - low) if high > low else np.zeros_like(chosen)
    return np.asarray(np.clip(np.nan_to_num(scaled, nan=1.0, posinf=1.0, neginf=0.0), 0, 1))
