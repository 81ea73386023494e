"""How long a study may take, before it starts: one case read and scored, and counts of what there is to do.

Some blocks of one clean case are read, and the largest is timed being scored through an affine map and under the
objective of a fit; the rest is arithmetic on voxels. How many evaluations a fit needs are typical numbers seen on real
ensembles. Promises: an order of magnitude, within about a factor of two; no result depends on it. Costs: seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcal.data.places.place import Places
from segcal.data.rows import Prepared
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine, fold_parts
from segcal.engine.single import one_thread
from segcal.errors import spell
from segcal.methods.affine.map import AffineMap
from segcal.methods.affine.sums import AffineNLL
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import Trained
from segcal.study import fits
from segcal.study.design import Design
from segcal.study.pipelines import VIEWS
from segcal.study.scoring import file_of, suites

EPOCH = 3
"""An epoch of a training, in the same units."""

BLOCKS = 16
"""Most blocks of the case that are read."""

BYTES = 1_500
"""Bytes of a case's file a pipeline."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of work for fits and scores, divided by workers, and bytes of disk. `pieces`: those of the fits, by what
    is fitted together; `pipelines`: what each pipeline takes of fits and scores, without reading files.
    """

    fits: float
    scores: float
    disk: float
    pieces: Mapping[str, float] = field(default_factory=dict)
    pipelines: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def left(self, pieces: Sequence[str], done: int, seconds: float) -> str:
        """For a person, what is left after the first `done` of these pieces, which took so many seconds; scores and
        tables are thought to be off by as much as fits were.
        """
        behind = sum(self.pieces.get(name, 0.0) for name in pieces[:done])
        rest = self.scores + sum(self.pieces.get(name, 0.0) for name in pieces[done:])
        return f", about {spell(rest * (seconds / behind if behind else 1.0))} left"

    def sentence(self) -> str:
        """For a person."""
        return (
            f"about {spell(self.fits + self.scores)} (fits {spell(self.fits)}, scores {spell(self.scores)}) and"
            f" {max(1, round(self.disk / 2**20))} MB in the study's folder"
        )


def estimate(design: Design, folder: Path | None, engine: Engine, repeats: frozenset[int]) -> Estimate:
    """What is left to do for some repeats; `folder` None: all of it."""
    cohort = VIEWS["zbar"].of(design.clean)
    sizes = sorted((c.voxels, i) for i, c in enumerate(cohort))
    index = sizes[len(sizes) // 2][1]
    keys = suites(cohort.head, design.configuration)
    channels = len(cohort.head.part_classes(0))
    identity = Calibrator(
        cohort.head,
        cohort.pooled_kind,
        [AffineMap(torch.eye(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64), False)]
        * len(cohort.head.parts),
        "ms",
    )
    with one_thread(), engine.scratch(cohort) as scratch, cohort.open(index, scratch) as reader:
        cuts = cohort.cuts(index)
        places = Places(
            reader.label_map, scratch, (place for a in keys.values() for place in sorted(accumulate.needs(a), key=repr))
        )
        finding = _timed(lambda: places.of(*cuts[0])) / cohort[index].voxels
        seen = scored = 0
        best: Prepared | None = None
        begun = time.perf_counter()
        for start, stop in cuts[:: -(-len(cuts) // BLOCKS)]:
            prepared = reader.prepare(reader.block(start, stop), places)
            seen, scored = seen + stop - start, scored + prepared.log_probs.shape[1]
            best = prepared if best is None or prepared.log_probs.shape[1] > best.log_probs.shape[1] else best
        reading, kept = finding + (time.perf_counter() - begun) / seen, scored / seen
        assert best is not None
        n = max(1, best.log_probs.shape[1])
        asks = {key: Ask(a, key[0], through=identity.through(key[0])) for key, a in keys.items()}
        scoring = min(_timed(lambda: fold_parts(cohort.head, asks, best, index)) for _ in range(2)) / n
        rows = best.part(cohort.head, 0)
        flat = np.eye(channels, channels + 1).ravel()
        objective = AffineNLL(channels, tuple(flat.tolist()), 1, False)
        folding = min(_timed(lambda: accumulate.fold(objective, rows)) for _ in range(2)) / n * len(cohort.head.parts)
    voxels = {name: {c.id: c.voxels for c in one} for name, one in design.cohorts.items()}
    fit_seconds, by_piece = 0.0, dict[str, float]()
    of_fits, of_scores = (dict.fromkeys((p.name for p in design.pipelines), 0.0) for _ in range(2))
    for piece in fits.pieces(design) if folder is None else fits.missing(design, folder, repeats):
        if piece.arm.repeat not in repeats:
            continue
        size = sum(voxels["test"][i] for i in piece.arm.calibration)
        beside = sum(voxels["test"][i] for i in piece.arm.validation)
        before = fit_seconds
        fit_seconds += (size + beside) * reading
        for p in piece.pipelines:
            without = fit_seconds
            method = p.with_options()
            if isinstance(method, Trained):
                fit_seconds += size * kept * folding * EPOCH * min(40, getattr(method, "epochs", 40))
            else:
                trials = getattr(getattr(method, "solver", None), "trials", 0)
                fit_seconds += size * kept * folding * (method.evaluations + 100 * trials)
            of_fits[p.name] += (fit_seconds - without) / engine.workers
        by_piece[piece.name] = by_piece.get(piece.name, 0.0) + (fit_seconds - before) / engine.workers
    score_seconds, files = 0.0, 0
    for name in design.cohorts:
        for repeat in repeats:
            cases = [
                c
                for c in design.tested(name, repeat)
                if folder is None or not file_of(folder, repeat, name, c).is_file()
            ]
            count = sum(voxels[name][c] for c in cases)
            sized = (
                sum(len(a.pipelines) for a in design.arms if a.repeat == repeat and a.size is not None)
                if name == "test"
                else 0
            )
            score_seconds += count * (3 * reading + kept * scoring * (len(design.pipelines) + sized))
            files += len(cases) * (len(design.pipelines) + sized)
            for p in design.pipelines:
                of_scores[p.name] += count * kept * scoring / engine.workers
    return Estimate(
        fit_seconds / engine.workers,
        score_seconds / engine.workers,
        files * BYTES,
        by_piece,
        {name: (of_fits[name], of_scores[name]) for name in of_fits},
    )


def _timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
