"""Training by epochs: examples drawn from a cohort, Adam, a falling learning rate, early stopping; for methods whose
problem is not convex.

An `Example` is a tile of a case with its margin and its targets; a `Lesson` says which cases to learn from and which to
validate on; `train` runs the epochs. Each epoch visits the cases in an order drawn by the seed and draws some tiles of
each; one step follows the mean gradient of a batch of them (Adam; weight decay is coupled, on all parameters). The very
first step follows the gradient itself. After each epoch the NLL of fixed tiles of the validation cases is taken: its
best state is kept, a plateau divides the learning rate by ten, and `patience` epochs without a better one end the
training.

Promises: the same seed gives the same bits, for any number of workers, any order of the cases and any memory limit:
cases are ordered by name, the examples of a batch are worked on by one thread each, and their gradients are added in
order. Arithmetic is float32, parameters and sums are float64. Ignored and masked voxels and crop padding carry no loss,
but their scores are surroundings of their neighbours. Costs: examples stay in memory up to a third of the engine's
limit; the others are read again in each epoch. Without a second group of cases nothing can be held out: then the
training cases are validated on, and the result says so.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from segcal.data import splits
from segcal.data.case import SCORED
from segcal.data.cohort import Cohort
from segcal.data.head import NO_TARGET
from segcal.data.surroundings import Grid, Surroundings, Tile, tiles
from segcal.engine.checkpoints import NOWHERE, Checkpoint
from segcal.engine.engine import Engine

HELD_OUT = 5
"""One in so many cases is validated on, where no validation cohort is given."""

STEPS = 10
"""Least steps of an epoch: a few cases are visited several times."""

LOOK = 4
"""Most tiles of a case that are validated on."""


@dataclass(frozen=True, eq=False)
class Example:
    """A tile: float32 `log_probs` (head.rows, slices, rows + 8, columns + 8), `free_energy` (slices, rows + 8, columns
    + 8) or None, `fields` (channels, ...) each.

    `targets` (parts, slices, rows, columns): int16, NO_TARGET where a voxel is not scored. `counted` (slices, rows,
    columns): all but crop padding.
    """

    log_probs: Tensor
    free_energy: Tensor | None
    fields: Mapping[str, Tensor]
    targets: Tensor
    counted: Tensor

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(
            t.numel() * t.element_size()
            for t in (self.log_probs, self.free_energy, *self.fields.values(), self.targets, self.counted)
            if t is not None
        )


class Examples:
    """The tiles of a labelled cohort, kept in memory up to `limit` bytes and read again beyond that.

    `fields`: what of each case comes with them, such as its image.
    """

    def __init__(self, cohort: Cohort, engine: Engine, limit: int, fields: Iterable[str] = ()) -> None:
        self.cohort, self.engine, self.fields = cohort.labelled(), engine, tuple(sorted(fields))
        self._limit, self._used = limit, 0
        self._kept: dict[tuple[int, int, Tile], Example] = {}
        self._lock = threading.Lock()

    def tiles(self, case: int, axis: int, patch: int) -> list[Tile]:
        """The tiles of a case, of at most `patch` voxels or one row."""
        return list(tiles(self._grid(case, axis), patch))

    def read(self, case: int, axis: int, wanted: Sequence[Tile]) -> Iterator[Example]:
        """Tiles of a case, one after another; the case is opened once, if at all."""
        with contextlib.ExitStack() as stack:
            around: Surroundings | None = None
            for tile in wanted:
                found = self._kept.get((case, axis, tile))
                if found is None:
                    if around is None:
                        scratch = stack.enter_context(self.engine.scratch(self.cohort))
                        around = Surroundings(stack.enter_context(self.cohort.open(case, scratch)), scratch)
                    found = self._made(around, self._grid(case, axis), tile)
                    self._keep((case, axis, tile), found)
                yield found

    def _grid(self, case: int, axis: int) -> Grid:
        return Grid.of(self.cohort[case].shape, axis, f"case {self.cohort[case].id}")

    def _made(self, around: Surroundings, grid: Grid, tile: Tile) -> Example:
        start, stop = tile.span(grid)
        block = around.reader.block(start, stop)
        assert block.labels is not None
        scored = block.role == SCORED
        # what is not scored may carry any label, outside a mask even one the head does not know
        targets = torch.where(scored, self.cohort.head.targets(torch.where(scored, block.labels, 0)), NO_TARGET).to(
            torch.int16
        )
        found = around.near(grid, tile, self.fields)
        energy = None if found.free_energy is None else found.free_energy.float()
        counted = grid.tiled(around.counted(grid, tile)[None], tile)[0]
        return Example(
            found.log_probs.float(),
            energy,
            {name: field.float() for name, field in found.fields.items()},
            grid.tiled(targets, tile).contiguous(),
            counted.contiguous(),
        )

    def _keep(self, key: tuple[int, int, Tile], example: Example) -> None:
        with self._lock:
            if key not in self._kept and self._used + example.nbytes <= self._limit:
                self._kept[key] = example
                self._used += example.nbytes


@dataclass(frozen=True)
class Settings:
    """How to train.

    `learning_rate` and `weight_decay` are Adam's; at most `epochs`, `patience` of them without a better validation NLL;
    `batch` units a step, up to `draws` of each case an epoch.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    patience: int
    batch: int
    draws: int
    seed: int


