"""Small cohorts whose fits are known in advance: some that can be learned from, and some that cannot.

`learnable` draws labels from known probabilities and distorts their logits (a factor, a bias, an offset a voxel), so
that every method has something to correct. `DEGENERATE` names data that determine no parameter or push one to infinity;
a fit must end in a finite, usable map all the same. All are made from a seed; no cohort is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import Case, Field
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import ArrayField, cohort_from_arrays
from segcal.data.head import Regions, Softmax

HEAD = Softmax(("background", "organ", "lesion"), background=0)
NESTED = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))

Array = NDArray[Any]


def _softmax(z: Array) -> Array:
    p = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def _drawn(rng: np.random.Generator, p: Array) -> Array:
    """One label a voxel from probabilities (B, C, *spatial)."""
    return np.asarray((p.cumsum(1) < rng.random((len(p), 1, *p.shape[2:]))).sum(1).clip(0, p.shape[1] - 1))


def learnable(
    cases: int = 3, shape: tuple[int, ...] = (9, 11), seed: int = 0, offsets: bool = True
) -> tuple[Array, Array]:
    """Logits (cases, 3, *shape), float64, and labels (cases, *shape) of an overconfident, biased network; with
    `offsets`, each voxel's logits carry an offset of their own.
    """
    rng = np.random.default_rng(seed)
    truth = 1.5 * rng.normal(size=(cases, 3, *shape))
    y = _drawn(rng, _softmax(truth))
    z = 1.7 * truth + np.array([1.2, 0.0, -0.9]).reshape(1, 3, *(1 for _ in shape))
    return z + (2 * rng.normal(size=(cases, 1, *shape)) if offsets else 0), y


def image_of(scores: Any) -> Array:
    """An image (B, *spatial) to go with scores (B, channels, *spatial): a ramp, with a step that differs from case to
    case.
    """
    shape = (len(scores), *scores.shape[2:])
    ramp = np.linspace(0, 1, int(np.prod(shape[1:]))).reshape(shape[1:]) if np.prod(shape) else np.zeros(shape[1:])
    return np.stack([ramp + (ramp > 0.3 + 0.1 * k) for k in range(len(scores))]) if len(scores) else np.zeros(shape)


COPIES = 3
"""Copies of an image that a made-up network says something of."""


def field_of(name: str, scores: Any) -> Array:
    """A field of the cases of scores (B, channels, *spatial), by shape alone: an image, or what a network might say of
    copies of it.
    """
    count, channels, *spatial = scores.shape
    if name == "image":
        return image_of(scores)
    if name == "copied_images":
        return np.repeat(image_of(scores)[:, None], COPIES, 1)
    z = np.random.default_rng(0).normal(0, 2, (COPIES, count, channels, *spatial))
    logs = np.moveaxis(z - np.log(np.exp(z).sum(2, keepdims=True)), 0, 1)
    if name == "copies":
        return np.asarray(logs.reshape(count, -1, *spatial))
    p = np.exp(logs)
    return np.asarray(np.concatenate([p.mean(1), p.std(1)], 1))


FIELDS = ("image", "copies", "copied_images", "susceptibility")
"""Fields that segcal's own methods look at."""


def with_fields(cohort: Cohort) -> Cohort:
    """The cohort, with an image and copies for each case."""

    def fields(k: int, case: Case) -> dict[str, Field]:
        empty = np.zeros((1, case.scores[0].channels or 1, *case.shape))
        made = {name: field_of(name, empty)[0] + (k if "image" in name else 0) for name in FIELDS}
        return {name: ArrayField(a, name != "image", f"{name}[{k}]") for name, a in made.items()}

    cases = tuple(replace(case, fields={**case.fields, **fields(k, case)}) for k, case in enumerate(cohort))
    return replace(cohort, cases=cases)


def learnable_cohort(cases: int = 3, shape: tuple[int, ...] = (9, 11), seed: int = 0) -> Cohort:
    """`learnable` as a cohort of logits."""
    z, y = learnable(cases, shape, seed)
    return with_fields(cohort_from_arrays(z, y, kind="logits", head=HEAD))


def learnable_regions(cases: int = 3, shape: tuple[int, ...] = (9, 11), seed: int = 0) -> Cohort:
    """Two nested regions, overconfident sigmoid probabilities in float32."""
    rng = np.random.default_rng(seed)
    truth = 1.5 * rng.normal(size=(cases, 2, *shape))
    inside = rng.random(truth.shape) < 1 / (1 + np.exp(-truth))
    y = inside[:, 0].astype(np.int64) + (inside[:, 0] & inside[:, 1])
    return with_fields(
        cohort_from_arrays((1 / (1 + np.exp(-1.8 * truth - 1.0))).astype(np.float32), y, kind="probs", head=NESTED)
    )


def _separable() -> Cohort:
    z, _ = learnable()
    return cohort_from_arrays(z, z.argmax(1), kind="logits", head=HEAD)


def _absent_class() -> Cohort:
    z, y = learnable()
    return cohort_from_arrays(z, np.minimum(y, 1), kind="logits", head=HEAD)


def _constant_scores() -> Cohort:
    _, y = learnable()
    return cohort_from_arrays(np.full((len(y), 3, *y.shape[1:]), 0.7), y, kind="logits", head=HEAD)


def _single_class() -> Cohort:
    z, y = learnable()
    return cohort_from_arrays(z, np.ones_like(y), kind="logits", head=HEAD)


def _always_wrong() -> Cohort:
    z, _ = learnable()
    return cohort_from_arrays(z, z.argmin(1), kind="logits", head=HEAD)


def _one_voxel() -> Cohort:
    return cohort_from_arrays(
        np.array([2.0, 1.0, -1.0]).reshape(1, 3, 1, 1), np.ones((1, 1, 1), int), kind="logits", head=HEAD
    )


def _certain_probabilities() -> Cohort:
    z, y = learnable()
    return cohort_from_arrays((z == z.max(1, keepdims=True)).astype(np.float32), y, kind="probs", head=HEAD)


def _empty_region() -> Cohort:
    cohort = learnable_regions()
    y = np.zeros((len(cohort), *cohort[0].shape), np.int64)
    scores = np.stack([case.scores[0].array for case in cohort.cases])  # type: ignore[attr-defined]
    return cohort_from_arrays(scores, y, kind="probs", head=NESTED)


DEGENERATE: dict[str, Callable[[], Cohort]] = {
    "separable": _separable,
    "a class absent from the labels": _absent_class,
    "constant scores": _constant_scores,
    "one class only": _single_class,
    "always wrong": _always_wrong,
    "one case": lambda: learnable_cohort(1),
    "one voxel": _one_voxel,
    "probabilities of 0 and 1": _certain_probabilities,
    "an empty region": _empty_region,
}
"""Data that determine too little, by name."""
