"""Selective scaling (W23): p = S(z / T1) where a selector takes the voxel for mispredicted, S(z / T2) elsewhere.

A net of the log-probabilities is trained to tell mispredicted voxels from correct ones
(`segcal.methods.selective.selector`), on up to `sample` voxels of each case, and judged by cases that were held out.
T1, by the share of their mispredicted voxels that it finds (its recall): above 50 % 1e10, below 35 % 2; between, and
this W23 leaves open, whichever of `HIGH` has the lowest ECE there (10 bins, mean of cases). T2 is 1 unless what is left
is under-confident: then whichever of `LOW` has the lowest. Where the selector learns nothing, its AUROC being .5 as far
as the cases can tell, the scores stay as they were, and the message says so.

`on`: another method, which is fitted first; the selector sees what that makes of the scores, and the temperatures
divide it. Source: W23 Eq. 4, 5.1, its supplement's Table 1, the released code (definitions 5.1 and 17). Deviations:
ignored voxels are dropped, "accuracy on mispredictions" is read as recall, the validation loss chooses the epoch. The
problem is not convex: no optimum is claimed. No voxel that is mispredicted: the scores stay as they were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from segcal.data.cohort import Cohort
from segcal.data.surroundings import Pinnable
from segcal.engine import accumulate
from segcal.engine.ask import Ask, Through
from segcal.engine.engine import Engine
from segcal.engine.need import Need
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task
from segcal.fitting.sample import Lots, Sample, VoxelSample
from segcal.fitting.training import Examples, Lesson
from segcal.methods.calibrator import Solution
from segcal.methods.composed import Composed
from segcal.methods.lessons import alone, checkpoint_of, nll_of
from segcal.methods.maps import PartMap
from segcal.methods.method import AnyMethod, FittedMap, Method, Trained
from segcal.methods.numbers import at_least_0, check_choices, check_numbers
from segcal.methods.parameterisation import ParameterCount
from segcal.methods.registry import find
from segcal.methods.selective.judged import Judged
from segcal.methods.selective.map import SelectiveMap, shapes
from segcal.methods.selective.selector import BALANCES, Balance, Schooling, Selector, Voxels, learnt
from segcal.methods.temperature import ScaleMap
from segcal.metrics.calibration import CalibrationError

HIGH = (2.0, 5.0, 10.0, 1e10)
"""T1 is one of these."""

LOW = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""T2 is one of these."""

FINDS, MISSES = 0.5, 0.35
"""Recall above which T1 is the highest, and below which the lowest."""

BINS = 10
"""Of the ECE that chooses."""


