"""What methods that are trained share: how images are standardised, where a training keeps its state, and what a map is
worth on its cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from segcal import __version__
from segcal.data.cohort import Cohort
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.checkpoints import Checkpoint
from segcal.engine.engine import Engine
from segcal.fitting.training import Lesson
from segcal.methods.calibrator import Calibrator
from segcal.methods.maps import PartMap
from segcal.methods.temperature import ScaleMap, ScaleNLL


def alone(cohort: Cohort, part: int, made: PartMap, method: str) -> Calibrator:
    """A calibrator that maps one part of the head and leaves the others as they are."""
    maps: list[PartMap] = [ScaleMap(1.0) for _ in cohort.head.parts]
    maps[part] = made
    return Calibrator(cohort.head, cohort.pooled_kind, maps, method)


def nll_of(made: PartMap, lesson: Lesson, engine: Engine, method: str) -> float:
    """Mean NLL over all voxels of the cases learnt from, in float64."""
    cohort = lesson.examples.cohort
    mine = replace(cohort, cases=tuple(cohort[i] for i in sorted(lesson.cases)))
    accumulator, through = ScaleNLL(1.0), alone(cohort, lesson.part, made, method).through(lesson.part)
    answers, _ = engine.survey(mine, {"nll": Ask(accumulator, lesson.part, through=through)})
    return float(accumulate.result(accumulator, answers["nll"]).value)


def standard(images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of images (channels, ...), over all their voxels; 1 for a constant
    one.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for image in images:
        flat = image.double().flatten(1)
        count, total, squares = count + flat.shape[1], total + flat.sum(1), squares + flat.square().sum(1)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    return mean, torch.where(deviation > 1e-6 * (1 + mean.abs()), deviation, 1.0)


def checkpoint_of(method: object, lesson: Lesson, engine: Engine, start: Iterable[Tensor]) -> Checkpoint:
    """Where the training of a method, whose words are its options, on a lesson from some numbers keeps its state."""
    told = f"segcal {__version__}, {method!r}, part {lesson.part}"
    mine = [lesson.examples.cohort[i] for i in sorted(lesson.cases)]
    held = () if lesson.validation is None else lesson.validation.cohort
    return engine.checkpoints.of(told, [*mine, *held], start)
