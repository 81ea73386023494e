"""The fits of a study: every arm's pipelines, in pieces that are each done or not, so that an interrupted study goes on
where it was.

A `Piece` is what one reading of a calibration set fits: all plans of one view together, over shared passes; each
trained method and each fit by the recipe alone. Its calibrators are files (`r0/MS_zbar.safetensors`), written when all
of them are there. Validation cases choose penalties' strengths, end trainings and pick trials, and are never fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from segcal.data.cohort import Cohort
from segcal.engine.engine import Engine
from segcal.methods import files
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import AnyMethod, Trained, fit_methods, need_of
from segcal.study.design import Arm, Design
from segcal.study.pipelines import VIEWS, Pipeline


@dataclass(frozen=True)
class Piece:
    """Pipelines of one arm and one view that are fitted together."""

    arm: Arm
    view: str
    pipelines: tuple[Pipeline, ...]

    @property
    def name(self) -> str:
        """What to call it while it is being done."""
        what = (
            self.pipelines[0].name if len(self.pipelines) == 1 else f"{len(self.pipelines)} calibrators of {self.view}"
        )
        return f"{what}, repeat {self.arm.repeat + 1}" + ("" if self.arm.size is None else f", {self.arm.size} cases")


def file_of(folder: Path, arm: Arm, pipeline: Pipeline) -> Path:
    """Where the calibrator of a pipeline lies."""
    return folder / "fits" / arm.folder / f"{pipeline.file}.safetensors"


def pieces(design: Design) -> Iterator[Piece]:
    """All that is to be fitted."""
    for arm in design.arms:
        for view in VIEWS:
            here = [p for p in arm.pipelines if p.view == view]
            alone = [p for p in here if isinstance(p.make(), Trained) or "solver" in p.options]
            together = tuple(p for p in here if p not in alone)
            yield from (Piece(arm, view, part) for part in (together, *((p,) for p in alone)) if part)


def missing(design: Design, folder: Path, repeats: frozenset[int]) -> list[Piece]:
    """Pieces of some repeats that are not done."""
    return [
        p
        for p in pieces(design)
        if p.arm.repeat in repeats and not all(file_of(folder, p.arm, one).is_file() for one in p.pipelines)
    ]


def room_for(design: Design, piece: Piece, engine: Engine) -> None:
    """UsageError that names the memory needed where a pipeline does not fit; no voxel is read."""
    cohort = VIEWS[piece.view].of(design.clean)
    calibration = _chosen(cohort, piece.arm.calibration)
    for p in piece.pipelines:
        method = p.make()
        if method is not None:
            validation = _chosen(cohort, piece.arm.validation) if method.takes_validation else None
            need = need_of(method, calibration, validation=validation)
            engine.room_for(calibration, need, f"pipeline {p.name}", "other pipelines", fitting=True)


def fit(design: Design, piece: Piece, folder: Path, engine: Engine) -> None:
    """Fit a piece and write its calibrators."""
    view = VIEWS[piece.view].of(design.clean)
    methods = {p.name: m for p in piece.pipelines if (m := p.make()) is not None}
    validation = _chosen(view, piece.arm.validation) if any(m.takes_validation for m in methods.values()) else None
    found = fit_methods(
        _resumable(methods, piece, folder),
        _chosen(view, piece.arm.calibration),
        engine,
        validation=validation,
        keep_decision=False,  # a kept region decision would hide what a method does to labels
    )
    for p in piece.pipelines:
        found[p.name].calibrator.save(file_of(folder, piece.arm, p))


def loaded(folder: Path, arm: Arm) -> dict[str, Calibrator]:
    """The calibrators of an arm, by their label."""
    return {arm.label(p): files.load(file_of(folder, arm, p)) for p in arm.pipelines}


def _chosen(cohort: Cohort, ids: tuple[str, ...]) -> Cohort:
    wanted = set(ids)
    return replace(cohort, cases=tuple(c for c in cohort.cases if c.id in wanted))


def _resumable(methods: Mapping[str, AnyMethod], piece: Piece, folder: Path) -> dict[str, AnyMethod]:
    """Methods fitted by the recipe with a place for their finished trials."""
    out = dict(methods)
    for p in piece.pipelines:
        recipe = getattr(methods[p.name], "solver", None)
        if recipe is not None:
            out[p.name] = p.with_options(
                solver=replace(recipe, storage=folder / "fits" / piece.arm.folder / f"{p.file}.trials.json")
            )
    return out