@dataclass(frozen=True, eq=False)
class Unit:
    """What a loss is taken of: some tiles of one case, along `axis`, of one part of the head."""

    examples: Examples
    case: int
    axis: int
    tiles: tuple[Tile, ...]

    def __iter__(self) -> Iterator[Example]:
        return self.examples.read(self.case, self.axis, self.tiles)


@dataclass(frozen=True, eq=False)
class Lesson:
    """One softmax problem to be learnt from some cases.

    `part` of the head; `cases` (indices) of the cohort behind `examples`; `validation`: cases of a cohort of their own,
    or None; `start`: what the method's plan found.
    """

    examples: Examples
    part: int
    cases: frozenset[int]
    validation: Examples | None
    start: Any

    @property
    def classes(self) -> int:
        """Classes of the problem."""
        return len(self.examples.cohort.head.part_classes(self.part))

    def split(self, seed: int) -> tuple[list[tuple[Examples, int]], list[tuple[Examples, int]], str]:
        """Cases to learn from and to validate on, ordered by name, and which those are, in words; groups stay whole."""
        cohort = self.examples.cohort
        mine = sorted(self.cases, key=lambda i: cohort[i].id)
        if self.validation is not None:
            held = self.validation.cohort
            order = sorted(range(len(held)), key=lambda i: held[i].id)
            return (
                [(self.examples, i) for i in mine],
                [(self.validation, i) for i in order],
                f"{len(order)} validation cases",
            )
        groups = [cohort.groups[i] for i in mine]
        if len(set(groups)) < 2:
            return (
                [(self.examples, i) for i in mine],
                [(self.examples, i) for i in mine],
                "the training cases themselves: there is one group of cases only",
            )
        out = set(splits.folds(groups, HELD_OUT, seed).test[0])
        held_out = [(self.examples, i) for k, i in enumerate(mine) if k in out]
        return (
            [(self.examples, i) for k, i in enumerate(mine) if k not in out],
            held_out,
            f"{len(held_out)} of {len(mine)} cases",
        )


class Model(Protocol):
    """What is trained: a loss of examples under parameters that change."""

    def units(self, examples: Examples, case: int) -> list[Unit]:
        """What can be drawn of a case."""

    def loss(self, unit: Unit, parameters: Sequence[Tensor], gradient: bool) -> tuple[float, int, list[Tensor]]:
        """Sum of the NLL over the scored voxels of a unit, their number, and, if asked for, its gradient in each
        parameter.
        """


@dataclass(frozen=True, eq=False)
class Learnt:
    """How a training ended: the best `parameters`, their validation NLL, the `epoch` they are from, the learning curve,
    and whether it ended by itself.
    """

    parameters: list[Tensor]
    validation: float
    epoch: int
    curve: list[dict[str, float]] = field(default_factory=list)
    ended: bool = False


def nll(model: Model, units: Sequence[Unit], parameters: Sequence[Tensor], engine: Engine) -> float:
    """Mean NLL over the scored voxels of some units; 0 where there is none."""
    found = engine.gather(lambda unit: model.loss(unit, parameters, False), units)
    return sum(value for value, _, _ in found) / max(1, sum(n for _, n, _ in found))


def looked_at(model: Model, cases: Sequence[tuple[Examples, int]]) -> list[Unit]:
    """The units of cases that are validated on: up to LOOK of each, evenly spread."""
    out = []
    for examples, case in cases:
        units = model.units(examples, case)
        out += [units[k] for k in np.linspace(0, len(units) - 1, min(LOOK, len(units))).round().astype(int)]
    return out


