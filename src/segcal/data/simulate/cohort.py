"""Simulated cases: what an ensemble of networks says of a volume, and labels drawn from a posterior that is known at
every voxel.

A case is made in four steps. Blobs and smooth random fields give class scores D, shifted by a random effect of the
case, so that errors cluster by case; x = log S(D). The truth maps x to the posterior q. Labels are an arg max of log q
plus correlated Gumbel fields: patchy, and at every voxel drawn exactly from q. Each network is distorted in its own
way, an affine map of D and a smooth field, and these distortions sum to zero over networks: the mean of their logits is
exactly x, so `pool="logits"` has the known truth.

Promises: case i depends on the design, the truth, the seed and i alone, not on how many are drawn or in which order.
Scores are bounded (`RANGE`), so that neither float32 probabilities nor the floor of 1e-12 lose anything that matters.
Costs: some 40 Fourier transforms of a volume a case. Nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from segcal.data.simulate.fields import gaussian_fields, gumbel_fields
from segcal.data.simulate.truth import Truth
from segcal.errors import ShapeError, UsageError

Array = NDArray[np.float64]

RANGE = 11.0
"""Class scores D lie between plus and minus this."""

CONTRAST = 11.0
"""Class score of a class where it is, before texture."""

WOBBLE = 2.0
"""Each network's own smooth distortion lies between plus and minus this, before the mean over networks is removed."""


