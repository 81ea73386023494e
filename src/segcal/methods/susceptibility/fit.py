"""Susceptibility calibration (O22): a temperature of each voxel from how the network's probabilities answer to small
changes of the image, and from how plausible the predicted shape is.

Trained from copies of each image and what the network says of them (`segcal copies`): first the shape prior, a
denoising autoencoder from log-probabilities to labels, which is frozen then; then the calibration network. A step takes
some planes of one case and draws six of its copies: mean and spread are theirs, the loss is the NLL of the first two,
each with its own image, log-probabilities and shape residual. The epoch of the lowest such NLL on cases that were held
out is kept. Where it is used, mean and spread are those of all copies, scores and image are those of the case.

The problem is not convex: no optimum is claimed. Without `copies` and `prior` it is a residual network of image and
log-probabilities, O22's two-branch network. Source: O22 section 3 and its released code (definitions 5.4, 17).
Deviations: those of the map; copies are drawn from a store of some, not anew in each step; the learning rate falls to a
tenth after each quarter of the epochs whatever their number; the attention of a step is that of its planes. No voxel to
score: LabelError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from segcal.data.cohort import Cohort
from segcal.data.formats.case_copies import OF, Of, of
from segcal.data.head import NO_TARGET
from segcal.data.surroundings import MARGIN, check_neighbours
from segcal.engine.engine import Engine
from segcal.engine.single import one_thread
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task
from segcal.fitting.training import Lesson
from segcal.methods.calibrator import Solution
from segcal.methods.lessons import checkpoint_of, nll_of, standard
from segcal.methods.local.map import positive
from segcal.methods.method import FittedMap, Trained
from segcal.methods.numbers import check_choices, check_numbers
from segcal.methods.parameterisation import ParameterCount
from segcal.methods.susceptibility import net
from segcal.methods.susceptibility.map import IMAGE, MEAN, SCORES, SHAPE, SPREAD, SusceptibilityMap, shape_residual
from segcal.methods.susceptibility.planes import Planes, Some
from segcal.methods.susceptibility.stage import Course, Found, Loss, trained

LEARNT = 3
"""One in so many of them is learnt from, the first ones."""


@dataclass(frozen=True)
class SusceptibilityCalibration(Trained):
    """Susceptibility calibration (Ouyang et al., UNSURE 2022): p = S(z / T), T from the answer of the network to
    photometric copies of the image, and from a shape prior.

    `image`, `copies`, `prior`: what T is computed from beside log-probabilities; `of`: what mean and spread over copies
    are taken of; `width` of the branches, `prior_width`; `epochs`, in each of which `planes` planes of each case are
    drawn, `batch` of them a step, `prior_epochs`; `learning_rate`, `weight_decay` of Adam, which `patience` epochs
    without a gain end; `seed`; `slice_axis`: spatial axis of a volume that planes are slices of. UsageError for values
    out of range.
    """

    name: ClassVar[str] = "susceptibility"
    image: bool = field(default=True, metadata={"help": "look at the image, which --images gives"})
    copies: bool = field(default=True, metadata={"help": "look at mean and spread over copies of the image"})
    prior: bool = field(default=True, metadata={"help": "look at what a denoising autoencoder makes of the shape"})
    of: Of = field(default="probs", metadata={"help": "what mean and spread are of, as segcal copies --of made them"})
    width: int = 16
    prior_width: int = 8
    epochs: int = 20
    prior_epochs: int = 20
    planes: int = 20
    batch: int = 4
    patience: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 3e-5
    seed: int = 0
    slice_axis: int = 0

    def __post_init__(self) -> None:
        yes = (False, True)
        check_choices(self, slice_axis=(0, 1, 2), image=yes, copies=yes, prior=yes, of=OF)
        check_numbers(self, "prior_epochs", "planes", "batch", width=256, prior_width=256)

    @property
    def fields(self) -> frozenset[str]:
        """Copies, and the image if it is looked at."""
        wanted = {"copies"} | ({"image", "copied_images"} if self.image else set())
        return frozenset(wanted | ({"susceptibility"} if self.copies else set()))

    def check(self, cohort: Cohort) -> None:
        """Voxels must have neighbours, and copies be made as `of` says."""
        super().check(cohort)
        made = of(cohort.provenance)
        if self.copies and made not in (None, self.of):
            raise UsageError(
                "of",
                found=f"{self.of}, and copies whose mean and spread are of {made}",
                expected="the same",
                do=f"Give --option of={made}, or make the copies again: segcal copies --of {self.of}.",
            )
        check_neighbours(cohort, self.slice_axis, MARGIN)

    def drawn(self, classes: int) -> SusceptibilityMap:
        """With random last layers."""
        tensors = self._begun(classes, classes, 1)
        generator = torch.Generator().manual_seed(1)
        for name in ("out_weight", "out_bias"):
            tensors[name] = 0.1 * torch.randn(tensors[name].shape, generator=generator)
        seen = {"image_mean": torch.zeros(1), "image_scale": torch.ones(1)} if self.image else {}
        return SusceptibilityMap({**tensors, **seen}, self.slice_axis)

    def counted(self, classes: int) -> ParameterCount:
        """Of both networks; of their numbers no rank can be told. Of an image one channel is counted."""
        return ParameterCount(self.identifiable(classes), None, None, math.inf)

    def identifiable(self, classes: int) -> int:
        """All numbers that are trained."""
        return sum(t.numel() for name, t in self._begun(classes, classes, 1).items() if net.is_trained(name))

    def plan(self, task: Task) -> Plan[dict[Subset, Any]]:
        """Nothing."""
        return dict.fromkeys(task.subsets)
        yield  # a conversation without a word

    def train(self, lesson: Lesson, engine: Engine) -> FittedMap:
        """The shape prior, then the calibration network."""
        learn, validate, who = lesson.split(self.seed)
        sides = tuple(Planes(side, lesson, self.slice_axis, self.of) for side in (learn, validate))
        seen = standard(sides[0].images()) if self.image else ()
        channels = lesson.examples.cohort.head.channels
        tensors = self._begun(lesson.classes, channels, len(seen[0]) if seen else 0)
        told: dict[str, Any] = {}
        notes = []
        with one_thread(), torch.random.fork_rng(devices=[]):
            if self.prior:
                begin = {name: t for name, t in tensors.items() if net.of_prior(name)}
                found = self._trained("shape prior", begin, _prior_loss, sides, lesson, engine)
                tensors |= found.tensors
                told |= {"prior_epoch": found.epoch, "prior_validation": found.validation, "prior_curve": found.curve}
                notes.append(f"shape prior of epoch {found.epoch} of {self.prior_epochs}")
            frozen = {name: t for name, t in tensors.items() if net.of_prior(name)}
            begin = {name: t for name, t in tensors.items() if not net.of_prior(name)}
            loss = _Calibration(frozen, seen, self.copies)
            found = self._trained(self.name, begin, loss, sides, lesson, engine)
            tensors |= found.tensors
        notes.insert(0, f"epoch {found.epoch} of {self.epochs}, validated on copies of {who}")
        tensors |= dict(zip(("image_mean", "image_scale"), seen, strict=False))
        made = SusceptibilityMap(tensors, self.slice_axis)
        value = nll_of(made, lesson, engine, self.method)
        told |= {"epoch": found.epoch, "validation": found.validation, "curve": found.curve, "seed": self.seed}
        certificate = {"gap": None, "proof": "none: the problem is not convex; no optimum is claimed"}
        return FittedMap(made, Solution(value, value, "trained", "; ".join(notes), 0, certificate, told))

    def _trained(
        self,
        which: str,
        begin: Mapping[str, Tensor],
        loss: Loss,
        sides: tuple[Planes, ...],
        lesson: Lesson,
        engine: Engine,
    ) -> Found:
        """One of the networks."""
        net_itself = which == self.name
        course = Course(
            self.epochs if net_itself else self.prior_epochs,
            self.planes,
            self.batch,
            self.patience,
            self.learning_rate,
            self.weight_decay,
            self.seed,
            falls=net_itself,
        )
        checkpoint = checkpoint_of((which, self), lesson, engine, begin.values())
        learn, validate = sides
        return trained(begin, loss, learn, validate, course, checkpoint, engine, which)

    def _begun(self, classes: int, channels: int, image: int) -> dict[str, Tensor]:
        """Tensors of both networks, for scores of so many `channels` of which a part has `classes` classes."""
        inputs = {IMAGE: image} if self.image else {}
        inputs |= {SCORES: classes}
        inputs |= {SHAPE: classes} if self.prior else {}
        inputs |= {MEAN: channels, SPREAD: channels} if self.copies else {}
        prior = net.shape_net(classes, self.prior_width, self.seed) if self.prior else {}
        return prior | net.calibration_net(inputs, self.width, self.seed)


def _nll(logs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Sum over the scored voxels of planes (n, C, rows, columns), and how many there are."""
    value = functional.nll_loss(logs, targets, ignore_index=NO_TARGET, reduction="sum")
    return value, int((targets != NO_TARGET).sum())