@dataclass(frozen=True)
class SelectiveScaling(Trained):
    """Selective scaling (Wang, Gong and Wang, CVPR 2023): p = S(z / T1) where a small net takes the voxel for
    mispredicted, S(z / T2) elsewhere.

    `on`: another method, whose probabilities are divided, fitted first; `t1`, `t2`: the temperatures, or "auto";
    `balance`: mispredicted voxels weigh twice ("copy") or, together, as much as the correct ones ("equal");
    `learning_rate`, `weight_decay`, `epochs`, `batch` voxels a step, `seed`: of the training, on `sample` voxels of
    each case. UsageError for values out of range.
    """

    name: ClassVar[str] = "selective"
    papers: ClassVar[Mapping[str, str]] = {"Selective": "selective"}
    on: str = field(
        default="", metadata={"help": "a method, such as ts, that is fitted first and whose answer is scaled"}
    )
    t1: float | Literal["auto"] = field(
        default="auto", metadata={"help": "temperature of voxels taken for mispredicted"}
    )
    t2: float | Literal["auto"] = field(default="auto", metadata={"help": "temperature of the others"})
    balance: Balance = field(
        default="copy", metadata={"help": "mispredicted voxels weigh twice, or as much as the correct ones together"}
    )
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    epochs: int = 40
    batch: int = 512
    sample: int = 3136
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self, balance=BALANCES)
        check_numbers(self, "batch", sample=2**20)
        for name in ("t1", "t2"):
            value = getattr(self, name)
            if value != "auto" and not (at_least_0(value) and value > 0):
                raise UsageError(
                    name,
                    found=repr(value),
                    expected="a number above 0 or 'auto'",
                    do="Leave it out: what the net finds then decides.",
                )
        if self.on and (self._base is None or isinstance(self._base, SelectiveScaling)):
            raise UsageError(
                "on",
                found=repr(self.on),
                expected="another method, such as ts or cms-op",
                do="Leave it out to scale the scores themselves.",
            )

    @property
    def fields(self) -> frozenset[str]:
        """What the other method needs."""
        return frozenset() if self._base is None else self._base.fields

    def check(self, cohort: Cohort) -> None:
        """As the other method."""
        super().check(cohort)
        if self._base is not None:
            self._base.check(cohort)

    def contexts(self, task: Task) -> frozenset[Pinnable]:
        """As the other method."""
        return frozenset() if self._base is None else self._base.contexts(task)

    def need(self, task: Task) -> Need:
        """The samples, and what the other method takes."""
        held = 8 * self.sample * len(task.cases | task.validation) * (3 + task.classes)
        return Need(held) + (Need() if self._base is None else self._base.need(task))

    def drawn(self, classes: int) -> PartMap | None:
        """A net with random numbers."""
        generator = torch.Generator().manual_seed(0)
        layers = [
            (torch.randn(out, into, generator=generator), torch.randn(out, generator=generator))
            for out, into in shapes(classes)
        ]
        made = SelectiveMap(layers, HIGH[-1], LOW[0])
        first = None if self._base is None else self._base.drawn(classes)
        return made if first is None else Composed(first, made)

    def counted(self, classes: int) -> ParameterCount | None:
        """Of the net; of its numbers no rank can be told. T1 and T2 are chosen from a few."""
        own = ParameterCount(self.identifiable(classes), None, None, math.inf)
        if self._base is None:
            return own
        first = self._base.counted(classes)
        return None if first is None else replace(own, optimised=own.optimised + first.optimised)

    def identifiable(self, classes: int) -> int:
        """5 C^2 + 14 C + 2, those of batch normalisation among them."""
        layers = sum(out * (into + 1) for out, into in shapes(classes))
        own = layers + 2 * sum(out for out, _ in shapes(classes)[:-1])
        return own + (0 if self._base is None else self._base.identifiable(classes))

    def plan(self, task: Task) -> Plan[dict[Subset, Any]]:
        """What the other method finds on pinned rows."""
        base = self._base
        if not isinstance(base, Method | Trained):
            return dict.fromkeys(task.subsets)
        return (yield from base.plan(task))

    def train(self, lesson: Lesson, engine: Engine) -> FittedMap:
        """The other method, the net, the temperatures."""
        before = self._first(lesson, engine)
        first = None if before is None else before.map
        learn, validate, who = lesson.split(self.seed)
        cohort = lesson.examples.cohort
        through = None if first is None else alone(cohort, lesson.part, first, self.on).through(lesson.part)
        fitted, held = (self._sampled(side, lesson, through, engine) for side in (learn, validate))
        notes = [] if before is None else [f"on {self.on} ({before.solution.message})"]
        voxels = [
            Voxels(np.concatenate([s.log_probs for s in side], 1), np.concatenate([s.right for s in side]))
            for side in (fitted, held)
        ]
        if not all(0 < v.wrong < len(v.right) for v in voxels):
            notes.append("no voxel, or every one, is mispredicted: there is nothing to tell apart")
            return self._finished(first, None, lesson, engine, notes, {})
        engine.progress.start(f"training {self.method}", self.epochs)
        how = Schooling(self.learning_rate, self.weight_decay, self.epochs, self.batch, self.balance, self.seed)
        drawn = [torch.from_numpy(one) for side in voxels for one in (side.log_probs, side.right)]
        checkpoint = checkpoint_of(self, lesson, engine, drawn)
        selector = learnt(voxels[0], voxels[1], how, engine.progress.step, checkpoint)
        seen = Judged.of(selector, held, [e.cohort.groups[i] for e, i in validate])
        told = {
            "selector": seen.told(),
            "epoch": selector.epoch,
            "validation": selector.validation,
            "curve": selector.curve,
        }
        notes.append(f"epoch {selector.epoch} of {self.epochs}, validated on {who}")
        if not seen.learnt:
            notes.append(f"the selector learns nothing ({seen.sentence()}): the scores stay as they were")
            return self._finished(first, None, lesson, engine, notes, told)
        t1, t2 = self._temperatures(selector, seen, first, validate, lesson, engine)
        notes += [f"T1 = {t1:g}, T2 = {t2:g}", seen.sentence()]
        return self._finished(first, SelectiveMap(selector.layers, t1, t2), lesson, engine, notes, told)

    @property
    def _base(self) -> AnyMethod | None:
        known = find(self.on) if self.on else None
        return None if known is None else known()

    def _first(self, lesson: Lesson, engine: Engine) -> FittedMap | None:
        """What the other method makes of the lesson; None without one."""
        base = self._base
        if isinstance(base, Trained):
            return base.train(lesson, engine)
        found: FittedMap | None = lesson.start
        return found

    def _sampled(
        self, cases: Sequence[tuple[Examples, int]], lesson: Lesson, through: Through | None, engine: Engine
    ) -> list[Sample]:
        """Voxels of each case."""
        mine = _these(cases)
        lots = Lots(tuple(case.id for case in mine), self.seed)
        accumulator = VoxelSample(lesson.classes, self.sample, lots)
        answers, _ = engine.survey(mine, {"it": Ask(accumulator, lesson.part, by_case=True, through=through)})
        none = accumulate.zero(accumulator)
        return [accumulate.result(accumulator, answers["it"].get(i, none)) for i in range(len(mine))]

    def _temperatures(
        self,
        selector: Selector,
        seen: Judged,
        first: PartMap | None,
        validate: Sequence[tuple[Examples, int]],
        lesson: Lesson,
        engine: Engine,
    ) -> tuple[float, float]:
        """T1 by the recall, T2 by the confidence of what is left."""

        def best(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
            """The pair of the lowest ECE, the first of several."""
            if len(pairs) == 1:
                return pairs[0]
            mine, metric = _these(validate), CalibrationError(lesson.classes, (BINS,))
            maps = {pair: _both(first, SelectiveMap(selector.layers, *pair)) for pair in pairs}
            asks = {
                pair: Ask(
                    metric,
                    lesson.part,
                    by_case=True,
                    through=alone(mine, lesson.part, m, self.method).through(lesson.part),
                )
                for pair, m in maps.items()
            }
            answers, _ = engine.survey(mine, asks)
            means = {
                pair: np.nanmean([accumulate.result(metric, state).ece(BINS) for state in by_case.values()])
                for pair, by_case in answers.items()
            }
            return min(pairs, key=lambda pair: float(means[pair]))

        t2 = 1.0 if self.t2 == "auto" else float(self.t2)
        if self.t1 != "auto":
            t1 = float(self.t1)
        elif seen.recall > FINDS:
            t1 = HIGH[-1]
        elif seen.recall < MISSES:
            t1 = HIGH[0]
        else:
            t1 = best([(high, t2) for high in HIGH])[0]
        if self.t2 == "auto" and seen.confidence < seen.accuracy:
            t2 = best([(t1, low) for low in LOW])[1]
        return t1, t2

    def _finished(
        self,
        first: PartMap | None,
        second: SelectiveMap | None,
        lesson: Lesson,
        engine: Engine,
        notes: list[str],
        told: Mapping[str, Any],
    ) -> FittedMap:
        made = _both(first, second)
        value = nll_of(made, lesson, engine, self.method)
        settings = {"on": self.on, "balance": self.balance, "sample": self.sample, "seed": self.seed, **told}
        certificate = {"gap": None, "proof": "none: the problem is not convex; no optimum is claimed"}
        return FittedMap(made, Solution(value, value, "trained", "; ".join(notes), 0, certificate, settings))


def _both(first: PartMap | None, second: PartMap | None) -> PartMap:
    there = [m for m in (first, second) if m is not None]
    return Composed(*there) if len(there) == 2 else there[0] if there else ScaleMap(1.0)


def _these(cases: Sequence[tuple[Examples, int]]) -> Cohort:
    """As a cohort of their own."""
    cohort = cases[0][0].cohort
    return replace(cohort, cases=tuple(cohort[i] for _, i in cases))
