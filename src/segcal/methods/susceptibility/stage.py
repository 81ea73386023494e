"""Training of one network on planes of cases: Adam, a falling learning rate, the best state by validation cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segcal.engine.checkpoints import Checkpoint
from segcal.engine.engine import Engine
from segcal.methods.susceptibility import net
from segcal.methods.susceptibility.planes import Planes, Some

TOGETHER = 6
"""Copies of a step, whose mean and spread are looked at."""

LOOK = 8
"""Most planes of a case that are validated on."""

FALLS = 4
"""The learning rate falls to a tenth after each such part of the epochs."""

Loss = Callable[[net.Tensors, Some, bool], tuple[Tensor, int]]
"""From tensors and some planes to a sum over voxels, and their number; whether batches are normalised by themselves."""


@dataclass(frozen=True)
class Course:
    """How a network is trained: `epochs`, `planes` of each case in one, `batch` of them a step, `patience` epochs
    without a gain that end it, Adam's `learning_rate` and `weight_decay`, `seed`; whether the learning rate `falls`.
    """

    epochs: int
    planes: int
    batch: int
    patience: int
    learning_rate: float
    weight_decay: float
    seed: int
    falls: bool


@dataclass(frozen=True, eq=False)
class Found:
    """The best `tensors`, their validation NLL, the `epoch` they are of; of every epoch its number and both NLLs."""

    tensors: dict[str, Tensor]
    validation: float
    epoch: int
    curve: list[list[float]]


def trained(
    begin: Mapping[str, Tensor],
    loss: Loss,
    learn: Planes,
    validate: Planes,
    course: Course,
    checkpoint: Checkpoint,
    engine: Engine,
    name: str,
) -> Found:
    """From `begin`, or on from the checkpoint, to the epoch of the lowest validation NLL; 0 is the start."""
    t = {one: value.clone().requires_grad_(net.is_trained(one)) for one, value in begin.items()}
    adam = torch.optim.Adam(
        [x for x in t.values() if x.requires_grad],
        course.learning_rate,
        (0.99, 0.999),
        weight_decay=course.weight_decay,
    )
    period = -(-course.epochs // FALLS) if course.falls else course.epochs
    schedule = torch.optim.lr_scheduler.StepLR(adam, period, 0.1)
    engine.progress.start(f"training {name}", course.epochs)
    kept = checkpoint.load()
    if kept is None:
        torch.manual_seed(course.seed)
        lowest = _validated(t, loss, validate)
        best, at, curve, done = _copied(t), 0, [[0.0, math.nan, lowest]], 0
    else:
        best, at, lowest, curve, done = (kept[one] for one in ("best", "at", "lowest", "curve", "epoch"))
        with torch.no_grad():
            for which, value in kept["tensors"].items():
                t[which].copy_(value)
        adam.load_state_dict(kept["adam"])
        schedule.load_state_dict(kept["schedule"])
        torch.set_rng_state(kept["random"])
        for _ in range(done):
            engine.progress.step()
    while done < course.epochs and done - at < course.patience:
        done += 1
        training = _epoch(t, loss, learn, adam, course, done)
        schedule.step()
        now = _validated(t, loss, validate)
        curve.append([float(done), training, now])
        if now < lowest:
            best, at, lowest = _copied(t), done, now
        engine.progress.step()
        state = {"tensors": _copied(t), "best": best, "at": at, "lowest": lowest, "curve": curve, "epoch": done}
        state |= {"adam": adam.state_dict(), "schedule": schedule.state_dict(), "random": torch.get_rng_state()}
        checkpoint.save(state, last=done == course.epochs or done - at >= course.patience)
    return Found(best, lowest, at, curve)


def _epoch(
    t: Mapping[str, Tensor], loss: Loss, learn: Planes, adam: torch.optim.Adam, course: Course, epoch: int
) -> float:
    """Some planes of every case, in an order drawn by seed and epoch; the mean NLL on the way."""
    total, count = 0.0, 0
    rng = np.random.default_rng([course.seed, epoch])
    for index in rng.permutation(len(learn)):
        case = learn.case(int(index))
        scored = case.scored
        planes = [int(k) for k in rng.permutation(np.array(scored, np.int64))[: course.planes]]
        for low in range(0, len(planes), course.batch):
            copies = rng.choice(case.copies, min(TOGETHER, case.copies), replace=False)
            value, n = loss(t, case.some(planes[low : low + course.batch], copies.tolist()), True)
            adam.zero_grad()
            torch.autograd.backward(value / n)
            adam.step()
            total, count = total + value.item(), count + n
    return total / max(count, 1)


def _validated(t: Mapping[str, Tensor], loss: Loss, validate: Planes) -> float:
    """Mean NLL of the first copies of planes evenly over the cases."""
    total, count = 0.0, 0
    with torch.no_grad():
        for index in range(len(validate)):
            case = validate.case(index)
            scored = case.scored
            if not scored:
                continue
            planes = [scored[k] for k in np.unique(np.linspace(0, len(scored) - 1, LOOK).round().astype(int))]
            value, n = loss(t, case.some(planes, list(range(min(TOGETHER, case.copies)))), False)
            total, count = total + value.item(), count + n
    found = total / max(count, 1)
    return found if math.isfinite(found) else math.inf


def _copied(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in t.items()}
