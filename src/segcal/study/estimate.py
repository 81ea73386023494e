"""How long a study may take, before it starts: one case read and scored, and counts of what there is to do.

One clean case is read, and its largest block is timed being scored through an affine map and under the objective of a fit; the rest is arithmetic on voxels. How many evaluations
a fit needs are typical numbers seen on real ensembles. Promises: an order of magnitude, within about a factor of two; no result depends on it. Costs: seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from segcal import accumulate
from segcal.calibrators import AffineMap, Calibrator
from segcal.cases import SCORED
from segcal.engines import Ask, Engine
from segcal.engines.engine import fold_parts
from segcal.engines.single import one_thread
from segcal.methods.method import Trained
from segcal.objectives import AffineNLL
from segcal.places import Places
from segcal.study import fits
from segcal.study.design import Design
from segcal.study.pipelines import VIEWS
from segcal.study.scoring import file_of, suites

EVALUATIONS = {"ts": 12, "ets": 40, "vs": 60, "ms": 90, "ms-c": 90, "dc": 90, "cdc": 120, "cms-ap": 120, "cms-op": 120}
"""Passes over a fit's voxels, about, in units of one affine gradient."""

USUAL = 90

BYTES = 1_500
"""Bytes of a case's file a pipeline."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of work for fits and scores, divided by workers, and bytes of disk."""

    fits: float
    scores: float
    disk: float

    def sentence(self) -> str:
        """For a person."""
        return (
            f"about {_spoken(self.fits + self.scores)} (fits {_spoken(self.fits)}, scores {_spoken(self.scores)}) and {max(1, round(self.disk / 2**20))} MB in the study's folder"
        )


def estimate(design: Design, folder: Path | None, engine: Engine, repeats: frozenset[int]) -> Estimate:
    """What is left to do for some repeats; `folder` None: all of it."""
    cohort = VIEWS["zbar"].of(design.clean)
    sizes = sorted((c.voxels, i) for i, c in enumerate(cohort))
    index = sizes[len(sizes) // 2][1]
    keys = suites(cohort.head, design.configuration)
    channels = len(cohort.head.part_classes(0))
    identity = Calibrator(
        cohort.head, cohort.pooled_kind, [AffineMap(torch.eye(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64), False)] * len(cohort.head.parts), "ms"
    )
    with one_thread(), engine.scratch(cohort) as scratch, cohort.open(index, scratch) as reader:
        begun = time.perf_counter()
        cuts = cohort.cuts(index)
        places = Places(reader.label_map, scratch, (place for a in keys.values() for place in sorted(accumulate.needs(a), key=repr)))
        blocks = [reader.block(*cut) for cut in cuts]
        prepared = [reader.prepare(block, places) for block in blocks]
        reading = (time.perf_counter() - begun) / cohort[index].voxels
        best = max(prepared, key=lambda p: p.log_probs.shape[1])
        n = max(1, best.log_probs.shape[1])
        asks = {key: Ask(a, key[0], through=identity.through(key[0])) for key, a in keys.items()}
        scoring = min(_timed(lambda: fold_parts(cohort.head, asks, best, index)) for _ in range(2)) / n
        rows = replace(best.part(cohort.head, 0))
        flat = np.eye(channels, channels + 1).ravel()
        objective = AffineNLL(channels, tuple(flat.tolist()), 1, False)
        folding = min(_timed(lambda: accumulate.fold(objective, rows)) for _ in range(2)) / n * len(cohort.head.parts)
        kept = sum(int((b.role == SCORED).sum()) for b in blocks) / cohort[index].voxels
    voxels = {name: {c.id: c.voxels for c in one} for name, one in design.cohorts.items()}
    fit_seconds = 0.0
    for piece in fits.pieces(design) if folder is None else fits.missing(design, folder, repeats):
        if piece.arm.repeat not in repeats:
            continue
        size = sum(voxels["test"][i] for i in piece.arm.calibration)
        beside = sum(voxels["test"][i] for i in piece.arm.validation)
        fit_seconds += (size + beside) * reading
        for p in piece.pipelines:
            method = p.make()
            if isinstance(method, Trained):
                fit_seconds += size * kept * folding * 30 * min(40, getattr(method, "epochs", 40)) / 10
            else:
                trials = getattr(getattr(method, "solver", None), "trials", 0)
                fit_seconds += size * kept * folding * (EVALUATIONS.get(p.method or "", USUAL) + 100 * trials)
    score_seconds, files = 0.0, 0
    for name in design.cohorts:
        for repeat in repeats:
            cases = [c for c in design.tested(name, repeat) if folder is None or not file_of(folder, repeat, name, c).is_file()]
            count = sum(voxels[name][c] for c in cases)
            sized = sum(len(a.pipelines) for a in design.arms if a.repeat == repeat and a.size is not None) if name == "test" else 0
            score_seconds += count * (3 * reading + kept * scoring * (len(design.pipelines) + sized))
            files += len(cases) * (len(design.pipelines) + sized)
    return Estimate(fit_seconds / engine.workers, score_seconds / engine.workers, files * BYTES)


def _timed(work: object) -> float:
    assert callable(work)
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _spoken(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
