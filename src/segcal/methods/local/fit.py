"""Local temperature scaling (Ding et al., ICCV 2021; K26 Eq. 7, 11): a temperature of each voxel, computed by a small
convolutional tree from the scores around it, and from an image if asked for.

`source="log_probs"` (default) sees log S(z) and is translation-invariant; `"logits"` sees raw logits, where they are
known, and is not. Both keep every label and order. `image=True` is the variant of Ding et al.; `level="image"` their
image-level one (IBTS): one temperature a case. The map and its parameters: `segcal.methods.local.map`.

Training (`segcal.fitting.training`): mean NLL over voxels, from the exact identity, by Adam with coupled weight decay.
The first thing done is exact: the leaves' biases move together to the optimum of temperature scaling, which the tree
contains; the epochs go on from there. So the start is among the states that validation chooses from, and if the state
it chooses is above temperature scaling on all fitted voxels (in float64), temperature scaling is kept, and the message
says so. `start="identity"` leaves the exact move out, as the papers do. The problem is not convex: there is no
certificate, and `status` is 'trained', or 'stopped' where `epochs` ended it. Too few cases to hold any out: the
training cases are validated on. Defaults were chosen on the calibration halves of three real ensembles. Deviations: K26
leaves epochs, batches and schedules open; see `segcal.fitting.training`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from segcal.data.case import block_length
from segcal.data.cohort import Cohort
from segcal.data.head import NO_TARGET
from segcal.data.surroundings import MARGIN, check_neighbours
from segcal.engine.engine import Engine
from segcal.fitting.plans import Plan, Subset, Task
from segcal.fitting.solvers.query import Solved
from segcal.fitting.training import Example, Examples, Learnt, Lesson, Settings, Unit, looked_at, train
from segcal.methods.calibrator import Solution
from segcal.methods.lessons import checkpoint_of, nll_of, standard
from segcal.methods.local.map import LEAVES, START, LocalMap, positive, tree
from segcal.methods.maps import FLOOR
from segcal.methods.method import FittedMap, Trained
from segcal.methods.numbers import check_choices, check_numbers
from segcal.methods.parameterisation import RANK_TOLERANCE, ParameterCount
from segcal.methods.temperature import temperatures

TOLERANCE = 1e-9
"""Nats by which an NLL must be lower to count as lower."""

CURVE = ("epoch", "training", "validation", "learning_rate")
"""What a row of `solution.settings["curve"]` holds."""

LARGEST = 1e4
"""Largest temperature the start takes over from temperature scaling."""


@dataclass(frozen=True)
class LocalTemperatureScaling(Trained):
    """Local temperature scaling (Ding et al., ICCV 2021; K26 Eq. 7, 11): a temperature of each voxel, computed by a
    small convolutional tree from the scores around it, and from an image if asked for.

    `learning_rate`, `weight_decay`, `epochs`, `patience`, `seed`: of the training; `batch` tiles a step, up to `draws`
    tiles of each case an epoch; `patch`: most voxels of a tile.

    `slice_axis`: spatial axis of a volume that planes are slices of. UsageError for values out of range.
    """

    name: ClassVar[str] = "lts"
    papers: ClassVar[Mapping[str, str]] = {"LTS": "lts-raw", "LTS(log S)": "lts"}
    source: Literal["log_probs", "logits"] = "log_probs"
    image: bool = False
    level: Literal["voxel", "image"] = "voxel"
    slice_axis: int = 0
    start: Literal["ts", "identity"] = "ts"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 100
    patience: int = 10
    batch: int = 4
    draws: int = 1
    patch: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(
            self,
            source=("log_probs", "logits"),
            level=("voxel", "image"),
            start=("ts", "identity"),
            slice_axis=(0, 1, 2),
            image=(False, True),
        )
        check_numbers(self, "batch", "draws", *(() if self.patch is None else ("patch",)))

    @classmethod
    def variants(cls) -> Mapping[str, Mapping[str, Any]]:
        """By what the temperature is computed from."""
        return {
            "lts": {"source": "log_probs", "image": False},
            "lts-raw": {"source": "logits", "image": False},
            "lts-image": {"source": "log_probs", "image": True},
        }

    @property
    def what(self) -> str:
        """With what the temperature is computed from."""
        source = "from raw logits" if self.source == "logits" else "from log-probabilities"
        image = " and an image (counted with one channel)" if self.image else ""
        return f"Local temperature scaling: p = S(z / tau), tau {source}{image}"

    def drawn(self, classes: int) -> LocalMap:
        """With random convolutions."""
        made = self._begun(classes)
        weight = torch.randn(made.weight.shape, generator=torch.Generator().manual_seed(0))
        return LocalMap(weight, made.bias, made.image_weight, made.image_bias, logits=self.source == "logits")

    def counted(self, classes: int) -> ParameterCount:
        """Of the map, whose tree of convolutions is the paper's. With an image no rank is computed."""
        made = self._begun(classes)
        numbers = sum(t.numel() for t in (made.weight, made.bias, made.image_weight, made.image_bias))
        return ParameterCount(numbers, None if self.image else local_rank(classes), None, math.inf)

    def _begun(self, classes: int) -> LocalMap:
        mean = torch.zeros(1) if self.image else None
        return LocalMap.start(classes, logits=self.source == "logits", image_mean=mean)

    @property
    def method(self) -> str:
        """`lts`, `lts-raw`, `lts-image`, whatever the level."""
        return "lts" + ("-raw" if self.source == "logits" else "") + ("-image" if self.image else "")

    @property
    def fields(self) -> frozenset[str]:
        """The image, if asked for."""
        return frozenset({"image"} if self.image else ())

    def identifiable(self, classes: int) -> int:
        """7 (25 C + 1); of an image one channel is counted."""
        return 7 * (25 * classes + 1) + (25 * classes + 1 + 26 if self.image else 0)

    def check(self, cohort: Cohort) -> None:
        """Voxels must have neighbours."""
        super().check(cohort)
        check_neighbours(cohort, self.slice_axis, MARGIN)

    def plan(self, task: Task) -> Plan[dict[Subset, tuple[Solved, bool]]]:
        """Temperature scaling of every subset, and whether raw logits are known."""
        found = yield from temperatures(task)
        return {s: (solved, task.logits) for s, solved in found.items()}

    def train(self, lesson: Lesson, engine: Engine) -> FittedMap:
        """From the identity, by way of temperature scaling; the better of that and what validation chose."""
        solved, known = lesson.start
        scale = float(np.clip(1 / solved.theta[0], 2 * FLOOR, LARGEST))
        learn, validate, who = lesson.split(self.seed)
        first = self._first(lesson, learn, known)
        alone = _with_temperature(first, scale)
        begin = alone if self.start == "ts" else first
        settings = Settings(
            self.learning_rate, self.weight_decay, self.epochs, self.patience, self.batch, self.draws, self.seed
        )
        engine.progress.start(f"training {self.method}", self.epochs)
        model, numbers = TreeModel(self, lesson.part, begin), _parameters(begin)
        checkpoint = checkpoint_of(self, lesson, engine, numbers)
        found = train(model, numbers, learn, validate, settings, engine, checkpoint=checkpoint)
        best, unit = _with(begin, found.parameters), lesson.examples.cohort.unit
        value, base = (nll_of(m, lesson, engine, self.method) for m in (best, alone))
        kept = value > base - TOLERANCE
        notes = (
            [] if known or self.source == "log_probs" else ["only probabilities are known: it sees log-probabilities"]
        )
        if kept:
            best, value = alone, base
            notes.append(f"temperature scaling kept, T = {scale * unit:.4g}: no lower NLL was reached")
        return FittedMap(best, self._solution(found, value, base, scale * unit, who, kept, notes))

    def _first(self, lesson: Lesson, learn: Sequence[tuple[Examples, int]], known: bool) -> LocalMap:
        """The identity."""
        given: dict[str, Tensor] = {}
        if self.image:
            seen = looked_at(TreeModel(self, lesson.part, None), learn)
            images = (example.fields["image"] for unit in seen for example in unit)
            given = dict(zip(("image_mean", "image_scale"), standard(images), strict=True))
        logits = self.source == "logits" and known
        return LocalMap.start(
            lesson.classes,
            self.seed,
            logits=logits,
            image_level=self.level == "image",
            slice_axis=self.slice_axis,
            **given,
        )

    def _solution(
        self, found: Learnt, value: float, base: float, scale: float, who: str, kept: bool, notes: list[str]
    ) -> Solution:
        how = "ended by validation" if found.ended else "stopped by the number of epochs: raise epochs"
        message = "; ".join([f"epoch {found.epoch} of {len(found.curve) - 1}, validated on {who}, {how}", *notes])
        certificate = {
            "gap": None,
            "proof": "none: the problem is not convex; no optimum is claimed",
            "below_temperature_scaling": base - value,
        }
        settings = {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "epoch": 0 if kept else found.epoch,
            "validation": found.validation,
            "start": self.start,
            "temperature": scale,
            "seed": self.seed,
            "curve": [[row.get(name) for name in CURVE] for row in found.curve],
        }
        return Solution(value, value, "trained" if found.ended else "stopped", message, 0, certificate, settings)