@dataclass(frozen=True)
class Design:
    """What is simulated. `classes`: names, the background first. `shape` (z, y, x), `spacing` in mm, `margin`: voxels a
    side along each axis that no network looked at.

    `members`: networks. `texture`, `patch`: widths in voxels (z, y, x) of the kernels of class scores and of label
    noise. Standard deviations: `effect` of a case's shift of the scores, `disagreement` of the networks' own smooth
    distortions, `tilt` of the entries of their own matrices. Raises UsageError for fewer than two classes, no network,
    or a margin that leaves nothing.
    """

    classes: tuple[str, ...] = ("background", "kidney", "tumour", "cyst")
    shape: tuple[int, int, int] = (14, 36, 36)
    spacing: tuple[float, float, float] = (3.0, 0.8, 0.8)
    margin: tuple[int, int, int] = (1, 3, 3)
    members: int = 5
    texture: tuple[float, float, float] = (1.5, 3.0, 3.0)
    patch: tuple[float, float, float] = (0.5, 1.0, 1.0)
    effect: float = 0.5
    disagreement: float = 0.6
    tilt: float = 0.06

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or self.members < 1:
            found = f"{len(self.classes)} classes and {self.members} networks"
            raise UsageError(
                "design",
                found=found,
                expected="at least two classes and one network",
                do="Name the background and one more.",
            )
        if any(n - 2 * m < 1 or m < 0 for n, m in zip(self.shape, self.margin, strict=True)):
            raise UsageError(
                "margin",
                found=f"{self.margin} of {self.shape}",
                expected="at least one voxel left along every axis",
                do="Take a smaller margin.",
            )

    @property
    def crop(self) -> tuple[tuple[int, int], ...]:
        """The box in which the networks looked: (low, high) along each axis."""
        return tuple((m, n - m) for n, m in zip(self.shape, self.margin, strict=True))


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """`members` (M, C, z, y, x): log-probabilities of each network. `log_probs` (C, z, y, x): x, of their pooled
    logits. `log_posterior`: log q, of the same shape.

    `labels` (z, y, x) uint8, 0 outside `crop`.
    """

    name: str
    crop: tuple[tuple[int, int], ...]
    members: Array
    log_probs: Array
    log_posterior: Array
    labels: NDArray[np.uint8]

    @property
    def image(self) -> Array:
        """(z, y, x), from 0 to 1: what a scanner might show, a grey of its own for each class, mixed as the truth is in
        doubt. To look at only: no network was shown it.
        """
        count = len(self.log_posterior)
        greys = np.array([0.15, *(0.45 + 0.4 * (k * 0.618 % 1) for k in range(1, count))])
        grain = 0.06 * np.random.default_rng(count).standard_normal(self.labels.shape)
        return np.asarray(np.clip(np.einsum("k,k...->...", greys, np.exp(self.log_posterior)) + grain, 0, 1))

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(z, y, x): where the networks looked."""
        found = np.zeros(self.labels.shape, np.bool_)
        found[tuple(slice(low, high) for low, high in self.crop)] = True
        return found


@dataclass(frozen=True)
class Simulation:
    """Cases of one `design` whose labels follow one `truth`. A truth for another number of classes: ShapeError."""

    design: Design
    truth: Truth
    seed: int = 0

    def __post_init__(self) -> None:
        if self.truth.classes != len(self.design.classes):
            raise ShapeError(
                "truth",
                found=f"{self.truth.classes} classes",
                expected=f"{len(self.design.classes)} as in the design",
                do="Make the truth for these classes.",
            )

    def case(self, index: int) -> SimulatedCase:
        """Case `index`, from its own streams of random numbers."""
        design, shape = self.design, self.design.shape
        anatomy, noise, networks = (
            np.random.default_rng(s) for s in np.random.SeedSequence([self.seed, index]).spawn(3)
        )
        scores = self._scores(anatomy)
        log_probs = _log_softmax(scores)
        log_posterior = self.truth.log_posterior(log_probs)
        members = _log_softmax(scores + self._distortions(networks, scores), axis=1)
        labels = np.zeros(shape, np.uint8)
        case = SimulatedCase(f"case_{index:03d}", design.crop, members, log_probs, log_posterior, labels)
        inside = case.inside
        labels[inside] = draw_labels(noise, log_posterior, design.patch)[inside]
        return case

    def _scores(self, generator: np.random.Generator) -> Array:
        """D (C, z, y, x): one blob a class but the background, texture, and the case's own shift, bounded by
        `RANGE`.
        """
        design = self.design
        count = len(design.classes)
        at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in design.shape), indexing="ij"))
        own = np.eye(count)[:, :, None, None, None]
        scores = CONTRAST * own[0] + np.zeros((count, *design.shape))
        for k in range(1, count):
            centre = generator.uniform(-0.35, 0.35, 3)
            radius = generator.uniform(0.6, 0.8, 3) if k == 1 else generator.uniform(0.3, 0.5, 3)
            distance = np.sqrt((((at - centre[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0))
            covered = 0.5 + 0.5 * np.tanh(3 * (1 - distance))
            scores = (1 - covered) * scores + covered * CONTRAST * own[k]
        scores += 1.6 * gaussian_fields(generator, count, design.shape, design.texture)
        scores += design.effect * generator.standard_normal(count)[:, None, None, None]
        return np.asarray(RANGE * np.tanh(scores / RANGE))

    def _distortions(self, generator: np.random.Generator, scores: Array) -> Array:
        """(M, C, z, y, x): each network's own distortion of D; they sum to zero over networks."""
        design, count = self.design, len(self.design.classes)
        fields = gaussian_fields(generator, design.members * count, design.shape, design.texture).reshape(
            design.members, count, *design.shape
        )
        smooth = WOBBLE * np.tanh(design.disagreement * fields / WOBBLE)
        # a network distorts every case alike: its matrix and bias come from the seed of the simulation, not from the
        # case
        own = np.random.default_rng([self.seed, design.members, count])
        matrices = own.normal(0.0, design.tilt, (design.members, count, count))
        biases = own.normal(0.0, 4 * design.tilt, (design.members, count))
        distortion = np.einsum("mij,j...->mi...", matrices, scores) + biases[:, :, None, None, None] + smooth
        return np.asarray(distortion - distortion.mean(0, keepdims=True))


def draw_labels(generator: np.random.Generator, log_posterior: Array, lengths: tuple[float, ...]) -> NDArray[np.uint8]:
    """Labels (*spatial) from log-probabilities (C, *spatial): at every voxel exactly from its distribution, correlated
    between voxels over kernels of `lengths`.
    """
    noise = gumbel_fields(generator, len(log_posterior), log_posterior.shape[1:], lengths)
    return np.asarray(np.argmax(log_posterior + noise, axis=0), np.uint8)


def _log_softmax(scores: Array, axis: int = 0) -> Array:
    return np.asarray(scores - special.logsumexp(scores, axis=axis, keepdims=True))