def _prior_loss(t: net.Tensors, some: Some, learning: bool) -> tuple[Tensor, int]:
    """Of the shape prior, on what is said of the copies learnt from."""
    learnt = max(1, len(some.copied) // LEARNT)
    logs = net.shape_of(some.copied[:learnt].flatten(0, 1), t, learning)
    return _nll(logs, some.targets.repeat(learnt, 1, 1))


@dataclass(frozen=True, eq=False)
class _Calibration:
    """The loss of the calibration network, beside a shape prior that is `frozen` (empty: none); `standard`: mean and
    scale of images, nothing where they are not looked at.
    """

    frozen: Mapping[str, Tensor]
    standard: tuple[Tensor, ...]
    copies: bool

    def __call__(self, t: net.Tensors, some: Some, learning: bool) -> tuple[Tensor, int]:
        learnt = max(1, len(some.copied) // LEARNT)
        inputs: dict[str, list[Tensor]] = {}
        for k in range(learnt):
            for name, x in self._inputs(some, k).items():
                inputs.setdefault(name, []).append(x)
        planes = len(some.targets)
        features = net.branches({name: torch.cat(x) for name, x in inputs.items()}, t, learning)
        means = features.mean((2, 3)).reshape(learnt, planes, -1).mean(1)
        weights = net.attention(means, t).repeat_interleave(planes, 0)
        temperature = positive(net.merged(features, weights, t, learning))
        scaled = torch.log_softmax(some.copied[:learnt].flatten(0, 1) / temperature[:, None], 1)
        return _nll(scaled, some.targets.repeat(learnt, 1, 1))

    def _inputs(self, some: Some, k: int) -> dict[str, Tensor]:
        """What the network sees of copy k."""
        logs = some.copied[k]
        found = {}
        if self.standard and some.images is not None:
            mean, scale = (x.float()[:, None, None] for x in self.standard)
            found[IMAGE] = (some.images[k] - mean) / scale
        found[SCORES] = logs
        if self.frozen:
            with torch.no_grad():
                found[SHAPE] = shape_residual(logs, self.frozen)
        if self.copies:
            found[MEAN], found[SPREAD] = some.answers.mean(0), some.answers.std(0, correction=0)
        return found