@dataclass(frozen=True, eq=False)
class TreeModel:
    """The loss of the tree under parameters that change; `start` says what stays fixed."""

    method: LocalTemperatureScaling
    part: int
    start: LocalMap | None

    def units(self, examples: Examples, case: int) -> list[Unit]:
        """Tiles; at the image level the whole case."""
        axis, patch = self.method.slice_axis, self.method.patch or block_length(examples.cohort.head.rows)
        found = examples.tiles(case, axis, patch)
        groups = [tuple(found)] if self.method.level == "image" else [(tile,) for tile in found]
        return [Unit(examples, case, axis, group) for group in groups]

    def loss(self, unit: Unit, parameters: Sequence[Tensor], gradient: bool) -> tuple[float, int, list[Tensor]]:
        """Sum of NLLs, voxels, gradients."""
        given = [p.detach().requires_grad_(gradient) for p in parameters]
        return (
            self._of_case(unit, given, gradient)
            if self.method.level == "image"
            else self._of_voxels(unit, given, gradient)
        )

    def _of_voxels(self, unit: Unit, given: list[Tensor], gradient: bool) -> tuple[float, int, list[Tensor]]:
        total, count, gradients = 0.0, 0, [torch.zeros_like(p) for p in given]
        for example in unit:
            with torch.set_grad_enabled(gradient):
                value, n = self._nll(example, unit, positive(self._t(example, given)))
                if n and gradient:
                    gradients = [a + b for a, b in zip(gradients, torch.autograd.grad(value, given), strict=True)]
            total, count = total + float(value.detach()), count + n
        return total, count, gradients

    def _of_case(self, unit: Unit, given: list[Tensor], gradient: bool) -> tuple[float, int, list[Tensor]]:
        """One temperature a case: its slope, then that of the mean of t, tile by tile, so that no case has to be held
        whole.
        """
        with torch.no_grad():
            sums = [(float(self._t(e, given)[e.counted].double().sum()), int(e.counted.sum())) for e in unit]
        counted = max(1, sum(n for _, n in sums))
        mean = torch.tensor(sum(s for s, _ in sums) / counted, dtype=torch.float64, requires_grad=gradient)
        total, count, slope = 0.0, 0, torch.zeros((), dtype=torch.float64)
        for example in unit:
            with torch.set_grad_enabled(gradient):
                value, n = self._nll(example, unit, positive(mean).float())
                if n and gradient:
                    slope = slope + torch.autograd.grad(value, mean)[0]
            total, count = total + float(value.detach()), count + n
        gradients = [torch.zeros_like(p) for p in given]
        if gradient:
            for example in unit:
                inside = self._t(example, given)[example.counted].sum() * (slope / counted)
                gradients = [a + b for a, b in zip(gradients, torch.autograd.grad(inside, given), strict=True)]
        return total, count, gradients

    def _t(self, example: Example, given: Sequence[Tensor]) -> Tensor:
        assert self.start is not None
        scores = example.log_probs[example_rows(self, example)]
        if self.start.on_logits:
            assert example.free_energy is not None
            scores = scores + example.free_energy[None]
        image = self.start.standardised(example.fields["image"]).float() if self.start.channels else None
        weight, bias, *rest = (p.float() for p in given)
        return tree(scores, image, weight, bias, *rest)

    def _nll(self, example: Example, unit: Unit, temperature: Tensor) -> tuple[Tensor, int]:
        x = example.log_probs[example_rows(self, example), :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        y = example.targets[self.part].long()
        scored = y != NO_TARGET
        u = x / temperature
        loss = u.logsumexp(0) - u.gather(0, y.clamp_min(0)[None])[0]
        return torch.where(scored, loss, 0.0).sum(), int(scored.sum())


def example_rows(model: TreeModel, example: Example) -> slice:
    """The rows of a model's part: all of them for a softmax head, two for a region."""
    parts = len(example.targets)
    rows = len(example.log_probs) // parts
    return slice(model.part * rows, (model.part + 1) * rows)


def _parameters(map: LocalMap) -> list[Tensor]:
    """What is trained; an image's leaf only where there is one."""
    return [map.weight, map.bias, *((map.image_weight, map.image_bias) if map.channels else ())]


def _with(map: LocalMap, parameters: Sequence[Tensor]) -> LocalMap:
    """The map with other parameters."""
    image = (*parameters[2:], map.image_mean, map.image_scale) if map.channels else ()
    return LocalMap(
        *parameters[:2], *image, logits=bool(map.on_logits), image_level=map.image_level, slice_axis=map.slice_axis
    )


def _with_temperature(map: LocalMap, temperature: float) -> LocalMap:
    """Zero leaves whose biases all give this temperature."""
    t = math.log(math.expm1(temperature - FLOOR)) - START if temperature < 30 else temperature - FLOOR - START
    bias = map.bias.clone()
    bias[:LEAVES] = t
    return _with(
        map, [map.weight, bias, *((map.image_weight, torch.full((1,), t, dtype=torch.float64)) if map.channels else ())]
    )


GROUP = 10
"""Numbers of a neighbourhood looked at together."""


@cache
def local_rank(classes: int) -> int:
    """Identifiable parameters of local temperature scaling without an image (K26 Eq. 7): seven 5 x 5 convolutions of C
    channels and their biases.

    A voxel's probabilities depend on its own neighbourhood alone, through one temperature, so the rank over a field is
    that of the temperatures of random neighbourhoods; each row is the tree's slope in its seven convolutions times the
    neighbourhood. Neighbourhoods that are zero but for `GROUP` numbers see the weights of these and the biases alone.
    Where for each such group these columns are independent, all columns are; where they are not, the rank is that of
    all rows at once.
    """
    numbers, generator = 25 * classes + 1, torch.Generator().manual_seed(classes)
    weights = torch.randn(numbers, 7, generator=generator, dtype=torch.float64) / numbers**0.5

    def rank(places: Tensor) -> int:
        seen = torch.randn(6 * 7 * len(places) // 5 + 8, len(places), generator=generator, dtype=torch.float64)
        seen[:, -1] = 1
        rows = _slopes(seen @ weights[places])[..., None] * seen[:, None]
        return int(torch.linalg.matrix_rank(rows.flatten(1), rtol=RANK_TOLERANCE))

    everything = torch.arange(numbers)
    groups = [torch.cat([places, everything[-1:]]) for places in torch.split(everything[:-1], GROUP)]
    return 7 * numbers if all(rank(g) == 7 * len(g) for g in groups) else rank(everything)


def _slopes(convolved: Tensor) -> Tensor:
    """The slopes (..., 7) of the tree's temperature in its seven convolutions (..., 7)."""
    convolved = convolved.requires_grad_()
    t1, t2, t3, t4, a1, a2, a3 = convolved.unbind(-1)
    first, second = torch.lerp(t2, t1, torch.sigmoid(a1)), torch.lerp(t4, t3, torch.sigmoid(a2))
    temperature = torch.nn.functional.softplus(torch.lerp(second, first, torch.sigmoid(a3)))
    return torch.autograd.grad(temperature.sum(), convolved)[0]