def train(
    model: Model,
    start: Sequence[Tensor],
    learn: Sequence[tuple[Examples, int]],
    validate: Sequence[tuple[Examples, int]],
    settings: Settings,
    engine: Engine,
    each_step: Callable[[int, list[Tensor]], None] = lambda step, gradients: None,
    checkpoint: Checkpoint = NOWHERE,
) -> Learnt:
    """Train from `start` (float64), or go on from the `checkpoint`, and return the state of the best validation NLL;
    epoch 0 is the start itself.

    `each_step` is shown the gradient of each step.
    """
    parameters = [p.detach().double().clone().requires_grad_() for p in start]
    adam = torch.optim.Adam(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, factor=0.1, patience=max(1, settings.patience // 2), threshold=0
    )
    watched = looked_at(model, validate)
    units = [model.units(*case) for case in learn]
    kept = checkpoint.load()
    if kept is None:
        lowest = nll(model, watched, parameters, engine)
        way = _Way([p.detach().clone() for p in parameters], lowest, [{"epoch": 0.0, "validation": lowest}])
    else:
        way = _Way(**kept["way"])
        with torch.no_grad():
            for p, there in zip(parameters, kept["parameters"], strict=True):
                p.copy_(there)
        adam.load_state_dict(kept["adam"])
        plateau.load_state_dict(kept["plateau"])
        for _ in range(way.epoch):
            engine.progress.step()
    while way.epoch < settings.epochs and not way.ended:
        epoch = way.epoch + 1
        drawn = _drawn(units, settings, epoch)
        total, count = 0.0, 0
        for low in range(0, len(drawn), settings.batch):
            found = engine.gather(lambda unit: model.loss(unit, parameters, True), drawn[low : low + settings.batch])
            voxels = sum(n for _, n, _ in found)
            if not voxels:
                continue
            total, count = total + sum(value for value, _, _ in found), count + voxels
            gradients = [
                torch.stack(parts).sum(0) / voxels for parts in zip(*(g for _, n, g in found if n), strict=True)
            ]
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            each_step(way.step, gradients)
            if way.step:
                adam.step()
            else:
                _along(parameters, settings.learning_rate)
            way.step += 1
        now = nll(model, watched, parameters, engine)
        now = now if np.isfinite(now) else float("inf")
        way.curve.append(
            {
                "epoch": float(epoch),
                "training": total / max(1, count),
                "validation": now,
                "learning_rate": float(adam.param_groups[0]["lr"]),
            }
        )
        plateau.step(now)
        if now < way.lowest:
            way.best, way.best_at, way.lowest = [p.detach().clone() for p in parameters], epoch, now
        engine.progress.step()
        way.epoch, way.ended = epoch, epoch - way.best_at >= settings.patience or not count
        state = {"parameters": [p.detach() for p in parameters], "way": vars(way)}
        state |= {"adam": adam.state_dict(), "plateau": plateau.state_dict()}
        checkpoint.save(state, last=way.ended or epoch == settings.epochs)
    return Learnt(way.best, way.lowest, way.best_at, way.curve, way.ended)


@dataclass
class _Way:
    """How far a training has come: the `best` parameters, their validation NLL and epoch, the learning curve, epochs
    and steps done, whether it ended by itself.
    """

    best: list[Tensor]
    lowest: float
    curve: list[dict[str, float]]
    best_at: int = 0
    epoch: int = 0
    step: int = 0
    ended: bool = False


def _along(parameters: Sequence[Tensor], most: float) -> None:
    """One step along the gradient itself, of at most `most` in any parameter:

    Adam's first step sees signs only, and moves alike what has to become different.
    """
    steepest = max(float(p.grad.abs().max()) for p in parameters if p.grad is not None)
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None and steepest > 0:
                p -= most / steepest * p.grad


def _drawn(units: Sequence[list[Unit]], settings: Settings, epoch: int) -> list[Unit]:
    """The units of one epoch: of each case some, together, cases in random order; all cases again while that makes
    fewer than STEPS steps.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    out: list[Unit] = []
    while True:
        for k in rng.permutation(len(units)):
            chosen = rng.choice(len(units[k]), min(settings.draws, len(units[k])), replace=False)
            out += [units[k][i] for i in chosen]
        if len(out) >= STEPS * settings.batch or not out:
            return out
